//! How a command ends: its exit code, and what a person reads when it went wrong.
//!
//! Exit codes are API for scripts: 0 done, 1 failed, 2 wrong use, 3 not found, 4 denied, 5 conflict, 6 unavailable.
//! `exec` and `shell` pass on the code of what they ran instead.

use std::fmt;

use wharf_client::Error;
use wharf_domain::Code;

pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
pub const NOT_FOUND: u8 = 3;
pub const DENIED: u8 = 4;
pub const CONFLICT: u8 = 5;
pub const UNAVAILABLE: u8 = 6;

/// An error this side of the wire, with its exit code and what to do next.
#[derive(Debug)]
pub struct Refusal {
    pub code: u8,
    pub message: String,
    pub hint: Option<String>,
}

impl Refusal {
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: USAGE, message: message.into(), hint: Some(hint.into()) }
    }

    pub fn not_found(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: NOT_FOUND, message: message.into(), hint: Some(hint.into()) }
    }

    pub fn denied(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: DENIED, message: message.into(), hint: Some(hint.into()) }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self { code: FAILED, message: message.into(), hint: None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

/// Ends the process with this code and says nothing more: everything was said already, or a command's code is passed on.
#[derive(Clone, Copy, Debug)]
pub struct Silent(pub u8);

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}", self.0)
    }
}

impl std::error::Error for Silent {}

/// The exit code of an error.
pub fn code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(Silent(code)) = cause.downcast_ref() {
            return *code;
        }
        if let Some(r) = cause.downcast_ref::<Refusal>() {
            return r.code;
        }
        if let Some(e) = cause.downcast_ref::<Error>() {
            return client_code(e);
        }
        if let Some(e) = cause.downcast_ref::<wharf_domain::Error>() {
            return problem_code(Some(e.code), e.code.status());
        }
        if let Some(e) = cause.downcast_ref::<std::io::Error>()
            && e.kind() == std::io::ErrorKind::BrokenPipe
        {
            return 0; // `wharf … | head` has seen enough
        }
    }
    FAILED
}

fn client_code(error: &Error) -> u8 {
    match error {
        Error::Problem(p) => problem_code(p.code, p.status),
        Error::Unreachable { .. } | Error::Broken { .. } | Error::Timeout { .. } => UNAVAILABLE,
        Error::LoggedOut(_) => DENIED,
        Error::Invalid(_) => USAGE,
        Error::Protocol { .. } | Error::Io { .. } => FAILED,
    }
}

fn problem_code(code: Option<Code>, status: u16) -> u8 {
    match code {
        Some(
            Code::BadRequest
            | Code::UnknownField
            | Code::InvalidField
            | Code::InvalidName
            | Code::InvalidReference
            | Code::MethodNotAllowed
            | Code::UnsupportedMediaType
            | Code::RangeNotSatisfiable
            | Code::TooLarge,
        ) => USAGE,
        Some(Code::NotFound) => NOT_FOUND,
        Some(Code::Unauthenticated | Code::TokenExpired | Code::Forbidden) => DENIED,
        Some(
            Code::AlreadyExists
            | Code::InvalidState
            | Code::InUse
            | Code::IdempotencyMismatch
            | Code::InProgress
            | Code::LeaseLost
            | Code::PreconditionFailed,
        ) => CONFLICT,
        Some(Code::RateLimited | Code::BadGateway | Code::Unavailable | Code::Timeout) => UNAVAILABLE,
        Some(Code::QuotaExceeded | Code::Unsupported | Code::Internal) => FAILED,
        None => match status {
            400..=499 => USAGE,
            502..=504 => UNAVAILABLE,
            _ => FAILED,
        },
    }
}

/// What an error looks like on stderr: the message, what to do next, and the number to give to an operator.
pub fn describe(error: &anyhow::Error) -> String {
    let mut out = format!("error: {}", message(error));
    if let Some(field) = field(error) {
        out.extend([format!("\n  field: {field}")]);
    }
    if let Some(hint) = hint(error) {
        out.extend([format!("\n  hint: {hint}")]);
    }
    if let Some(id) = error.chain().find_map(|c| c.downcast_ref::<Error>()).and_then(Error::request_id) {
        out.extend([format!("\n  request id: {id}")]);
    }
    out
}

fn message(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = match cause.downcast_ref::<wharf_domain::Error>() {
            Some(e) => e.public.clone(),
            None => cause.to_string(),
        };
        // Some errors print their source themselves.
        if !parts.last().is_some_and(|p| p.ends_with(&text)) {
            parts.push(text);
        }
    }
    crate::output::plain(&parts.join(": "))
}

fn field(error: &anyhow::Error) -> Option<&str> {
    error.chain().find_map(|c| match c.downcast_ref::<Error>() {
        Some(Error::Problem(p)) => p.field.as_deref(),
        _ => None,
    })
}

fn hint(error: &anyhow::Error) -> Option<String> {
    if let Some(r) = error.chain().find_map(|c| c.downcast_ref::<Refusal>()) {
        return r.hint.clone();
    }
    let e = error.chain().find_map(|c| c.downcast_ref::<Error>())?;
    Some(match e {
        Error::Unreachable { .. } => {
            "is the server up? `wharf up` starts one here; `wharf context list` shows the servers you know"
                .into()
        }
        Error::LoggedOut(_) => "log in again: wharf login".into(),
        Error::Protocol { .. } => {
            "is this address a Wharf server, and of the same version? `wharf version` shows both".into()
        }
        Error::Problem(p) if p.request_id.is_none() => {
            "is this the address of a Wharf server? `wharf context list` shows the servers you know".into()
        }
        Error::Problem(p) => match p.code? {
            Code::Unauthenticated | Code::TokenExpired => "log in: wharf login (or set WHARF_TOKEN)".into(),
            Code::Forbidden => {
                "`wharf can-i VERB RESOURCE` shows what you may do; an admin can bind a role to you".into()
            }
            Code::Internal => "the server's log has the cause under the request id".into(),
            Code::RateLimited | Code::Unavailable => match p.retry_after {
                Some(d) => format!("try again in {} s", d.as_secs().max(1)),
                None => "try again in a moment".into(),
            },
            _ => return None,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
