//! A space with a session whose computer is a directory: the gateway at work on a real database, and a client on the
//! session's socket.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixStream};
use wharf_chassis::lifecycle::Stopper;
use wharf_domain::model::ProviderSpec;
use wharf_domain::quota::Quotas;
use wharf_domain::rbac::Verb;
use wharf_domain::{JailId, Labels, Name, NameOrId, Plain, SessionId, SpaceId, TurnId};
use wharf_gateway::dial::SystemResolver;
use wharf_gateway::{Gateway, Parts};
use wharf_store::models::{UsageFilter, UsageGroup, UsageReport};
use wharf_store::{
    Actor, Caller, Credential, NewProvider, NewSecret, NewSpace, ProviderPatch, RequestMeta, Store,
};
use wharf_testkit::TestDb;

/// Longer than anything takes on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

pub struct Lab {
    pub store: Store,
    admin: Caller,
    pub space: SpaceId,
    pub session: SessionId,
    socket: PathBuf,
    _stopper: Stopper,
    task: tokio::task::JoinHandle<()>,
    _jails: tempfile::TempDir,
    pub db: TestDb,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn meta() -> RequestMeta {
    RequestMeta { request_id: wharf_domain::RequestId::new(), address: None }
}

impl Lab {
    pub async fn new() -> Self {
        Self::with(Quotas::default(), &["127.0.0.1"]).await
    }

    pub async fn with(quotas: Quotas, allow_private: &[&str]) -> Self {
        let db = TestDb::new().await;
        let store = db.store().await;
        let first = store.system(Actor::Setup).bootstrap().await.unwrap().unwrap();
        let tokens = store.login("admin", &first.password, meta()).await.unwrap();
        let admin = store.authenticate(Credential::Bearer(tokens.access_token), meta()).await.unwrap();
        let mut scope = store.global(&admin).await.unwrap();
        let permit = scope.spaces().allow(Verb::Create, &name("lab")).await.unwrap();
        let new = NewSpace { name: name("lab"), labels: Labels::default(), quotas, defaults: json!({}) };
        let space = scope.spaces().create(&permit, new).await.unwrap().id;
        scope.commit().await.unwrap();

        let (session, jail) = (SessionId::new(), JailId::new());
        let mut owner = db.owner().await;
        sqlx::query(
            "insert into sessions (id, space_id, name, state, desired, image_name, image_digest, runtime, volume_id, jail_id,
                host_socket, cpu_millis, memory_mib, disk_mib, pids, agent, network, idle_timeout_seconds,
                turn_timeout_seconds, last_used_at, created_at, updated_at)
             values ($1, $2, 's', 'idle', 'running', 'base', 'd', 'native', $3, $4, '/nowhere', 1000, 100, 100, 100,
                '{\"kind\": \"shell\"}', '{\"egress\": \"none\"}', 900, 900, now(), now(), now())",
        )
        .bind(session.uuid())
        .bind(space.uuid())
        .bind(wharf_domain::VolumeId::new().uuid())
        .bind(jail.uuid())
        .execute(&mut owner)
        .await
        .unwrap();

        let jails = tempfile::tempdir().unwrap();
        let directory = jails.path().join(jail.to_string()).join("gateway");
        std::fs::create_dir_all(&directory).unwrap();
        let settings: wharf_chassis::settings::Gateway = serde_json::from_value(json!({
            "allow_private": allow_private,
        }))
        .unwrap();
        let parts = Parts {
            store: store.clone(),
            jails: jails.path().to_owned(),
            settings,
            resolver: std::sync::Arc::new(SystemResolver::default()),
            interfaces: std::sync::Arc::new(|| Ok(Vec::new())),
            keep: Duration::from_secs(86_400),
        };
        let (stopper, stop) = Stopper::new();
        let gateway = Gateway::new(parts).unwrap();
        let task = tokio::spawn(async move { gateway.run(stop).await.unwrap() });
        let socket = directory.join("gateway.sock");
        let lab = Self { store, admin, space, session, socket, _stopper: stopper, task, _jails: jails, db };
        tokio::time::timeout(SOON, async {
            while !lab.socket.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
        lab
    }

    /// Makes a provider whose key is in a secret.
    pub async fn provider(&self, named: &str, spec: Value) {
        let mut spec: ProviderSpec = serde_json::from_value(spec).unwrap();
        let space = NameOrId::Id(self.space);
        let mut scope = self.store.scope(&self.admin, &space).await.unwrap();
        if spec.script.is_none() {
            let secret = name(&format!("{named}-key"));
            let permit = scope.secrets().allow(Verb::Create, &secret).await.unwrap();
            let new =
                NewSecret { name: secret.clone(), value: Plain::new("sk-canary"), labels: Labels::default() };
            scope.secrets().create(&permit, new).await.unwrap();
            spec.secret = Some(secret);
        }
        let permit = scope.providers().allow(Verb::Create, &name(named)).await.unwrap();
        let new = NewProvider { name: name(named), labels: Labels::default(), spec };
        scope.providers().create(&permit, new).await.unwrap();
        scope.commit().await.unwrap();
    }

    pub async fn change(&self, named: &str, change: impl FnOnce(&mut ProviderSpec)) {
        let mut scope = self.store.scope(&self.admin, &NameOrId::Id(self.space)).await.unwrap();
        let permit = scope.providers().permit(&NameOrId::Name(name(named)), Verb::Update).await.unwrap();
        let mut spec = permit.spec.clone();
        change(&mut spec);
        let patch = ProviderPatch { labels: None, spec: Some(spec) };
        scope.providers().update(&permit, patch, None).await.unwrap();
        scope.commit().await.unwrap();
    }

    /// A turn of the session runs.
    pub async fn turn(&self, seq: i64) -> TurnId {
        let turn = TurnId::new();
        let mut owner = self.db.owner().await;
        sqlx::query(
            "insert into turns (id, session_id, seq, state, created_at, started_at) values ($1, $2, $3, 'running', now(), now())",
        )
        .bind(turn.uuid())
        .bind(self.session.uuid())
        .bind(seq)
        .execute(&mut owner)
        .await
        .unwrap();
        turn
    }

    pub async fn end_turn(&self, turn: TurnId) {
        let mut owner = self.db.owner().await;
        sqlx::query("update turns set state = 'done', ended_at = now() where id = $1")
            .bind(turn.uuid())
            .execute(&mut owner)
            .await
            .unwrap();
    }

    pub async fn turn_usage(&self, turn: TurnId) -> Value {
        let mut owner = self.db.owner().await;
        let usage: Option<Value> = sqlx::query_scalar("select usage from turns where id = $1")
            .bind(turn.uuid())
            .fetch_one(&mut owner)
            .await
            .unwrap();
        usage.unwrap_or_default()
    }

    pub async fn session_usage(&self) -> Value {
        let mut scope = self.store.scope(&self.admin, &NameOrId::Id(self.space)).await.unwrap();
        let at = NameOrId::Id(self.session);
        let permit = scope.sessions().permit(&at, Verb::Get).await.unwrap();
        permit.model_usage.clone().unwrap_or_default()
    }

    pub async fn report(&self) -> UsageReport {
        let today = self.store.now().to_utc().date_naive();
        let mut scope = self.store.global(&self.admin).await.unwrap();
        let permit = scope.spaces().permit(&NameOrId::Id(self.space), Verb::Get).await.unwrap();
        let by = UsageGroup { provider: true, model: true, ..UsageGroup::default() };
        scope
            .spaces()
            .model_usage(&permit, &UsageFilter { from: today, to: today, session: None, by })
            .await
            .unwrap()
    }

    /// States of the requests so far, with `~` where the count is an estimate.
    pub async fn requests(&self) -> Vec<String> {
        let mut owner = self.db.owner().await;
        sqlx::query_scalar(
            "select state || case when estimated then '~' else '' end || ' ' || attempts || ' ' || input_tokens || '/'
                || output_tokens from model_requests order by created_at, id",
        )
        .fetch_all(&mut owner)
        .await
        .unwrap()
    }

    /// Waits until the requests so far are as they shall be.
    pub async fn until_requests(&self, wanted: &[&str]) {
        let seen = tokio::time::timeout(SOON, async {
            loop {
                let seen = self.requests().await;
                if seen == wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        if seen.await.is_err() {
            assert_eq!(self.requests().await, wanted);
        }
    }

    /// Sends a request on the session's socket; the answer as it comes.
    pub async fn send(&self, path: &str, headers: &[(&str, &str)], body: Option<String>) -> Answer {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let task = tokio::spawn(async move {
            let _ = connection.await;
        });
        let method = if body.is_some() { "POST" } else { "GET" };
        let mut request = Request::builder().method(method).uri(path).header("host", "gateway");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        let response = tokio::time::timeout(SOON, sender.send_request(request.body(body).unwrap()))
            .await
            .expect("an answer in time")
            .unwrap();
        Answer { response, _sender: sender, task }
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(path, &[("content-type", "application/json")], Some(body.to_string())).await
    }

    /// A TCP port that leads to the session's socket: what `wharf-host` offers inside.
    pub async fn proxy(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let socket = self.socket.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let socket = socket.clone();
                tokio::spawn(async move {
                    let mut gateway = UnixStream::connect(socket).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut gateway).await;
                });
            }
        });
        port
    }
}

/// An answer whose body is still to come. Dropped, its connection is closed.
pub struct Answer {
    response: Response<Incoming>,
    _sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Answer {
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The next piece of the body: none at its end, an error where it broke off.
    pub async fn piece(&mut self) -> Option<Result<String, hyper::Error>> {
        let next =
            tokio::time::timeout(SOON, self.response.body_mut().frame()).await.expect("a piece in time")?;
        Some(next.map(|f| String::from_utf8(f.into_data().unwrap().to_vec()).unwrap()))
    }

    pub async fn text(mut self) -> Result<String, hyper::Error> {
        let mut all = String::new();
        while let Some(piece) = self.piece().await {
            all.push_str(&piece?);
        }
        Ok(all)
    }

    pub async fn json(self) -> Value {
        let text = self.text().await.unwrap();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
}
