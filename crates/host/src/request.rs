//! Requests, read with suspicion: bounded bodies, strict JSON, strict queries.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, RANGE};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use wharf_domain::Code;
use wharf_wire::host::path::{SessionPath, normalise};

use crate::fault::{Fault, Result};

pub type Incomes = Request<Incoming>;

/// Collects a body of at most `limit` bytes.
pub async fn body(request: &mut Incomes, limit: usize) -> Result<Bytes> {
    let too_large = || Fault::new(Code::TooLarge, format!("the body is over the limit of {limit} bytes"));
    if request.body().size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    let incoming = request.body_mut();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|e| broken(&e))?;
        if let Some(data) = frame.data_ref() {
            if whole.len() + data.len() > limit {
                return Err(too_large());
            }
            whole.extend_from_slice(data);
        }
    }
    Ok(whole.freeze())
}

pub fn broken(error: &hyper::Error) -> Fault {
    Fault::new(Code::BadRequest, format!("the body ended before its time: {error}"))
}

/// Reads on over what is left of a body that was refused. A sender that is cut off in the middle would see a broken
/// connection where it should see the reason.
pub async fn drain(request: &mut Incomes) {
    let mut left = DRAIN_BYTES;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(DRAIN_WAIT, request.body_mut().frame()).await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        if bytes > left {
            return;
        }
        left -= bytes;
    }
}

/// What a refused sender may still send; more, and the connection is closed. Wide enough for the rest of any file or
/// tree that did not fit: it is read at the speed of memory and kept nowhere.
const DRAIN_BYTES: usize = 32 * 1024 * 1024 * 1024;
/// How long a refused sender may pause.
const DRAIN_WAIT: std::time::Duration = std::time::Duration::from_secs(2);

pub async fn json<T: DeserializeOwned>(request: &mut Incomes, limit: usize) -> Result<T> {
    let whole = body(request, limit).await;
    if whole.is_err() {
        drain(request).await;
    }
    parse(&whole?)
}

/// Strict JSON into `T`; what is wrong decides the code.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| {
        let text = e.to_string();
        let code = match e.classify() {
            serde_json::error::Category::Data if text.contains("unknown field") => Code::UnknownField,
            serde_json::error::Category::Data => Code::InvalidField,
            _ => Code::BadRequest,
        };
        Fault::new(code, format!("the body is not what is expected here: {text}"))
    })
}

/// A query whose every parameter must be asked for: what is left over is unknown.
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn of(request: &Incomes) -> Result<Self> {
        Self::parse(request.uri().query().unwrap_or(""))
    }

    pub fn parse(query: &str) -> Result<Self> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if pairs.iter().any(|(n, _)| *n == name) {
                return Err(Fault::new(Code::BadRequest, format!("the parameter {name} is given twice")));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    pub fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.swap_remove(at).1)
    }

    pub fn number<T: std::str::FromStr>(&mut self, name: &str) -> Result<Option<T>> {
        self.take(name)
            .map(|v| {
                v.parse().map_err(|_| {
                    Fault::invalid(name, format!("{name} is not a number that is allowed: {v:?}"))
                })
            })
            .transpose()
    }

    /// Permission bits, written in octal as everybody writes them.
    pub fn mode(&mut self, name: &str) -> Result<Option<u32>> {
        self.take(name)
            .map(|v| {
                u32::from_str_radix(&v, 8)
                    .ok()
                    .filter(|m| *m <= 0o7777)
                    .ok_or_else(|| Fault::invalid(name, format!("{v:?} is not an octal mode up to 7777")))
            })
            .transpose()
    }

    pub fn flag(&mut self, name: &str) -> Result<bool> {
        match self.take(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Fault::invalid(name, format!("{name} is true or false, not {other:?}"))),
        }
    }

    pub fn path(&mut self, name: &str) -> Result<SessionPath> {
        let text =
            self.take(name).ok_or_else(|| Fault::invalid(name, format!("the parameter {name} is needed")))?;
        normalise(&text).map_err(|e| Fault::path(name, e))
    }

    pub fn finish(self) -> Result<()> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => {
                Err(Fault::new(Code::UnknownField, format!("there is no parameter {name} here")).field(name))
            }
        }
    }
}

fn decode(text: &str) -> Result<String> {
    percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Fault::new(Code::BadRequest, "a parameter is not UTF-8"))
}

/// `Range: bytes=…` of one range (RFC 9110, 14.1.2). None: the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    From { first: u64, last: Option<u64> },
    Suffix(u64),
}

impl Range {
    pub fn of(request: &Incomes) -> Result<Option<Self>> {
        match request.headers().get(RANGE) {
            None => Ok(None),
            Some(value) => Self::parse(value.to_str().unwrap_or("")).map(Some),
        }
    }

    pub fn parse(text: &str) -> Result<Self> {
        let bad = || Fault::new(Code::BadRequest, format!("{text:?} is not a byte range: bytes=first-last"));
        let spec = text.strip_prefix("bytes=").ok_or_else(bad)?;
        let (first, last) = spec.split_once('-').ok_or_else(bad)?;
        let digits = |s: &str| {
            if s.bytes().all(|b| b.is_ascii_digit()) {
                s.parse::<u64>().map_err(|_| bad())
            } else {
                Err(bad())
            }
        };
        if first.is_empty() {
            return Ok(Self::Suffix(digits(last)?));
        }
        let first = digits(first)?;
        let last = if last.is_empty() { None } else { Some(digits(last)?) };
        if last.is_some_and(|l| l < first) {
            return Err(bad());
        }
        Ok(Self::From { first, last })
    }

    /// First byte and length within a file of `size` bytes.
    pub fn within(self, size: u64) -> Result<(u64, u64)> {
        let outside = || Fault::new(Code::RangeNotSatisfiable, format!("the file has {size} bytes"));
        match self {
            Self::From { first, .. } if first >= size => Err(outside()),
            Self::From { first, last } => {
                let end = last.map_or(size, |l| l.saturating_add(1).min(size));
                Ok((first, end - first))
            }
            Self::Suffix(0) => Err(outside()),
            Self::Suffix(n) => {
                let n = n.min(size);
                if n == 0 { Err(outside()) } else { Ok((size - n, n)) }
            }
        }
    }
}

/// Whether the caller asked for a stream of events.
pub fn wants_ndjson(request: &Incomes) -> bool {
    request
        .headers()
        .get(hyper::header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').any(|m| m.trim().eq_ignore_ascii_case(wharf_wire::host::NDJSON)))
}

/// The length the caller promises, where it does.
pub fn promised(request: &Incomes) -> Option<u64> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
