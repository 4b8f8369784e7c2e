#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use hyper::Method;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::Gateway;

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn an_https_address_is_reached_through_a_tunnel_and_only_with_trust() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["tools.example".to_owned()]).unwrap();
    std::fs::write(dir.path().join("ca.pem"), made.cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let socket = dir.path().join("gateway.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let asked = head(&mut stream).await;
                if asked.starts_with("CONNECT refused.example:8443 ") {
                    stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\nnot in the allowlist").await.unwrap();
                    return;
                }
                assert!(asked.starts_with("CONNECT tools.example:443 HTTP/1.1\r\n"), "{asked}");
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let Ok(mut secure) = acceptor.accept(stream).await else { return };
                let asked = head(&mut secure).await.to_lowercase();
                assert!(
                    asked.starts_with("get /mcp?x=1 http/1.1") && asked.contains("host: tools.example"),
                    "{asked}"
                );
                secure.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
                secure.flush().await.unwrap();
            });
        }
    });
    let gateway = Gateway::new(&socket).trusting(dir.path().join("ca.pem"));
    let mut answer =
        gateway.send(Method::GET, "https://tools.example/mcp?x=1", &[], Vec::new()).await.unwrap();
    assert_eq!(answer.bytes(100).await.unwrap(), b"hello");
    let why = gateway.send(Method::GET, "https://refused.example:8443/", &[], Vec::new()).await.unwrap_err();
    assert!(why.contains("403") && why.contains("not in the allowlist"), "{why}");
    std::fs::write(dir.path().join("none.pem"), "").unwrap();
    let stranger = Gateway::new(&socket).trusting(dir.path().join("none.pem"));
    let why = stranger.send(Method::GET, "https://tools.example/mcp?x=1", &[], Vec::new()).await.unwrap_err();
    assert!(why.contains("no trust"), "{why}");
}
