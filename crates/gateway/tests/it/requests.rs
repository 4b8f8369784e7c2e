//! Requests the gateway reads: plain HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::lab::{Lab, SOON, open};
use crate::upstream::{Upstream, says};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_arrives_as_it_was_meant_and_its_answer_comes_back() {
    let lab = Lab::new().await;
    let upstream = Upstream::plain(|seen| {
        let mut response = says(&format!("got {} bytes", seen.body.len()));
        response.headers_mut().insert("x-answer", "yes".parse().unwrap());
        response.headers_mut().insert("connection", "x-hop".parse().unwrap());
        response.headers_mut().insert("x-hop", "1".parse().unwrap());
        response
    })
    .await;
    lab.names.set("api.example", &[&["127.0.0.1"]]);
    let session = lab.session("s", open()).await;
    let request = Request::post(format!("http://api.example:{}/path?q=1", upstream.port))
        .header("host", "someone.else.example")
        .header("proxy-authorization", "Basic secret")
        .header("connection", "close, x-private")
        .header("x-private", "1")
        .header("x-public", "2")
        .body(Full::new(Bytes::from(vec![b'a'; 3 * 1024 * 1024])))
        .unwrap();
    let answer = session.send(request).await;
    assert_eq!(answer.text(), format!("got {} bytes", 3 * 1024 * 1024));
    assert_eq!(answer.headers["x-answer"], "yes");
    assert!(!answer.headers.contains_key("x-hop"));
    let seen = upstream.last();
    assert_eq!((seen.method.as_str(), seen.uri.as_str()), ("POST", "/path?q=1"));
    assert_eq!(seen.header("host"), Some(format!("api.example:{}", upstream.port).as_str()));
    assert_eq!(seen.header("x-public"), Some("2"));
    for gone in ["proxy-authorization", "x-private", "connection"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_streams_before_it_has_ended() {
    let lab = Lab::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    lab.names.set("stream.example", &[&["127.0.0.1"]]);
    let session = lab.session("s", open()).await;
    let mut client = session.stream().await;
    let target = format!("stream.example:{}", listener.local_addr().unwrap().port());
    client
        .write_all(format!("GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    // An answer before its question is a broken one.
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        asked.push(upstream.read_u8().await.unwrap());
    }
    upstream
        .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nfirst\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    let first = async {
        while !text.contains("first") {
            let mut buffer = [0u8; 1024];
            let n = client.read(&mut buffer).await.unwrap();
            assert!(n > 0);
            text.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    };
    tokio::time::timeout(SOON, first).await.expect("the first part was held back");
    // An answer that is cut off must not look whole.
    drop(upstream);
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(SOON, client.read_to_end(&mut rest)).await.unwrap();
    assert!(!String::from_utf8_lossy(&rest).contains("0\r\n\r\n"), "a cut answer was made whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_can_change_its_protocol() {
    let lab = Lab::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    lab.names.set("ws.example", &[&["127.0.0.1"]]);
    let session = lab.session("s", open()).await;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        use futures_util::{SinkExt as _, StreamExt as _};
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() {
                socket.send(message).await.unwrap();
            }
        }
    });
    let mut client = session.stream().await;
    let request = format!(
        "GET http://ws.example:{port}/chat HTTP/1.1\r\nHost: ws.example:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(SOON, client.read_u8()).await.unwrap().unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.to_lowercase().contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    // A masked text frame "hi" (RFC 6455 §5.2), and its echo, which a server does not mask.
    client.write_all(&[0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2]).await.unwrap();
    let mut echo = [0u8; 4];
    tokio::time::timeout(SOON, client.read_exact(&mut echo)).await.unwrap().unwrap();
    assert_eq!(&echo, &[0x81, 2, b'h', b'i']);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_on_the_way_is_said_with_its_reason() {
    let lab = Lab::with(|s| s.connect_timeout_seconds = 1).await;
    lab.names.set("closed.example", &[&["127.0.0.1"]]);
    lab.names.set("odd.example", &[&["127.0.0.1"]]);
    let session = lab.session("s", open()).await;
    let missing = session.get("http://missing.example/").await;
    assert_eq!(missing.status, 502);
    assert!(missing.text().contains("missing.example could not be resolved"), "{}", missing.text());
    let closed = session.get("http://closed.example:1/").await;
    assert_eq!(closed.status, 502);
    assert!(closed.text().contains("closed.example:1 could not be reached"), "{}", closed.text());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0u8; 1024];
        let _ = stream.read(&mut buffer).await;
        let _ = stream.write_all(b"SSH-2.0-not-http\r\n").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    });
    let odd = session.get(&format!("http://odd.example:{port}/")).await;
    assert_eq!(odd.status, 502);
    assert!(odd.json()["detail"].as_str().unwrap().contains("did not answer"), "{}", odd.text());
}
