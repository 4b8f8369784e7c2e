//! A TCP peer that answers each request with the next part of a script and remembers what it was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use wharf_client::{Builder, Client, Patience};

/// What to do with one request.
#[derive(Clone)]
pub enum Answer {
    /// Status, headers, body.
    Plain(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Bytes as they are, then the connection is cut.
    Cut(Vec<u8>),
    /// Nothing for this long.
    Silence(Duration),
    /// 204 after this long.
    Late(Duration),
}

#[derive(Clone, Debug)]
pub struct Request {
    pub line: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

pub struct Peer {
    pub url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Peer {
    /// Answers in order; after the last, with 500.
    pub async fn script(answers: Vec<Answer>) -> Self {
        let answers = Arc::new(Mutex::new(answers.into_iter()));
        Self::answering(move |_| {
            answers.lock().unwrap().next().unwrap_or(Answer::Plain(500, vec![], b"script is over".to_vec()))
        })
        .await
    }

    pub async fn answering(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), seen.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), log.clone()));
            }
        });
        Self { url, seen }
    }

    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// A client that does not wait long.
    pub fn builder(&self) -> Builder {
        Client::builder(&self.url).patience(quick())
    }

    pub fn client(&self) -> Client {
        self.builder().credential(wharf_client::Credential::token("t0")).build().unwrap()
    }
}

pub fn quick() -> Patience {
    Patience { pause: Duration::from_millis(5), pause_max: Duration::from_secs(2), ..Patience::default() }
}

async fn serve(
    mut stream: TcpStream,
    answer: Arc<impl Fn(&Request) -> Answer>,
    log: Arc<Mutex<Vec<Request>>>,
) -> Option<()> {
    loop {
        let request = read(&mut stream).await?;
        log.lock().unwrap().push(request.clone());
        match answer(&request) {
            Answer::Plain(status, headers, body) => {
                let mut head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
                for (name, value) in headers {
                    head.extend([format!("{name}: {value}\r\n")]);
                }
                head.push_str("\r\n");
                stream.write_all(head.as_bytes()).await.ok()?;
                stream.write_all(&body).await.ok()?;
            }
            Answer::Cut(bytes) => {
                stream.write_all(&bytes).await.ok()?;
                stream.flush().await.ok()?;
                return None;
            }
            Answer::Silence(time) => tokio::time::sleep(time).await,
            Answer::Late(time) => {
                tokio::time::sleep(time).await;
                stream.write_all(b"HTTP/1.1 204 X\r\nconnection: close\r\n\r\n").await.ok()?;
                return None;
            }
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let line = lines.next()?.to_owned();
    let headers: BTreeMap<String, String> =
        lines.filter_map(|l| l.split_once(": ")).map(|(k, v)| (k.to_lowercase(), v.to_owned())).collect();
    let mut body = Vec::new();
    if let Some(length) = headers.get("content-length").and_then(|l| l.parse().ok()) {
        body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
    }
    Some(Request { line, headers, body })
}

pub fn json(status: u16, body: &serde_json::Value) -> Answer {
    Answer::Plain(status, vec![("content-type", "application/json".into())], body.to_string().into_bytes())
}

pub fn problem(status: u16, code: &str, retryable: bool, more: Vec<(&'static str, String)>) -> Answer {
    let body = serde_json::json!({
        "type": "about:blank", "title": "t", "status": status, "code": code, "detail": "what is wrong",
        "retryable": retryable, "request_id": "req-1"
    });
    let mut headers = vec![("content-type", "application/problem+json".to_owned())];
    headers.extend(more);
    Answer::Plain(status, headers, body.to_string().into_bytes())
}
