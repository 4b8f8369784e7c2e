//! A laboratory: a server without a socket, whom to call it as, and what was answered.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use futures_util::StreamExt as _;
use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use wharf_chassis::lifecycle::Stopper;
use wharf_chassis::{Health, Settings};
use wharf_operator::{HttpHost, Operator};
use wharf_server::{App, Git, Hosts, metrics::Metrics};
use wharf_store::{Actor as System, Store};
use wharf_testkit::TestDb;

use crate::desk::Desk;

/// Longer than anything takes on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

pub struct Lab {
    pub app: App,
    pub router: Router,
    pub store: Store,
    pub desk: Arc<Desk>,
    pub stopper: Stopper,
    pub password: String,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    pub db: TestDb,
    _data: tempfile::TempDir,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Lab {
    /// With nothing in it but the first admin; nobody makes sessions run.
    pub async fn new() -> Self {
        let db = TestDb::new().await;
        let store = db.store().await;
        let first = store.system(System::Setup).bootstrap().await.unwrap().unwrap();
        let password = first.password.expose_str().unwrap().to_owned();
        let desk = Arc::new(Desk::new());
        let held = wharf_ports::SandboxRuntime::inventory(&*desk).await.unwrap().images;
        let owner = wharf_store::sessions::work::Owner {
            operator: wharf_domain::OperatorId::new(),
            machine: "test".into(),
        };
        store.system(System::Operator).work(owner).sync_images("native", &held).await.unwrap();
        let data = tempfile::tempdir().unwrap();
        let settings = Settings { data_dir: data.path().to_owned(), ..Settings::default() };
        let settings = Arc::new(settings);
        let (stopper, stop) = Stopper::new();
        let app = App {
            store: store.clone(),
            runtimes: desk.clone().into(),
            bus: db.bus.clone(),
            clock: Arc::new(db.clock.clone()),
            settings: settings.clone(),
            git: Git::new(&store, &settings, crate::git::hook_program()),
            health: Health::default(),
            stop,
            metrics: Metrics::default(),
            hosts: Hosts::default(),
        };
        let router = wharf_server::router(app.clone());
        // The test's clock runs with the machine's, and a story moves it ahead.
        let clock = db.clock.clone();
        let ticker = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(2)).await;
                clock.advance(Duration::from_millis(2));
            }
        });
        Self { app, router, store, desk, stopper, password, tasks: vec![ticker], db, _data: data }
    }

    /// With an operator at work and a space `lab`.
    pub async fn at_work() -> Self {
        let mut lab = Self::new().await;
        let settings = wharf_operator::Settings {
            look_around: Duration::from_millis(300),
            ..wharf_operator::Settings::of("test")
        };
        let operator = Operator::new(&lab.store, lab.desk.clone(), Arc::new(HttpHost), settings);
        let stop = lab.app.stop.clone();
        lab.tasks.push(tokio::spawn(async move { operator.run(stop).await.unwrap() }));
        lab.admin().await.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
        lab
    }

    /// A caller without a credential.
    pub fn nobody(&self) -> Caller {
        Caller { router: self.router.clone(), token: None }
    }

    pub async fn admin(&self) -> Caller {
        let body = json!({"username": "admin", "password": self.password});
        let answer = self.nobody().post("/v1/auth/login", body).await.expect(200);
        self.with_token(answer["access_token"].as_str().unwrap())
    }

    pub fn with_token(&self, token: &str) -> Caller {
        Caller { router: self.router.clone(), token: Some(token.to_owned()) }
    }

    /// A service account with these roles, each in a space or everywhere.
    pub async fn actor(&self, name: &str, roles: &[(&str, Option<&str>)]) -> Caller {
        let admin = self.admin().await;
        admin.post("/v1/service-accounts", json!({"name": name})).await.expect(201);
        for (role, space) in roles {
            let mut binding = json!({"role": role, "principal": format!("service-account/{name}")});
            if let Some(space) = space {
                binding["space"] = json!(space);
            }
            admin.post("/v1/role-bindings", binding).await.expect(201);
        }
        let path = format!("/v1/service-accounts/{name}/tokens");
        let token = admin.post(&path, json!({"name": "test"})).await.expect(201);
        self.with_token(token["token"].as_str().unwrap())
    }

    /// The address of a real listener, for what needs a connection.
    pub async fn listen(&mut self) -> std::net::SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = wharf_server::Serve { app: self.app.clone(), listener, metrics: None };
        let stop = self.app.stop.clone();
        self.tasks.push(tokio::spawn(async move { wharf_server::run(serve, stop).await }));
        address
    }

    /// A session that is up.
    pub async fn session(&self, caller: &Caller, name: &str) -> Value {
        let made = caller.post("/v1/spaces/lab/sessions?wait=ready", json!({"name": name})).await.expect(201);
        assert_eq!(made["state"], "idle", "{made}");
        made
    }
}

/// Looks again until it is so.
pub async fn until<F: Future<Output = bool>>(mut look: impl FnMut() -> F) {
    let end = tokio::time::Instant::now() + SOON;
    while !look().await {
        assert!(tokio::time::Instant::now() < end, "it did not come about");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[derive(Clone)]
pub struct Caller {
    pub router: Router,
    pub token: Option<String>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| Value::String(self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The body of an answer with this status; fails with what it says otherwise.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        if self.bytes.is_empty() { Value::Null } else { self.json() }
    }

    /// A problem of this status and code.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Value {
        assert_eq!(self.headers.get("content-type").unwrap(), "application/problem+json", "{}", self.text());
        let body = self.expect(status);
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["status"], status);
        body
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

impl Caller {
    pub fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let answer =
            tokio::time::timeout(SOON * 4, self.router.clone().oneshot(request)).await.unwrap().unwrap();
        let (head, body) = answer.into_parts();
        let bytes = tokio::time::timeout(SOON, to_bytes(body, usize::MAX)).await.unwrap().unwrap().to_vec();
        Answer { status: head.status, headers: head.headers, bytes }
    }

    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = self.request(method, path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        self.send(request.body(body).unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None, &[]).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(body), &[]).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PATCH, path, Some(body), &[]).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, None, &[]).await
    }

    /// Opens a stream of server-sent events.
    pub async fn stream(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Events {
        let mut request = self.request(method, path).header("accept", "text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        let answer = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (head, body) = answer.into_parts();
        assert_eq!(head.status, 200, "{:?}", to_bytes(body, 100_000).await);
        assert_eq!(head.headers["content-type"], "text/event-stream");
        Events { body: body.into_data_stream(), buffer: String::new() }
    }

    pub async fn events(&self, path: &str) -> Events {
        self.stream(Method::GET, path, None, &[]).await
    }
}

pub struct Events {
    body: axum::body::BodyDataStream,
    buffer: String,
}

#[derive(Clone, Debug, PartialEq)]
// The names are those of the wire.
#[allow(clippy::struct_field_names)]
pub struct Event {
    pub id: Option<String>,
    pub event: String,
    pub data: Value,
}

impl Events {
    /// The next event; none at the end.
    pub async fn next(&mut self) -> Option<Event> {
        tokio::time::timeout(SOON, self.read()).await.expect("an event in time")
    }

    /// Nothing comes for a while.
    pub async fn silent(&mut self) {
        let came = tokio::time::timeout(Duration::from_millis(300), self.read()).await;
        assert!(came.is_err(), "{came:?}");
    }

    /// Events up to and with the first of this name.
    pub async fn up_to(&mut self, name: &str) -> Vec<Event> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await {
            let last = event.event == name;
            all.push(event);
            if last {
                return all;
            }
        }
        panic!("no {name} among {all:#?}");
    }

    async fn read(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.buffer = rest;
                let mut event = Event { id: None, event: String::new(), data: Value::Null };
                for line in block.lines() {
                    match line.split_once(':') {
                        Some(("id", v)) => event.id = Some(v.trim().to_owned()),
                        Some(("event", v)) => v.trim().clone_into(&mut event.event),
                        Some(("data", v)) => event.data = serde_json::from_str(v.trim()).unwrap(),
                        _ => {}
                    }
                }
                if !event.event.is_empty() {
                    return Some(event);
                }
            }
            let chunk = self.body.next().await?.unwrap();
            self.buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}
