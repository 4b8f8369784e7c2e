//! JSON bodies.
//!
//! Refuses other media types (415), bodies over the limit (413, naming it), text that is no JSON (400 with line and
//! column), unknown or invalid fields (422, naming them) and NUL characters, which the database cannot hold.

use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use wharf_domain::{Code, Error, limits};

use super::refuse::refuse;
use super::strict::Strict;
use crate::problem::Problem;

/// How long a JSON body may take to arrive.
const ARRIVES: std::time::Duration = std::time::Duration::from_secs(60);

/// A JSON body, read or written.
pub(crate) struct Json<T>(pub T);

/// A JSON body that may be left out.
pub(crate) struct OptionalJson<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
            Err(e) => Problem(Error::internal(e)).into_response(),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        media_type(request.headers())?;
        let body = read(request).await?;
        Ok(Self(parse(&body)?))
    }
}

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let media = media_type(request.headers());
        let body = read(request).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        media?;
        Ok(Self(parse(&body)?))
    }
}

pub(super) fn media_type(headers: &HeaderMap) -> Result<(), Error> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(Error::new(Code::UnsupportedMediaType, "send the body as JSON with `Content-Type: application/json`"))
}

pub(super) async fn read(request: Request) -> Result<Bytes, Error> {
    let body = Limited::new(request.into_body(), limits::BODY_BYTES).collect();
    let body = tokio::time::timeout(ARRIVES, body).await.map_err(|_| {
        Error::new(Code::BadRequest, format!("the body did not arrive within {} s", ARRIVES.as_secs()))
    })?;
    match body {
        Ok(body) => Ok(body.to_bytes()),
        Err(e) if e.downcast_ref::<LengthLimitError>().is_some() => Err(Error::new(
            Code::TooLarge,
            format!(
                "the body is over the limit of {} bytes (BODY_BYTES); larger things are files",
                limits::BODY_BYTES
            ),
        )),
        Err(e) => Err(Error::new(Code::BadRequest, "the body ended before it was complete").because(e)),
    }
}

pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    if body.is_empty() {
        return Err(Error::new(Code::BadRequest, "a JSON body is needed, and this one is empty"));
    }
    refuse_nul(body)?;
    let mut text = serde_json::Deserializer::from_slice(body);
    let mut track = serde_path_to_error::Track::new();
    let source = Strict(serde_path_to_error::Deserializer::new(&mut text, &mut track));
    let parsed = T::deserialize(source).map_err(|e| explain(&track.path().to_string(), &e))?;
    text.end().map_err(|e| explain("", &e))?;
    Ok(parsed)
}

fn explain(path: &str, error: &serde_json::Error) -> Error {
    let text = error.to_string();
    // serde_json ends its messages with the place; for a field the path says it better.
    let place = format!(" at line {} column {}", error.line(), error.column());
    let message = text.strip_suffix(&place).unwrap_or(&text);
    match error.classify() {
        serde_json::error::Category::Data => refuse(path, message),
        _ => Error::new(Code::BadRequest, format!("the body is not JSON: {message}{place}")),
    }
}

/// PostgreSQL keeps no NUL in text. Looked for only where the escape stands at all.
fn refuse_nul(body: &[u8]) -> Result<(), Error> {
    if !body.windows(6).any(|w| w == b"\\u0000") {
        return Ok(());
    }
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return Ok(()) };
    let Some(path) = find_nul(&value, String::new()) else { return Ok(()) };
    Err(Error::new(
        Code::InvalidField,
        "text may not hold a NUL character; where bytes are allowed send base64",
    )
    .field(path))
}

fn find_nul(value: &Value, path: String) -> Option<String> {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::String(s) if s.contains('\0') => Some(path),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(i, v)| find_nul(v, format!("{path}[{i}]")))
        }
        Value::Object(map) => map
            .iter()
            .find_map(|(k, v)| if k.contains('\0') { Some(path.clone()) } else { find_nul(v, below(k)) }),
        _ => None,
    }
}
