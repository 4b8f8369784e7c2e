//! Who is calling.

use axum::extract::FromRequestParts;
use http::header;
use http::request::Parts;
use wharf_domain::{Code, Error, Plain, RequestId};
use wharf_store::{Caller, Credential, RequestMeta};

use crate::app::App;
use crate::context::RequestContext;
use crate::problem::Problem;

/// An authenticated caller. Comes first among a handler's arguments, so that nobody learns what a body should look like.
pub(crate) struct Auth {
    pub caller: Caller,
    /// The credential itself, for answers that outlast it.
    pub bearer: Plain,
}

/// A request without a caller, with what the audit log says of it.
pub(crate) struct Anonymous(pub RequestMeta);

pub(crate) fn meta(parts: &Parts) -> RequestMeta {
    let context = parts.extensions.get::<RequestContext>();
    RequestMeta {
        request_id: context.map_or_else(RequestId::new, |c| c.id),
        address: context.and_then(|c| c.address),
    }
}

pub(crate) fn bearer(parts: &Parts) -> Result<Plain, Error> {
    let missing = || {
        Error::new(
            Code::Unauthenticated,
            "log in at /v1/auth/login and send the token as `Authorization: Bearer …`",
        )
    };
    let mut values = parts.headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or_else(missing)?;
    if values.next().is_some() {
        return Err(Error::new(Code::BadRequest, "there are two Authorization headers; send one"));
    }
    let text = value.to_str().map_err(|_| missing())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(missing)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(missing());
    }
    Ok(Plain::new(token.as_bytes()))
}

impl FromRequestParts<App> for Auth {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let bearer = bearer(parts)?;
        let caller = app.store.authenticate(Credential::Bearer(bearer.clone()), meta(parts)).await?;
        Ok(Self { caller, bearer })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Anonymous {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(meta(parts)))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let found = parts.extensions.get::<Self>().copied();
        found.ok_or_else(|| Problem(Error::internal("a route is outside of the context layer")))
    }
}
