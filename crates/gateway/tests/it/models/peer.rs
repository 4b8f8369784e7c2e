//! A provider as the test wants it: it hears a request and writes bytes, slowly, wrongly or not at all.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Heard {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Heard {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

type Act = Arc<dyn Fn(usize, Heard, Line) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

pub struct Peer {
    pub address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The connection, to be written to. Dropped, it is closed.
pub struct Line(pub TcpStream);

impl Line {
    pub async fn say(&mut self, text: impl AsRef<[u8]>) {
        self.0.write_all(text.as_ref()).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// A whole answer.
    pub async fn answer(&mut self, status: &str, headers: &[&str], body: &str) {
        let mut head =
            format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n", body.len());
        for header in headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        self.say(format!("{head}\r\n{body}")).await;
    }

    pub async fn json(&mut self, status: &str, body: &Value) {
        self.answer(status, &["content-type: application/json"], &body.to_string()).await;
    }

    /// The head of a stream.
    pub async fn stream(&mut self) {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
        self.say(head).await;
    }

    pub async fn chunk(&mut self, text: &str) {
        self.say(format!("{:x}\r\n{text}\r\n", text.len())).await;
    }

    pub async fn end(&mut self) {
        self.say("0\r\n\r\n").await;
    }

    /// Waits until the other side hangs up.
    pub async fn hung_up(&mut self) {
        let mut rest = [0u8; 64];
        while self.0.read(&mut rest).await.is_ok_and(|n| n > 0) {}
    }
}

impl Peer {
    /// Every request is one connection; `act` gets its number from 0.
    pub async fn new<F, Fut>(act: F) -> Self
    where
        F: Fn(usize, Heard, Line) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let act: Act = Arc::new(move |n, heard, line| Box::pin(act(n, heard, line)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let seen = heard.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (act, seen) = (act.clone(), seen.clone());
                tokio::spawn(async move {
                    let mut stream = stream;
                    let Some(request) = read(&mut stream).await else { return };
                    let n = {
                        let mut seen = seen.lock().unwrap();
                        seen.push(request.clone());
                        seen.len() - 1
                    };
                    act(n, request, Line(stream)).await;
                });
            }
        });
        Self { address, heard, task }
    }

    /// Always the same answer.
    pub async fn always(status: &'static str, body: Value) -> Self {
        Self::new(move |_, _, mut line| {
            let body = body.clone();
            async move { line.json(status, &body).await }
        })
        .await
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }
}

async fn read(stream: &mut TcpStream) -> Option<Heard> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        let mut buffer = [0u8; 4096];
        let n = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&buffer[..n]);
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let headers: Vec<(String, String)> = lines
        .map(|l| l.split_once(": ").unwrap())
        .map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned()))
        .collect();
    let mut body = bytes.split_off(end + 4);
    let length: usize =
        headers.iter().find(|(n, _)| n == "content-length").map_or(0, |(_, v)| v.parse().unwrap());
    while body.len() < length {
        let mut buffer = [0u8; 16384];
        let n = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        body.extend_from_slice(&buffer[..n]);
    }
    Some(Heard { line, headers, body })
}
