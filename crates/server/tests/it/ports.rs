//! Ports of a session: programs reached by path and by host name, and what does not pass between caller and program.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::{Message as Frame, WebSocketUpgrade};
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{any, get};
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::lab::{Answer, Caller, Lab, SOON, until};

const DESK: &str = "/v1/spaces/lab/sessions/desk";

/// A program that listens; on the desk its port is the machine's.
struct Program {
    port: u16,
    seen: Arc<Mutex<Vec<(String, HeaderMap)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Program {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Seen = Arc<Mutex<Vec<(String, HeaderMap)>>>;

async fn echo(State(seen): State<Seen>, request: Request) -> Response {
    let what = format!("{} {}", request.method(), request.uri());
    seen.lock().unwrap().push((what, request.headers().clone()));
    let mut answer = Response::new(request.into_body());
    let headers = answer.headers_mut();
    headers.append("set-cookie", "theirs=1; Domain=.ports.test; Path=/".parse().unwrap());
    headers.append("set-cookie", "wharf-port=forged".parse().unwrap());
    headers.insert("x-program", "yes".parse().unwrap());
    headers.insert("keep-alive", "timeout=5".parse().unwrap());
    answer
}

async fn websocket(upgrade: WebSocketUpgrade) -> Response {
    upgrade.protocols(["chat"]).on_upgrade(|mut socket| async move {
        while let Some(Ok(message)) = socket.recv().await {
            match message {
                Frame::Text(text) => {
                    socket.send(Frame::Text(format!("you said {text}").into())).await.unwrap();
                }
                Frame::Binary(bytes) => socket.send(Frame::Binary(bytes)).await.unwrap(),
                Frame::Close(_) => return,
                _ => {}
            }
        }
    })
}

impl Program {
    async fn start() -> Self {
        Self::at_port(0).await
    }

    async fn at_port(port: u16) -> Self {
        let seen = Seen::default();
        let app = Router::new()
            .route("/ws", any(websocket))
            .route("/moved", get(|| async { (StatusCode::FOUND, [("location", "/elsewhere?x=1")]) }))
            .fallback(echo)
            .with_state(seen.clone());
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { port, seen, task }
    }

    fn at(&self, path: &str) -> String {
        format!("{DESK}/ports/{}{path}", self.port)
    }

    fn last(&self) -> (String, HeaderMap) {
        self.seen.lock().unwrap().last().cloned().expect("a request that came in")
    }
}

/// A port nobody listens on.
fn silent_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn at_work() -> (Lab, Caller) {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    (lab, admin)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_in_as_it_is_without_what_is_wharfs() {
    let (_lab, admin) = at_work().await;
    let program = Program::start().await;
    let path = program.at("/a%20b/c%2Fd?x=%41&y");
    let headers =
        [("cookie", "wharf=1"), ("x-forwarded-for", "6.6.6.6"), ("x-own", "1"), ("host", "api.test")];
    let request = headers.iter().fold(admin.request(Method::POST, &path), |r, (n, v)| r.header(*n, *v));
    let answer = admin.send(request.body(Body::from("the body")).unwrap()).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "the body"));
    let (what, got) = program.last();
    assert_eq!(what, "POST /a%20b/c%2Fd?x=%41&y");
    assert!(!got.contains_key("authorization") && !got.contains_key("cookie"), "{got:?}");
    let token = admin.token.as_deref().unwrap();
    assert!(!format!("{got:?}").contains(token));
    assert_eq!(got["host"], format!("localhost:{}", program.port).as_str());
    assert_eq!(got["x-forwarded-host"], "api.test");
    assert_eq!(got["x-forwarded-prefix"], format!("{DESK}/ports/{}", program.port).as_str());
    assert_eq!(got["x-own"], "1");
    assert!(!format!("{got:?}").contains("6.6.6.6"));
    // Cookies would be those of the API's own origin, and a page would be a page of it.
    assert_eq!(answer.header("set-cookie"), None);
    assert_eq!(answer.header("keep-alive"), None);
    assert_eq!(answer.header("x-program"), Some("yes"));
    assert!(answer.header("content-security-policy").unwrap().starts_with("sandbox"));
    assert!(answer.header("x-request-id").is_some());

    for method in ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let answer = admin.call(method.clone(), &program.at("/"), None, &[]).await;
        assert_eq!(answer.status, 200, "{method}");
        assert_eq!(program.last().0, format!("{method} /"));
    }
    assert_eq!(admin.call(Method::HEAD, &program.at("/x"), None, &[]).await.status, 200);
    assert_eq!(program.last().0, "HEAD /x");
    let moved = admin.get(&program.at("/moved")).await;
    assert_eq!(moved.status, 302);
    assert_eq!(moved.header("location"), Some(program.at("/elsewhere?x=1").as_str()));
    let bare = admin.get(&program.at("")).await;
    assert_eq!(
        (bare.status.as_u16(), bare.header("location")),
        (308, Some(format!("{}/", program.port).as_str()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_at_once() {
    let (_lab, admin) = at_work().await;
    let program = Program::start().await;
    let (mut feed, body) = tokio::io::duplex(1024);
    let body = Body::from_stream(tokio_util::io::ReaderStream::new(body));
    let request = admin.request(Method::POST, &program.at("/stream")).body(body).unwrap();
    let sent = tokio::spawn(tower::ServiceExt::oneshot(admin.router.clone(), request));
    feed.write_all(b"first").await.unwrap();
    let mut answer = tokio::time::timeout(SOON, sent).await.unwrap().unwrap().unwrap();
    // Each piece comes back before the next is sent.
    for piece in ["first", "second", "third"] {
        if piece != "first" {
            feed.write_all(piece.as_bytes()).await.unwrap();
        }
        let frame = tokio::time::timeout(SOON, answer.body_mut().frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
    }
    drop(feed);
    assert!(tokio::time::timeout(SOON, answer.body_mut().frame()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_server_answers_that_is_what_is_said() {
    let (lab, admin) = at_work().await;
    let port = silent_port();
    let problem = admin.get(&format!("{DESK}/ports/{port}/x")).await.refused(502, "bad_gateway");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains(&format!("nothing listens on port {port}")) && detail.contains("desk"),
        "{detail}"
    );
    assert_eq!(problem["retryable"], true);

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = listener.local_addr().unwrap().port();
    let nonsense = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"SSH-2.0-none\r\n\r\n").await.unwrap();
    });
    let problem = admin.get(&format!("{DESK}/ports/{mute}/")).await.refused(502, "bad_gateway");
    assert!(problem["detail"].as_str().unwrap().contains("as an HTTP server does"), "{problem}");
    nonsense.await.unwrap();

    for wrong in ["0", "65536", "http", "+80"] {
        admin.get(&format!("{DESK}/ports/{wrong}/")).await.refused(422, "invalid_field");
    }
    let viewer = lab.actor("vera", &[("viewer", Some("lab"))]).await;
    viewer.get(&format!("{DESK}/ports/{port}/")).await.refused(403, "forbidden");
    viewer.get(&format!("{DESK}/ports/{port}")).await;
    let seen = viewer.get(&format!("{DESK}/ports")).await.expect(200);
    assert!(seen["items"].is_array(), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_wakes_a_closed_session_and_is_a_use_of_it() {
    let (lab, admin) = at_work().await;
    let program = Program::start().await;
    admin.call(Method::POST, &format!("{DESK}/close"), None, &[]).await.expect(202);
    until(|| async { admin.get(DESK).await.expect(200)["state"] == "closed" }).await;
    assert_eq!(admin.get(&format!("{DESK}/ports")).await.expect(200)["items"], json!([]));
    assert_eq!(admin.get(DESK).await.expect(200)["state"], "closed", "a look wakes nobody");
    assert_eq!(admin.get(&program.at("/hello")).await.status, 200);
    assert_eq!(admin.get(DESK).await.expect(200)["state"], "idle");
    let used = admin.get(DESK).await.expect(200)["last_used_at"].clone();
    tokio::time::sleep(Duration::from_millis(50)).await;
    admin.get(&program.at("/again")).await;
    until(|| async { admin.get(DESK).await.expect(200)["last_used_at"] != used }).await;
    // That somebody uses the port is in the audit log once, not with every request.
    let audit = admin.get("/v1/audit?verb=exec&limit=100").await.expect(200);
    let uses = audit["items"].as_array().unwrap().iter().filter(|e| e["detail"]["by"] == "path").count();
    assert_eq!(uses, 1, "{audit}");
    drop(lab);
}

/// The request that wakes a session does not fail because its server is not up yet: somebody starts it meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_a_server_that_is_being_started() {
    let (lab, admin) = at_work().await;
    let port = silent_port();
    admin.call(Method::POST, &format!("{DESK}/close"), None, &[]).await.expect(202);
    until(|| async { admin.get(DESK).await.expect(200)["state"] == "closed" }).await;
    let get = |path: &str| {
        let (admin, path) = (admin.clone(), format!("{DESK}/ports/{port}{path}"));
        tokio::spawn(async move { admin.get(&path).await })
    };
    let waiting = get("/first");
    until(|| async { admin.get(DESK).await.expect(200)["state"] == "idle" }).await;
    // Longer than a request waits at any other time.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(!waiting.is_finished(), "{:?}", waiting.await.unwrap());
    let program = Program::at_port(port).await;
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!(program.last().0, "GET /first");

    // Nobody starts it this time: what is said names what to do, and the end of the wait is not the next request's to serve.
    drop(program);
    until(|| async { tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() }).await;
    lab.db.clock.advance(Duration::from_secs(15));
    let problem = admin.get(&format!("{DESK}/ports/{port}/")).await.refused(502, "bad_gateway");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("come back") && detail.contains("wharf session exec desk --background"),
        "{detail}"
    );

    lab.db.clock.advance(Duration::from_secs(60));
    let waiting = get("/second");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _program = Program::at_port(port).await;
    assert_eq!(waiting.await.unwrap().status, 200, "a moment is waited at any time");
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_pass_by_path() {
    let (mut lab, admin) = at_work().await;
    let program = Program::start().await;
    let address = lab.listen().await;
    let mut request = format!("ws://{address}{}", program.at("/ws")).into_client_request().unwrap();
    let token = admin.token.clone().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request.headers_mut().insert("sec-websocket-protocol", "chat".parse().unwrap());
    let (mut socket, answer) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    socket.send(Message::Text("hello".into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Text("you said hello".into()));
    let large = vec![7_u8; 3_000_000];
    socket.send(Message::Binary(large.clone().into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Binary(large.into()));
    socket.close(None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_carries_bytes_and_each_way_ends_by_itself() {
    let (mut lab, admin) = at_work().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Answers only after it has heard the end.
    let program = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        stream.write_all(format!("{} bytes", heard.len()).as_bytes()).await.unwrap();
    });
    let address = lab.listen().await;
    let token = admin.token.clone().unwrap();
    let open = |port: u16| {
        let mut request = format!("ws://{address}{DESK}/tunnel?port={port}").into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        tokio_tungstenite::connect_async(request)
    };
    let (mut socket, _) = open(port).await.unwrap();
    for _ in 0..4 {
        socket.send(Message::Binary(vec![1; 500_000].into())).await.unwrap();
    }
    socket.send(Message::Text("end".into())).await.unwrap();
    let mut said = Vec::new();
    loop {
        match tokio::time::timeout(SOON, socket.next()).await.unwrap() {
            Some(Ok(Message::Binary(bytes))) => said.extend_from_slice(&bytes),
            Some(Ok(Message::Text(end))) => assert_eq!(end, "end"),
            Some(Ok(Message::Ping(_))) => {}
            _ => break,
        }
    }
    assert_eq!(String::from_utf8(said).unwrap(), "2000000 bytes");
    program.await.unwrap();

    let refused = open(silent_port()).await.unwrap_err().to_string();
    assert!(refused.contains("502"), "{refused}");
    let problem = admin.get(&format!("{DESK}/tunnel?port=80")).await.refused(422, "invalid_field");
    assert!(problem["detail"].as_str().unwrap().contains("WebSocket"), "{problem}");
    admin.get(&format!("{DESK}/tunnel")).await.refused(422, "invalid_field");
    admin.get(&format!("{DESK}/tunnel?port=0")).await.refused(422, "invalid_field");
}

/// The same laboratory with host names for ports.
fn with_hosts(lab: &mut Lab) {
    let mut settings = (*lab.app.settings).clone();
    settings.port_hosts = Some("http://*.ports.test".to_owned());
    lab.app.settings = Arc::new(settings);
    lab.router = wharf_server::router(lab.app.clone());
}

struct Browser<'l> {
    lab: &'l Lab,
    host: String,
    cookie: Option<String>,
}

impl Browser<'_> {
    async fn call(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut all = vec![("host", self.host.as_str()), ("accept", "text/html")];
        let cookie = self.cookie.clone().map(|c| format!("theirs=1; {c}"));
        all.extend(cookie.as_deref().map(|c| ("cookie", c)));
        all.extend_from_slice(headers);
        self.lab.nobody().call(method, path, None, &all).await
    }

    async fn get(&self, path: &str) -> Answer {
        let typed =
            [("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        self.call(Method::GET, path, &typed).await
    }
}

async fn link(admin: &Caller, body: Value) -> Value {
    admin.post(&format!("{DESK}/port-links"), body).await.expect(201)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_comes_with_a_link_and_has_an_origin_of_its_own() {
    let (mut lab, _) = at_work().await;
    let refused = lab.admin().await.post(&format!("{DESK}/port-links"), json!({"port": 80})).await;
    let problem = refused.refused(422, "unsupported");
    assert!(problem["detail"].as_str().unwrap().contains("port_hosts"), "{problem}");
    with_hosts(&mut lab);
    let admin = lab.admin().await;
    let program = Program::start().await;
    let host = format!("{}-desk.lab.ports.test", program.port);
    let made = link(&admin, json!({"port": program.port, "path": "/start?a=b&c"})).await;
    let url = made["url"].as_str().unwrap();
    let inside = url.strip_prefix(&format!("http://{host}")).unwrap();

    let mut browser = Browser { lab: &lab, host: host.clone(), cookie: None };
    let uninvited = browser.get("/").await;
    assert_eq!(
        (uninvited.status.as_u16(), uninvited.header("content-type")),
        (401, Some("text/html; charset=utf-8"))
    );
    assert!(uninvited.text().contains("wharf session port link desk"), "{}", uninvited.text());

    let entered = browser.get(inside).await;
    assert_eq!((entered.status.as_u16(), entered.header("location")), (303, Some("/start?a=b&c")));
    let cookie = entered.header("set-cookie").unwrap().to_owned();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax") && !cookie.contains("Domain"),
        "{cookie}"
    );
    browser.cookie = Some(cookie.split(';').next().unwrap().to_owned());

    let page = browser.get("/start?a=b&c").await;
    assert_eq!(page.status, 200);
    let (what, got) = program.last();
    assert_eq!(what, "GET /start?a=b&c");
    assert_eq!(got["host"], host.as_str());
    assert_eq!(got["x-forwarded-proto"], "http");
    // The program's own cookies pass, Wharf's do not, and no cookie reaches beyond this host.
    assert_eq!(got["cookie"], "theirs=1");
    let token = made["token"].as_str().unwrap();
    assert!(!format!("{got:?}").contains(token));
    let set: Vec<_> = page.headers.get_all("set-cookie").iter().map(|v| v.to_str().unwrap()).collect();
    assert_eq!(set, ["theirs=1; Path=/"]);
    assert_eq!(page.header("content-security-policy"), Some("frame-ancestors 'self'"));
    assert_eq!(page.header("x-content-type-options"), None);

    // The program's own paths may look like the API's.
    assert_eq!(browser.get("/v1/spaces").await.status, 200);
    assert_eq!(program.last().0, "GET /v1/spaces");
    // A program's own authorisation passes; one that looks like Wharf's does not.
    browser.call(Method::GET, "/", &[("authorization", "Basic eDp5")]).await;
    assert_eq!(program.last().1["authorization"], "Basic eDp5");
    let bearer = format!("Bearer {}", admin.token.as_deref().unwrap());
    browser.call(Method::GET, "/", &[("authorization", &bearer)]).await;
    assert!(!program.last().1.contains_key("authorization"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_opens_one_port_to_its_holder_and_to_no_other_site() {
    let (mut lab, _) = at_work().await;
    with_hosts(&mut lab);
    let admin = lab.admin().await;
    lab.session(&admin, "other").await;
    let program = Program::start().await;
    let made = link(&admin, json!({"port": program.port})).await;
    let token = made["token"].as_str().unwrap();
    let host = format!("{}-desk.lab.ports.test", program.port);
    let browser = Browser { lab: &lab, host: host.clone(), cookie: Some(format!("wharf-port={token}")) };
    assert_eq!(browser.get("/").await.status, 200);

    // Another site, or another session's page, in the browser of the link's holder.
    let dest = |what| ("sec-fetch-dest", what);
    let origin = format!("http://{host}");
    for (headers, status) in [
        (vec![("origin", "http://evil.test")], 403),
        (vec![("origin", "null")], 403),
        (vec![("origin", "http://80-other.lab.ports.test")], 403),
        (vec![("origin", origin.as_str())], 200),
        (vec![("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")], 403),
        (vec![("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors")], 403),
        (vec![("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), dest("document")], 200),
        (vec![("sec-fetch-site", "same-site"), ("sec-fetch-mode", "navigate"), dest("document")], 200),
        // A page of another session around it: the navigation is of that page.
        (vec![("sec-fetch-site", "same-site"), ("sec-fetch-mode", "navigate"), dest("iframe")], 403),
        (vec![("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), dest("object")], 403),
        (vec![("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], 403),
        (vec![("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "navigate"), dest("iframe")], 200),
        (vec![("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")], 200),
    ] {
        assert_eq!(browser.call(Method::GET, "/", &headers).await.status, status, "{headers:?}");
    }
    let posted =
        browser.call(Method::POST, "/", &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]);
    let posted = posted.await;
    assert_eq!(posted.status, 403);
    assert_eq!(posted.header("content-security-policy"), Some("frame-ancestors 'self'"));

    let elsewhere = |host: String| Browser { lab: &lab, host, cookie: Some(format!("wharf-port={token}")) };
    for host in [format!("{}-other.lab.ports.test", program.port), "1-desk.lab.ports.test".to_owned()] {
        assert_eq!(elsewhere(host.clone()).get("/").await.status, 401, "{host}");
    }
    assert_eq!(elsewhere("desk.lab.ports.test".to_owned()).get("/").await.status, 404);
    // A link is no token of the API, and neither opens anything after a detour.
    lab.with_token(token).get("/v1/spaces").await.refused(401, "unauthenticated");
    for path in ["/.wharf/enter", "/.wharf/enter?link=x", "/.wharf/other"] {
        assert!(browser.get(path).await.status.is_client_error(), "{path}");
    }
    let entered = browser.get(&format!("/.wharf/enter?link={token}&to=//evil.test/")).await;
    assert_eq!(entered.header("location"), Some("/"));

    // Programs send tokens.
    let bearer = format!("Bearer {}", admin.token.as_deref().unwrap());
    let nobody = Browser { lab: &lab, host, cookie: None };
    assert_eq!(nobody.call(Method::POST, "/x", &[("authorization", &bearer)]).await.status, 200);
    assert!(!program.last().1.contains_key("authorization"));
    let stranger = lab.actor("stranger", &[]).await;
    let bearer = format!("Bearer {}", stranger.token.as_deref().unwrap());
    assert_eq!(nobody.call(Method::GET, "/x", &[("authorization", &bearer)]).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_ends_with_its_time_and_with_its_makers_login() {
    let (mut lab, _) = at_work().await;
    with_hosts(&mut lab);
    let program = Program::start().await;
    let host = format!("{}-desk.lab.ports.test", program.port);
    let maker = lab.admin().await;
    let bot = lab.actor("bot", &[("developer", Some("lab"))]).await;
    let open = |made: &Value| {
        let token = made["token"].as_str().unwrap().to_owned();
        Browser { lab: &lab, host: host.clone(), cookie: Some(format!("wharf-port={token}")) }
    };
    let of_login = open(&link(&maker, json!({"port": program.port})).await);
    let of_token = open(&link(&bot, json!({"port": program.port})).await);
    let short = open(&link(&bot, json!({"port": program.port, "expires_in_seconds": 120})).await);
    for browser in [&of_login, &of_token, &short] {
        assert_eq!(browser.get("/").await.status, 200);
    }
    maker.post("/v1/auth/logout", json!({})).await.expect(204);
    assert_eq!(of_login.get("/").await.status, 401);
    lab.db.clock.advance(Duration::from_secs(121));
    let expired = short.get("/").await;
    assert_eq!(expired.status, 401);
    assert!(expired.text().contains("expired"), "{}", expired.text());
    assert_eq!(of_token.get("/").await.status, 200);
    let admin = lab.admin().await;
    admin.delete("/v1/service-accounts/bot/tokens/test").await.expect(204);
    assert_eq!(of_token.get("/").await.status, 401);
    for wrong in [
        json!({"port": 0}),
        json!({"port": 80, "expires_in_seconds": 86_401}),
        json!({"port": 80, "path": "//x"}),
    ] {
        admin.post(&format!("{DESK}/port-links"), wrong).await.refused(422, "invalid_field");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_pass_by_host_name() {
    let (mut lab, _) = at_work().await;
    with_hosts(&mut lab);
    let admin = lab.admin().await;
    let program = Program::start().await;
    let address: SocketAddr = lab.listen().await;
    let made = link(&admin, json!({"port": program.port})).await;
    let host = format!("{}-desk.lab.ports.test", program.port);
    let open = |origin: String| {
        let mut request = format!("ws://{address}/ws").into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert("host", host.parse().unwrap());
        headers.insert("origin", origin.parse().unwrap());
        headers.insert("cookie", format!("wharf-port={}", made["token"].as_str().unwrap()).parse().unwrap());
        tokio_tungstenite::connect_async(request)
    };
    let (mut socket, _) = open(format!("http://{host}")).await.unwrap();
    socket.send(Message::Text("hello".into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Text("you said hello".into()));
    let refused = open("http://evil.test".to_owned()).await.unwrap_err().to_string();
    assert!(refused.contains("403"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_listens_is_listed_with_its_addresses() {
    let (mut lab, _) = at_work().await;
    with_hosts(&mut lab);
    let admin = lab.admin().await;
    let program = Program::start().await;
    let listed = admin.get(&format!("{DESK}/ports")).await.expect(200);
    let own = listed["items"].as_array().unwrap().iter().find(|p| p["port"] == program.port).unwrap().clone();
    assert_eq!(own["path"], program.at("/").as_str());
    assert_eq!(own["url"], format!("http://{}-desk.lab.ports.test/", program.port));
    assert_eq!(own["address"], "127.0.0.1");
}
