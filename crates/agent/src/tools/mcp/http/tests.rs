#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::time::Instant;

use super::Http;
use crate::http::{Gateway, SILENCE};

/// A server that says the head of a stream, if that, and nothing more.
fn silent(head: &'static str) -> (tempfile::TempDir, Http) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("gateway.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 1024];
            assert!(stream.read(&mut asked).await.unwrap() > 0);
            stream.write_all(head.as_bytes()).await.unwrap();
            open.push(stream);
        }
    });
    (dir, Http::new(Gateway::new(socket), "http://mcp.example/mcp"))
}

#[tokio::test(start_paused = true)]
async fn a_call_may_take_as_long_as_it_was_configured_to_and_no_longer() {
    let stream = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    for head in ["", stream] {
        for limit in [SILENCE * 12, SILENCE / 10] {
            let (_dir, mut http) = silent(head);
            let begun = Instant::now();
            let why = http.request("tools/call", json!({}), limit).await.unwrap_err();
            assert!(why.contains(&format!("within {} s", limit.as_secs())), "{why}");
            let took = begun.elapsed();
            assert!(took >= limit && took < limit + Duration::from_secs(1), "{took:?} of {limit:?}");
        }
    }
}
