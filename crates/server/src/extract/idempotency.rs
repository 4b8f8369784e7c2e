//! `Idempotency-Key`: a POST with the same key and body is done once and answered the same.

use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use wharf_domain::{Code, Error, limits};
use wharf_store::{Begin, Caller, IdempotencyHandle, IdempotencyRequest, Scope};

use super::json;
use crate::app::App;
use crate::problem::Problem;

/// Why a handler ends early: something is wrong, or it was all done before.
pub(crate) enum Halt {
    Problem(Error),
    /// What the first request with this key was answered.
    Replay {
        status: u16,
        body: serde_json::Value,
    },
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Problem(error)
    }
}

impl IntoResponse for Halt {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(error) => Problem(error).into_response(),
            Self::Replay { status, body } => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
                let mut response = (status, json::Json(body)).into_response();
                response.headers_mut().insert("idempotent-replayed", http::HeaderValue::from_static("true"));
                response
            }
        }
    }
}

/// The key of a request, if it has one, and what it stands for.
pub(crate) struct Key {
    text: Option<String>,
    route: String,
    hash: [u8; 32],
}

impl Key {
    /// For handlers that read their body themselves; [`Key::body`] follows.
    pub(crate) fn of(request: &Request) -> Result<Self, Error> {
        let mut values = request.headers().get_all("idempotency-key").iter();
        let key = match values.next() {
            None => None,
            Some(value) => {
                let text = value.to_str().unwrap_or_default();
                let fits = (1..=limits::IDEMPOTENCY_KEY_CHARS).contains(&text.len())
                    && text.bytes().all(|b| b.is_ascii_graphic());
                if !fits || values.next().is_some() {
                    return Err(Error::new(
                        Code::InvalidField,
                        format!(
                            "Idempotency-Key is one of 1 to {} printable ASCII characters without blanks",
                            limits::IDEMPOTENCY_KEY_CHARS
                        ),
                    )
                    .field("Idempotency-Key"));
                }
                Some(text.to_owned())
            }
        };
        Ok(Self { text: key, route: format!("{} {}", request.method(), request.uri().path()), hash: [0; 32] })
    }

    /// What the key stands for: the body, or what names its content.
    pub(crate) fn body(mut self, query: &str, body: &[u8]) -> Self {
        if self.text.is_some() {
            let mut hash = Sha256::new();
            // The length keeps query and body apart.
            hash.update((query.len() as u64).to_be_bytes());
            hash.update(query.as_bytes());
            hash.update(body);
            self.hash = hash.finalize().into();
        }
        self
    }

    /// Claims the key, so that nobody else does the same meanwhile. Without a key there is nothing to claim.
    pub(crate) async fn claim(&self, app: &App, caller: &Caller) -> Result<Claim, Halt> {
        let Some(key) = &self.text else { return Ok(Claim(None)) };
        let request = IdempotencyRequest { route: &self.route, key, body_hash: self.hash };
        match app.store.idempotency_begin(caller, request).await? {
            Begin::Fresh(handle) => Ok(Claim(Some(handle))),
            Begin::Replay { status, body } => Err(Halt::Replay { status, body }),
        }
    }
}

/// A claimed key. Dropped without a commit it is given up, and the caller may try again.
#[must_use]
pub(crate) struct Claim(pub Option<IdempotencyHandle>);

impl Claim {
    /// Makes the scope's commit store its reply under the key.
    pub(crate) fn attach(self, scope: &mut Scope) {
        if let Some(handle) = self.0 {
            scope.idempotent(handle);
        }
    }
}

/// A JSON body with the request's key.
pub(crate) struct Keyed<T> {
    pub key: Key,
    pub body: T,
}

/// The same for a body that may be left out.
pub(crate) struct KeyedOptional<T> {
    pub key: Key,
    pub body: T,
}

async fn take(request: Request) -> Result<(Key, HeaderMap, Bytes), Error> {
    let key = Key::of(&request)?;
    let query = request.uri().query().unwrap_or_default().to_owned();
    let headers = request.headers().clone();
    let body = json::read(request).await?;
    let key = key.body(&query, &body);
    Ok((key, headers, body))
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Keyed<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        json::media_type(request.headers())?;
        let (key, _, body) = take(request).await?;
        Ok(Self { key, body: json::parse(&body)? })
    }
}

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for KeyedOptional<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (key, headers, body) = take(request).await?;
        if body.is_empty() {
            return Ok(Self { key, body: T::default() });
        }
        json::media_type(&headers)?;
        Ok(Self { key, body: json::parse(&body)? })
    }
}
