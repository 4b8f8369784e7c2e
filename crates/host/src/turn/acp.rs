//! `acp` agents: programs that speak the Agent Client Protocol, version 1 (<https://agentclientprotocol.com>), on their standard
//! streams. The host is the client: it asks, shows what the agent tells, and serves the files and terminals of the session.
//!
//! It answers every request for permission at once with what the session allows, and shows that it did. It offers no tool
//! servers. An agent that breaks the protocol, ignores a cancel or runs out of time is killed, with the terminals it holds.

mod files;
mod permission;
mod rpc;
mod services;
pub mod terminals;
#[cfg(test)]
mod tests;
mod update;
mod volume;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;
use wharf_wire::host::agent::LINE_BYTES;
use wharf_wire::host::exec::Stream;
use wharf_wire::host::turn::{Block, Done, Outcome, Reason, Said, TurnRequest, Usage};

use self::rpc::{Fault, Heard};
use self::terminals::Terminals;
use self::update::Reply;
use super::agents::Kept;
use super::command::exited;
use super::process::{Next, Patience, Process};
use super::relay::Ran;
use super::{Turn, cancelled, failed, runner, timed_out};
use crate::host::Host;
use crate::limits;
use crate::tree;

/// The version of the protocol that is spoken here.
const VERSION: u64 = 1;
/// The agent wants a login before it makes sessions.
const AUTH_REQUIRED: i64 = -32000;

/// What an agent that has introduced itself is known by.
pub struct Conversation {
    session: String,
    takes_images: bool,
    /// Standing instructions that it has not been told: they travel with its first message.
    instructions: Option<String>,
    pub terminals: Arc<Terminals>,
    next_id: u64,
}

/// The agent cannot be used further; the turn ends so.
struct Stop(Done);

impl Stop {
    fn protocol(why: impl Into<String>) -> Self {
        Self(failed(Reason::AgentProtocol, why))
    }
}

pub async fn run(host: &Arc<Host>, turn: &Arc<Turn>, request: &TurnRequest, limit: Duration) -> Ran {
    let spec = &request.agent;
    let mut kept = match host.agents.take(spec) {
        Some(kept) => kept,
        None => match runner::program(host, spec).and_then(|program| Process::start(host, spec, &program)) {
            Ok(process) => Kept { spec: spec.clone(), process, conversation: None, busy_since: tree::now() },
            Err(why) => return Ran::ended(failed(Reason::AgentStart, why)),
        },
    };
    kept.process.listen_for(Some(Arc::clone(turn)));
    let mut patience = Patience::until(Instant::now() + limit);
    let mut reply = Reply::default();
    let ended = answer(host, &mut kept, turn, request, limit, &mut patience, &mut reply).await;
    let flushed = reply.flush(turn);
    turn.output_end(Stream::Stderr);
    kept.process.listen_for(None);
    let (done, is_healthy) = match (ended, flushed) {
        (Ok(done), Ok(())) => (done, true),
        (Err(Stop(done)), _) | (Ok(_), Err(Stop(done))) => (done, false),
    };
    if is_healthy {
        kept.tidy(host, &done);
        host.agents.keep(kept);
    } else {
        kept.kill();
    }
    Ran::ended(done)
}

async fn answer(
    host: &Arc<Host>,
    kept: &mut Kept,
    turn: &Arc<Turn>,
    request: &TurnRequest,
    limit: Duration,
    patience: &mut Patience,
    reply: &mut Reply,
) -> Result<Done, Stop> {
    let mut talk = Talk { host, kept, turn, limit, patience };
    if talk.kept.conversation.is_none() {
        talk.introduce().await?;
    }
    // Not before: what it is made of may have been started by what was started.
    talk.kept.busy_since = tree::now();
    let Some(conversation) = talk.kept.conversation.as_mut() else {
        return Err(Stop::protocol("the agent has no session"));
    };
    let mut prompt = match blocks(&request.message.content, conversation.takes_images) {
        Ok(prompt) => prompt,
        Err(why) => return Ok(failed(Reason::AgentError, why)),
    };
    if let Some(instructions) = conversation.instructions.take() {
        prompt.insert(0, json!({"type": "text", "text": instructions}));
    }
    let params = json!({"sessionId": conversation.session, "prompt": prompt});
    Ok(match talk.ask("session/prompt", params, Some(reply)).await? {
        Ok(result) => stopped(&result),
        Err(fault) => failed(Reason::AgentError, fault.text()),
    })
}

/// One turn's conversation with an agent.
struct Talk<'a> {
    host: &'a Arc<Host>,
    kept: &'a mut Kept,
    turn: &'a Arc<Turn>,
    limit: Duration,
    patience: &'a mut Patience,
}

impl Talk<'_> {
    /// Who are you, and have we met? A session that the agent can load goes on; else there is a new one.
    async fn introduce(&mut self) -> Result<(), Stop> {
        let terminals = Arc::new(Terminals::of(&self.kept.process.mark));
        // Known at once, so that what the agent starts meanwhile ends with it.
        self.kept.conversation = Some(Conversation {
            session: String::new(),
            takes_images: false,
            instructions: None,
            terminals,
            next_id: 0,
        });
        let hello = json!({
            "protocolVersion": VERSION,
            "clientCapabilities": {
                "fs": {"readTextFile": true, "writeTextFile": true},
                "terminal": true,
            },
            "clientInfo": {"name": "wharf", "title": "Wharf", "version": env!("CARGO_PKG_VERSION")},
        });
        let itself = tokio::time::timeout(limits::ACP_HANDSHAKE, self.ask("initialize", hello, None))
            .await
            .map_err(|_| Stop(failed(Reason::AgentStart, slow("say who it is"))))??
            .map_err(|fault| Stop(failed(Reason::AgentStart, fault.text())))?;
        match itself.get("protocolVersion").and_then(Value::as_u64) {
            Some(VERSION) => {}
            other => {
                return Err(Stop::protocol(format!(
                    "the agent speaks version {} of the Agent Client Protocol; version {VERSION} is spoken here",
                    other.map_or_else(|| "none".to_owned(), |v| v.to_string())
                )));
            }
        }
        let can = itself.get("agentCapabilities").cloned().unwrap_or_default();
        let is_true = |value: Option<&Value>| value.and_then(Value::as_bool).unwrap_or(false);
        let cwd = self.directory()?;
        let known = volume::read(&self.host.root, &self.kept.spec.name);
        let mut session = None;
        if let (Some(known), true) = (known, is_true(can.get("loadSession"))) {
            let params = json!({"sessionId": known, "cwd": cwd, "mcpServers": []});
            // What it replays is in the log already.
            match self.within("session/load", params).await? {
                Ok(_) => session = Some((known, true)),
                Err(fault) => {
                    self.log(&format!("the agent could not load its session {known}: {}\n", fault.text()));
                }
            }
        }
        let (session, is_loaded) = match session {
            Some(session) => session,
            None => {
                let made = self
                    .within("session/new", json!({"cwd": cwd, "mcpServers": []}))
                    .await?
                    .map_err(|fault| Stop(failed(Reason::AgentStart, refusal(&fault, &itself))))?;
                let Some(id) = made.get("sessionId").and_then(Value::as_str) else {
                    return Err(Stop::protocol("the agent made a session without a sessionId"));
                };
                (id.to_owned(), false)
            }
        };
        if !is_loaded && let Err(e) = volume::write(&self.host.root, &self.kept.spec.name, &session) {
            self.log(&format!("the agent's session could not be written down: {e}\n"));
        }
        let data = json!({"session": session, "loaded": is_loaded, "agent": itself.get("agentInfo")});
        let said = Said::Event { name: "acp.session".into(), data };
        self.turn.say(said).map_err(|_| too_much())?;
        let identity = self.host.identity();
        if let Some(conversation) = &mut self.kept.conversation {
            conversation.session = session;
            conversation.takes_images = is_true(can.get("promptCapabilities").and_then(|p| p.get("image")));
            conversation.instructions = identity.filter(|_| !is_loaded).and_then(|i| i.instructions.clone());
        }
        Ok(())
    }

    fn log(&self, text: &str) {
        self.turn.output(Stream::Stderr, text.as_bytes());
    }

    fn directory(&self) -> Result<String, Stop> {
        files::directory(self.host, self.kept.spec.cwd.as_deref())
            .map_err(|why| Stop(failed(Reason::AgentStart, why)))
    }

    async fn within(&mut self, method: &str, params: Value) -> Result<Result<Value, Fault>, Stop> {
        tokio::time::timeout(limits::ACP_HANDSHAKE, self.ask(method, params, None))
            .await
            .map_err(|_| Stop(failed(Reason::AgentStart, slow(method))))?
    }

    /// Asks, and serves the agent until it answers. What it tells meanwhile is shown when there is a reply to show it in.
    async fn ask(
        &mut self,
        method: &str,
        params: Value,
        mut reply: Option<&mut Reply>,
    ) -> Result<Result<Value, Fault>, Stop> {
        let Some(conversation) = self.kept.conversation.as_mut() else {
            return Err(Stop::protocol("the agent has no conversation"));
        };
        conversation.next_id += 1;
        let id = conversation.next_id;
        let (session, terminals) = (conversation.session.clone(), Arc::clone(&conversation.terminals));
        let mouth = self.kept.process.mouth();
        mouth
            .tell(&rpc::request(id, method, params))
            .map_err(|why| Stop(failed(Reason::AgentExited, why)))?;
        let mut stopping: Option<Done> = None;
        let asking = permission::Asking::default();
        loop {
            let next = self.kept.process.next(self.turn, self.patience).await;
            let line = match next {
                Next::Line(line) => line,
                Next::TooLong => {
                    return Err(Stop::protocol(format!(
                        "the agent wrote a line of more than {LINE_BYTES} bytes"
                    )));
                }
                Next::Ended(exit) => return Err(Stop(stopping.unwrap_or_else(|| exited(exit)))),
                Next::Cancelled | Next::TimedOut => {
                    let why =
                        if matches!(next, Next::Cancelled) { cancelled() } else { timed_out(self.limit) };
                    let cancel = rpc::notification("session/cancel", json!({"sessionId": session}));
                    if stopping.is_some() || reply.is_none() || mouth.tell(&cancel).is_err() {
                        return Err(Stop(stopping.unwrap_or(why)));
                    }
                    stopping = Some(why);
                    asking.end();
                    self.patience.last_words();
                    continue;
                }
            };
            let heard = rpc::parse(&line)
                .map_err(|why| Stop::protocol(format!("not a message of the protocol: {why}")))?;
            match heard {
                Heard::Answer { id: of, result } if of == id => {
                    return match stopping {
                        // It obeyed: it can be used again, and the turn ends as was wanted.
                        Some(done) => Ok(Ok(json!({"stopReason": "cancelled", "wharf": done}))),
                        None => Ok(result),
                    };
                }
                Heard::Notice { method, params } if method == "session/update" => {
                    if let Some(reply) = reply.as_deref_mut() {
                        reply.update(self.turn, &params)?;
                    }
                }
                // Notifications and extensions that are not known may be ignored, and answers that come late.
                Heard::Answer { .. } | Heard::Notice { .. } => {}
                Heard::Request { id, method, params } => {
                    if method == "session/request_permission" {
                        let agent = &self.kept.spec.name;
                        let params = match reply.as_deref() {
                            Some(reply) => reply.complete(params),
                            None => params,
                        };
                        permission::serve(self.turn, agent, &mouth, id, params, &asking);
                    } else {
                        services::serve(self.host, &mouth, &terminals, id, &method, params);
                    }
                }
            }
        }
    }
}

fn too_much() -> Stop {
    Stop::protocol("the agent said more than a turn may")
}

fn slow(what: &str) -> String {
    format!("the agent took longer than {} s for {what}", limits::ACP_HANDSHAKE.as_secs())
}

/// Why there is no session, with what the agent says can be done.
fn refusal(fault: &Fault, itself: &Value) -> String {
    let mut text = fault.text();
    if fault.code == AUTH_REQUIRED {
        let methods: Vec<&str> =
            itself.get("authMethods").and_then(Value::as_array).map_or_else(Vec::new, |all| {
                all.iter().filter_map(|m| m.get("name").and_then(Value::as_str)).collect()
            });
        text.push_str(
            "; the agent wants a login, which nobody can do here: give it what it needs by its environment",
        );
        if !methods.is_empty() {
            text = format!("{text} (it knows: {})", methods.join(", "));
        }
    }
    text
}

/// A message as the protocol has it.
fn blocks(content: &[Block], takes_images: bool) -> Result<Vec<Value>, String> {
    let mut prompt = Vec::with_capacity(content.len());
    for block in content {
        let text = |key: &str| block.as_map().get(key).and_then(Value::as_str);
        prompt.push(match block.kind() {
            "text" => json!({"type": "text", "text": text("text")}),
            "image" if takes_images => {
                json!({"type": "image", "mimeType": text("media_type"), "data": text("data")})
            }
            "image" => return Err("the agent takes no images".into()),
            "file" => {
                let path = text("path").ok_or("a file block needs a path")?;
                let name = path.rsplit('/').next().unwrap_or(path);
                json!({"type": "resource_link", "uri": format!("file://{path}"), "name": name})
            }
            other => {
                return Err(format!(
                    "an acp agent takes text, images and files, and the message holds a block of type {other:?}"
                ));
            }
        });
    }
    Ok(prompt)
}

/// The end of a prompt, as a turn's end.
fn stopped(result: &Value) -> Done {
    if let Some(done) = result.get("wharf").and_then(|d| serde_json::from_value(d.clone()).ok()) {
        return done;
    }
    let done = |detail: Option<&str>| Done {
        outcome: Outcome::Done,
        reason: None,
        detail: detail.map(str::to_owned),
        exit_code: None,
        is_error: detail.is_some(),
        usage: usage(result),
    };
    match result.get("stopReason").and_then(Value::as_str) {
        Some("end_turn") => done(None),
        Some("cancelled") => {
            let mut done = failed(
                Reason::AgentError,
                "the agent says the turn was cancelled, and nobody had cancelled it",
            );
            done.usage = usage(result);
            done
        }
        Some("max_tokens") => done(Some("the agent reached its limit of tokens")),
        Some("max_turn_requests") => done(Some("the agent reached its limit of requests in one turn")),
        Some("refusal") => done(Some("the agent refuses to go on")),
        other => failed(Reason::AgentProtocol, format!("the agent ended its turn with stopReason {other:?}")),
    }
}

/// Agents that count their tokens say so in the answer to a prompt.
fn usage(result: &Value) -> Option<Usage> {
    let usage: &Map<String, Value> = result.get("usage")?.as_object()?;
    let number = |key: &str| usage.get(key).and_then(Value::as_u64).unwrap_or(0);
    Some(Usage {
        input_tokens: number("inputTokens"),
        output_tokens: number("outputTokens"),
        cached_tokens: number("cachedReadTokens"),
        model: None,
        cost_usd: None,
    })
}
