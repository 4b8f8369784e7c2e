//! What is open when something changes: cut where it is not allowed any more, and counted while it goes on.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use wharf_domain::egress::rule::{Match, Placement};

use crate::lab::{Computer, Lab, SOON, allow, open, until};

type Tunnel = TokioIo<hyper::upgrade::Upgraded>;

/// What ends within about a second ends within this, on a busy machine.
const PROMPT: Duration = Duration::from_secs(5);

struct Far {
    listener: TcpListener,
    target: String,
}

impl Far {
    async fn new(lab: &Lab, name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        lab.names.set(name, &[&["127.0.0.1"]]);
        let target = format!("{name}:{}", listener.local_addr().unwrap().port());
        Self { listener, target }
    }

    async fn tunnel(&self, session: &Computer) -> (Tunnel, TcpStream) {
        let tunnel = session.tunnel(&self.target).await.unwrap_or_else(|a| panic!("{}", a.text()));
        (TokioIo::new(tunnel), self.listener.accept().await.unwrap().0)
    }

    /// A request whose answer begins and does not end, and what the upstream was sent.
    async fn stream(&self, session: &Computer) -> (http::Response<hyper::body::Incoming>, TcpStream, String) {
        let (mut send, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(session.stream().await)).await.unwrap();
        tokio::spawn(connection);
        let uri = format!("http://{}/endless", self.target);
        let request = Request::builder().uri(uri).body(Full::<Bytes>::default()).unwrap();
        let answer = tokio::spawn(async move { send.send_request(request).await });
        let (mut upstream, _) = self.listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(upstream.read_u8().await.unwrap());
        }
        let begin = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nbegun";
        upstream.write_all(begin).await.unwrap();
        let mut answer = tokio::time::timeout(SOON, answer).await.unwrap().unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        let first = answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "begun");
        (answer, upstream, String::from_utf8(head).unwrap())
    }
}

async fn ends(tunnel: &mut Tunnel) {
    let since = Instant::now();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(SOON, tunnel.read_to_end(&mut rest)).await.expect("it goes on");
    assert!(since.elapsed() < PROMPT, "{:?}", since.elapsed());
}

async fn talks(tunnel: &mut Tunnel, upstream: &mut TcpStream) {
    tunnel.write_all(b"x").await.unwrap();
    let mut one = [0u8];
    tokio::time::timeout(SOON, upstream.read_exact(&mut one)).await.unwrap().unwrap();
}

async fn breaks(mut answer: http::Response<hyper::body::Incoming>) {
    let since = Instant::now();
    let frame = tokio::time::timeout(SOON, answer.body_mut().frame()).await.expect("it goes on");
    assert!(frame.unwrap().is_err(), "half an answer looks whole");
    assert!(since.elapsed() < PROMPT, "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_network_cuts_what_it_forbids_and_nothing_else() {
    let lab = Lab::new().await;
    let (one, two) = (Far::new(&lab, "one.example").await, Far::new(&lab, "two.example").await);
    let session = lab.session("s", allow(&[&one.target, &two.target])).await;
    let other = lab.session("t", allow(&[&one.target])).await;
    let (mut cut, _held) = one.tunnel(&session).await;
    let (mut stays, mut upstream) = two.tunnel(&session).await;
    let (mut others, mut theirs) = one.tunnel(&other).await;
    let (streamed, _open, _) = one.stream(&session).await;
    lab.patch(&session, allow(&[&two.target])).await;
    ends(&mut cut).await;
    breaks(streamed).await;
    talks(&mut stays, &mut upstream).await;
    talks(&mut others, &mut theirs).await;
    lab.line(&session, "one.example", Some("policy")).await;
    until(async || {
        let lines = lab.lines(&session).await;
        lines.iter().filter(|l| l.reason.as_deref() == Some("policy")).count() == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_guardrail_cuts_what_it_would_have_refused() {
    let lab = Lab::new().await;
    let (one, two) = (Far::new(&lab, "one.example").await, Far::new(&lab, "two.example").await);
    let session = lab.session("s", open()).await;
    let (mut cut, _held) = one.tunnel(&session).await;
    let (mut stays, mut upstream) = two.tunnel(&session).await;
    let (streamed, _open, _) = one.stream(&session).await;
    let rules =
        json!([{"phase": "egress", "match": {"hosts": [one.target]}, "action": "deny", "reason": "no more"}]);
    lab.policy("deny", rules).await;
    ends(&mut cut).await;
    breaks(streamed).await;
    lab.line(&session, "one.example", Some("guardrail")).await;
    talks(&mut stays, &mut upstream).await;
    // What is to be read from now on cannot go on unread.
    let rules =
        json!([{"phase": "egress", "match": {"hosts": [two.target], "regex": "secret"}, "action": "deny"}]);
    lab.policy("read", rules).await;
    ends(&mut stays).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_allowed_goes_on_when_other_rules_change() {
    let lab = Lab::new().await;
    let far = Far::new(&lab, "far.example").await;
    let asks = json!([{"phase": "egress", "match": {"hosts": ["far.example"]}, "action": "approve"}]);
    lab.policy("asks", asks.clone()).await;
    let session = lab.session("s", open()).await;
    let decided = async {
        until(async || !lab.approvals().await.is_empty()).await;
        let id = lab.approvals().await[0].id;
        lab.decide(&session, id, true, None).await;
    };
    let ((mut tunnel, mut upstream), ()) = tokio::join!(far.tunnel(&session), decided);
    let elsewhere = json!([{"phase": "egress", "match": {"hosts": ["other.example"]}, "action": "deny"}]);
    lab.policy("elsewhere", elsewhere).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    talks(&mut tunnel, &mut upstream).await;
    // Another rule wants a yes of its own.
    let first = json!([{"phase": "egress", "match": {"hosts": ["far.example"]}, "action": "approve", "reason": "ask again"}]);
    lab.policy("aaa", first).await;
    ends(&mut tunnel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_deleted_takes_its_credential_back() {
    let lab = Lab::new().await;
    let far = Far::new(&lab, "api.example").await;
    lab.secret("key", "sk-planted-credential").await;
    let rule = Match::new(far.target.parse().unwrap(), vec![], None).unwrap();
    lab.connect("api", rule, Placement::header("x-key", String::new()).unwrap(), "key").await;
    let session = lab.session("s", open()).await;
    let (carries, _open, head) = far.stream(&session).await;
    assert!(head.contains("sk-planted-credential"), "{head}");
    lab.disconnect("api").await;
    breaks(carries).await;
    let line = lab.line(&session, "api.example", Some("connection")).await;
    assert_eq!((line.connection.as_deref(), line.decision.as_str()), (Some("api"), "allowed"));
    let (_goes, _open, head) = far.stream(&session).await;
    assert!(!head.contains("planted"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_counted_while_it_is_open_and_once() {
    let lab = Lab::new().await;
    lab.quota(1 << 40).await;
    let far = Far::new(&lab, "far.example").await;
    let session = lab.session("s", open()).await;
    let (mut tunnel, mut upstream) = far.tunnel(&session).await;
    for round in 1..=2_u64 {
        tunnel.write_all(&[1; 1000]).await.unwrap();
        upstream.read_exact(&mut [0; 1000]).await.unwrap();
        upstream.write_all(&[2; 500]).await.unwrap();
        tunnel.read_exact(&mut [0; 500]).await.unwrap();
        until(async || lab.used(&session).await == round * 1500).await;
        let line = lab.line(&session, "far.example", Some("open")).await;
        assert_eq!((line.bytes_sent, line.bytes_received), (round * 1000, round * 500));
    }
    drop((tunnel, upstream));
    until(async || lab.lines(&session).await[0].reason.as_deref() != Some("open")).await;
    let lines = lab.lines(&session).await;
    assert_eq!((lines.len(), lines[0].bytes_sent, lines[0].bytes_received), (1, 2000, 1000));
    assert_eq!(lab.used(&session).await, 3000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_used_up_ends_the_tunnel_that_used_it() {
    let lab = Lab::with(|s| s.bytes_per_second = 4 << 20).await;
    lab.quota(2 << 20).await;
    let far = Far::new(&lab, "far.example").await;
    let session = lab.session("s", open()).await;
    let (mut tunnel, mut upstream) = far.tunnel(&session).await;
    let flood = tokio::spawn(async move {
        let block = vec![7u8; 64 * 1024];
        while upstream.write_all(&block).await.is_ok() {}
    });
    let mut got = 0;
    let mut buffer = vec![0; 64 * 1024];
    let drained = async {
        while let Ok(n @ 1..) = tunnel.read(&mut buffer).await {
            got += n as u64;
        }
    };
    tokio::time::timeout(SOON, drained).await.expect("it goes on beyond the quota");
    tokio::time::timeout(SOON, flood).await.unwrap().unwrap();
    assert!((2 << 20..32 << 20).contains(&got), "{got} bytes");
    let line = lab.line(&session, "far.example", Some("quota")).await;
    assert!(line.bytes_received >= 2 << 20, "{line:?}");
    assert_eq!(lab.used(&session).await, line.bytes_received + line.bytes_sent);
    let refused = session.tunnel(&far.target).await.unwrap_err();
    assert_eq!(refused.status, 429);
    assert!(refused.text().contains("egress_bytes_per_day"), "{}", refused.text());
    // More room: at once, and for what comes.
    lab.quota(1 << 40).await;
    until(async || session.tunnel(&far.target).await.is_ok()).await;
}

/// The gateway is another process, and no wake-up reaches it: what was answered as made is made all the same.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_told_of_a_change_finds_it_made() {
    for lab in [Lab::apart().await, Lab::new().await] {
        let api = crate::upstream::Upstream::plain(|_| crate::upstream::says("ok")).await;
        let host = format!("api.example:{}", api.port);
        lab.names.set("api.example", &[&["127.0.0.1"]]);
        lab.secret("key", "sk-planted-credential").await;
        let session = lab.session("s", open()).await;
        let uri = format!("http://{host}/");
        for n in 0..5 {
            assert_eq!(session.get(&uri).await.status, 200);
            assert_eq!(api.last().header("x-key"), None, "round {n}");
            let rule = Match::new(host.parse().unwrap(), vec![], None).unwrap();
            lab.connect("api", rule, Placement::header("x-key", String::new()).unwrap(), "key").await;
            session.get(&uri).await;
            assert_eq!(api.last().header("x-key"), Some("sk-planted-credential"), "round {n}");
            lab.disconnect("api").await;
        }
        let rules = json!([{"phase": "egress", "match": {"hosts": ["api.example"]}, "action": "deny"}]);
        lab.policy("deny", rules).await;
        assert_eq!(session.get(&uri).await.status, 403);
        lab.patch(&session, allow(&["other.example"])).await;
        let refused = session.get(&uri).await;
        assert!(refused.text().contains("network.allow"), "{}", refused.text());
    }
}

/// A client that has said everything and ends its side is still answered; one that is gone is not waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_ends_its_side_early_gets_its_answer() {
    let lab = Lab::new().await;
    let far = Far::new(&lab, "far.example").await;
    let session = lab.session("s", open()).await;
    // An upstream that takes its time.
    let slow = async |upstream: &mut TcpStream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(upstream.read_u8().await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        upstream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nlate!\n")
            .await
            .unwrap();
    };
    let to = &far.target;
    let inside = format!("GET / HTTP/1.1\r\nHost: {to}\r\n\r\n");
    for request in [
        format!("GET http://{to}/ HTTP/1.1\r\nHost: {to}\r\n\r\n"),
        format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n{inside}"),
    ] {
        let mut raw = session.stream().await;
        raw.write_all(request.as_bytes()).await.unwrap();
        raw.shutdown().await.unwrap();
        let (mut upstream, _) = tokio::time::timeout(SOON, far.listener.accept()).await.unwrap().unwrap();
        slow(&mut upstream).await;
        drop(upstream);
        let mut answer = String::new();
        tokio::time::timeout(SOON, raw.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.contains("200 OK") && answer.ends_with("late!\n"), "{request}: {answer:?}");
    }
    let mut raw = session.stream().await;
    raw.write_all(b"GET http://gateway/ HTTP/1.1\r\nHost: gateway\r\n\r\n").await.unwrap();
    raw.shutdown().await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(SOON, raw.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let mut raw = session.stream().await;
    raw.write_all(format!("GET http://{to}/ HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes()).await.unwrap();
    let (mut upstream, _) = far.listener.accept().await.unwrap();
    drop(raw);
    let mut rest = Vec::new();
    let given_up = tokio::time::timeout(PROMPT, upstream.read_to_end(&mut rest)).await;
    assert!(given_up.is_ok(), "the upstream is still asked for a client that is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machines_own_public_address_is_nobodys() {
    let lab = Lab::new().await;
    lab.names.set("me.example", &[&[crate::lab::OWN]]);
    let session = lab.session("s", open()).await;
    for uri in ["http://me.example/".to_owned(), format!("http://{}/", crate::lab::OWN)] {
        let refused = session.get(&uri).await;
        assert_eq!(refused.status, 403, "{uri}");
        assert!(refused.text().contains("one of this machine's own"), "{}", refused.text());
    }
    assert_eq!(session.tunnel("me.example:443").await.unwrap_err().status, 403);
    lab.line(&session, "me.example", Some("address")).await;
}
