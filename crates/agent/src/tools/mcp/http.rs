//! A server that speaks streamable HTTP, reached through the gateway, which adds the credential of a connection.

use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use super::rpc::{self, MESSAGE_BYTES, Said};
use crate::http::{Answer, Gateway};
use crate::sse;

pub struct Http {
    gateway: Gateway,
    url: String,
    version: Option<String>,
    session: Option<String>,
    /// The server has forgotten the session: a new one begins.
    forgotten: bool,
    next: u64,
}

impl Http {
    pub fn new(gateway: Gateway, url: &str) -> Self {
        Self { gateway, url: url.to_owned(), version: None, session: None, forgotten: false, next: 0 }
    }

    pub fn speak(&mut self, version: &str) {
        self.version = Some(version.to_owned());
    }

    pub fn is_alive(&self) -> bool {
        !self.forgotten
    }

    async fn post(&mut self, message: &Value) -> Result<Answer, String> {
        let mut headers = vec![("accept", "application/json, text/event-stream".to_owned())];
        if let Some(version) = &self.version {
            headers.push(("mcp-protocol-version", version.clone()));
        }
        if let Some(session) = &self.session {
            headers.push(("mcp-session-id", session.clone()));
        }
        let body = message.to_string().into_bytes();
        let mut answer = self.gateway.send(Method::POST, &self.url, &headers, body).await?;
        if let Some(session) = answer.header("mcp-session-id") {
            self.session = Some(session.to_owned());
        }
        match answer.status {
            200..=299 => Ok(answer),
            404 if self.session.is_some() => {
                self.forgotten = true;
                Err("The server has forgotten the session; call the tool again.".into())
            }
            status => {
                let said = answer.bytes(16 * 1024).await.unwrap_or_default();
                let said: String = String::from_utf8_lossy(&said).trim().chars().take(500).collect();
                Err(format!("The server answered HTTP {status}: {said}"))
            }
        }
    }

    pub async fn request(&mut self, method: &str, params: Value, limit: Duration) -> Result<Value, String> {
        self.next += 1;
        let id = self.next;
        let message = rpc::request(id, method, params);
        let late = format!("The server did not answer within {} s.", limit.as_secs());
        let work = async {
            let mut answer = self.post(&message).await?;
            if answer.header("content-type").is_some_and(|t| t.starts_with("text/event-stream")) {
                self.stream(&mut answer, id).await
            } else {
                let body = answer.bytes(MESSAGE_BYTES).await?;
                let message = serde_json::from_slice::<Value>(&body)
                    .map_err(|e| format!("The server sent no JSON: {e}"))?;
                match rpc::read(&message) {
                    Said::Answer { id: of, result } if of == id => result,
                    _ => Err("The server answered something else than what it was asked.".into()),
                }
            }
        };
        tokio::time::timeout(limit, work).await.unwrap_or(Err(late))
    }

    /// Messages of a stream, until the one that was waited for.
    async fn stream(&mut self, answer: &mut Answer, id: u64) -> Result<Value, String> {
        let (mut parser, mut events) = (sse::Parser::default(), Vec::new());
        while let Some(bytes) = answer.chunk().await? {
            parser.push(&bytes, &mut events).map_err(|_| "The server sent too large an event.".to_owned())?;
            for event in events.drain(..) {
                let Ok(message) = serde_json::from_str::<Value>(&event.data) else { continue };
                match rpc::read(&message) {
                    Said::Answer { id: of, result } if of == id => return result,
                    Said::Asked(reply) => {
                        self.post(&reply).await?;
                    }
                    _ => {}
                }
            }
        }
        Err("The server ended its answer too early.".into())
    }

    pub async fn notify(&mut self, method: &str) -> Result<(), String> {
        self.post(&rpc::notification(method)).await.map(drop)
    }
}
