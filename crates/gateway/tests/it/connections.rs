//! Credentials that are added outside, and never seen inside.

use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wharf_domain::egress::rule::{Match, Placement};

use crate::lab::{Computer, Lab, allow, exchange, open};
use crate::upstream::{Upstream, authority, says};

pub fn rule(host: &str, methods: &[&str], path: Option<&str>) -> Match {
    let methods = methods.iter().map(ToString::to_string).collect();
    Match::new(host.parse().unwrap(), methods, path.map(Into::into)).unwrap()
}

pub fn bearer() -> Placement {
    Placement::header("authorization", "Bearer ".into()).unwrap()
}

pub type Inside = TokioIo<TlsStream<TokioIo<hyper::upgrade::Upgraded>>>;

/// TLS through a tunnel, by a client that trusts one authority.
pub async fn secure(session: &Computer, target: &str, trusted: &str, alpn: &str) -> std::io::Result<Inside> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let tunnel = session.tunnel(target).await.unwrap_or_else(|a| panic!("{}: {}", a.status, a.text()));
    let name = ServerName::try_from(target.split(':').next().unwrap().to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, TokioIo::new(tunnel)).await.map(TokioIo::new)
}

fn request(host: &str, path: &str) -> Request<Full<Bytes>> {
    Request::builder().uri(path).header("host", host).body(Full::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_a_connections_host_carries_the_secret_and_others_do_not() {
    let lab = Lab::new().await;
    let api = Upstream::tls(&["api.example"], |_| says("ok")).await;
    let other = Upstream::tls(&["other.example"], |_| says("other")).await;
    let (host, elsewhere) = (format!("api.example:{}", api.port), format!("other.example:{}", other.port));
    for name in ["api.example", "other.example"] {
        lab.names.set(name, &[&["127.0.0.1"]]);
    }
    lab.secret("key", "sk-planted-credential\n").await;
    lab.connect("api", rule(&host, &["GET"], Some("/v1")), bearer(), "key").await;
    let session = lab.session("s", allow(&[&host, &elsewhere])).await;
    let ours = lab.authority().await;

    let answer =
        exchange(secure(&session, &host, &ours, "http/1.1").await.unwrap(), request(&host, "/v1/models"))
            .await;
    assert_eq!(answer.text(), "ok");
    assert_eq!(api.last().header("authorization"), Some("Bearer sk-planted-credential"));
    assert_eq!(api.last().version, Version::HTTP_2, "the upstream speaks HTTP/2 and is spoken to in it");

    // What the client put there itself is replaced; what does not match goes on as it came.
    let mut mine = request(&host, "/v1/models");
    mine.headers_mut().insert("authorization", "Bearer mine".parse().unwrap());
    exchange(secure(&session, &host, &ours, "http/1.1").await.unwrap(), mine).await;
    assert_eq!(api.last().header("authorization"), Some("Bearer sk-planted-credential"));
    for path in ["/v2/models", "/v1evil", "/v1/../v2", "/v1/%2e%2e/v2", "/v1/..%2fv2"] {
        let mut mine = request(&host, path);
        mine.headers_mut().insert("authorization", "Bearer mine".parse().unwrap());
        exchange(secure(&session, &host, &ours, "http/1.1").await.unwrap(), mine).await;
        assert_eq!(api.last().header("authorization"), Some("Bearer mine"), "{path}");
        assert_eq!(api.last().uri.split("/v").last(), format!("https://{host}{path}").split("/v").last());
    }
    let post = Request::post("/v1/models").header("host", &host).body(Full::default()).unwrap();
    exchange(secure(&session, &host, &ours, "http/1.1").await.unwrap(), post).await;
    assert_eq!(api.last().header("authorization"), None);

    // A host no connection names stays opaque: its own certificate, its own protocol.
    let refused = secure(&session, &elsewhere, &ours, "http/1.1").await;
    assert!(refused.is_err(), "the gateway stood in between");
    let opaque = secure(&session, &elsewhere, &authority().pem, "http/1.1").await.unwrap();
    assert_eq!(exchange(opaque, request(&elsewhere, "/v1/x")).await.text(), "other");
    assert_eq!(other.last().header("authorization"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_no_header_can_hold_is_the_reason_that_nothing_goes_out() {
    let mut lab = Lab::new().await;
    let api = Upstream::plain(|_| says("ok")).await;
    let host = format!("api.example:{}", api.port);
    lab.names.set("api.example", &[&["127.0.0.1"]]);
    lab.secret("key", "sk-planted\ncredential").await;
    lab.connect("api", rule(&host, &[], None), bearer(), "key").await;
    let session = lab.session("s", open()).await;
    let refused = session.get(&format!("http://{host}/")).await;
    assert_eq!(refused.status, 502);
    assert!(!refused.text().contains("planted"), "{}", refused.text());
    assert!(api.seen().is_empty());
    lab.stop().await;
    assert_eq!(lab.lines(&session).await[0].reason.as_deref(), Some("credential"));
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_goes_through_on_both_sides() {
    let lab = Lab::new().await;
    let api = Upstream::tls(&["api.example"], |seen| says(&format!("{} bytes", seen.body.len()))).await;
    let host = format!("api.example:{}", api.port);
    lab.names.set("api.example", &[&["127.0.0.1"]]);
    lab.secret("key", "sk-planted-credential").await;
    lab.connect("api", rule(&host, &[], None), Placement::header("x-key", String::new()).unwrap(), "key")
        .await;
    let session = lab.session("s", open()).await;
    let io = secure(&session, &host, &lab.authority().await, "h2").await.unwrap();
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let many = (0..8).map(|i| {
        let body = Full::new(Bytes::from(vec![b'x'; 100_000 + i]));
        send.send_request(Request::post(format!("https://{host}/{i}")).body(body).unwrap())
    });
    for (i, response) in futures_util::future::join_all(many).await.into_iter().enumerate() {
        let body = response.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, format!("{} bytes", 100_000 + i));
    }
    assert_eq!(api.seen().len(), 8);
    assert!(api.seen().iter().all(|s| s.header("x-key") == Some("sk-planted-credential")));
    let fronted = Request::get("https://evil.example/").body(Full::<Bytes>::default()).unwrap();
    let refused = send.send_request(fronted).await.unwrap();
    assert_eq!(refused.status(), 421);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_another_host_inside_the_tunnel_gets_nothing() {
    let lab = Lab::new().await;
    let api = Upstream::tls(&["api.example"], |_| says("ok")).await;
    let host = format!("api.example:{}", api.port);
    lab.names.set("api.example", &[&["127.0.0.1"]]);
    lab.secret("key", "sk-planted-credential").await;
    lab.connect("api", rule(&host, &[], None), bearer(), "key").await;
    let session = lab.session("s", open()).await;
    let io = secure(&session, &host, &lab.authority().await, "http/1.1").await.unwrap();
    let answer = exchange(io, request("evil.example", "/")).await;
    assert_eq!(answer.status, 421);
    assert!(api.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_gets_query_and_basic_credentials_through_proxy_and_tunnel_alike() {
    let lab = Lab::new().await;
    let api = Upstream::plain(|seen| {
        // As servers do that add a slash: the whole address again.
        Response::builder()
            .status(301)
            .header("location", format!("{}/", seen.uri))
            .body(Full::default())
            .unwrap()
    })
    .await;
    let host = format!("maps.example:{}", api.port);
    lab.names.set("maps.example", &[&["127.0.0.1"]]);
    lab.secret("key", "p&ss word").await;
    lab.connect("maps", rule(&host, &[], Some("/q")), Placement::query("key".into()).unwrap(), "key").await;
    lab.connect("rest", rule(&host, &[], None), Placement::basic("me".into()).unwrap(), "key").await;
    let session = lab.session("s", open()).await;
    let answer = session.get(&format!("http://{host}/q/x?key=mine&a=1")).await;
    assert_eq!(api.last().uri, "/q/x?a=1&key=p%26ss%20word");
    assert_eq!(answer.headers["location"], "/q/x?a=1&key=hidden/", "the credential came back");
    // A program that knows of no proxy comes through a tunnel, and says the same.
    let tunnel = session.tunnel(&host).await.unwrap();
    exchange(tunnel, request(&host, "/other")).await;
    let expected = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("me:p&ss word"));
    assert_eq!(api.last().header("authorization"), Some(expected.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_whose_certificate_does_not_hold_gets_no_credential() {
    let lab = Lab::new().await;
    let liar = Upstream::unknown("api.example").await;
    let wrong = Upstream::tls(&["wrong.example"], |_| says("ok")).await;
    lab.names.set("api.example", &[&["127.0.0.1"]]);
    lab.secret("key", "sk-planted-credential").await;
    let session = lab.session("s", open()).await;
    let ours = lab.authority().await;
    for (n, upstream) in [&liar, &wrong].into_iter().enumerate() {
        let host = format!("api.example:{}", upstream.port);
        lab.connect(&format!("api-{n}"), rule(&host, &[], None), bearer(), "key").await;
        // The gateway hears of a new connection a moment after its commit; until then the tunnel is passed on as it is.
        let begun = std::time::Instant::now();
        let io = loop {
            match secure(&session, &host, &ours, "http/1.1").await {
                Ok(io) => break io,
                Err(e) => assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{e}"),
            }
        };
        let answer = exchange(io, request(&host, "/")).await;
        assert_eq!(answer.status, 502);
        assert!(answer.text().contains("no TLS with api.example"), "{}", answer.text());
        assert!(!answer.text().contains("planted"));
        assert!(upstream.seen().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_secret_and_a_deleted_connection_count_at_once() {
    let lab = Lab::new().await;
    let api = Upstream::plain(|_| says("ok")).await;
    let host = format!("api.example:{}", api.port);
    lab.names.set("api.example", &[&["127.0.0.1"]]);
    lab.secret("key", "first-value").await;
    lab.connect("api", rule(&host, &[], None), Placement::header("x-key", String::new()).unwrap(), "key")
        .await;
    let session = lab.session("s", open()).await;
    let uri = format!("http://{host}/");
    session.get(&uri).await;
    assert_eq!(api.last().header("x-key"), Some("first-value"));
    let mut scope = lab.scope().await;
    let at = wharf_domain::NameOrId::Name(crate::lab::name("key"));
    let permit = scope.secrets().permit(&at, wharf_domain::rbac::Verb::Update).await.unwrap();
    let patch =
        wharf_store::SecretPatch { value: Some(wharf_domain::Plain::new("second-value")), labels: None };
    scope.secrets().update(&permit, patch, None).await.unwrap();
    scope.commit().await.unwrap();
    session.get(&uri).await;
    assert_eq!(api.last().header("x-key"), Some("second-value"));
    // The secret cannot go while a connection sends it.
    let mut scope = lab.scope().await;
    let permit = scope.secrets().permit(&at, wharf_domain::rbac::Verb::Delete).await.unwrap();
    let refused = scope.secrets().delete(&permit, None).await.unwrap_err();
    assert_eq!(refused.code, wharf_domain::Code::InUse);
    drop(scope);
    let mut scope = lab.scope().await;
    let at = wharf_domain::NameOrId::Name(crate::lab::name("api"));
    let permit = scope.connections().permit(&at, wharf_domain::rbac::Verb::Delete).await.unwrap();
    scope.connections().delete(&permit, None).await.unwrap();
    scope.commit().await.unwrap();
    session.get(&uri).await;
    assert_eq!(api.last().header("x-key"), None);
}
