//! A server that speaks streamable HTTP, reached through the gateway, which adds the credential of a connection.
//!
//! What nobody waits for any more is taken back, as the protocol asks of clients: a connection that ends says nothing there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use super::rpc::{self, MESSAGE_BYTES, Said};
use crate::http::{Answer, Gateway};
use crate::sse;

/// How long word of a request that is taken back may be on its way.
const WORD: Duration = Duration::from_secs(10);

pub struct Http {
    gateway: Gateway,
    url: String,
    version: Option<String>,
    session: Option<String>,
    /// The server has forgotten the session: a new one begins.
    forgotten: bool,
    /// It said that its list of tools may change.
    pub changes: bool,
    /// It said that its list has changed.
    changed: AtomicBool,
    next: u64,
}

/// Takes a request back that nobody waits for any more.
struct Asked {
    id: u64,
    answered: bool,
    gateway: Gateway,
    url: String,
    headers: Vec<(&'static str, String)>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (gateway, url, headers) =
            (self.gateway.clone(), std::mem::take(&mut self.url), std::mem::take(&mut self.headers));
        let body = rpc::cancelled(self.id).to_string().into_bytes();
        runtime.spawn(async move {
            // The server may be the reason why nobody waits: then it does not hear this either.
            let _ = tokio::time::timeout(WORD, gateway.send(Method::POST, &url, &headers, body)).await;
        });
    }
}

impl Http {
    pub fn new(gateway: Gateway, url: &str) -> Self {
        Self {
            gateway,
            url: url.to_owned(),
            version: None,
            session: None,
            forgotten: false,
            changes: false,
            changed: AtomicBool::new(false),
            next: 0,
        }
    }

    /// As it was agreed: the version, and whether its list of tools may change.
    pub fn speak(&mut self, version: &str, changes: bool) {
        self.version = Some(version.to_owned());
        self.changes = changes;
    }

    pub fn is_alive(&self) -> bool {
        !self.forgotten
    }

    pub fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![("accept", "application/json, text/event-stream".to_owned())];
        if let Some(version) = &self.version {
            headers.push(("mcp-protocol-version", version.clone()));
        }
        if let Some(session) = &self.session {
            headers.push(("mcp-session-id", session.clone()));
        }
        headers
    }

    /// `limit` is how long the server may be silent.
    async fn post(&mut self, message: &Value, limit: Duration) -> Result<Answer, String> {
        let body = message.to_string().into_bytes();
        // Who asks has the clock; this one is for who does not.
        let gateway = self.gateway.clone().patient(limit + WORD);
        let mut answer = gateway.send(Method::POST, &self.url, &self.headers(), body).await?;
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
        let mut asked = Asked {
            id,
            // Who says hello may not take it back.
            answered: method == "initialize",
            gateway: self.gateway.clone(),
            url: self.url.clone(),
            headers: self.headers(),
        };
        let late = format!("The server did not answer within {} s.", limit.as_secs());
        let Ok(result) = tokio::time::timeout(limit, self.exchange(&message, id, limit)).await else {
            return Err(late);
        };
        asked.answered = true;
        result
    }

    async fn exchange(&mut self, message: &Value, id: u64, limit: Duration) -> Result<Value, String> {
        let mut answer = self.post(message, limit).await?;
        if answer.header("content-type").is_some_and(|t| t.starts_with("text/event-stream")) {
            return self.stream(&mut answer, id, limit).await;
        }
        let body = answer.bytes(MESSAGE_BYTES).await?;
        let message =
            serde_json::from_slice::<Value>(&body).map_err(|e| format!("The server sent no JSON: {e}"))?;
        match rpc::read(&message) {
            Said::Answer { id: of, result } if of == id => result,
            _ => Err("The server answered something else than what it was asked.".into()),
        }
    }

    /// Messages of a stream, until the one that was waited for.
    async fn stream(&mut self, answer: &mut Answer, id: u64, limit: Duration) -> Result<Value, String> {
        let (mut parser, mut events) = (sse::Parser::default(), Vec::new());
        while let Some(bytes) = answer.chunk().await? {
            parser.push(&bytes, &mut events).map_err(|_| "The server sent too large an event.".to_owned())?;
            for event in events.drain(..) {
                let Ok(message) = serde_json::from_str::<Value>(&event.data) else { continue };
                match rpc::read(&message) {
                    Said::Answer { id: of, result } if of == id => return result,
                    Said::Asked(reply) => {
                        self.post(&reply, limit).await?;
                    }
                    Said::ToolsChanged => self.changed.store(true, Ordering::Release),
                    Said::Answer { .. } | Said::Other => {}
                }
            }
        }
        Err("The server ended its answer too early.".into())
    }

    pub async fn notify(&mut self, method: &str) -> Result<(), String> {
        self.post(&rpc::notification(method), super::START).await.map(drop)
    }
}

#[cfg(test)]
mod tests;
