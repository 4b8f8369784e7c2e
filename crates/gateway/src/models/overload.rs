//! A stream that begins with the news that it will be none: an error as its first event, after which another try may do
//! better.
//!
//! Providers that are overloaded often say so behind a head that says 200, because the head was sent before. Each protocol
//! has a shape of its own for it. Refuses to take for passing what the same request would hear again.

use serde::Deserialize;

use super::sse;

/// What the begin of a stream tells of the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing yet.
    Unsaid,
    /// It is an answer, or an error that will be the same the next time.
    Stands,
    /// Another try may do better.
    Passing,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: Option<String>,
    error: Option<Reason>,
    /// Of an error event of Responses, which may have no `error`.
    code: Option<Code>,
    response: Option<Inner>,
}

#[derive(Deserialize)]
struct Inner {
    error: Option<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(rename = "type")]
    kind: Option<String>,
    code: Option<Code>,
}

/// A word, or the status that it would have been; servers that are compatible say either.
#[derive(Deserialize)]
#[serde(untagged)]
enum Code {
    Status(u16),
    Word(String),
}

/// Events that come before an answer of Responses has said anything.
const PRELUDES: [&str; 3] = ["response.created", "response.queued", "response.in_progress"];
/// Types and codes of what passes.
const PASSING: [&str; 9] = [
    "api_error",
    "internal_server_error",
    "overloaded",
    "overloaded_error",
    "rate_limit_error",
    "rate_limit_exceeded",
    "server_error",
    "service_unavailable",
    "timeout_error",
];
/// Codes that are told with a type that would pass, and do not.
const FINAL: [&str; 3] = ["insufficient_quota", "billing_hard_limit_reached", "budget_exceeded"];

impl Code {
    fn passes(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status, 408 | 429 | 500 | 502 | 503 | 504 | 529),
            Self::Word(word) => PASSING.contains(&word.as_str()),
        }
    }

    fn is_final(&self) -> bool {
        matches!(self, Self::Word(word) if FINAL.contains(&word.as_str()))
    }
}

fn passes(kind: Option<&str>, code: Option<&Code>) -> bool {
    let last = |word: &str| FINAL.contains(&word);
    if code.is_some_and(Code::is_final) || kind.is_some_and(last) {
        return false;
    }
    code.is_some_and(Code::passes) || kind.is_some_and(|k| PASSING.contains(&k))
}

/// Looks at the whole events that `begin` holds.
pub(super) fn verdict(begin: &[u8]) -> Verdict {
    let mut splitter = sse::Splitter::default();
    for event in splitter.push(begin) {
        // A comment keeps a connection open and says nothing.
        let Some(data) = sse::data(&event) else { continue };
        let Ok(event) = serde_json::from_slice::<Event>(&data) else { return Verdict::Stands };
        let kind = event.kind.as_deref();
        if kind.is_some_and(|k| PRELUDES.contains(&k)) {
            continue;
        }
        let failed = event.response.and_then(|r| r.error);
        let passing = match (&event.error, &failed) {
            (Some(e), _) | (None, Some(e)) => passes(e.kind.as_deref(), e.code.as_ref()),
            (None, None) => kind == Some("error") && passes(None, event.code.as_ref()),
        };
        return if passing { Verdict::Passing } else { Verdict::Stands };
    }
    Verdict::Unsaid
}

#[cfg(test)]
mod tests;
