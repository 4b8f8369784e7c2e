//! Tools of a server that speaks MCP over HTTP, as the built-in agent reaches them: its own client, the real gateway, TLS and the
//! credential of a connection. The server keeps to what the protocol demands of both sides, and refuses who does not.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use wharf_agent::block::Part;
use wharf_agent::http::Gateway;
use wharf_agent::images::Images;
use wharf_agent::screen::Desktop;
use wharf_agent::tools::Place;
use wharf_agent::tools::mcp::Servers;
use wharf_wire::api::McpServer;

use crate::connections::{bearer, rule};
use crate::lab::{Computer, Lab, allow, until};
use crate::upstream::{DELAY, Seen, Upstream};

/// <https://modelcontextprotocol.io/specification/2025-11-25/basic/transports>
#[derive(Default)]
struct Server {
    hellos: usize,
    session: Option<String>,
    tools: Vec<&'static str>,
    called: Vec<String>,
    cancelled: Vec<Value>,
}

fn answer(status: u16, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

impl Server {
    fn hear(&mut self, seen: &Seen) -> Response<Full<Bytes>> {
        if seen.header("authorization") != Some("Bearer sk-planted-credential") {
            return answer(401, "{}");
        }
        let accepts = seen.header("accept").unwrap_or_default();
        if seen.method != Method::POST
            || !accepts.contains("application/json")
            || !accepts.contains("text/event-stream")
        {
            return answer(405, "{}");
        }
        let message: Value = serde_json::from_slice(&seen.body).unwrap();
        let method = message["method"].as_str().unwrap();
        if method == "initialize" {
            return self.greet(&message, seen);
        }
        if seen.header("mcp-protocol-version") != Some("2025-11-25") {
            return answer(400, "no version");
        }
        match (seen.header("mcp-session-id"), &self.session) {
            (None, _) => return answer(400, "no session"),
            (Some(of), Some(session)) if of == session => {}
            _ => return answer(404, "no such session"),
        }
        match method {
            "notifications/initialized" => answer(202, ""),
            "notifications/cancelled" => {
                self.cancelled.push(message["params"]["requestId"].clone());
                answer(202, "")
            }
            "tools/list" => {
                let tools: Vec<Value> = self
                    .tools
                    .iter()
                    .map(|t| json!({"name": t, "inputSchema": {"type": "object"}}))
                    .collect();
                Self::result_of(&message, &json!({"tools": tools}))
            }
            "tools/call" => self.call(&message),
            other => panic!("nobody asks for {other}"),
        }
    }

    fn greet(&mut self, message: &Value, seen: &Seen) -> Response<Full<Bytes>> {
        if seen.header("mcp-session-id").is_some() {
            return answer(400, "a new session has no id yet");
        }
        self.hellos += 1;
        let session = format!("session-{}", self.hellos);
        let capabilities = json!({"tools": {"listChanged": true}});
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": {"name": "s"}});
        let mut response = Self::result_of(message, &hello);
        response.headers_mut().insert("mcp-session-id", session.parse().unwrap());
        self.session = Some(session);
        response
    }

    fn result_of(message: &Value, result: &Value) -> Response<Full<Bytes>> {
        answer(200, &json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string())
    }

    fn call(&mut self, message: &Value) -> Response<Full<Bytes>> {
        let name = message["params"]["name"].as_str().unwrap().to_owned();
        self.called.push(name.clone());
        let session = self.session.clone().unwrap();
        let result = json!({"content": [{"type": "text", "text": format!("{name} in {session}")}]});
        let mut response = Self::result_of(message, &result);
        if name == "learn" {
            self.tools.push("sing");
            let news = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
            let done = json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
            response =
                answer(200, &format!("event: message\ndata: {news}\n\nevent: message\ndata: {done}\n\n"));
            response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
        }
        if name == "sleep" {
            response.headers_mut().insert(DELAY, "20000".parse().unwrap());
        }
        response
    }
}

struct Story {
    server: Arc<Mutex<Server>>,
    place: Place,
    spec: McpServer,
    _dir: tempfile::TempDir,
    _upstream: Upstream,
    _session: Computer,
    _lab: Lab,
}

impl Story {
    async fn new() -> Self {
        let lab = Lab::new().await;
        let server =
            Arc::new(Mutex::new(Server { tools: vec!["look", "learn", "sleep"], ..Server::default() }));
        let heard = server.clone();
        let upstream = Upstream::tls(&["mcp.example"], move |seen| heard.lock().unwrap().hear(seen)).await;
        let host = format!("mcp.example:{}", upstream.port);
        lab.names.set("mcp.example", &[&["127.0.0.1"]]);
        lab.secret("key", "sk-planted-credential").await;
        lab.connect("mcp", rule(&host, &[], None), bearer(), "key").await;
        let session = lab.session("s", allow(&[&host])).await;
        let dir = tempfile::tempdir().unwrap();
        let trusted = dir.path().join("ca.pem");
        std::fs::write(&trusted, lab.authority().await).unwrap();
        let place = Place {
            home: dir.path().to_owned(),
            output: dir.path().join("output"),
            images: Arc::new(Images::open(dir.path().join("images")).unwrap()),
            gateway: Gateway::new(&session.socket).trusting(trusted),
            screen: Arc::new(Desktop::new("/nowhere")),
        };
        let spec = McpServer {
            name: "far".into(),
            url: Some(format!("https://{host}/mcp")),
            timeout_seconds: Some(1),
            ..McpServer::default()
        };
        Self { server, place, spec, _dir: dir, _upstream: upstream, _session: session, _lab: lab }
    }

    async fn start(&self) -> Servers {
        Servers::start(&self.place, std::slice::from_ref(&self.spec)).await.unwrap()
    }

    async fn call(&self, servers: &mut Servers, tool: &str) -> Result<String, String> {
        let outcome = servers.call(&self.place, tool, &json!({})).await?;
        let [Part::Text { text }] = outcome.content.as_slice() else { panic!("{outcome:?}") };
        Ok(text.clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_spoken_to_in_its_session_with_a_credential_nobody_inside_has_seen() {
    let story = Story::new().await;
    let mut servers = story.start().await;
    assert_eq!(story.call(&mut servers, "far__look").await.unwrap(), "look in session-1");
    assert_eq!(story.call(&mut servers, "far__look").await.unwrap(), "look in session-1");
    // It was started anew: 404 begins a new session, and the call is made there, once.
    story.server.lock().unwrap().session = Some("another".into());
    assert_eq!(story.call(&mut servers, "far__look").await.unwrap(), "look in session-2");
    let server = story.server.lock().unwrap();
    assert_eq!((server.hellos, server.called.len()), (2, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn news_of_its_tools_are_heard_and_those_that_nobody_could_hear_are_asked_for() {
    let story = Story::new().await;
    let mut servers = story.start().await;
    assert!(servers.knows("far__look") && !servers.knows("far__sing"));
    story.call(&mut servers, "far__learn").await.unwrap();
    servers.hear().await;
    assert!(servers.knows("far__sing"));
    // Between two turns nobody listens.
    story.server.lock().unwrap().tools.retain(|t| *t != "learn");
    servers.hear().await;
    assert!(servers.knows("far__learn"), "nothing was said of it");
    servers.refresh().await;
    assert!(!servers.knows("far__learn"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_any_more_is_taken_back() {
    let story = Story::new().await;
    let mut servers = story.start().await;
    let cancelled = || story.server.lock().unwrap().cancelled.clone();
    // Too late: hello was 1, the list 2.
    let why = story.call(&mut servers, "far__sleep").await.unwrap_err();
    assert!(why.contains("within 1 s"), "{why}");
    until(async || cancelled() == [json!(3)]).await;
    // Cancelled: whoever waits goes away.
    let call = story.call(&mut servers, "far__sleep");
    assert!(tokio::time::timeout(Duration::from_millis(500), call).await.is_err());
    until(async || cancelled() == [json!(3), json!(4)]).await;
    assert_eq!(story.call(&mut servers, "far__look").await.unwrap(), "look in session-1");
    assert_eq!(cancelled().len(), 2, "what was answered is not taken back");
}
