//! What stands in a path: names or ids, checked before a handler sees them.

use std::str::FromStr;

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use wharf_domain::{Code, Error, NameOrId, SessionId, SpaceId};

use crate::problem::Problem;

/// The path's parameters as a typed value.
pub(crate) struct At<T>(pub T);

/// The raw parameters of a path, percent-decoded.
pub(crate) struct Params(Vec<(String, String)>);

pub(crate) trait FromPath: Sized {
    fn from_path(params: &Params) -> Result<Self, Error>;
}

impl Params {
    pub(crate) fn text(&self, name: &str) -> Result<&str, Error> {
        let found = self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
        found.ok_or_else(|| Error::internal(format!("the route has no parameter {name}")))
    }

    /// The parameter parsed; a refusal names it.
    pub(crate) fn get<T: FromStr<Err = Error>>(&self, name: &str) -> Result<T, Error> {
        self.text(name)?.parse().map_err(|e: Error| e.field(name))
    }

    /// A parameter that is an id or a number: anything else cannot be there.
    pub(crate) fn id<T: FromStr>(&self, name: &str, kind: &str) -> Result<T, Error> {
        let text = self.text(name)?;
        text.parse().map_err(|_| Error::not_found(kind, text.chars().take(80).collect::<String>()))
    }
}

impl<T: FromPath, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let raw = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|e| Error::new(Code::BadRequest, "the path is not percent-encoded UTF-8").because(e))?;
        let params: Vec<(String, String)> = raw.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        if let Some((name, _)) = params.iter().find(|(_, v)| v.contains('\0')) {
            return Err(Error::new(Code::InvalidField, "a path may not hold a NUL character")
                .field(name)
                .into());
        }
        Ok(Self(T::from_path(&Params(params))?))
    }
}

/// `/v1/spaces/{space}`
pub(crate) struct SpacePath {
    pub space: NameOrId<SpaceId>,
}

impl FromPath for SpacePath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { space: p.get("space")? })
    }
}

/// `/v1/spaces/{space}/sessions/{session}`
pub(crate) struct SessionPath {
    pub space: NameOrId<SpaceId>,
    pub session: NameOrId<SessionId>,
}

impl FromPath for SessionPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { space: p.get("space")?, session: p.get("session")? })
    }
}

/// `…/processes/{process}`
pub(crate) struct ProcessPath {
    pub at: SessionPath,
    pub process: u64,
}

impl FromPath for ProcessPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { at: SessionPath::from_path(p)?, process: p.id("process", "process")? })
    }
}

/// `…/files/{path}`: absolute, `/` for an empty one.
pub(crate) struct FilePath {
    pub at: SessionPath,
    pub path: String,
}

impl FromPath for FilePath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        let rest = p.text("path").unwrap_or_default();
        Ok(Self { at: SessionPath::from_path(p)?, path: format!("/{}", rest.trim_start_matches('/')) })
    }
}
