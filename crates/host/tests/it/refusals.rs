use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wharf_domain::Code;
use wharf_wire::host::exec::ExecRequest;

use crate::harness::{Host, code, raw};

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
}

#[tokio::test]
async fn every_odd_request_is_answered_with_what_is_wrong_with_it() {
    let host = Host::start().await;
    let socket = host.client.socket().to_owned();
    for (request, status, code) in [
        (get("/nothing"), 404, "not_found"),
        (get("/exec"), 405, "method_not_allowed"),
        (post("/health", ""), 405, "method_not_allowed"),
        (post("/exec", ""), 400, "bad_request"),
        (post("/exec", "{"), 400, "bad_request"),
        (post("/exec", "[]"), 422, "invalid_field"),
        (post("/exec", r#"{"argv":"true"}"#), 422, "invalid_field"),
        (post("/exec", r#"{"argv":["true"],"detach":true}"#), 422, "unknown_field"),
        (post("/exec", r#"{"argv":["true"],"timeout_seconds":99999999999999999999}"#), 422, "invalid_field"),
        (post("/exec", r#"{"argv":["true"],"timeout_seconds":-1}"#), 422, "invalid_field"),
        (post("/exec", r#"{"argv":["true"],"stdin_b64":"%%%"}"#), 422, "invalid_field"),
        (post("/exec?x=1", r#"{"argv":["true"]}"#), 422, "unknown_field"),
        (post("/terminals", r#"{"cols":70000,"rows":1}"#), 422, "invalid_field"),
        (post("/turns", r#"{"turn":"x"}"#), 422, "invalid_field"),
        (post("/turns?after=-1", "{}"), 422, "invalid_field"),
        (post("/identity", r#"{"session":"nope","hostname":"h"}"#), 422, "invalid_field"),
        (get("/processes/one"), 404, "not_found"),
        (get("/processes/99"), 404, "not_found"),
        (get("/processes/99999999999999999999999"), 404, "not_found"),
        (get("/turns/..%2f..%2fetc%2fpasswd"), 404, "not_found"),
        (get("/files/stat"), 422, "invalid_field"),
        (get("/files/stat?path=relative"), 422, "invalid_field"),
        (get("/files/stat?path=%2Fa%00b"), 422, "invalid_field"),
        (get("/files/stat?path=%2F&path=%2F"), 400, "bad_request"),
        (get("/files/stat?path=%2F&follow=maybe"), 422, "invalid_field"),
        (get("/files/stat?path=%ff"), 400, "bad_request"),
        (get("/files/list?path=%2F&limit=1e9"), 422, "invalid_field"),
        (get("/ports/0"), 422, "invalid_field"),
        (get("/ports/80"), 400, "bad_request"),
    ] {
        let (got, body) = raw(&socket, &request).await;
        assert_eq!((got, body["code"].as_str()), (status, Some(code)), "{request}\n{body}");
        assert!(body["detail"].as_str().is_some_and(|d| d.len() > 5), "{request}");
    }
}

#[tokio::test]
async fn a_host_name_that_is_none_is_refused() {
    let host = Host::start().await;
    for name in ["", "-a", "a b", "ä", &"x".repeat(65)] {
        let mut me =
            crate::harness::identity(wharf_domain::SessionId::new(), wharf_wire::host::Env::default());
        me.hostname = name.to_owned();
        assert_eq!(code(host.client.claim(&me).await), Code::InvalidField, "{name:?}");
    }
}

#[tokio::test]
async fn a_body_over_its_limit_is_refused_before_it_is_read() {
    let host = Host::start().await;
    let huge = "POST /exec HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 99999999999\r\n\r\n";
    let (status, body) = raw(host.client.socket(), huge).await;
    assert_eq!((status, body["code"].as_str()), (413, Some("too_large")));
    let wanted = ExecRequest { stdin: Some("x".repeat(13 * 1024 * 1024)), ..ExecRequest::argv(["true"]) };
    assert_eq!(code(host.client.exec(&wanted).await), Code::TooLarge);
}

#[tokio::test]
async fn bytes_that_are_no_request_cost_only_their_connection() {
    let host = Host::start().await;
    for bytes in [
        &b"\x00\xff\x00\xff"[..],
        b"GET",
        b"\r\n\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        "a".repeat(100_000).as_bytes(),
    ] {
        let mut stream = tokio::net::UnixStream::connect(host.client.socket()).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
    }
    // A body that never comes, and a viewer that speaks no frames.
    let mut stream = tokio::net::UnixStream::connect(host.client.socket()).await.unwrap();
    stream.write_all(b"POST /exec HTTP/1.1\r\nhost: h\r\ncontent-length: 50\r\n\r\n{\"argv\"").await.unwrap();
    drop(stream);
    assert!(host.sh("true").await.exit.success());
}

#[tokio::test]
async fn a_tunnel_carries_bytes_to_a_port_of_the_session_and_listeners_are_listed() {
    let host = Host::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert!(host.client.ports().await.unwrap().iter().any(|p| p.port == port && p.address.is_loopback()));
    let echo = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    });
    let mut tunnel = host.client.tunnel(port).await.unwrap();
    tunnel.write_all(b"ahoy!").await.unwrap();
    tunnel.flush().await.unwrap();
    let mut back = Vec::new();
    tunnel.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"ahoy!");
    echo.await.unwrap();
    assert_eq!(code(host.client.tunnel(port).await.map(drop)), Code::Unavailable, "nobody listens any more");
}
