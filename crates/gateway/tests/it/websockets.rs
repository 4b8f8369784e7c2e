//! Protocols that begin inside TLS: WebSocket and HTTP/2, in tunnels nobody looks into and through a connection's host.

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_tungstenite::tungstenite::Message;

use crate::connections::{Inside, bearer, rule, secure};
use crate::lab::{Lab, SOON, allow};
use crate::upstream::{Upstream, authority, says};

/// Says one word over WebSocket and hears what comes back.
async fn talk(io: Inside, host: &str) -> String {
    let address = format!("wss://{host}/chat");
    let begun = tokio_tungstenite::client_async(address, TokioIo::new(io));
    let (mut socket, answer) = tokio::time::timeout(SOON, begun).await.unwrap().unwrap();
    assert_eq!(answer.status(), 101);
    socket.send(Message::text("hi")).await.unwrap();
    let heard = tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
    socket.close(None).await.unwrap();
    heard.to_text().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_in_tls_is_carried_as_it_is_where_no_connection_says_otherwise() {
    let lab = Lab::new().await;
    let server = Upstream::wss("ws.example").await;
    let host = format!("ws.example:{}", server.port);
    lab.names.set("ws.example", &[&["127.0.0.1"]]);
    let session = lab.session("s", allow(&[&host])).await;
    // The certificate is the server's own: nobody looked inside.
    let io = secure(&session, &host, &authority().pem, "http/1.1").await.unwrap();
    assert_eq!(talk(io, &host).await, "nobody: hi");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_to_a_connections_host_carries_the_credential() {
    let lab = Lab::new().await;
    let server = Upstream::wss("ws.example").await;
    let host = format!("ws.example:{}", server.port);
    lab.names.set("ws.example", &[&["127.0.0.1"]]);
    lab.secret("key", "sk-planted-credential").await;
    lab.connect("ws", rule(&host, &[], None), bearer(), "key").await;
    let session = lab.session("s", allow(&[&host])).await;
    let io = secure(&session, &host, &lab.authority().await, "http/1.1").await.unwrap();
    assert_eq!(talk(io, &host).await, "Bearer sk-planted-credential: hi");
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_in_a_tunnel_is_carried_as_it_is() {
    let lab = Lab::new().await;
    let api = Upstream::tls(&["api.example"], |seen| says(&format!("{} bytes", seen.body.len()))).await;
    let host = format!("api.example:{}", api.port);
    lab.names.set("api.example", &[&["127.0.0.1"]]);
    let session = lab.session("s", allow(&[&host])).await;
    let io = secure(&session, &host, &authority().pem, "h2").await.unwrap();
    assert_eq!(io.inner().get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let many = (0..8).map(|i| {
        let body = Full::new(Bytes::from(vec![b'x'; 100_000 + i]));
        send.send_request(Request::post(format!("https://{host}/{i}")).body(body).unwrap())
    });
    let all = tokio::time::timeout(SOON, futures_util::future::join_all(many)).await.unwrap();
    for (i, response) in all.into_iter().enumerate() {
        let body = response.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, format!("{} bytes", 100_000 + i));
    }
    let seen = api.seen();
    assert!(seen.len() == 8 && seen.iter().all(|s| s.version == http::Version::HTTP_2));
}
