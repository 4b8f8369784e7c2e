//! git over ssh: a real sshd, and keys that stay outside.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wharf_domain::egress::rule::{Match, Placement};
use wharf_domain::rbac::Verb;
use wharf_domain::ssh::Service;
use wharf_domain::{NameOrId, Plain};
use wharf_store::audit::AuditFilter;
use wharf_store::{Actor, ConnectionPatch, SecretPatch};
use wharf_testkit::sshd::{Key, Sshd, key, missing};
use wharf_wire::ssh::{Ask, HEAD, HEADER, Kind, PATH, PROTOCOL};

use crate::lab::{Answer, Computer, Lab, SOON, allow, collect, name, open, until};

type Pieces = TokioIo<hyper::upgrade::Upgraded>;

/// A laboratory with an ssh server under a name.
struct Yard {
    lab: Lab,
    sshd: Sshd,
    key: Key,
}

impl Yard {
    async fn new() -> Self {
        Self::patient(15).await
    }

    /// Where connections may take so many seconds.
    async fn patient(seconds: u32) -> Self {
        let lab = Lab::with(|gateway| gateway.connect_timeout_seconds = seconds).await;
        let sshd = Sshd::start(&lab.dir.path().join("sshd"));
        lab.names.set("forge.example", &[&["127.0.0.1"]]);
        let key = sshd.let_in("robot", "ed25519");
        lab.secret("robot", &key.private).await;
        Self { lab, sshd, key }
    }

    fn host(&self) -> String {
        format!("forge.example:{}", self.sshd.port)
    }

    fn rule(&self, path: Option<&str>) -> Match {
        Match::new(self.host().parse().unwrap(), vec![], path.map(Into::into)).unwrap()
    }

    async fn connect(&self, called: &str, placement: Placement) {
        self.lab.connect(called, self.rule(Some("/team/")), placement, "robot").await;
    }

    /// As a user changes it.
    async fn place(&self, called: &str, placement: Placement) {
        let mut scope = self.lab.scope().await;
        let at = NameOrId::Name(name(called));
        let permit = scope.connections().permit(&at, Verb::Update).await.unwrap();
        let inject = Some((placement, name("robot")));
        scope
            .connections()
            .update(&permit, ConnectionPatch { inject, ..Default::default() }, None)
            .await
            .unwrap();
        scope.commit().await.unwrap();
    }

    async fn keep(&self, value: &str) {
        let mut scope = self.lab.scope().await;
        let permit = scope.secrets().permit(&NameOrId::Name(name("robot")), Verb::Update).await.unwrap();
        let patch = SecretPatch { value: Some(Plain::new(value)), labels: None };
        scope.secrets().update(&permit, patch, None).await.unwrap();
        scope.commit().await.unwrap();
    }

    fn ask(&self, service: Service, path: &str) -> Ask {
        Ask {
            service,
            host: "forge.example".into(),
            port: Some(self.sshd.port),
            user: Some("git".into()),
            path: path.into(),
            protocol: None,
        }
    }
}

/// Logs in as the only one it lets in, at a server known by this.
fn placed(known: &[&str], push: bool) -> Placement {
    let known = known.iter().map(|k| k.parse().unwrap()).collect();
    Placement::ssh(Some(Sshd::user()), known, push).unwrap()
}

/// What git's ssh program does first.
async fn begin(session: &Computer, ask: &Ask) -> Result<Pieces, Answer> {
    let io = TokioIo::new(session.stream().await);
    let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::post(PATH)
        .header("host", "gateway")
        .header("connection", "upgrade")
        .header("upgrade", PROTOCOL)
        .header(HEADER, ask.to_header())
        .body(Empty::<Bytes>::new())
        .unwrap();
    let mut response = tokio::time::timeout(SOON * 2, send.send_request(request)).await.unwrap().unwrap();
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(collect(response).await);
    }
    Ok(TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap()))
}

async fn refused(session: &Computer, ask: &Ask) -> (StatusCode, String) {
    let answer = begin(session, ask).await.expect_err("it was let through");
    (answer.status, answer.json()["detail"].as_str().unwrap().to_owned())
}

async fn put(io: &mut Pieces, kind: Kind, bytes: &[u8]) {
    io.write_all(&kind.head(bytes.len())).await.unwrap();
    io.write_all(bytes).await.unwrap();
}

#[derive(Debug, Default)]
struct Said {
    out: Vec<u8>,
    errors: String,
    ended: bool,
    code: Option<u32>,
}

/// Everything the server says, to its end.
async fn rest(mut io: Pieces) -> Said {
    let mut said = Said::default();
    let reading = async {
        let mut head = [0; HEAD];
        while io.read_exact(&mut head).await.is_ok() {
            let (kind, length) = Kind::of(head).unwrap();
            let mut piece = vec![0; length];
            io.read_exact(&mut piece).await.unwrap();
            match kind {
                Kind::Data => said.out.extend(piece),
                Kind::Errors => said.errors.push_str(&String::from_utf8_lossy(&piece)),
                Kind::End => said.ended = true,
                Kind::Exit => said.code = Some(u32::from_be_bytes(piece.try_into().unwrap())),
            }
        }
    };
    tokio::time::timeout(SOON, reading).await.unwrap();
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn git_at_a_server_is_spoken_to_with_a_key_that_stays_outside() {
    if missing().is_some() {
        return;
    }
    let mut yard = Yard::new().await;
    // Noise, so that nothing is packed away.
    let mut noise = vec![0; 6 << 20];
    getrandom::fill(&mut noise).unwrap();
    yard.sshd.repository("team/it's a berth", &[("noise", noise.as_slice())]);
    yard.connect("forge", placed(&[&yard.sshd.host_keys[0].public], false)).await;
    let session = yard.lab.session("s", allow(&[&yard.host()])).await;
    let path = "team/it's a berth.git";

    // What a fetch begins with; the end of our side is carried there, and its end and exit back here.
    let mut io = begin(&session, &yard.ask(Service::UploadPack, path))
        .await
        .unwrap_or_else(|a| panic!("{}", a.text()));
    put(&mut io, Kind::Data, b"0000").await;
    put(&mut io, Kind::End, b"").await;
    let said = rest(io).await;
    let text = String::from_utf8_lossy(&said.out);
    assert!(text.contains("refs/heads/main") && said.ended && said.code == Some(0), "{said:?}");

    // The newest version of the protocol, where git wishes for it.
    let ask =
        Ask { protocol: Some("version=2".into()), ..yard.ask(Service::UploadPack, &format!("/{path}")) };
    let ask = Ask { path: format!("{}/{path}", yard.sshd.git().display()), ..ask };
    let (status, detail) = refused(&session, &ask).await;
    assert_eq!(status, 403);
    assert!(detail.contains("match.path_prefix"), "{detail}");
    let ask = Ask { path: path.into(), ..ask };
    let mut io = begin(&session, &ask).await.unwrap();
    put(&mut io, Kind::End, b"").await;
    assert!(String::from_utf8_lossy(&rest(io).await.out).contains("version 2"));

    // Much comes whole: an archive, which git sends without being asked twice.
    let mut io = begin(&session, &yard.ask(Service::UploadArchive, path)).await.unwrap();
    put(&mut io, Kind::Data, b"0012argument HEAD\n0000").await;
    put(&mut io, Kind::End, b"").await;
    let said = rest(io).await;
    assert!(said.out.len() > noise.len() && said.code == Some(0), "{} {:?}", said.out.len(), said.code);

    // What goes wrong there is said with its own words and end.
    let io = begin(&session, &yard.ask(Service::UploadPack, "team/missing.git")).await.unwrap();
    let said = rest(io).await;
    assert!(said.errors.contains("team/missing.git") && said.code == Some(128), "{said:?}");

    // Whoever tears it here has torn it there.
    let ended = |how: &str| yard.sshd.log().matches(how).count();
    until(async || ended("Disconnected from user") == 4).await;
    let torn = || {
        ended("onnection closed by")
            + ended("Closing connection to")
            + ended("reset by")
            + ended("Read error")
    };
    let before = torn();
    let mut io = begin(&session, &yard.ask(Service::UploadPack, path)).await.unwrap();
    // Once the server has begun to speak, so that what it ran is written down.
    tokio::time::timeout(SOON, io.read_exact(&mut [0; HEAD])).await.unwrap().unwrap();
    drop(io);
    until(async || torn() > before).await;

    assert_eq!(
        yard.sshd.commands().lines().collect::<Vec<_>>(),
        [
            " git-upload-pack 'team/it'\\''s a berth.git'",
            "version=2 git-upload-pack 'team/it'\\''s a berth.git'",
            " git-upload-archive 'team/it'\\''s a berth.git'",
            " git-upload-pack 'team/missing.git'",
            " git-upload-pack 'team/it'\\''s a berth.git'",
        ]
    );

    yard.lab.stop().await;
    let lines = yard.lab.lines(&session).await;
    let told: Vec<_> = lines
        .iter()
        .map(|l| {
            (
                l.kind.as_str(),
                l.method.as_deref(),
                l.decision.as_str(),
                l.reason.as_deref(),
                l.connection.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("request", Some("git-upload-pack"), "allowed", None, Some("forge")),
            ("request", Some("git-upload-pack"), "denied", Some("connection"), None),
            ("request", Some("git-upload-pack"), "allowed", None, Some("forge")),
            ("request", Some("git-upload-archive"), "allowed", None, Some("forge")),
            ("request", Some("git-upload-pack"), "allowed", None, Some("forge")),
            ("request", Some("git-upload-pack"), "allowed", Some("reset"), Some("forge")),
        ]
    );
    assert!(lines[3].bytes_received > noise.len() as u64, "{:?}", lines[3]);
    assert!(lines[0].bytes_sent > 500 && lines[0].bytes_received > 500, "{:?}", lines[0]);
    let mut scope = yard.lab.store.system(Actor::Setup).global().await.unwrap();
    let filter = AuditFilter { principal: Some("gateway".into()), ..AuditFilter::default() };
    let entries = scope.audit_list(&filter).await.unwrap().items;
    assert!(entries.iter().any(|e| e.verb == "use" && e.name.as_deref() == Some("forge")), "{entries:?}");
    let body = yard.key.private.lines().nth(2).unwrap();
    assert!(!format!("{entries:?}{lines:?}").contains(body));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_in_the_way_is_said_with_what_to_do() {
    if missing().is_some() {
        return;
    }
    let yard = Yard::new().await;
    yard.sshd.repository("team/berths", &[("berths", b"7")]);
    let session = yard.lab.session("s", allow(&[&yard.host()])).await;
    let fetch = yard.ask(Service::UploadPack, "team/berths.git");
    let push = yard.ask(Service::ReceivePack, "team/berths.git");
    let [known, second] = &yard.sshd.host_keys;

    let (status, detail) = refused(&session, &fetch).await;
    assert_eq!(status, 403);
    let create = format!("wharf connection create NAME --host {} --ssh", yard.host());
    assert!(detail.contains(&create), "{detail}");

    // A server nobody has named: its key is shown, and nobody logs in.
    yard.connect("forge", placed(&[], false)).await;
    let (status, detail) = refused(&session, &fetch).await;
    assert_eq!(status, 502);
    let add = format!("wharf connection update forge --host-key {}", known.fingerprint);
    assert!(detail.contains("does not say which key") && detail.contains(&add), "{detail}");
    // Another one than the one that is known.
    let stranger = key(yard.lab.dir.path(), "other", "ed25519", "");
    for pin in [&stranger.public, &stranger.fingerprint] {
        yard.place("forge", placed(&[pin], false)).await;
        let (status, detail) = refused(&session, &fetch).await;
        assert_eq!(status, 502);
        assert!(
            detail.contains("is not the one connection forge knows") && detail.contains(&add),
            "{detail}"
        );
    }
    assert!(!yard.sshd.log().contains("Accepted"), "somebody logged in at a server that is not known");
    // Any key the server has will do: it shows one of the kind it is known by.
    let other = stranger.public.as_str();
    for (pin, more) in
        [(&known.fingerprint, Some(other)), (&known.public, Some(other)), (&second.public, None)]
    {
        let pins: Vec<&str> = more.into_iter().chain([pin.as_str()]).collect();
        yard.place("forge", placed(&pins, false)).await;
        let mut io = begin(&session, &fetch).await.unwrap_or_else(|a| panic!("{pin}: {}", a.text()));
        put(&mut io, Kind::Data, b"0000").await;
        put(&mut io, Kind::End, b"").await;
        assert_eq!(rest(io).await.code, Some(0), "{pin}");
    }

    // Pushes are for connections that say so.
    let (status, detail) = refused(&session, &push).await;
    assert_eq!(status, 403);
    assert!(detail.contains("wharf connection update forge --push"), "{detail}");
    yard.place("forge", placed(&[&known.public], true)).await;
    let mut io = begin(&session, &push).await.unwrap_or_else(|a| panic!("{}", a.text()));
    put(&mut io, Kind::Data, b"0000").await;
    put(&mut io, Kind::End, b"").await;
    assert_eq!(rest(io).await.code, Some(0));

    // Keys that open nothing; nothing of them is said but what is public.
    let locked = key(yard.lab.dir.path(), "locked", "ed25519", "pass words");
    for (value, said) in [
        (stranger.private.as_str(), other),
        (locked.private.as_str(), "passphrase"),
        ("sk-planted-credential", "no private key"),
    ] {
        yard.keep(value).await;
        let (status, detail) = refused(&session, &fetch).await;
        assert_eq!(status, 502);
        assert!(detail.contains(said) && detail.contains("forge"), "{detail}");
        assert!(!detail.contains("planted") && !detail.contains("laptop"), "{detail}");
    }
    // RSA, in the older spelling too.
    for (called, more) in [("rsa", ""), ("pem", "PEM")] {
        let made = yard.sshd.let_in(called, "rsa");
        let mut value = made.private;
        if !more.is_empty() {
            let path = yard.lab.dir.path().join("sshd").join(called);
            let changed = std::process::Command::new("ssh-keygen")
                .args(["-p", "-q", "-m", more, "-P", "", "-N", "", "-f"])
                .arg(&path)
                .status();
            assert!(changed.unwrap().success());
            value = std::fs::read_to_string(path).unwrap();
            assert!(value.contains("BEGIN RSA PRIVATE KEY"), "{value}");
        }
        yard.keep(&value).await;
        let mut io = begin(&session, &fetch).await.unwrap_or_else(|a| panic!("{called}: {}", a.text()));
        put(&mut io, Kind::Data, b"0000").await;
        put(&mut io, Kind::End, b"").await;
        assert_eq!(rest(io).await.code, Some(0), "{called}");
    }

    // The session's egress and the address guard count here as everywhere, and a shell is nobody's.
    let none = yard.lab.session("none", allow(&["pypi.org"])).await;
    let (status, detail) = refused(&none, &fetch).await;
    assert!(status == 403 && detail.contains("network.allow"), "{detail}");
    yard.lab.names.set("forge.example", &[&["10.0.0.1"]]);
    let (status, detail) = refused(&session, &fetch).await;
    assert!(status == 403 && detail.contains("10.0.0.1"), "{detail}");
    yard.lab.names.set("forge.example", &[&["127.0.0.1"]]);
    for path in ["-x", "team/../etc", ""] {
        let (status, _) = refused(&session, &Ask { path: path.into(), ..fetch.clone() }).await;
        assert!(status == 400 || status == 403, "{path}: {status}");
    }
    assert!(
        yard.sshd.commands().lines().all(|l| l.contains("-pack 'team/berths.git'")),
        "{}",
        yard.sshd.commands()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_none_or_says_nothing_does_not_hold_git_up() {
    if missing().is_some() {
        return;
    }
    let yard = Yard::patient(1).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let rule = Match::new(format!("forge.example:{port}").parse().unwrap(), vec![], None).unwrap();
    yard.lab.connect("web", rule, placed(&[], false), "robot").await;
    let session = yard.lab.session("s", open()).await;
    let ask = Ask { port: Some(port), ..yard.ask(Service::UploadPack, "x") };
    let web = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        drop(stream);
        // The next one is let in and told nothing.
        listener.accept().await.unwrap()
    });
    let (status, detail) = refused(&session, &ask).await;
    assert!(status == 502 && detail.contains("broke off"), "{status} {detail}");
    let (status, detail) = refused(&session, &ask).await;
    assert!(status == 504 && detail.contains("within 3 s"), "{status} {detail}");
    drop(web.await.unwrap());
}
