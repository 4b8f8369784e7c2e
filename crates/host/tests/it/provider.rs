//! A model provider on a unix socket, as the gateway would be one: says what a test told it to say, in the wire formats of the
//! real ones, and remembers what it was asked.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// One answer.
pub enum Answer {
    /// Events, and how many of them are sent before the connection breaks.
    Events(Vec<Value>, Option<usize>),
    Refusal(u16, &'static str, Value),
    Json(Value),
    /// Some events, then nothing for ever.
    Hang(Vec<Value>),
}

#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub headers: String,
    pub body: Value,
}

pub struct Provider {
    dir: TempDir,
    script: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    guard: Arc<Mutex<Guard>>,
}

/// The guardrails at the same door: they allow what no answer is left for.
#[derive(Default)]
pub struct Guard {
    /// A status and a body each.
    pub answers: VecDeque<(u16, Value)>,
    pub asked: Vec<Value>,
    /// What they answer when no answer is left.
    pub ever: Option<Value>,
}

impl Provider {
    pub fn start(script: impl IntoIterator<Item = Answer>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("gateway.sock")).unwrap();
        let script = Arc::new(Mutex::new(script.into_iter().collect::<VecDeque<_>>()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let guard = Arc::new(Mutex::new(Guard::default()));
        tokio::spawn({
            let (script, asked, guard) = (Arc::clone(&script), Arc::clone(&asked), Arc::clone(&guard));
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&asked), Arc::clone(&guard)));
                }
            }
        });
        Self { dir, script, asked, guard }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("gateway.sock")
    }

    pub fn say(&self, answer: Answer) {
        self.script.lock().unwrap().push_back(answer);
    }

    /// What the guardrails answer next.
    pub fn guards(&self, status: u16, answer: Value) {
        self.guard.lock().unwrap().answers.push_back((status, answer));
    }

    pub fn guards_for_ever(&self, answer: Value) {
        self.guard.lock().unwrap().ever = Some(answer);
    }

    /// They allow everything again.
    pub fn guards_no_more(&self) {
        let mut guard = self.guard.lock().unwrap();
        guard.answers.clear();
        guard.ever = None;
    }

    pub fn guard_asked(&self) -> Vec<Value> {
        self.guard.lock().unwrap().asked.clone()
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Everything the model was told in the last request, as text.
    pub fn last(&self) -> String {
        self.asked().last().expect("the model was asked").body.to_string()
    }

    pub fn is_exhausted(&self) -> bool {
        self.script.lock().unwrap().is_empty()
    }
}

async fn serve(
    mut stream: UnixStream,
    script: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    guard: Arc<Mutex<Guard>>,
) {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        let mut more = vec![0; 65536];
        let Ok(n @ 1..) = stream.read(&mut more).await else { return };
        bytes.extend_from_slice(&more[..n]);
    };
    let headers = String::from_utf8(bytes[..head].to_vec()).unwrap().to_lowercase();
    let length: usize = headers
        .lines()
        .find_map(|l| l.strip_prefix("content-length:"))
        .map_or(0, |v| v.trim().parse().unwrap());
    while bytes.len() < head + 4 + length {
        let mut more = vec![0; 65536];
        let Ok(n @ 1..) = stream.read(&mut more).await else { return };
        bytes.extend_from_slice(&more[..n]);
    }
    let path = headers.split(' ').nth(1).unwrap_or_default().to_owned();
    let body: Value = serde_json::from_slice(&bytes[head + 4..]).unwrap_or_default();
    if path == "/guard" {
        let (status, answer) = {
            let mut guard = guard.lock().unwrap();
            guard.asked.push(body);
            let ever = guard.ever.clone();
            guard.answers.pop_front().unwrap_or((200, ever.unwrap_or_else(|| json!({"decision": "allow"}))))
        };
        let body = answer.to_string();
        let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let _ = stream.write_all(text.as_bytes()).await;
        let _ = stream.shutdown().await;
        return;
    }
    asked.lock().unwrap().push(Asked { path, headers, body });
    let answer = script.lock().unwrap().pop_front();
    let sse = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunks = |events: &[Value]| {
        let mut out = String::new();
        for event in events {
            let text = match event {
                Value::String(raw) => format!("data: {raw}\n\n"),
                event => format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or("message")),
            };
            out.extend([format!("{:x}\r\n", text.len()), text, "\r\n".to_owned()]);
        }
        out
    };
    let whole = |status: u16, headers: &str, body: &Value| {
        let body = body.to_string();
        format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let text = match answer {
        Some(Answer::Events(events, None)) => format!("{sse}{}0\r\n\r\n", chunks(&events)),
        Some(Answer::Events(events, Some(count))) => format!("{sse}{}", chunks(&events[..count])),
        Some(Answer::Refusal(status, headers, body)) => whole(status, headers, &body),
        Some(Answer::Json(body)) => whole(200, "", &body),
        Some(Answer::Hang(events)) => {
            let _ = stream.write_all(format!("{sse}{}", chunks(&events)).as_bytes()).await;
            std::future::pending::<()>().await;
            return;
        }
        None => whole(400, "", &json!({"error": {"type": "test", "message": "nobody told me to say more"}})),
    };
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// An answer of Anthropic: some text, some calls.
pub fn anthropic(text: &str, calls: &[(&str, &str, Value)]) -> Vec<Value> {
    let mut events = vec![json!({"type": "message_start",
        "message": {"model": "scripted-1", "usage": {"input_tokens": 100, "output_tokens": 1}}})];
    let mut index = 0;
    if !text.is_empty() {
        events.push(
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        );
        for piece in text.split_inclusive(' ') {
            events.push(json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}));
        }
        events.push(json!({"type": "content_block_stop", "index": 0}));
        index = 1;
    }
    for (id, name, input) in calls {
        events.push(json!({"type": "content_block_start", "index": index,
            "content_block": {"type": "tool_use", "id": id, "name": name, "input": {}}}));
        events.push(json!({"type": "content_block_delta", "index": index,
            "delta": {"type": "input_json_delta", "partial_json": input.to_string()}}));
        events.push(json!({"type": "content_block_stop", "index": index}));
        index += 1;
    }
    let stop = if calls.is_empty() { "end_turn" } else { "tool_use" };
    events.push(
        json!({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 20}}),
    );
    events.push(json!({"type": "message_stop"}));
    events
}

pub fn says(text: &str) -> Answer {
    Answer::Events(anthropic(text, &[]), None)
}

pub fn calls(id: &str, name: &str, input: Value) -> Answer {
    Answer::Events(anthropic("", &[(id, name, input)]), None)
}

pub fn bash(id: &str, command: &str) -> Answer {
    calls(id, "bash", json!({"command": command}))
}
