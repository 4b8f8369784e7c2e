//! Asks a provider, and asks again while it makes sense: before the first byte of an answer has gone to the session.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderName,
    RETRY_AFTER, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use wharf_domain::Plain;
use wharf_domain::model::{BaseUrl, ProviderSpec};

use super::fault::Fault;
use super::overload::{self, Verdict};
use super::sending::{Letter, Sending};
use crate::dial::{Connector, Dialer, Tls};
use crate::problem::Refusal;

/// A model may think for long before it says the first word.
const FIRST_WORD: Duration = Duration::from_secs(900);
/// How long an answer's head is held back to see whether its first event is an error, and how much of it.
const FIRST_EVENT: Duration = Duration::from_secs(5);
const FIRST_BYTES: usize = 256 * 1024;
/// Pauses double from here up to there.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// A provider that asks for more patience gets its answer passed on instead.
const PATIENCE: Duration = Duration::from_secs(30);
/// Idle connections to one provider.
const IDLE: usize = 32;

pub(super) type Http = Client<Connector, Letter>;

pub(super) fn client(dialer: &Arc<Dialer>, tls: &Tls) -> Http {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(60))
        .pool_max_idle_per_host(IDLE)
        .build(Connector::new(dialer.clone(), tls, true))
}

/// What goes to a provider, as often as it takes.
pub(super) struct Ask {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub retries: u32,
    /// The answer may be a stream whose first event is an error worth another try.
    pub peeks: bool,
    /// How far it came, for the bill of one that is given up.
    pub sending: Arc<Sending>,
}

/// An answer whose head, and perhaps first piece, is here.
pub(super) struct Answer {
    pub response: Response<Incoming>,
    pub first: Option<Bytes>,
    pub attempts: u32,
}

/// What was said to no avail, and how often.
pub(super) struct Failed {
    pub fault: Fault,
    pub attempts: u32,
}

/// Where a request goes: the provider's base URL with the rest of the path. Base URLs are often written with the
/// version that the path begins with; then it stands there once.
pub(super) fn uri(base: &BaseUrl, rest: &str) -> Result<Uri, Fault> {
    let path = rest.split('?').next().unwrap_or_default();
    let odd = |part: &str| {
        let plain = part.to_ascii_lowercase().replace("%2e", ".");
        plain == "." || plain == ".."
    };
    if path.split(['/', '\\']).any(odd) {
        return Err(Fault::bad("a path to a provider holds no `.` and no `..`"));
    }
    let mut prefix = base.path();
    let version = prefix.rsplit('/').next().unwrap_or_default();
    let versioned =
        version.strip_prefix('v').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    if versioned && (path == format!("/{version}") || path.starts_with(&format!("/{version}/"))) {
        prefix = &prefix[..prefix.len() - version.len() - 1];
    }
    let scheme = if base.tls() { "https" } else { "http" };
    format!("{scheme}://{}{prefix}{rest}", base.authority())
        .parse()
        .map_err(|_| Fault::bad("the path cannot be part of an address"))
}

/// Headers of the session's request that are for the gateway or would tell on somebody.
fn own(name: &HeaderName) -> bool {
    let known = [
        ACCEPT_ENCODING,
        AUTHORIZATION,
        CONNECTION,
        CONTENT_LENGTH,
        COOKIE,
        HOST,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    let words = [
        "x-api-key",
        "api-key",
        "expect",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "forwarded",
    ];
    known.contains(name) || words.contains(&name.as_str()) || name.as_str().starts_with("x-forwarded-")
}

/// Headers for the provider: the session's without its keys, the provider's extra ones, and the key.
pub(super) fn headers(
    from: &HeaderMap,
    spec: &ProviderSpec,
    key: Option<&Plain>,
) -> Result<HeaderMap, Fault> {
    let broken = || {
        Fault::new(
            StatusCode::BAD_GATEWAY,
            "provider_key",
            "the provider's secret is no key: it holds bytes \
         that no header can; give the secret another value",
        )
    };
    let mut out = HeaderMap::with_capacity(from.len() + spec.headers.len() + 2);
    let named: Vec<String> = from
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(',').map(|w| w.trim().to_ascii_lowercase()))
        .collect();
    for (name, value) in from {
        if !own(name) && !named.iter().any(|n| n == name.as_str()) {
            out.append(name.clone(), value.clone());
        }
    }
    for (name, value) in &spec.headers {
        if let (Ok(name), Ok(value)) = (name.as_str().parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            out.insert(name, value);
        }
    }
    // So that what is used can be read.
    out.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(key) = key {
        let name: HeaderName = spec.key_header().as_str().parse().map_err(|_| broken())?;
        let text = key.expose().trim_ascii();
        let value = if name == AUTHORIZATION {
            Plain::new([b"Bearer ".as_slice(), text].concat())
        } else {
            Plain::new(text)
        };
        // Shares the bytes, which are wiped when the last header is gone; what hyper writes to the socket is its own.
        let mut value =
            HeaderValue::from_maybe_shared(Bytes::from_owner(Wiped(value))).map_err(|_| broken())?;
        value.set_sensitive(true);
        out.insert(name, value);
    }
    Ok(out)
}

struct Wiped(Plain);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

/// Asks until there is an answer worth passing on, or the tries are used up; then the last answer is.
pub(super) async fn ask(http: &Http, ask: &Ask) -> Result<Answer, Failed> {
    tries(ask, |attempt| once(http, ask, attempt)).await
}

/// One try after the other, with pauses between them.
async fn tries<F>(ask: &Ask, mut once: impl FnMut(u32) -> F) -> Result<Answer, Failed>
where
    F: Future<Output = Result<Answer, (Fault, bool)>>,
{
    let mut attempt = 0;
    loop {
        attempt += 1;
        let last = attempt > ask.retries;
        ask.sending.begins(attempt);
        let pause = match once(attempt).await {
            Ok(answer) => match again(&answer) {
                Again::After(after) if !last && after.is_none_or(|a| a <= PATIENCE) => after,
                _ => return Ok(answer),
            },
            Err((fault, worth)) => {
                if last || !worth {
                    return Err(Failed { fault, attempts: attempt });
                }
                None
            }
        };
        // It came to nothing, so nobody is charged for it.
        ask.sending.is_over();
        tokio::time::sleep(pause.unwrap_or_else(|| back_off(attempt))).await;
    }
}

/// Doubles with each attempt, less up to a quarter, so that many do not come back at once.
fn back_off(attempt: u32) -> Duration {
    let whole = PAUSE.saturating_mul(1 << (attempt - 1).min(10)).min(PAUSE_MAX);
    let mut random = [0u8; 2];
    // Without randomness everybody waits the whole pause.
    let _ = getrandom::fill(&mut random);
    whole.mul_f64(1.0 - f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX) / 4.0)
}

/// One try. The second part of an error: whether another may do better.
async fn once(http: &Http, ask: &Ask, attempts: u32) -> Result<Answer, (Fault, bool)> {
    let mut request = Request::new(Letter::new(ask.body.clone(), ask.sending.clone()));
    *request.method_mut() = ask.method.clone();
    *request.uri_mut() = ask.uri.clone();
    *request.headers_mut() = ask.headers.clone();
    let response = match tokio::time::timeout(FIRST_WORD, http.request(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(unreachable(&error)),
        Err(_) => {
            let text = format!("the provider said nothing for {} seconds", FIRST_WORD.as_secs());
            return Err((Fault::new(StatusCode::GATEWAY_TIMEOUT, "provider_timeout", text), false));
        }
    };
    let mut answer = Answer { response, first: None, attempts };
    if ask.peeks && answer.response.status() == StatusCode::OK && is_stream(answer.response.headers()) {
        match begin(answer.response.body_mut()).await {
            Ok(first) => answer.first = (!first.is_empty()).then_some(first),
            Err(error) => {
                let text = format!("the provider's answer broke off before its first word: {error}");
                return Err((Fault::new(StatusCode::BAD_GATEWAY, "provider_broke_off", text), true));
            }
        }
    }
    Ok(answer)
}

/// What a stream begins with, up to the event that tells whether it will be an answer.
async fn begin(body: &mut Incoming) -> Result<Bytes, hyper::Error> {
    let until = tokio::time::Instant::now() + FIRST_EVENT;
    let mut first = BytesMut::new();
    while first.len() < FIRST_BYTES && overload::verdict(&first) == Verdict::Unsaid {
        match tokio::time::timeout_at(until, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    first.extend_from_slice(&data);
                }
            }
            Ok(Some(Err(error))) => return Err(error),
            // It is slow, or over: for the session to see.
            Ok(None) | Err(_) => break,
        }
    }
    Ok(first.freeze())
}

pub(super) fn is_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream"))
}

fn unreachable(error: &ClientError) -> (Fault, bool) {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if let Some(refusal) = e.downcast_ref::<Refusal>() {
            let denied = refusal.decision == crate::problem::Decision::Denied;
            return (Fault::from(refusal), !denied);
        }
        cause = e.source();
    }
    let mut text = "the provider broke the connection before it answered".to_owned();
    if let Some(source) = std::error::Error::source(error) {
        text = format!("{text}: {source}");
    }
    (Fault::new(StatusCode::BAD_GATEWAY, "provider_unreachable", text), true)
}

/// What an answer says of trying again.
enum Again {
    No,
    /// After the provider's own pause, where it says one.
    After(Option<Duration>),
}

fn again(answer: &Answer) -> Again {
    let headers = answer.response.headers();
    let said = headers.get("x-should-retry").map(HeaderValue::as_bytes);
    let status = answer.response.status().as_u16();
    let worth = match (said, status) {
        (Some(b"false"), _) => false,
        (Some(b"true"), 400..) | (_, 408 | 429 | 500 | 502 | 503 | 504 | 529) => true,
        _ => answer.first.as_deref().is_some_and(|first| overload::verdict(first) == Verdict::Passing),
    };
    if !worth {
        return Again::No;
    }
    let number =
        |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok().filter(|n| *n >= 0.0);
    let after = number("retry-after-ms").map(|ms| ms / 1000.0).or_else(|| number(RETRY_AFTER.as_str()));
    // A number nobody can wait for is as good as any that is over the patience.
    Again::After(after.map(|s| Duration::from_secs_f64(s.min(86_400.0))))
}

#[cfg(test)]
mod tests;
