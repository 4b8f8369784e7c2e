//! A real desktop in a session: Chromium with its own sandbox, a form filled by pictures and clicks alone, viewers over
//! WebSocket.
//!
//! Runs where `wharf image build desktop` has left its archive; its absence is said, and a failure only where
//! WHARF_TEST_REQUIRE names `desktop-image`.

use std::fmt::Write as _;
use std::io::{BufRead as _, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::beyond::{Beyond, Session};
use crate::installation::{
    Installation, Outside, Runtime, SPACE, Socket, image_archive, possible_on, processes,
};
use crate::on_every_runtime;

const SESSION: &str = "/v1/spaces/lab/sessions/screen";

/// A form whose parts have colours of their own, and a server that keeps what is sent.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>Order</title>
<style>body{margin:0;background:#fff}input,textarea,button{position:absolute;left:100px;width:300px;border:0;outline:0;
font:20px sans-serif;border-radius:0;resize:none;padding:0}
#name{top:60px;height:40px;background:#20ff20}#text{top:140px;height:80px;background:#ff20ff}
#box{left:100px;top:260px;width:40px;height:40px;position:absolute;background:#20ffff}
#go{top:340px;height:50px;background:#2020ff;color:#2020ff}</style>
<input id="name"><textarea id="text"></textarea><div id="box" onclick="this.style.background='#ff8020';agreed=true"></div>
<button id="go">Send</button>
<script>let agreed=false;document.getElementById('text').oninput=e=>fetch('/typed',{method:'POST',body:e.target.value});document.getElementById('go').onclick=async()=>{
await fetch('/',{method:'POST',body:JSON.stringify({name:document.getElementById('name').value,
text:document.getElementById('text').value,agreed})});document.body.style.background='#106030'}</script>"#;

const SERVER: &str = r"
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = open('/home/agent/page.html', 'rb').read()
        self.send_response(200); self.send_header('content-type', 'text/html'); self.end_headers(); self.wfile.write(body)
    def do_POST(self):
        body = self.rfile.read(int(self.headers['content-length']))
        name = 'typed.txt' if self.path == '/typed' else 'sent.json'
        open('/home/agent/' + name, 'wb').write(body)
        self.send_response(204); self.end_headers()
http.server.ThreadingHTTPServer(('127.0.0.1', 8000), Handler).serve_forever()
";

struct Picture {
    width: usize,
    rgb: Vec<u8>,
}

impl Picture {
    /// The middle of what has this colour: all of it, as a person would aim.
    fn find(&self, colour: [u8; 3]) -> Option<(usize, usize)> {
        let hits: Vec<usize> =
            self.rgb.chunks_exact(3).enumerate().filter(|(_, p)| *p == colour).map(|(n, _)| n).collect();
        if hits.len() < 400 {
            return None;
        }
        let (xs, ys): (Vec<_>, Vec<_>) = hits.iter().map(|n| (n % self.width, n / self.width)).unzip();
        let middle = |v: &[usize]| (v.iter().min().unwrap() + v.iter().max().unwrap()) / 2;
        Some((middle(&xs), middle(&ys)))
    }
}

struct Desk {
    wharf: Installation,
}

impl Desk {
    async fn exec(&self, script: &str, background: bool) -> Value {
        let body = json!({"command": script, "background": background});
        self.wharf.post(&format!("{SESSION}/exec"), body).await
    }

    async fn sh(&self, script: &str) -> String {
        let done = self.exec(script, false).await;
        assert_eq!(done["exit_code"], 0, "{script}: {done}");
        done["stdout"].as_str().unwrap().to_owned()
    }

    async fn look(&self, query: &str) -> Picture {
        let png = self.wharf.bytes(&format!("{SESSION}/screenshot?{query}")).await;
        if let Ok(keep) = std::env::var("WHARF_TEST_SCREENSHOTS") {
            let name = format!("{}.png", std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis());
            let _ = std::fs::write(PathBuf::from(keep).join(name), &png);
        }
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut rgb).unwrap();
        Picture { width: info.width as usize, rgb }
    }

    /// Looks until there is something of this colour.
    async fn see(&self, colour: [u8; 3]) -> (usize, usize) {
        let since = Instant::now();
        loop {
            if let Some(at) = self.look("settle=150&cursor=false").await.find(colour) {
                return at;
            }
            assert!(since.elapsed() < Duration::from_secs(40), "nothing of colour {colour:x?} on the screen");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// As a program of the session acts: over the socket in it.
    async fn act(&self, actions: Value) {
        let body = json!({"actions": actions}).to_string();
        let script = format!(
            "curl -sS --fail-with-body --unix-socket /run/wharf/desktop.sock -d @- http://desktop/input <<'END'\n{body}\nEND"
        );
        self.sh(&script).await;
    }

    async fn click(&self, (x, y): (usize, usize)) {
        self.act(json!([{"type": "click", "at": {"x": x, "y": y}}])).await;
    }

    async fn view(&self, mode: &str) -> Viewer {
        let socket = self.wharf.websocket(&format!("{SESSION}/desktop?mode={mode}")).await;
        Viewer { socket, bytes: Vec::new() }
    }
}

struct Viewer {
    socket: Socket,
    bytes: Vec<u8>,
}

impl Viewer {
    async fn read(&mut self, many: usize) -> Vec<u8> {
        while self.bytes.len() < many {
            match tokio::time::timeout(Duration::from_secs(20), self.socket.next()).await.unwrap() {
                Some(Ok(Message::Binary(more))) => self.bytes.extend_from_slice(&more),
                Some(Ok(Message::Ping(_))) => {}
                other => panic!("{other:?}"),
            }
        }
        self.bytes.drain(..many).collect()
    }

    async fn write(&mut self, bytes: impl Into<Vec<u8>>) {
        self.socket.send(Message::Binary(bytes.into().into())).await.unwrap();
    }

    /// RFC 6143, 7.1 and 7.3; then one update of a corner, so that the server serves this viewer (7.5.3, 7.6.1).
    async fn shake_hands(&mut self) -> (u16, u16) {
        let version = self.read(12).await;
        assert_eq!(version, b"RFB 003.008\n");
        self.write(version).await;
        let many = self.read(1).await[0];
        assert!(self.read(many.into()).await.contains(&1));
        self.write([1]).await;
        assert_eq!(self.read(4).await, [0; 4]);
        self.write([1]).await;
        let init = self.read(24).await;
        let name = u32::from_be_bytes(init[20..24].try_into().unwrap());
        self.read(name as usize).await;
        self.write([2, 0, 0, 1, 0, 0, 0, 0]).await;
        self.write([3, 0, 0, 0, 0, 0, 0, 16, 0, 16]).await;
        assert_eq!(self.read(1).await, [0], "an update");
        (u16::from_be_bytes([init[0], init[1]]), u16::from_be_bytes([init[2], init[3]]))
    }

    /// Down and up at a place (7.5.5).
    async fn click(&mut self, (x, y): (usize, usize)) {
        for buttons in [0, 1, 0] {
            let (x, y) = ((x as u16).to_be_bytes(), (y as u16).to_be_bytes());
            self.write([5, buttons, x[0], x[1], y[0], y[1]]).await;
        }
    }

    /// One letter (7.5.4).
    async fn key(&mut self, letter: u8) {
        for down in [1, 0] {
            self.write([4, down, 0, 0, 0, 0, 0, letter]).await;
        }
    }
}

on_every_runtime!(a_form_in_chromium_is_filled_by_pictures_and_clicks_alone);

async fn a_form_in_chromium_is_filled_by_pictures_and_clicks_alone(runtime: Runtime) {
    if !possible_on(runtime) {
        return;
    }
    let Some(archive) = image_archive("desktop") else { return };
    let beyond = Beyond::start();
    let mut outside = Outside { runtime, ..beyond.outside() };
    writeln!(outside.settings, "ca_file = \"{}\"", beyond.authority().display()).unwrap();
    let desk = Desk { wharf: Installation::start_with(&outside).await };
    desk.wharf.import(&archive, "desktop").await;
    let session = json!({
        "name": "screen", "image": "desktop", "env": {"WHARF_DESKTOP": "1024x768"},
        "resources": {"cpu_millis": 2000, "memory_mib": 1024, "disk_mib": 256, "pids": 512},
    });
    desk.wharf.post(&format!("/v1/spaces/{SPACE}/sessions?wait=ready"), session).await;
    desk.sh(&format!("cat > page.html <<'END'\n{PAGE}\nEND\ncat > serve.py <<'END'\n{SERVER}\nEND")).await;
    desk.exec("exec python3 serve.py", true).await;
    desk.exec("exec chromium http://127.0.0.1:8000/ >chromium.log 2>&1", true).await;

    // What is written is read back, whatever the alphabet.
    let name = desk.see([0x20, 0xff, 0x20]).await;
    sandboxed(&desk.wharf);
    desk.click(name).await;
    desk.act(json!([{"type": "type", "text": "Zażółć Ωmega 日本語 🎉"}])).await;
    let text = desk.see([0xff, 0x20, 0xff]).await;
    desk.click(text).await;
    desk.act(json!([{"type": "type", "text": "one\ntwo #~{}\\"}])).await;
    let agree = desk.see([0x20, 0xff, 0xff]).await;
    desk.click(agree).await;
    desk.see([0xff, 0x80, 0x20]).await;

    viewers(&desk, text).await;

    let go = desk.see([0x20, 0x20, 0xff]).await;
    desk.click(go).await;
    desk.see([0x10, 0x60, 0x30]).await;
    let sent: Value = serde_json::from_str(&desk.sh("cat sent.json").await).unwrap();
    let wanted = json!({"name": "Zażółć Ωmega 日本語 🎉", "text": "one\ntwo #~{}\\v", "agreed": true});
    assert_eq!(sent, wanted);
    assert!(!desk.sh("cat chromium.log").await.contains("No usable sandbox"));

    desk.wharf.call(Method::DELETE, SESSION, None, None).await.unwrap();
    who_may_not_be_root_has_one_too(&desk.wharf).await;
    a_model_works_it(&desk.wharf).await;
    chromium_goes_out_by_the_gateway(&desk.wharf, &beyond).await;
    desk.wharf.finish();
}

/// The same with nobody but a model at the desk, whose answers are a script: the example's page, and what the demonstration shows.
async fn a_model_works_it(wharf: &Installation) {
    let example = |file: &str| {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/form").join(file);
        std::fs::read(path).unwrap()
    };
    let space = format!("/v1/spaces/{SPACE}");
    let script: Value = serde_json::from_slice(&example("turns.json")).unwrap();
    let provider = json!({ "name": "robot", "protocol": "scripted", "script": script });
    wharf.post(&format!("{space}/providers"), provider).await;
    let session = json!({
        "name": "model", "image": "desktop", "env": { "WHARF_DESKTOP": "1024x768" },
        "agent": { "kind": "computer-use", "provider": "robot", "model": "scripted" },
        "resources": { "cpu_millis": 2000, "memory_mib": 1024, "disk_mib": 256, "pids": 512 },
    });
    wharf.post(&format!("{space}/sessions?wait=ready"), session).await;
    let session = format!("{space}/sessions/model");
    for file in ["page.html", "serve.py"] {
        wharf.upload(&format!("{session}/files/home/agent/{file}"), example(file)).await;
    }
    wharf
        .post(&format!("{session}/exec"), json!({ "command": "exec python3 serve.py", "background": true }))
        .await;
    let said = json!({ "content": "Fill in the form at http://127.0.0.1:8000/ and send it." });
    let said = wharf.post(&format!("{session}/messages?wait=done"), said).await;
    assert_eq!(said["state"], "done", "{said}");
    assert!(said["replies"].to_string().contains("The form is sent."), "{said}");
    let sent = wharf.bytes(&format!("{session}/files/home/agent/sent.json")).await;
    let sent: Value = serde_json::from_slice(&sent).unwrap();
    assert_eq!(sent, json!({ "name": "Żuraw 日本丸 🎉", "text": "grain, 400 t", "agreed": true }));
    let find = json!({ "command": "find .wharf/agent -name '*.png' -size +1k | wc -l" });
    let pictures = wharf.post(&format!("{session}/exec"), find).await;
    let count: usize = pictures["stdout"].as_str().unwrap().trim().parse().unwrap();
    assert!(count >= 7, "the agent kept {count} pictures");
    wharf.call(Method::DELETE, &session, None, None).await.unwrap();
}

/// Where nobody may become root, the screen is the agent's all the same, and its programs' way to it.
async fn who_may_not_be_root_has_one_too(wharf: &Installation) {
    let session = json!({ "name": "humble", "image": "desktop", "allow_root": false,
        "resources": { "cpu_millis": 2000, "memory_mib": 512, "disk_mib": 256, "pids": 256 } });
    let space = format!("/v1/spaces/{SPACE}");
    wharf.post(&format!("{space}/sessions?wait=ready"), session).await;
    let session = Session { wharf, name: "humble" };
    let png = wharf.bytes(&format!("{space}/sessions/humble/screenshot")).await;
    assert!(png.starts_with(b"\x89PNG"), "{}", String::from_utf8_lossy(&png));
    let ask = "curl -sS --fail-with-body --unix-socket /run/wharf/desktop.sock http://desktop";
    let click = json!({ "actions": [{ "type": "click", "at": { "x": 30, "y": 40 } }] });
    session.ok(&format!("{ask}/input -d '{click}'")).await;
    let shown: Value = serde_json::from_str(&session.ok(&format!("{ask}/desktop")).await).unwrap();
    assert_eq!(shown["pointer"], json!({ "x": 30, "y": 40 }), "{shown}");
    wharf.call(Method::DELETE, &format!("{space}/sessions/humble"), None, None).await.unwrap();
}

/// What it may reach it reaches, also where the gateway ends its TLS to add a credential; what it may not it is told.
async fn chromium_goes_out_by_the_gateway(wharf: &Installation, beyond: &Beyond) {
    let space = format!("/v1/spaces/{SPACE}");
    let (plain, secure) = (beyond.plain, beyond.secure);
    wharf.post(&format!("{space}/secrets"), json!({ "name": "api", "value": "for-its-eyes" })).await;
    let rule = json!({ "host": format!("files.test:{secure}"), "path_prefix": "/digest" });
    let inject = json!({ "header": "authorization", "prefix": "Bearer ", "secret": "api" });
    let connection = json!({ "name": "api", "match": rule, "inject": inject });
    wharf.post(&format!("{space}/connections"), connection).await;
    let body = json!({ "name": "surfer", "image": "desktop", "network": beyond.network(1),
        "resources": { "cpu_millis": 2000, "memory_mib": 1024, "disk_mib": 256, "pids": 512 } });
    wharf.post(&format!("{space}/sessions?wait=ready"), body).await;
    let session = Session { wharf, name: "surfer" };
    let page = |url: String| {
        format!("timeout 90 chromium --headless --disable-gpu --dump-dom {url} 2>chromium.log | tr -d '\\n'")
    };
    let (code, text) = session.run(&page(format!("http://files.test:{plain}/echo"))).await;
    assert!(code == 0 && text.contains("\"method\": \"GET\""), "{code} {text}");
    let wanted = session.ok("printf 'Bearer for-its-eyes' | sha256sum | cut -d' ' -f1").await;
    let (code, text) = session.run(&page(format!("https://files.test:{secure}/digest"))).await;
    assert!(code == 0 && text.contains(&wanted), "{code} {text}\n{}", session.ok("cat chromium.log").await);
    let (_, text) = session.run(&page(format!("http://denied.test:{plain}/echo"))).await;
    assert!(text.contains("denied.test") && !text.contains("\"method\""), "{text}");
    wharf.call(Method::DELETE, &format!("{space}/sessions/surfer"), None, None).await.unwrap();
}

/// Two look at once; what the onlooker does reaches nobody.
async fn viewers(desk: &Desk, text: (usize, usize)) {
    let (mut hand, mut eye) = (desk.view("control").await, desk.view("view").await);
    assert_eq!(hand.shake_hands().await, (1024, 768));
    assert_eq!(eye.shake_hands().await, (1024, 768));
    eye.click(text).await;
    eye.key(b'e').await;
    hand.click(text).await;
    let pointer = "curl -sS --unix-socket /run/wharf/desktop.sock http://desktop/desktop";
    let since = Instant::now();
    loop {
        let shown: Value = serde_json::from_str(&desk.sh(pointer).await).unwrap();
        assert_eq!(shown["viewers"], 2, "{shown}");
        if shown["pointer"] == json!({"x": text.0, "y": text.1}) {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "the viewer's pointer does nothing: {shown}");
    }
    // Typed behind what stands there. Viewers and the agent are two hands: each waits for what the other did.
    tokio::time::sleep(Duration::from_millis(300)).await;
    desk.act(json!([{"type": "key", "keys": "ctrl+End"}])).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    hand.key(b'v').await;
    let since = Instant::now();
    while !desk.sh("cat typed.txt").await.ends_with('v') {
        assert!(since.elapsed() < Duration::from_secs(10), "the viewer's key does nothing");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eye.click((5, 5)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let shown: Value = serde_json::from_str(&desk.sh(pointer).await).unwrap();
    assert_eq!(shown["pointer"], json!({"x": text.0, "y": text.1}), "the onlooker moved the pointer");
    drop((hand, eye));
    by_command_line(desk).await;
}

/// `wharf session desktop`: the same for a viewer that speaks VNC over TCP.
async fn by_command_line(desk: &Desk) {
    let token = desk.wharf.bearer().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"))
        .args(["session", "desktop", "screen", "--listen", "127.0.0.1:0"])
        .env("WHARF_URL", format!("http://{}", desk.wharf.address))
        .env("WHARF_TOKEN", &token)
        .env("WHARF_SPACE", SPACE)
        .env("HOME", desk.wharf.dir())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        std::io::BufReader::new(command.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split(' ').next().unwrap().to_owned();
        let mut viewer = std::net::TcpStream::connect(&address).unwrap_or_else(|e| panic!("{line}: {e}"));
        viewer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let read = |many: usize, viewer: &mut std::net::TcpStream| {
            let mut bytes = vec![0; many];
            viewer.read_exact(&mut bytes).unwrap();
            bytes
        };
        // RFC 6143, 7.1 and 7.3.
        let version = read(12, &mut viewer);
        viewer.write_all(&version).unwrap();
        let many = read(1, &mut viewer)[0];
        read(many.into(), &mut viewer);
        viewer.write_all(&[1]).unwrap();
        assert_eq!(read(4, &mut viewer), [0; 4]);
        viewer.write_all(&[1]).unwrap();
        let init = read(24, &mut viewer);
        command.kill().unwrap();
        command.wait().unwrap();
        init
    });
    let init = said.await.unwrap();
    assert_eq!(init[..4], [1024u16.to_be_bytes(), 768u16.to_be_bytes()].concat());
}

/// Chromium's own sandbox is on: what renders pages is in namespaces of its own, under a filter of its own, and nobody asked
/// for less.
fn sandboxed(wharf: &Installation) {
    let inside: Vec<u32> = wharf.parts().into_iter().map(|(_, pid)| pid).collect();
    let all = processes();
    let of = |kind: &str| {
        let found = all.iter().find(|(pid, p)| {
            inside.contains(pid) && p.command.contains("chromium") && p.command.contains(kind)
        });
        let (pid, process) = found.unwrap_or_else(|| panic!("no process of Chromium with {kind}"));
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let spaces =
            ["user", "pid", "net"].map(|n| std::fs::read_link(format!("/proc/{pid}/ns/{n}")).unwrap());
        (process.command.clone(), status, spaces)
    };
    let (browser, _, outer) = of("http://127.0.0.1:8000/");
    let (renderer, status, inner) = of("--type=renderer");
    assert!(!browser.contains("--no-sandbox") && !renderer.contains("--no-sandbox"), "{browser}\n{renderer}");
    for (outer, inner) in outer.iter().zip(&inner) {
        assert_ne!(outer, inner, "a renderer shares a namespace with the browser");
    }
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim();
    assert_eq!(field("Seccomp:"), "2");
    let filters: u32 = field("Seccomp_filters:").parse().unwrap_or(0);
    assert!(filters >= 2, "the jail's filter and Chromium's own: {filters}");
    assert_eq!(field("CapEff:"), "0000000000000000");
}
