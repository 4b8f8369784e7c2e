//! Limits, and how long anything may be silent.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::lab::{Lab, SOON, open, until};
use crate::upstream::{Upstream, says};

async fn listener(lab: &Lab) -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    lab.names.set("tcp.example", &[&["127.0.0.1"]]);
    let target = format!("tcp.example:{}", listener.local_addr().unwrap().port());
    (listener, target)
}

/// A connection whose request has been read.
async fn accepted(listener: &TcpListener) -> TcpStream {
    let accepted = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(stream.read_u8().await.unwrap());
        }
        stream
    };
    tokio::time::timeout(SOON, accepted).await.expect("nothing was asked")
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_are_no_more_than_the_limit() {
    let lab = Lab::with(|s| s.max_connections = 2).await;
    let session = lab.session("s", open()).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(session.stream().await);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    for _ in 0..40 {
        held.push(session.stream().await);
    }
    for stream in &mut held[2..] {
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "one that is too many stayed open");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let mut one = [0u8; 1];
    let first = tokio::time::timeout(Duration::from_millis(100), held[0].read(&mut one)).await;
    assert!(first.is_err(), "one that is not too many was closed");
    let refused = session.get("http://gateway/").await;
    assert_eq!(refused.status, 429);
    assert!(refused.text().contains("gateway.max_connections"), "{}", refused.text());
    drop(held);
    until(async || session.try_get().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_at_once_wait_their_turn_or_are_refused() {
    let lab = Lab::with(|s| s.connections_per_second = 1).await;
    let upstream = Upstream::plain(|_| says("hello")).await;
    lab.names.set("site.example", &[&["127.0.0.1"]]);
    let session = std::sync::Arc::new(lab.session("s", open()).await);
    let uri = format!("http://site.example:{}/", upstream.port);
    let begun = Instant::now();
    let (told, mut tell) = tokio::sync::mpsc::unbounded_channel();
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (session, uri, told) = (session.clone(), uri.clone(), told.clone());
        asked.spawn(async move {
            let _ = told.send(session.get(&uri).await);
        });
    }
    let (mut through, mut refused) = (0, 0);
    while through < 3 {
        let answer = tokio::time::timeout(SOON, tell.recv()).await.unwrap().unwrap();
        if answer.status == 429 {
            refused += 1;
            assert!(answer.text().contains("gateway.connections_per_second"), "{}", answer.text());
        } else {
            through += 1;
        }
    }
    assert!(begun.elapsed() >= Duration::from_millis(800), "the third did not wait");
    assert!(refused >= 4, "{refused} were refused");
    asked.abort_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_slowed_down_both_ways() {
    const MIB: usize = 1024 * 1024;
    let lab = Lab::with(|s| s.bytes_per_second = MIB as u64).await;
    let upstream =
        Upstream::plain(|seen| says(&"x".repeat(if seen.body.is_empty() { 2 * MIB } else { 1 }))).await;
    lab.names.set("site.example", &[&["127.0.0.1"]]);
    let uri = format!("http://site.example:{}/", upstream.port);
    for body in [0, 2 * MIB] {
        let session = lab.session(if body == 0 { "down" } else { "up" }, open()).await;
        let begun = Instant::now();
        let request = Request::post(&uri).body(Full::new(Bytes::from(vec![b'x'; body]))).unwrap();
        assert_eq!(session.send(request).await.status, 200);
        assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_take_the_connection_is_a_timeout() {
    let lab = Lab::with(|s| s.connect_timeout_seconds = 1).await;
    lab.names.set("full.example", &[&["127.0.0.1"]]);
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let at = listener.local_addr().unwrap();
    // Nobody accepts: when its queue is full the kernel lets the next one wait.
    let mut queue = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(at)).await
    {
        queue.push(stream);
        assert!(queue.len() < 100, "it takes everybody");
    }
    let session = lab.session("s", open()).await;
    assert_eq!(session.tunnel(&format!("full.example:{}", at.port())).await.unwrap_err().status, 504);
    assert_eq!(session.get(&format!("http://full.example:{}/", at.port())).await.status, 504);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_upload_is_not_idle_and_an_upstream_that_never_answers_is() {
    let lab = Lab::with(|s| s.idle_timeout_seconds = 1).await;
    let upstream = Upstream::plain(|seen| says(&format!("{} bytes", seen.body.len()))).await;
    lab.names.set("site.example", &[&["127.0.0.1"]]);
    let session = lab.session("s", open()).await;
    let (mut send, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(session.stream().await)).await.unwrap();
    tokio::spawn(connection);
    let pieces = futures_util::stream::unfold(0, |n| async move {
        tokio::time::sleep(Duration::from_millis(250)).await;
        (n < 14).then(|| (Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(b"x"))), n + 1))
    });
    let uri = format!("http://site.example:{}/", upstream.port);
    let request = Request::post(uri).body(StreamBody::new(pieces)).unwrap();
    let answer = tokio::time::timeout(SOON, send.send_request(request)).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200, "it took more than three seconds, and something moved in each");

    let (listener, target) = listener(&lab).await;
    let silent = tokio::spawn(async move { listener.accept().await.unwrap() });
    let refused = session.get(&format!("http://{target}/")).await;
    assert_eq!(refused.status, 504);
    assert!(refused.text().contains("gateway.idle_timeout_seconds"), "{}", refused.text());
    silent.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_stalls_ends_and_gives_its_place_back() {
    let mut lab = Lab::with(|s| (s.idle_timeout_seconds, s.max_connections) = (1, 1)).await;
    let (listener, target) = listener(&lab).await;
    let session = lab.session("s", open()).await;
    let ask = format!("GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\n\r\n");

    // It says a word now and then, and then nothing more.
    let mut client = session.stream().await;
    client.write_all(ask.as_bytes()).await.unwrap();
    let mut upstream = accepted(&listener).await;
    upstream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    for _ in 0..8 {
        upstream.write_all(b"1\r\nx\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let mut got = Vec::new();
    tokio::time::timeout(SOON, client.read_to_end(&mut got)).await.expect("it stayed open").ok();
    let got = String::from_utf8_lossy(&got);
    assert_eq!(got.matches("\r\nx\r\n").count(), 8, "{got}");
    assert!(!got.contains("\r\n0\r\n"), "half an answer looks whole");
    until(async || session.try_get().await).await;

    // It says much, and nobody listens.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut client = session.stream().await;
    client.write_all(ask.as_bytes()).await.unwrap();
    let mut upstream = accepted(&listener).await;
    let flood = tokio::spawn(async move {
        let _ = upstream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        let much = vec![b'x'; 65536];
        while upstream.write_all(&much).await.is_ok() {}
    });
    until(async || session.try_get().await).await;
    tokio::time::timeout(SOON, flood).await.expect("the upstream is still heard").unwrap();
    drop(client);
    lab.stop().await;
    let reasons: Vec<_> = lab.lines(&session).await.into_iter().map(|l| l.reason).collect();
    assert_eq!(reasons[0].as_deref(), Some("idle"));
}
