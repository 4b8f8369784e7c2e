//! One call: what is sent, and when it may be sent again.
//!
//! Repeated on a passing fault are only calls whose repetition cannot do harm: reads, and POSTs, which always carry an
//! `Idempotency-Key` so that the server answers the repetition with the first answer. Anything else is sent once,
//! except when no connection stood at all. A body that streams is never sent twice.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;
use uuid::Uuid;
use wharf_domain::{Code, Plain};

use crate::client::Client;
use crate::error::{Error, Problem, Result, shown};

/// The most of an error's body that is read.
const PROBLEM_BYTES: usize = 64 * 1024;

enum Body {
    None,
    Bytes(Bytes),
    Stream(Option<reqwest::Body>),
}

/// A call being made. Built by [`Client::call`], ended by one of the `send…` methods.
pub struct Call {
    client: Client,
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Body,
    /// `None`: no limit on the whole, only on silence.
    limit: Option<Duration>,
    fault: Option<Error>,
}

impl Call {
    pub(crate) fn new(client: Client, method: Method, url: Url) -> Self {
        let limit = Some(client.patience().call);
        let mut call =
            Self { client, method, url, headers: HeaderMap::new(), body: Body::None, limit, fault: None };
        if call.method == Method::POST {
            call = call.idempotency_key(&Uuid::new_v4().to_string());
        }
        call
    }

    #[must_use]
    pub fn query(mut self, name: &str, value: impl ToString) -> Self {
        self.url.query_pairs_mut().append_pair(name, &value.to_string());
        self
    }

    #[must_use]
    pub fn query_opt<T: ToString>(self, name: &str, value: Option<T>) -> Self {
        match value {
            Some(v) => self.query(name, v),
            None => self,
        }
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(v) => {
                self.headers.insert(HeaderName::from_static(name), v);
            }
            Err(_) => self.fault = Some(Error::Invalid(format!("{name} cannot hold that value"))),
        }
        self
    }

    /// Replaces the key a POST carries, for a caller that repeats across processes.
    #[must_use]
    pub fn idempotency_key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    /// Makes a change conditional on the version it was read at.
    #[must_use]
    pub fn if_match(self, resource_version: Option<&str>) -> Self {
        match resource_version {
            Some(v) => self.header("if-match", &format!("\"{v}\"")),
            None => self,
        }
    }

    /// How long the whole answer may take; `None` for as long as bytes keep coming.
    #[must_use]
    pub fn limit(mut self, limit: Option<Duration>) -> Self {
        self.limit = limit;
        self
    }

    #[must_use]
    pub fn json(mut self, body: &(impl Serialize + ?Sized)) -> Self {
        match serde_json::to_vec(body) {
            Ok(b) => self = self.bytes("application/json", b.into()),
            Err(e) => {
                self.fault = Some(Error::Invalid(format!("the request cannot be written as JSON: {e}")));
            }
        }
        self
    }

    #[must_use]
    pub fn bytes(mut self, content_type: &'static str, body: Bytes) -> Self {
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        self.body = Body::Bytes(body);
        self
    }

    /// A body that is read while it is sent; `length` where it is known.
    #[must_use]
    pub fn stream(mut self, content_type: &'static str, body: reqwest::Body, length: Option<u64>) -> Self {
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(n) = length {
            self.headers.insert(header::CONTENT_LENGTH, n.into());
        }
        self.body = Body::Stream(Some(body));
        self.limit = None;
        self
    }

    fn repeatable(&self) -> bool {
        !matches!(self.body, Body::Stream(_))
            && (matches!(self.method, Method::GET | Method::HEAD)
                || (self.method == Method::POST && self.headers.contains_key("idempotency-key")))
    }

    /// Sends it and answers a success whose body is not read yet.
    pub async fn send(mut self) -> Result<Response> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let attempts =
            if matches!(self.body, Body::Stream(_)) { 1 } else { self.client.patience().attempts.max(1) };
        let mut token = self.client.credential().current().await?;
        let mut renewed = false;
        let mut attempt = 1;
        loop {
            let error = match self.once(token.as_ref()).await {
                Ok(answer) => return Ok(answer),
                Err(e) => e,
            };
            if !renewed
                && (error.is(Code::TokenExpired) || error.is(Code::Unauthenticated))
                && !matches!(self.body, Body::Stream(_))
                && let Some(fresh) = self.client.credential().renewed(token.as_ref()).await?
            {
                renewed = true;
                token = Some(fresh);
                continue;
            }
            match self.pause(&error, attempt) {
                Some(pause) if attempt < attempts => {
                    attempt += 1;
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(error),
            }
        }
    }

    /// How long to wait before the next attempt; `None` when there must be none.
    fn pause(&self, error: &Error, attempt: u32) -> Option<Duration> {
        let patience = self.client.patience();
        let asked = match error {
            Error::Unreachable { .. } => None,
            Error::Broken { .. } if self.repeatable() => None,
            // A time-out already took its time, and a problem that is not passing stays.
            Error::Problem(p) if self.repeatable() && p.retryable && p.code != Some(Code::Timeout) => {
                p.retry_after
            }
            _ => return None,
        };
        if let Some(asked) = asked {
            return (asked <= patience.pause_max).then_some(asked);
        }
        let step = patience.pause.saturating_mul(1 << (attempt - 1).min(10)).min(patience.pause_max);
        // Half of it fixed, half by chance, so that callers broken off together do not come back together.
        let chance = f64::from(u32::from(Uuid::new_v4().as_bytes()[0])) / 255.0;
        Some(step.mul_f64(0.5 + chance / 2.0))
    }

    async fn once(&mut self, token: Option<&Plain>) -> Result<Response> {
        let http =
            if matches!(self.body, Body::Stream(_)) { self.client.uploads() } else { self.client.http() };
        let mut request = http.request(self.method.clone(), self.url.clone()).headers(self.headers.clone());
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, bearer(token)?);
        }
        if let Some(limit) = self.limit {
            request = request.timeout(limit);
        }
        request = match &mut self.body {
            Body::None => request,
            Body::Bytes(b) => request.body(b.clone()),
            Body::Stream(b) => match b.take() {
                Some(b) => request.body(b),
                None => return Err(Error::Invalid("a streamed body cannot be sent twice".into())),
            },
        };
        let limit = self.limit.unwrap_or(self.client.patience().silence);
        let answer = request.send().await.map_err(|e| Error::transport(&self.url, &e, limit))?;
        let status = answer.status();
        if status.is_success() || status == reqwest::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(answer);
        }
        if status.is_redirection() {
            return Err(Error::Protocol {
                url: shown(&self.url),
                reason: format!("it redirects ({status}); use the address it leads to"),
            });
        }
        Err(problem(answer).await)
    }

    pub async fn send_json<T: DeserializeOwned>(self) -> Result<T> {
        let (url, limit) = (self.url.clone(), self.limit.unwrap_or(self.client.patience().silence));
        let answer = self.send().await?;
        let body = answer.bytes().await.map_err(|e| Error::transport(&url, &e, limit))?;
        serde_json::from_slice(&body).map_err(|e| Error::Protocol {
            url: shown(&url),
            reason: format!("its JSON is not as expected: {e}"),
        })
    }

    /// Sends it and reads a body of no interest to its end, so that the connection can be used again.
    pub async fn send_unit(self) -> Result<()> {
        let (url, limit) = (self.url.clone(), self.limit.unwrap_or(self.client.patience().silence));
        self.send().await?.bytes().await.map_err(|e| Error::transport(&url, &e, limit))?;
        Ok(())
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn silence(&self) -> Duration {
        self.client.patience().silence
    }
}

fn bearer(token: &Plain) -> Result<HeaderValue> {
    let mut line = b"Bearer ".to_vec();
    line.extend_from_slice(token.expose());
    let mut value = HeaderValue::from_bytes(&line).map_err(|_| {
        Error::Invalid("the token has characters no token has; check where it came from".into())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Reads the problem of an answer that is not a success.
async fn problem(mut answer: Response) -> Error {
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > PROBLEM_BYTES {
            break;
        }
    }
    Error::Problem(Box::new(Problem::read(status, &headers, &body)))
}
