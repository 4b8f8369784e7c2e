//! One turn on the terminal: what the agent says goes to stdout, what went wrong and what is going on to stderr.

use std::io::Write as _;

use anyhow::Context as _;
use serde_json::Value;
use wharf_wire::api::{self, Encoding};

use crate::output::{Format, Out, note, print};

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub well: bool,
}

/// Follows the events of a session for one message.
pub struct Follower<'a> {
    out: &'a Out,
    turn: wharf_domain::TurnId,
    /// Something of the reply was shown while it was made, so the reply itself would be a repetition.
    shown: bool,
    line_open: bool,
}

impl<'a> Follower<'a> {
    pub fn new(out: &'a Out, message: &api::Message) -> Self {
        Self { out, turn: message.turn, shown: false, line_open: false }
    }

    /// Shows an event; answers how the turn ended when this was its end.
    pub fn see(&mut self, event: &api::SessionEvent) -> anyhow::Result<Option<End>> {
        if event.turn.is_some_and(|t| t != self.turn) {
            return Ok(None);
        }
        let own = event.turn.is_some();
        if self.out.format != Format::Table {
            if own || event.kind == "session.state" {
                print((serde_json::to_string(event)? + "\n").as_bytes())?;
            }
        } else if own {
            self.show(event)?;
        }
        let end = match event.kind.as_str() {
            "turn.done" if own => {
                let code = event.data.get("exit_code").and_then(Value::as_i64);
                let failed = event
                    .data
                    .get("is_error")
                    .and_then(Value::as_bool)
                    .unwrap_or(code.is_some_and(|c| c != 0));
                if failed {
                    self.close_line()?;
                    note(
                        code.map_or("the turn ended with an error".to_owned(), |c| format!("exit code {c}")),
                    );
                }
                End { well: !failed }
            }
            "turn.failed" | "turn.cancelled" if own => {
                self.close_line()?;
                let what =
                    if event.kind == "turn.failed" { "the turn failed" } else { "the turn was cancelled" };
                let text = |key: &str| event.data.get(key).and_then(Value::as_str).filter(|t| !t.is_empty());
                note(match (text("reason"), text("detail")) {
                    (Some("cancelled"), _) | (None, None) => what.to_owned(),
                    (Some(reason), Some(detail)) => format!("{what} ({reason}): {detail}"),
                    (Some(reason), None) => format!("{what}: {reason}"),
                    (None, Some(detail)) => format!("{what}: {detail}"),
                });
                End { well: false }
            }
            _ => return Ok(None),
        };
        self.close_line()?;
        Ok(Some(end))
    }

    fn show(&mut self, event: &api::SessionEvent) -> anyhow::Result<()> {
        let data = &event.data;
        match event.kind.as_str() {
            "turn.output" if data.get("cut").is_some() => {
                self.close_line()?;
                note("the output goes on, but is too long to be shown here");
            }
            // Of a `command` agent this is its log; a `shell` agent's output is its reply in the making.
            "turn.output" if data.get("stream").and_then(Value::as_str) == Some("stderr") => {
                let mut err = std::io::stderr().lock();
                err.write_all(&piece(data)?)?;
                err.flush()?;
            }
            "turn.output" => {
                let bytes = piece(data)?;
                self.shown = true;
                self.line_open = bytes.last().is_some_and(|b| *b != b'\n');
                print(&bytes)?;
            }
            "turn.delta" => {
                if let Some(text) = data.get("text").and_then(Value::as_str) {
                    self.shown = true;
                    self.line_open = !text.ends_with('\n');
                    print(text.as_bytes())?;
                }
            }
            "turn.tool_use" => {
                self.close_line()?;
                let name = data.get("name").and_then(Value::as_str).unwrap_or("a tool");
                note(format!("→ {name} {}", data.get("input").unwrap_or(&Value::Null)));
            }
            "turn.handover" => {
                self.close_line()?;
                let name = |key: &str| data.get(key).and_then(Value::as_str).unwrap_or("?");
                note(format!("→ {} hands over to {}", name("from"), name("to")));
            }
            "approval.requested" => {
                self.close_line()?;
                let text = |key: &str| data.get(key).and_then(Value::as_str).unwrap_or_default();
                let why = text("reason");
                let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
                note(format!("waits for a yes: {}{why}", text("summary")));
                note(format!("  wharf approval approve {0}, or wharf approval deny {0}", text("id")));
            }
            "approval.decided" => {
                self.close_line()?;
                let text = |key: &str| data.get(key).and_then(Value::as_str).filter(|t| !t.is_empty());
                let by = text("by").map(|b| format!(" by {b}")).unwrap_or_default();
                let said = text("reason").map(|r| format!(": {r}")).unwrap_or_default();
                note(format!("{}{by}{said}", text("state").unwrap_or("decided")));
            }
            "message.created" if !self.shown && data.get("role").and_then(Value::as_str) == Some("agent") => {
                if let Some(content) = data.get("content") {
                    let content: Vec<api::AnyBlock> =
                        serde_json::from_value(content.clone()).unwrap_or_default();
                    let text = crate::show::said(&content);
                    if !text.is_empty() {
                        self.line_open = !text.ends_with('\n');
                        print(text.as_bytes())?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A remark begins on a line of its own.
    fn close_line(&mut self) -> anyhow::Result<()> {
        if self.line_open && self.out.width.is_some() {
            print(b"\n")?;
        }
        self.line_open = false;
        Ok(())
    }
}

/// The bytes of a piece of output: `text`, or `data` in its `encoding`, or base64 as `b64`.
fn piece(data: &Value) -> anyhow::Result<Vec<u8>> {
    let text = |key: &str| data.get(key).and_then(Value::as_str);
    let (text, encoding) = match (text("text"), text("b64"), text("data")) {
        (Some(t), _, _) => (t, Encoding::Utf8),
        (_, Some(b), _) => (b, Encoding::Base64),
        (_, _, Some(d)) if text("encoding") == Some("base64") => (d, Encoding::Base64),
        (_, _, Some(d)) => (d, Encoding::Utf8),
        _ => return Ok(Vec::new()),
    };
    encoding.decode(text).context("a piece of output is not what its encoding says")
}
