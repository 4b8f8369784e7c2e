//! Bytes through a tunnel: all of them, in order, and ends as they were meant.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::lab::{Lab, SOON, open};

async fn listener(lab: &Lab) -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    lab.names.set("tcp.example", &[&["127.0.0.1"]]);
    let target = format!("tcp.example:{}", listener.local_addr().unwrap().port());
    (listener, target)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_bytes_go_both_ways_at_once_and_each_end_is_passed_on() {
    let lab = Lab::new().await;
    let (listener, target) = listener(&lab).await;
    let session = lab.session("s", open()).await;
    let tunnel = TokioIo::new(session.tunnel(&target).await.unwrap());
    let (upstream, _) = listener.accept().await.unwrap();
    const MIB: usize = 1024 * 1024;
    let pattern =
        |seed: u8| (0..8 * MIB).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect::<Vec<u8>>();
    let (mut client_reads, mut client_writes) = tokio::io::split(tunnel);
    let (mut upstream_reads, mut upstream_writes) = upstream.into_split();
    let up = async {
        client_writes.write_all(&pattern(1)).await.unwrap();
        client_writes.shutdown().await.unwrap();
    };
    let arrived = async {
        let mut all = Vec::new();
        upstream_reads.read_to_end(&mut all).await.unwrap();
        assert!(all == pattern(1), "what arrived is not what was sent");
        // The other direction is still open: only now does its answer begin.
        upstream_writes.write_all(&pattern(2)).await.unwrap();
        upstream_writes.shutdown().await.unwrap();
    };
    let down = async {
        let mut all = Vec::new();
        client_reads.read_to_end(&mut all).await.unwrap();
        assert!(all == pattern(2), "what came back is not what was sent");
    };
    tokio::time::timeout(SOON, async { tokio::join!(up, arrived, down) }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_torn_away_is_a_reset_upstream() {
    let lab = Lab::new().await;
    let (listener, target) = listener(&lab).await;
    let session = lab.session("s", open()).await;
    let tunnel = session.tunnel(&target).await.unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    // The jail is destroyed in the middle of a message.
    let flood = tokio::spawn(async move {
        let block = vec![7u8; 64 * 1024];
        loop {
            if let Err(error) = upstream.write_all(&block).await {
                return error.kind();
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(tunnel);
    let kind = tokio::time::timeout(SOON, flood).await.unwrap().unwrap();
    assert!(matches!(kind, std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe), "{kind:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_tunnel_ends_and_a_talking_one_does_not() {
    let lab = Lab::with(|s| s.idle_timeout_seconds = 1).await;
    let (listener, target) = listener(&lab).await;
    let session = lab.session("s", open()).await;
    let mut talking = TokioIo::new(session.tunnel(&target).await.unwrap());
    let (mut other, _) = listener.accept().await.unwrap();
    let mut silent = TokioIo::new(session.tunnel(&target).await.unwrap());
    let (_held, _) = listener.accept().await.unwrap();
    let ended = tokio::spawn(async move {
        let begun = std::time::Instant::now();
        let mut rest = Vec::new();
        let _ = silent.read_to_end(&mut rest).await;
        begun.elapsed()
    });
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        talking.write_all(b"x").await.unwrap();
        let mut one = [0u8; 1];
        other.read_exact(&mut one).await.unwrap();
    }
    assert!(ended.is_finished(), "the silent one is still open after three seconds");
    assert!(ended.await.unwrap() >= Duration::from_millis(900));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_follow_the_request_at_once_are_not_lost() {
    let lab = Lab::new().await;
    let (listener, target) = listener(&lab).await;
    let session = lab.session("s", open()).await;
    let mut raw = session.stream().await;
    raw.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nearly").as_bytes())
        .await
        .unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    let mut five = [0u8; 5];
    tokio::time::timeout(SOON, upstream.read_exact(&mut five)).await.unwrap().unwrap();
    assert_eq!(&five, b"early");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_over_its_bytes_is_slowed_down() {
    let lab = Lab::with(|s| s.bytes_per_second = 1024 * 1024).await;
    let (listener, target) = listener(&lab).await;
    let session = lab.session("s", open()).await;
    let mut tunnel = TokioIo::new(session.tunnel(&target).await.unwrap());
    let (mut upstream, _): (TcpStream, _) = listener.accept().await.unwrap();
    let begun = std::time::Instant::now();
    tokio::spawn(async move {
        upstream.write_all(&vec![1u8; 3 * 1024 * 1024]).await.unwrap();
    });
    let mut all = Vec::new();
    tunnel.read_to_end(&mut all).await.unwrap();
    assert_eq!(all.len(), 3 * 1024 * 1024);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1700), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_gets_a_moment_when_the_gateway_stops_and_its_line_says_so() {
    let mut lab = Lab::new().await;
    let (listener, target) = listener(&lab).await;
    let session = lab.session("s", open()).await;
    let mut tunnel = TokioIo::new(session.tunnel(&target).await.unwrap());
    let (mut upstream, _) = listener.accept().await.unwrap();
    let goes_on = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        tunnel.write_all(b"x").await.unwrap();
        let mut one = [0u8; 1];
        upstream.read_exact(&mut one).await.unwrap();
        (tunnel, upstream)
    });
    lab.stop().await;
    assert!(goes_on.is_finished(), "it did not get its moment");
    drop(goes_on.await.unwrap());
    assert_eq!(lab.lines(&session).await[0].reason.as_deref(), Some("drained"));
}
