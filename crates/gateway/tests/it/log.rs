//! What is written down of what left, and what is not.

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use wharf_domain::egress::rule::{Match, Placement};
use wharf_store::Actor;
use wharf_store::audit::AuditFilter;

use crate::lab::{Lab, allow};
use crate::upstream::{Upstream, says};

#[tokio::test(flavor = "multi_thread")]
async fn every_tunnel_and_request_is_one_line_and_no_secret_is_in_any() {
    let mut lab = Lab::new().await;
    let api = Upstream::plain(|_| says("twelve bytes")).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (api_at, tcp_at) = (
        format!("api.example:{}", api.port),
        format!("tcp.example:{}", listener.local_addr().unwrap().port()),
    );
    for name in ["api.example", "tcp.example"] {
        lab.names.set(name, &[&["127.0.0.1"]]);
    }
    lab.names.set("inner.example", &[&["10.0.0.1"]]);
    lab.secret("key", "sk-planted-credential").await;
    let rule = Match::new(api_at.parse().unwrap(), vec![], None).unwrap();
    lab.connect("api", rule, Placement::query("key".into()).unwrap(), "key").await;
    let session = lab.session("s", allow(&[&api_at, &tcp_at, "inner.example", "gone.example"])).await;

    assert_eq!(session.get(&format!("http://{api_at}/path?token=private")).await.text(), "twelve bytes");
    assert_eq!(session.get("http://forbidden.example/").await.status, 403);
    assert_eq!(session.get("http://inner.example/").await.status, 403);
    assert_eq!(session.get("http://gone.example/").await.status, 502);
    let mut tunnel = TokioIo::new(session.tunnel(&tcp_at).await.unwrap());
    let (mut upstream, _) = listener.accept().await.unwrap();
    tunnel.write_all(b"hello").await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut all = Vec::new();
    upstream.read_to_end(&mut all).await.unwrap();
    upstream.write_all(b"and good bye").await.unwrap();
    drop(upstream);
    tunnel.read_to_end(&mut all).await.unwrap();
    for _ in 0..3 {
        session.tunnel("forbidden.example:443").await.unwrap_err();
    }
    // A drain writes what waits.
    lab.stop().await;

    let lines = lab.lines(&session).await;
    let told: Vec<_> = lines
        .iter()
        .map(|l| {
            (
                l.kind.as_str(),
                l.host.as_str(),
                l.method.as_deref(),
                l.status,
                l.decision.as_str(),
                l.reason.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        told[..5],
        [
            ("request", "api.example", Some("GET"), Some(200), "allowed", None),
            ("request", "forbidden.example", Some("GET"), Some(403), "denied", Some("policy")),
            ("request", "inner.example", Some("GET"), Some(403), "denied", Some("address")),
            ("request", "gone.example", Some("GET"), Some(502), "failed", Some("resolve")),
            ("tunnel", "tcp.example", Some("CONNECT"), None, "allowed", None),
        ]
    );
    assert_eq!(lines.len(), 8);
    assert_eq!((lines[0].bytes_sent, lines[0].bytes_received), (0, 12));
    assert_eq!(lines[0].connection.as_deref(), Some("api"));
    assert_eq!((lines[4].bytes_sent, lines[4].bytes_received), (5, 12));
    let shown = format!("{lines:?}");
    assert!(!shown.contains("planted") && !shown.contains("private"), "{shown}");

    let mut scope = lab.store.system(Actor::Setup).global().await.unwrap();
    let filter = AuditFilter { principal: Some("gateway".into()), ascending: true, ..AuditFilter::default() };
    let entries = scope.audit_list(&filter).await.unwrap().items;
    let used =
        entries.iter().find(|e| e.resource == "connections").expect("the use of a secret is not audited");
    assert_eq!(
        (used.verb.as_str(), used.name.as_deref(), used.outcome.as_str()),
        ("use", Some("api"), "allowed")
    );
    let denied: u64 = entries
        .iter()
        .filter(|e| e.resource == "egress" && e.outcome == "denied")
        .map(|e| e.detail["count"].as_u64().unwrap())
        .sum();
    assert_eq!(denied, 5, "{entries:?}");
    assert!(!format!("{entries:?}").contains("planted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_come_in_pages_and_go_with_age() {
    let mut lab = Lab::new().await;
    let session = lab.session("s", allow(&["a.example"])).await;
    for n in 0..5 {
        assert_eq!(session.get(&format!("http://host-{n}.example/")).await.status, 403);
    }
    lab.stop().await;
    let mut scope = lab.scope().await;
    let permit = scope
        .sessions()
        .permit_egress(&wharf_domain::NameOrId::Id(session.id), wharf_domain::rbac::Verb::List)
        .await
        .unwrap();
    let mut hosts = Vec::new();
    let mut cursor = None;
    loop {
        let page = wharf_store::PageRequest::new(Some(2), cursor.as_deref(), None).unwrap();
        let found = scope.egress(&permit, &wharf_store::EgressFilter::default(), &page).await.unwrap();
        hosts.extend(found.items.into_iter().map(|l| l.host));
        cursor = found.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(hosts, (0..5).rev().map(|n| format!("host-{n}.example")).collect::<Vec<_>>());
    drop(scope);
    let system = lab.store.system(Actor::Gateway);
    let now = lab.store.now();
    assert_eq!(system.forget_egress(now.plus(std::time::Duration::from_secs(1)), 3).await.unwrap(), 3);
    assert_eq!(system.forget_egress(now.plus(std::time::Duration::from_secs(1)), 3).await.unwrap(), 2);
    assert!(lab.lines(&session).await.is_empty());
}
