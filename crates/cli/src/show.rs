//! How each thing of the API looks as a row.

mod access;

use wharf_domain::Time;
use wharf_domain::guard::ApprovalState;
use wharf_domain::session::{State, TurnState};
use wharf_wire::api;

use crate::output::format::{age, bytes, cores, mib};
use crate::output::{Cell, Show, Style};

pub use access::rule;

fn aged(at: Time, now: Time) -> Cell {
    Cell::styled(age(at, now), Style::Dim)
}

fn state(state: State) -> Cell {
    let style = match state {
        State::Idle => Style::Good,
        State::Init | State::Busy => Style::Busy,
        State::Closed => Style::Dim,
        State::Error => Style::Bad,
    };
    Cell::styled(state.as_str(), style)
}

pub fn labels(labels: &wharf_domain::Labels) -> Cell {
    let text: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    if text.is_empty() { Cell::styled("-", Style::Dim) } else { Cell::new(text.join(",")) }
}

fn yes_no(yes: bool) -> Cell {
    Cell::new(if yes { "yes" } else { "no" })
}

impl Show for api::Session {
    const HEAD: &'static [&'static str] =
        &["NAME", "STATE", "IMAGE", "RUNTIME", "CPU", "MEMORY", "DISK", "USED", "AGE", "REASON"];
    fn row(&self, now: Time) -> Vec<Cell> {
        vec![
            Cell::new(&self.name),
            state(self.state),
            Cell::new(&self.image.name),
            Cell::new(&self.runtime),
            Cell::new(cores(u64::from(self.resources.cpu_millis))),
            Cell::new(mib(u64::from(self.resources.memory_mib))),
            Cell::new(mib(u64::from(self.resources.disk_mib))),
            self.last_used_at.map_or(Cell::styled("-", Style::Dim), |t| aged(t, now)),
            aged(self.created_at, now),
            Cell::opt(self.state_reason.as_ref()),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Show for api::Space {
    const HEAD: &'static [&'static str] = &["NAME", "LABELS", "SESSIONS MAX", "AGE"];
    fn row(&self, now: Time) -> Vec<Cell> {
        vec![
            Cell::new(&self.name),
            labels(&self.labels),
            Cell::opt(self.quotas.sessions),
            aged(self.created_at, now),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Show for api::Secret {
    const HEAD: &'static [&'static str] = &["NAME", "VERSION", "UPDATED", "AGE"];
    fn row(&self, now: Time) -> Vec<Cell> {
        vec![
            Cell::new(&self.name),
            Cell::new(self.version),
            aged(self.updated_at, now),
            aged(self.created_at, now),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Show for api::Connection {
    const HEAD: &'static [&'static str] = &["NAME", "HOST", "METHODS", "PATH", "INJECTS", "SECRET", "AGE"];
    fn row(&self, now: Time) -> Vec<Cell> {
        let i = &self.inject;
        let placed = match (&i.header, &i.query, &i.basic, &i.ssh) {
            (Some(header), ..) => format!("header {header}"),
            (_, Some(query), ..) => format!("query {query}"),
            (.., Some(ssh)) => {
                let user = ssh.user.as_ref().map(|user| format!(" {user}")).unwrap_or_default();
                format!("ssh{user}{}", if ssh.push { ", pushes" } else { "" })
            }
            (.., basic, None) => format!("basic {}", basic.as_deref().unwrap_or_default()),
        };
        let methods = self.matches.methods.join(",");
        vec![
            Cell::new(&self.name),
            Cell::new(&self.matches.host),
            Cell::opt(Some(methods).filter(|m| !m.is_empty())),
            Cell::opt(self.matches.path_prefix.as_ref()),
            Cell::new(placed),
            Cell::new(&i.secret),
            aged(self.created_at, now),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Show for api::ListeningPort {
    const HEAD: &'static [&'static str] = &["PORT", "ADDRESS", "USER", "PATH", "URL"];
    fn row(&self, _: Time) -> Vec<Cell> {
        let user = match self.uid {
            0 => "root".to_owned(),
            1000 => "agent".to_owned(),
            other => other.to_string(),
        };
        vec![
            Cell::new(self.port),
            Cell::new(&self.address),
            Cell::new(user),
            Cell::new(&self.path),
            Cell::opt(self.url.as_ref()),
        ]
    }
    fn name(&self) -> String {
        self.port.to_string()
    }
}

impl Show for api::Published {
    const HEAD: &'static [&'static str] =
        &["NAME", "SESSION", "PATHS", "READ BY", "FILES", "SIZE", "EXPIRES", "AGE"];
    fn row(&self, now: Time) -> Vec<Cell> {
        let readers = match self.visibility {
            api::Visibility::Link => Cell::new("link"),
            api::Visibility::Public => Cell::styled("everybody", Style::Busy),
        };
        vec![
            Cell::new(&self.name),
            Cell::new(&self.session_name),
            Cell::new(self.paths.join(",")),
            readers,
            Cell::new(self.files),
            Cell::new(bytes(self.size_bytes)),
            Cell::opt(self.expires_at),
            aged(self.created_at, now),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Show for api::Policy {
    const HEAD: &'static [&'static str] = &["NAME", "PRIORITY", "RULES", "PHASES", "AGE"];
    fn row(&self, now: Time) -> Vec<Cell> {
        let mut phases: Vec<&str> = self.rules.iter().map(|r| r.phase.as_str()).collect();
        phases.sort_unstable();
        phases.dedup();
        vec![
            Cell::new(&self.name),
            Cell::new(self.priority),
            Cell::new(self.rules.len()),
            Cell::new(phases.join(",")),
            aged(self.created_at, now),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Show for api::Approval {
    const HEAD: &'static [&'static str] = &["ID", "STATE", "SESSION", "WHAT", "WHY", "BY", "AGE"];
    fn row(&self, now: Time) -> Vec<Cell> {
        let style = match self.state {
            ApprovalState::Pending => Style::Busy,
            ApprovalState::Allowed => Style::Good,
            ApprovalState::Denied => Style::Bad,
            ApprovalState::Expired | ApprovalState::Cancelled => Style::Dim,
        };
        // A line is never all of it; this says that not even `-o json` is.
        let part = self.subject.get("truncated").is_some_and(|t| t == true);
        let what = if part { format!("{} (shown in part)", self.summary) } else { self.summary.clone() };
        vec![
            Cell::new(self.id),
            Cell::styled(self.state.as_str(), style),
            Cell::new(&self.session_name),
            Cell::new(what),
            Cell::opt(self.reason.as_ref()),
            Cell::opt(self.decided_by.as_ref()),
            aged(self.requested_at, now),
        ]
    }
    fn name(&self) -> String {
        self.id.to_string()
    }
}

impl Show for api::EgressLine {
    const HEAD: &'static [&'static str] =
        &["AT", "DECISION", "HOST", "METHOD", "STATUS", "SENT", "RECEIVED", "TOOK", "CONNECTION", "REASON"];
    fn row(&self, _: Time) -> Vec<Cell> {
        let style = match self.decision {
            api::EgressDecision::Allowed => Style::Good,
            api::EgressDecision::Denied | api::EgressDecision::Failed => Style::Bad,
        };
        vec![
            Cell::new(self.started_at),
            Cell::styled(word(&self.decision), style),
            Cell::new(format!("{}:{}", self.host, self.port)),
            Cell::opt(self.method.as_ref()),
            Cell::opt(self.status),
            Cell::new(bytes(self.bytes_sent)),
            Cell::new(bytes(self.bytes_received)),
            Cell::new(format!("{:.3} s", self.duration_ms as f64 / 1000.0)),
            Cell::opt(self.connection.as_ref()),
            Cell::opt(self.reason.as_ref()),
        ]
    }
    fn name(&self) -> String {
        self.id.to_string()
    }
}

impl Show for api::AgentPackage {
    const HEAD: &'static [&'static str] = &["NAME", "VERSION", "UPDATED", "AGE", "DESCRIPTION"];
    fn row(&self, now: Time) -> Vec<Cell> {
        vec![
            Cell::new(&self.name),
            self.active_version.map_or(Cell::styled("none", Style::Dim), Cell::new),
            aged(self.updated_at, now),
            aged(self.created_at, now),
            Cell::opt(self.description.as_ref()),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Show for api::AgentVersion {
    const HEAD: &'static [&'static str] = &["VERSION", "ACTIVE", "KIND", "SIZE", "DIGEST", "AGE"];
    fn row(&self, now: Time) -> Vec<Cell> {
        let kind = self.manifest.get("kind").and_then(serde_json::Value::as_str).unwrap_or("?");
        vec![
            Cell::new(self.version),
            yes_no(self.active),
            Cell::new(kind),
            Cell::new(bytes(self.size_bytes.max(0) as u64)),
            Cell::new(self.digest.chars().take(19).collect::<String>()),
            aged(self.created_at, now),
        ]
    }
    fn name(&self) -> String {
        self.version.to_string()
    }
}

impl Show for api::Build {
    const HEAD: &'static [&'static str] = &["ID", "AGENT", "STATE", "VERSION", "AGE", "REASON"];
    fn row(&self, now: Time) -> Vec<Cell> {
        let style = match self.state {
            api::BuildState::Succeeded => Style::Good,
            api::BuildState::Failed => Style::Bad,
            api::BuildState::Cancelled => Style::Dim,
            api::BuildState::Queued | api::BuildState::Running => Style::Busy,
        };
        vec![
            Cell::new(self.id),
            Cell::new(&self.agent),
            Cell::styled(word(&self.state), style),
            Cell::opt(self.version),
            aged(self.created_at, now),
            Cell::opt(self.reason.as_ref()),
        ]
    }
    fn name(&self) -> String {
        self.id.to_string()
    }
}

impl Show for api::Image {
    const HEAD: &'static [&'static str] = &["NAME", "SIZE", "RUNTIME", "DIGEST", "AGE"];
    fn row(&self, now: Time) -> Vec<Cell> {
        vec![
            Cell::new(&self.name),
            Cell::new(bytes(self.size_bytes)),
            Cell::new(&self.runtime),
            Cell::new(self.digest.get(..12).unwrap_or(&self.digest)),
            aged(self.created_at, now),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Show for api::Snapshot {
    const HEAD: &'static [&'static str] = &["NAME", "ID", "STATE", "SIZE", "STALL", "SEQ", "AGE", "REASON"];
    fn row(&self, now: Time) -> Vec<Cell> {
        let style = match self.state {
            api::SnapshotState::Pending => Style::Busy,
            api::SnapshotState::Ready => Style::Good,
            api::SnapshotState::Failed => Style::Bad,
        };
        vec![
            Cell::new(&self.name),
            Cell::new(self.id),
            Cell::styled(word(&self.state), style),
            Cell::opt(self.size_bytes.map(bytes)),
            Cell::opt(self.stall_micros.map(|us| format!("{:.1} ms", us as f64 / 1000.0))),
            Cell::new(self.seq),
            aged(self.created_at, now),
            Cell::opt(self.state_reason.as_ref()),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

/// An enum of the API as it is written there.
pub fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(s)) => s,
        _ => "?".to_owned(),
    }
}

/// The text of a message, blocks that are no text named.
pub fn said(content: &[api::AnyBlock]) -> String {
    let parts: Vec<String> = content
        .iter()
        .map(|b| b.as_text().map_or_else(|| format!("[{}]", b.kind()), str::to_owned))
        .collect();
    parts.join("\n")
}

impl Show for api::Message {
    const HEAD: &'static [&'static str] = &["SEQ", "ROLE", "STATE", "AGE", "TEXT"];
    fn row(&self, now: Time) -> Vec<Cell> {
        let style = match self.state {
            TurnState::Done => Style::Good,
            TurnState::Queued | TurnState::Running => Style::Busy,
            TurnState::Failed => Style::Bad,
            TurnState::Cancelled => Style::Dim,
        };
        vec![
            Cell::new(self.seq),
            Cell::new(word(&self.role)),
            Cell::styled(self.state.as_str(), style),
            aged(self.created_at, now),
            Cell::new(said(&self.content).trim_end()),
        ]
    }
    fn name(&self) -> String {
        self.seq.to_string()
    }
}

impl Show for api::Process {
    const HEAD: &'static [&'static str] =
        &["ID", "PID", "STATE", "EXIT", "USER", "STDOUT", "STDERR", "AGE", "COMMAND"];
    fn row(&self, now: Time) -> Vec<Cell> {
        vec![
            Cell::new(self.id),
            Cell::new(self.pid),
            Cell::new(word(&self.state)),
            Cell::opt(self.exit_code.map(|c| c.to_string()).or(self.signal.map(|s| format!("signal {s}")))),
            Cell::new(&self.user),
            Cell::new(bytes(self.stdout_bytes)),
            Cell::new(bytes(self.stderr_bytes)),
            aged(self.started_at, now),
            Cell::new(self.argv.join(" ")),
        ]
    }
    fn name(&self) -> String {
        self.id.to_string()
    }
}

impl Show for api::FileInfo {
    const HEAD: &'static [&'static str] = &["MODE", "OWNER", "SIZE", "CHANGED", "NAME"];
    fn row(&self, now: Time) -> Vec<Cell> {
        let (mark, style) = match self.kind {
            api::FileKind::Directory => ("/".to_owned(), Style::Busy),
            api::FileKind::Symlink => {
                (self.target.as_ref().map_or(String::new(), |t| format!(" -> {t}")), Style::Dim)
            }
            _ => (String::new(), Style::Plain),
        };
        vec![
            Cell::new(&self.mode),
            Cell::new(format!("{}:{}", self.uid, self.gid)),
            if self.kind == api::FileKind::File {
                Cell::new(bytes(self.size_bytes))
            } else {
                Cell::styled("-", Style::Dim)
            },
            aged(self.modified_at, now),
            Cell::styled(format!("{}{mark}", self.name), style),
        ]
    }
    fn name(&self) -> String {
        self.name.clone()
    }
}
