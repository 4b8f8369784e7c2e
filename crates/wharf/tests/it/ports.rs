//! Ports and publishing of a real session: a web server and a WebSocket written in the image's own Python, a local forward
//! of the command line, the same by host name, a closed session woken both ways, and a copy that outlives its session.
//!
//! Runs where `wharf image build base` has left its archive; its absence is said, and a failure only where
//! WHARF_TEST_REQUIRE names `base-image`.

use std::io::{BufRead as _, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::installation::{Installation, Outside, Runtime, SPACE, image_archive, possible_on};
use crate::on_every_runtime;

const DOMAIN: &str = "ports.test";
const WEB: &str = "/v1/spaces/lab/sessions/web";

/// A WebSocket that says everything back (RFC 6455), without a library.
const ECHO: &str = r"
import base64, hashlib, socket, threading
def serve(c):
    head = b''
    while b'\r\n\r\n' not in head:
        head += c.recv(4096)
    key = [l.split(b':')[1].strip() for l in head.split(b'\r\n') if l.lower().startswith(b'sec-websocket-key')][0]
    accept = base64.b64encode(hashlib.sha1(key + b'258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest())
    c.sendall(b'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ' + accept + b'\r\n\r\n')
    f = c.makefile('rb')
    while True:
        first = f.read(2)
        if len(first) < 2 or first[0] & 15 == 8:
            return c.close()
        n = first[1] & 127
        if n == 126:
            n = int.from_bytes(f.read(2), 'big')
        mask = f.read(4)
        data = bytes(b ^ mask[i % 4] for i, b in enumerate(f.read(n)))
        size = bytes([n]) if n < 126 else bytes([126]) + n.to_bytes(2, 'big')
        c.sendall(bytes([first[0]]) + size + data)
s = socket.create_server(('127.0.0.1', 9000))
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
";

struct Web {
    wharf: Installation,
}

impl Web {
    async fn exec(&self, script: &str, background: bool) -> Value {
        let body = json!({"command": script, "background": background});
        let done = self.wharf.post(&format!("{WEB}/exec"), body).await;
        assert!(background || done["exit_code"] == 0, "{script}: {done}");
        done
    }

    /// Python's own web server, in a directory with one file.
    /// Starts the program again as soon as somebody's request has brought the computer back.
    async fn serve_once_back(&self) {
        let since = Instant::now();
        while self.state().await != "idle" {
            assert!(since.elapsed() < Duration::from_secs(120), "it does not come back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.serve().await;
    }

    async fn serve(&self) {
        self.exec("cd /home/agent/site && exec python3 -m http.server 8000 --bind 127.0.0.1", true).await;
        self.listening(8000).await;
    }

    async fn listening(&self, port: u16) {
        let since = Instant::now();
        loop {
            let listed = self.wharf.get(&format!("{WEB}/ports")).await;
            if listed["items"].as_array().unwrap().iter().any(|p| p["port"] == port) {
                return;
            }
            assert!(since.elapsed() < Duration::from_secs(30), "nothing listens on {port}: {listed}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn page(&self, path: &str) -> (StatusCode, Value) {
        self.wharf.call(Method::GET, &format!("{WEB}/ports/{path}"), None, None).await.unwrap()
    }

    async fn close(&self) {
        self.wharf.post(&format!("{WEB}/close"), json!({})).await;
        let since = Instant::now();
        while self.state().await != "closed" {
            assert!(since.elapsed() < Duration::from_secs(60), "it does not close");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn state(&self) -> String {
        self.wharf.get(WEB).await["state"].as_str().unwrap().to_owned()
    }
}

on_every_runtime!(programs_in_a_session_are_reached_and_their_files_published);

async fn programs_in_a_session_are_reached_and_their_files_published(runtime: Runtime) {
    let Some(archive) = image_archive("base").filter(|_| possible_on(runtime)) else { return };
    let above = format!("port_hosts = \"http://*.{DOMAIN}\"\n");
    let wharf = Installation::start_with(&Outside { runtime, above, ..Outside::default() }).await;
    wharf.import(&archive, "base").await;
    wharf
        .post(&format!("/v1/spaces/{SPACE}/sessions?wait=ready"), json!({"name": "web", "image": "base"}))
        .await;
    let web = Web { wharf };
    web.exec("mkdir -p /home/agent/site && echo hello from inside > /home/agent/site/index.html", false)
        .await;

    let (status, problem) = web.page("8000/").await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (502, Some("bad_gateway")), "{problem}");
    web.serve().await;
    let (status, page) = web.page("8000/index.html").await;
    assert_eq!((status.as_u16(), page.as_str()), (200, Some("hello from inside\n")));
    // The session's way out is no program's port.
    let (status, problem) = web.page("3128/").await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (422, Some("invalid_field")), "{problem}");

    let script = format!("cat > /home/agent/echo.py <<'END'\n{ECHO}\nEND");
    web.exec(&script, false).await;
    web.exec("exec python3 /home/agent/echo.py", true).await;
    web.listening(9000).await;
    let address = format!("ws://{}{WEB}/ports/9000/", web.wharf.address);
    let mut request = address.into_client_request().unwrap();
    let bearer = format!("Bearer {}", web.wharf.bearer().await);
    request.headers_mut().insert("authorization", bearer.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    for text in ["one".to_owned(), "x".repeat(40_000)] {
        socket.send(Message::Text(text.clone().into())).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::Text(text.into()));
    }
    drop(socket);

    forward(&web).await;
    let browser = by_host_name(&web).await;

    // Closed: its programs are gone, a request brings the computer back and waits for what is started again.
    web.close().await;
    let (first, ()) = tokio::join!(web.page("8000/index.html"), web.serve_once_back());
    assert_eq!((first.0.as_u16(), first.1.as_str()), (200, Some("hello from inside\n")), "{}", first.1);

    // The same by host name: the link that was good before the close is good after it.
    web.close().await;
    let (answer, ()) = tokio::join!(browser.open("/index.html", &TYPED), web.serve_once_back());
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.text().await.unwrap(), "hello from inside\n");

    publish(&web).await;
    web.wharf.finish();
}

/// `wharf session forward`: a port of this machine is one of the session's.
async fn forward(web: &Web) {
    let token = web.wharf.bearer().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"))
        .args(["session", "forward", "web", "0:8000"])
        .env("WHARF_URL", format!("http://{}", web.wharf.address))
        .env("WHARF_TOKEN", &token)
        .env("WHARF_SPACE", SPACE)
        .env("HOME", web.wharf.dir())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        std::io::BufReader::new(command.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split(' ').next().unwrap().to_owned();
        let mut answers = Vec::new();
        for _ in 0..3 {
            let mut stream = std::net::TcpStream::connect(&address).unwrap_or_else(|e| panic!("{line}: {e}"));
            stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answers.push(answer);
        }
        command.kill().unwrap();
        command.wait().unwrap();
        answers
    });
    for answer in said.await.unwrap() {
        assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("hello from inside\n"), "{answer}");
    }
}

/// What a browser says of a request that a person typed.
const TYPED: [(&str, &str); 3] =
    [("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];

/// Somebody with a link, at the host name of one port.
struct Browser {
    http: reqwest::Client,
    address: String,
    host: String,
    cookie: String,
}

impl Browser {
    async fn open(&self, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
        let request = self
            .http
            .get(format!("http://{}{path}", self.address))
            .timeout(Duration::from_secs(60))
            .header("host", &self.host)
            .header("accept", "text/html")
            .header("cookie", &self.cookie);
        headers.iter().fold(request, |r, (name, value)| r.header(*name, *value)).send().await.unwrap()
    }
}

/// A link becomes a cookie of the port's host name; with that the jail's programs are there, WebSockets too, and nobody else
/// acts in its holder's name.
async fn by_host_name(web: &Web) -> Browser {
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let host = format!("8000-web.{SPACE}.{DOMAIN}");
    let mut browser = Browser { http, address: web.wharf.address.clone(), host, cookie: String::new() };
    let link = async |port: u16| {
        let made = web.wharf.post(&format!("{WEB}/port-links"), json!({"port": port})).await;
        made["url"].as_str().unwrap().to_owned()
    };
    assert_eq!(browser.open("/index.html", &TYPED).await.status(), StatusCode::UNAUTHORIZED);
    let url = link(8000).await;
    let path = url.strip_prefix(&format!("http://{}", browser.host)).unwrap();
    let entered = browser.open(path, &TYPED).await;
    assert_eq!(entered.status(), StatusCode::SEE_OTHER);
    let cookie = entered.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    browser.cookie = cookie;
    let page = browser.open("/index.html", &TYPED).await;
    assert_eq!(page.status(), StatusCode::OK);
    assert_eq!(page.headers()["content-security-policy"], "frame-ancestors 'self'");
    assert_eq!(page.text().await.unwrap(), "hello from inside\n");
    let framed =
        [("sec-fetch-site", "same-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
    assert_eq!(browser.open("/index.html", &framed).await.status(), StatusCode::FORBIDDEN);

    let url = link(9000).await;
    let token = url.split("link=").nth(1).unwrap().split('&').next().unwrap();
    let mut request = format!("ws://{}/", web.wharf.address).into_client_request().unwrap();
    let host = format!("9000-web.{SPACE}.{DOMAIN}");
    let headers = request.headers_mut();
    headers.insert("host", host.parse().unwrap());
    headers.insert("origin", format!("http://{host}").parse().unwrap());
    headers.insert("cookie", format!("wharf-port={token}").parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    socket.send(Message::Text("by host name".into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Text("by host name".into()));
    browser
}

async fn publish(web: &Web) {
    let body = json!({"paths": ["/home/agent/site"], "name": "site"});
    let made = web.wharf.post(&format!("{WEB}/publish"), body).await;
    assert_eq!(made["files"], 1, "{made}");
    let link = web.wharf.post(&format!("/v1/spaces/{SPACE}/published/site/links"), json!({})).await;
    let (status, answer) = web.wharf.call(Method::DELETE, WEB, None, None).await.unwrap();
    assert!(status.is_success(), "{answer}");
    let page = reqwest::get(link["url"].as_str().unwrap()).await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
    assert_eq!(page.text().await.unwrap(), "hello from inside\n");
}
