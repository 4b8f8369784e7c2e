//! What can go wrong between a caller and the server, told apart by what the caller can do about it.

use std::time::Duration;

use serde::Deserialize;
use wharf_domain::Code;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server answered with a problem (RFC 9457).
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// Nobody answered at the address: not listening, no such host, or the connection broke before an answer.
    #[error("cannot reach {url}: {reason}")]
    Unreachable { url: String, reason: String },
    /// An answer began and did not come to its end.
    #[error("the connection to {url} broke: {reason}")]
    Broken { url: String, reason: String },
    /// No answer within the time given.
    #[error("{url} did not answer within {}", seconds(*.after))]
    Timeout { url: String, after: Duration },
    /// Something answered, but not in the way this client knows.
    #[error("{url} answered in a way this client does not understand: {reason}")]
    Protocol { url: String, reason: String },
    /// The request could not be made at all.
    #[error("{0}")]
    Invalid(String),
    /// The credential is gone for good: the login ended or was revoked.
    #[error("{0}")]
    LoggedOut(String),
    /// Reading or writing local data that belongs to the call.
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
}

fn seconds(d: Duration) -> String {
    if d < Duration::from_secs(1) { format!("{} ms", d.as_millis()) } else { format!("{} s", d.as_secs()) }
}

/// What the server said was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub status: u16,
    /// `None` when a newer server uses a code this client does not know.
    pub code: Option<Code>,
    /// The code as it was sent.
    pub code_text: String,
    /// What is wrong and what to do next.
    pub detail: String,
    /// The field of the request that is at fault, where one is.
    pub field: Option<String>,
    pub retryable: bool,
    pub request_id: Option<String>,
    pub retry_after: Option<Duration>,
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    detail: Option<String>,
    #[serde(default)]
    field: Option<String>,
    #[serde(default)]
    retryable: Option<bool>,
    #[serde(default)]
    request_id: Option<String>,
}

fn code_of(text: &str) -> Option<Code> {
    Code::ALL.iter().copied().find(|c| c.as_str() == text)
}

/// The code a bare status stands for, when something in between (a proxy) answered without a problem document.
fn code_of_status(status: u16) -> Option<Code> {
    match status {
        400 => Some(Code::BadRequest),
        401 => Some(Code::Unauthenticated),
        403 => Some(Code::Forbidden),
        404 => Some(Code::NotFound),
        405 => Some(Code::MethodNotAllowed),
        412 => Some(Code::PreconditionFailed),
        413 => Some(Code::TooLarge),
        429 => Some(Code::RateLimited),
        502 | 503 => Some(Code::Unavailable),
        504 => Some(Code::Timeout),
        _ => None,
    }
}

impl Problem {
    /// Reads an answer that is not a success. A body that is no problem document still becomes one, from its status.
    pub fn read(status: u16, headers: &reqwest::header::HeaderMap, body: &[u8]) -> Self {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let retry_after = text("retry-after").and_then(|s| s.trim().parse().ok()).map(Duration::from_secs);
        let header_id = text("x-request-id");
        match serde_json::from_slice::<Body>(body) {
            Ok(b) if b.code.is_some() || b.detail.is_some() => {
                let code_text = b.code.unwrap_or_default();
                let code = code_of(&code_text);
                Self {
                    status,
                    code,
                    detail: b.detail.or(b.title).unwrap_or_else(|| format!("the server answered {status}")),
                    field: b.field,
                    retryable: b.retryable.unwrap_or_else(|| code.is_some_and(Code::retryable)),
                    request_id: b.request_id.or(header_id),
                    retry_after,
                    code_text,
                }
            }
            _ => {
                let code = code_of_status(status);
                // Of a page made for people the status says more than its markup.
                let text = String::from_utf8_lossy(body);
                let line = text.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or_default();
                let said: String =
                    if line.starts_with('<') { String::new() } else { line.chars().take(200).collect() };
                Self {
                    status,
                    code,
                    code_text: code.map_or_else(String::new, |c| c.as_str().to_owned()),
                    detail: if said.is_empty() {
                        format!("something answered {status}, but not in the way of a Wharf server")
                    } else {
                        format!("the server answered {status}: {said}")
                    },
                    field: None,
                    retryable: code.is_some_and(Code::retryable),
                    request_id: header_id,
                    retry_after,
                }
            }
        }
    }
}

impl From<wharf_wire::api::Problem> for Problem {
    fn from(p: wharf_wire::api::Problem) -> Self {
        Self {
            status: p.status,
            code: Some(p.code),
            code_text: p.code.as_str().to_owned(),
            detail: p.detail,
            field: p.field,
            retryable: p.retryable,
            request_id: Some(p.request_id),
            retry_after: None,
        }
    }
}

impl Error {
    /// The problem's code, where the server named one this client knows.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Problem(p) => p.code,
            _ => None,
        }
    }

    pub fn request_id(&self) -> Option<&str> {
        match self {
            Self::Problem(p) => p.request_id.as_deref(),
            _ => None,
        }
    }

    pub fn is(&self, code: Code) -> bool {
        self.code() == Some(code)
    }

    /// Whether the same call may succeed later without a change.
    pub fn passing(&self) -> bool {
        match self {
            Self::Problem(p) => p.retryable,
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Timeout { .. } => true,
            _ => false,
        }
    }

    /// Reads a transport error of reqwest. The URL is named by the caller, without its query.
    pub(crate) fn transport(url: &url::Url, error: &reqwest::Error, limit: Duration) -> Self {
        let url = shown(url);
        if error.is_timeout() && !error.is_connect() {
            Self::Timeout { url, after: limit }
        } else if error.is_connect() {
            Self::Unreachable { url, reason: root(error) }
        } else if error.is_builder() {
            Self::Invalid(format!("{url} cannot be asked: {}", root(error)))
        } else {
            Self::Broken { url, reason: root(error) }
        }
    }
}

/// An address as errors show it: scheme, host and port, never a query (which may hold what is nobody's business).
pub(crate) fn shown(url: &url::Url) -> String {
    url.origin().ascii_serialization()
}

/// The innermost cause: the layers above it only repeat the address.
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut at = error;
    while let Some(next) = at.source() {
        at = next;
    }
    at.to_string()
}
