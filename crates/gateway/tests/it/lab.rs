//! A laboratory: a database, a gateway, and computers that are nothing but a socket's directory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use wharf_chassis::lifecycle::Stopper;
use wharf_chassis::settings;
use wharf_domain::egress::rule::{Match, Placement};
use wharf_domain::egress::{Egress, Policy};
use wharf_domain::image::ImageRef;
use wharf_domain::quota::Quotas;
use wharf_domain::rbac::Verb;
use wharf_domain::{Error, JailId, Labels, Name, NameOrId, OperatorId, Plain, SessionId, SpaceId};
use wharf_gateway::dial::Resolve;
use wharf_gateway::{Gateway, Parts};
use wharf_ports::runtime::{ImageInfo, Running};
use wharf_store::sessions::work::{Claim, Owner, Work};
use wharf_store::sessions::{NewSession, SessionPatch};
use wharf_store::{
    Actor, EgressFilter, EgressRow, NewConnection, NewSecret, NewSpace, PageRequest, Scope, SpacePatch, Store,
};
use wharf_testkit::TestDb;

/// Longer than anything takes on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// A public address of the machine, in these stories.
pub const OWN: &str = "93.184.216.34";

/// Names of the stories. Each answers with its lists in turn, the last one for ever.
#[derive(Default)]
pub struct Names(Mutex<HashMap<String, Vec<Vec<IpAddr>>>>);

impl Names {
    pub fn set(&self, name: &str, answers: &[&[&str]]) {
        let lists = answers.iter().map(|l| l.iter().map(|a| a.parse().unwrap()).collect()).collect();
        self.0.lock().unwrap().insert(name.to_owned(), lists);
    }
}

#[async_trait::async_trait]
impl Resolve for Names {
    async fn resolve(&self, name: &str) -> std::io::Result<Vec<IpAddr>> {
        let mut all = self.0.lock().unwrap();
        let Some(lists) = all.get_mut(name) else {
            return Err(std::io::Error::other("there is no such name"));
        };
        Ok(if lists.len() > 1 { lists.remove(0) } else { lists[0].clone() })
    }
}

pub struct Lab {
    /// Dropped last: the database goes with it.
    db: TestDb,
    pub store: Store,
    /// The gateway's own, where it is another process than those that change things.
    apart: Option<Store>,
    pub space: SpaceId,
    pub names: Arc<Names>,
    pub dir: tempfile::TempDir,
    settings: settings::Gateway,
    running: Option<(tokio::task::JoinHandle<Result<(), Error>>, Stopper)>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some((task, _)) = &self.running {
            task.abort();
        }
    }
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn allow(hosts: &[&str]) -> Policy {
    Policy { egress: Egress::Allowlist, allow: hosts.iter().map(|h| h.parse().unwrap()).collect() }
}

pub fn open() -> Policy {
    Policy { egress: Egress::Open, allow: Vec::new() }
}

impl Lab {
    /// Loopback may be reached, so that upstreams can be there.
    pub async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub async fn with(change: impl FnOnce(&mut settings::Gateway)) -> Self {
        let db = TestDb::new().await;
        Self::of(db, None, change).await
    }

    /// The gateway is a process apart, and wake-ups of the others do not reach it.
    pub async fn apart() -> Self {
        let db = TestDb::new().await;
        let config = wharf_store::StoreConfig { bridge: true, ..db.config() };
        let apart = db.store_with(config, Arc::new(wharf_bus::Local::new())).await;
        Self::of(db, Some(apart), |_| ()).await
    }

    async fn of(db: TestDb, apart: Option<Store>, change: impl FnOnce(&mut settings::Gateway)) -> Self {
        let store = db.store().await;
        let mut scope = store.system(Actor::Setup).global().await.unwrap();
        let permit = scope.spaces().allow(Verb::Create, &name("lab")).await.unwrap();
        let new = NewSpace {
            name: name("lab"),
            labels: Labels::default(),
            quotas: Quotas::default(),
            defaults: json!({}),
        };
        let space = scope.spaces().create(&permit, new).await.unwrap().id;
        scope.commit().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut settings =
            settings::Gateway { allow_private: vec!["127.0.0.0/8".into()], ..Default::default() };
        let authority = crate::upstream::authority();
        let file = dir.path().join("authority.pem");
        std::fs::write(&file, &authority.pem).unwrap();
        settings.ca_file = Some(file);
        change(&mut settings);
        let mut lab = Self { db, store, apart, space, names: Arc::default(), dir, settings, running: None };
        let work = lab.work();
        let image = ImageInfo {
            image: ImageRef { name: name("base"), digest: "ab".repeat(32) },
            size_bytes: 1,
            created_ms: 0,
            used_by: 0,
        };
        work.sync_images("native", &[image]).await.unwrap();
        std::fs::create_dir(lab.jails()).unwrap();
        lab.start();
        lab
    }

    pub fn start(&mut self) {
        let gateway = Gateway::new(Parts {
            store: self.apart.as_ref().unwrap_or(&self.store).clone(),
            jails: self.jails(),
            settings: self.settings.clone(),
            resolver: self.names.clone(),
            interfaces: Arc::new(|| Ok(vec![OWN.parse().unwrap()])),
            keep: Duration::from_secs(86_400),
        });
        let (stopper, stop) = Stopper::new();
        self.running = Some((tokio::spawn(gateway.unwrap().run(stop)), stopper));
    }

    /// Drains, as a restart does. The log is complete then.
    pub async fn stop(&mut self) {
        if let Some((task, stopper)) = self.running.take() {
            stopper.drain();
            tokio::time::timeout(SOON, task).await.unwrap().unwrap().unwrap();
        }
    }

    pub fn jails(&self) -> PathBuf {
        self.dir.path().join("jails")
    }

    fn work(&self) -> Work {
        let owner = Owner { operator: OperatorId::new(), machine: "lab".into() };
        self.store.system(Actor::Operator).work(owner)
    }

    pub fn advance(&self, by: Duration) {
        self.db.clock.advance(by);
    }

    pub async fn scope(&self) -> Scope {
        self.store.system(Actor::Setup).scope(self.space).await.unwrap()
    }

    /// A jail that stands ready and is nobody's.
    pub async fn warm(&self) -> (JailId, PathBuf) {
        let jail = JailId::new();
        let directory = self.jails().join(jail.to_string()).join("gateway");
        // In two steps, as the jailer makes it.
        std::fs::create_dir(directory.parent().unwrap()).unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
        std::fs::create_dir(&directory).unwrap();
        let socket = directory.join("gateway.sock");
        until(async || socket.exists()).await;
        (jail, socket)
    }

    /// A connection of the database's owner.
    pub async fn owner(&self) -> sqlx::PgConnection {
        self.db.owner().await
    }

    /// A session whose computer is up.
    pub async fn session(&self, called: &str, network: Policy) -> Computer {
        self.session_of(called, network, Vec::new()).await
    }

    /// One with several agents, the default one first.
    pub async fn session_of(&self, called: &str, network: Policy, agents: Vec<Value>) -> Computer {
        let mut scope = self.scope().await;
        let permit = scope.sessions().allow(None).await.unwrap();
        let mut new = NewSession { name: Some(name(called)), network, ..NewSession::of(name("base")) };
        if let Some(first) = agents.first() {
            (new.agent, new.agents) = (first.clone(), agents);
        }
        let id = scope.sessions().create(&permit, new).await.unwrap().id;
        scope.commit().await.unwrap();
        let (jail, socket) = self.warm().await;
        let work = self.work();
        let Claim::Mine(task) = work.claim(id).await.unwrap() else { panic!("the session is held") };
        let running = Running {
            jail,
            session: id,
            incarnation: 1,
            volume: task.session.volume,
            host_socket: "/nowhere".into(),
            warm: true,
        };
        work.open(&task, &running, None).await.unwrap();
        Computer { id, jail, socket }
    }

    /// Changes what a session may reach, as a user does.
    pub async fn patch(&self, of: &Computer, network: Policy) {
        let mut scope = self.scope().await;
        let permit = scope.sessions().permit(&NameOrId::Id(of.id), Verb::Update).await.unwrap();
        let patch = SessionPatch { network: Some(network), ..SessionPatch::default() };
        scope.sessions().update(&permit, patch).await.unwrap();
        scope.commit().await.unwrap();
    }

    /// Bytes a day that all sessions may use together.
    pub async fn quota(&self, bytes: u64) {
        let mut scope = self.store.system(Actor::Setup).global().await.unwrap();
        let permit = scope.spaces().permit(&NameOrId::Id(self.space), Verb::Update).await.unwrap();
        let quotas = Quotas { egress_bytes_per_day: Some(bytes), ..Quotas::default() };
        let patch = SpacePatch { quotas: Some(quotas), ..SpacePatch::default() };
        scope.spaces().update(&permit, patch, None).await.unwrap();
        scope.commit().await.unwrap();
    }

    pub async fn secret(&self, called: &str, value: &str) {
        let mut scope = self.scope().await;
        let permit = scope.secrets().allow(Verb::Create, &name(called)).await.unwrap();
        let new = NewSecret { name: name(called), value: Plain::new(value), labels: Labels::default() };
        scope.secrets().create(&permit, new).await.unwrap();
        scope.commit().await.unwrap();
    }

    pub async fn connect(&self, called: &str, rule: Match, placement: Placement, secret: &str) {
        let mut scope = self.scope().await;
        let permit = scope.connections().allow(&name(called)).await.unwrap();
        let new = NewConnection {
            name: name(called),
            rule,
            placement,
            secret: name(secret),
            labels: Labels::default(),
        };
        scope.connections().create(&permit, new).await.unwrap();
        scope.commit().await.unwrap();
    }

    pub async fn disconnect(&self, called: &str) {
        let mut scope = self.scope().await;
        let permit = scope.connections().permit(&NameOrId::Name(name(called)), Verb::Delete).await.unwrap();
        scope.connections().delete(&permit, None).await.unwrap();
        scope.commit().await.unwrap();
    }

    /// The bytes of today as the space's quota counts them, where it has one.
    pub async fn used(&self, of: &Computer) -> u64 {
        let system = self.store.system(Actor::Gateway);
        system.jail_owner(of.jail).await.unwrap().unwrap().egress.unwrap().0
    }

    /// The line of a host, once it stands in the log with this reason.
    pub async fn line(&self, of: &Computer, host: &str, reason: Option<&str>) -> EgressRow {
        let find = async || {
            let lines = self.lines(of).await;
            lines.into_iter().find(|l| l.host == host && l.reason.as_deref() == reason)
        };
        until(async || find().await.is_some()).await;
        find().await.unwrap()
    }

    /// Lines of a session, oldest first, as a user reads them.
    pub async fn lines(&self, of: &Computer) -> Vec<EgressRow> {
        let mut scope = self.scope().await;
        let permit = scope.sessions().permit_egress(&NameOrId::Id(of.id), Verb::List).await.unwrap();
        let filter = EgressFilter { ascending: true, ..EgressFilter::default() };
        scope.egress(&permit, &filter, &PageRequest::new(Some(500), None, None).unwrap()).await.unwrap().items
    }

    pub async fn authority(&self) -> String {
        let system = self.store.system(Actor::Operator);
        system.authority_certificate(self.space).await.unwrap().to_string()
    }
}

/// Waits until it is so.
pub async fn until(mut so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.expect("it did not come about");
}

/// A session seen from inside its jail.
pub struct Computer {
    pub id: SessionId,
    pub jail: JailId,
    pub socket: PathBuf,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

impl Computer {
    pub async fn stream(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap()
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        exchange(TokioIo::new(self.stream().await), request).await
    }

    pub async fn get(&self, uri: &str) -> Answer {
        self.send(Request::builder().uri(uri).body(Full::default()).unwrap()).await
    }

    /// `CONNECT`: the tunnel, or why there is none.
    pub async fn tunnel(&self, target: &str) -> Result<hyper::upgrade::Upgraded, Answer> {
        let (mut send, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.stream().await)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let request =
            Request::builder().method(Method::CONNECT).uri(target).body(Full::<Bytes>::default()).unwrap();
        let mut response = tokio::time::timeout(SOON, send.send_request(request)).await.unwrap().unwrap();
        if response.status() != StatusCode::OK {
            return Err(collect(response).await);
        }
        Ok(hyper::upgrade::on(&mut response).await.unwrap())
    }
}

pub async fn collect(response: http::Response<hyper::body::Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let body = tokio::time::timeout(SOON, body.collect()).await.unwrap().unwrap().to_bytes();
    Answer { status: head.status, headers: head.headers, body }
}

/// One HTTP/1.1 exchange on a connection of any kind.
pub async fn exchange<T>(io: T, request: Request<Full<Bytes>>) -> Answer
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let response = tokio::time::timeout(SOON, send.send_request(request)).await.unwrap().unwrap();
    collect(response).await
}

impl Computer {
    /// Whether somebody answers on the socket.
    pub async fn try_get(&self) -> bool {
        match UnixStream::connect(&self.socket).await {
            Ok(stream) => {
                let request = Request::builder().uri("http://gateway/").body(Full::default()).unwrap();
                exchange(TokioIo::new(stream), request).await.status == StatusCode::OK
            }
            Err(_) => false,
        }
    }
}
