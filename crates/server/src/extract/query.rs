//! Query strings. An unknown parameter is an error, with the nearest known one.

use axum::extract::FromRequestParts;
use http::request::Parts;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use wharf_domain::{Code, Error};
use wharf_store::PageRequest;

use super::refuse::refuse;
use crate::problem::Problem;

pub(crate) struct Query<T>(pub T);

impl<T: DeserializeOwned> Query<T> {
    /// For handlers that say something else first.
    pub(crate) fn of(raw: Option<&str>) -> Result<Self, Error> {
        parse(raw.unwrap_or_default()).map(Self)
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(parse(parts.uri.query().unwrap_or_default())?))
    }
}

pub(super) fn parse<T: DeserializeOwned>(query: &str) -> Result<T, Error> {
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query)
        .map_err(|e| Error::new(Code::BadRequest, format!("the query string cannot be read: {e}")))?;
    if let Some((name, _)) = pairs.iter().find(|(k, v)| k.contains('\0') || v.contains('\0')) {
        return Err(Error::new(Code::InvalidField, "a parameter may not hold a NUL character")
            .field(name.replace('\0', "")));
    }
    let source = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
    serde_path_to_error::deserialize(source).map_err(|e| {
        let path = e.path().to_string();
        let mut error = refuse(&path, &e.into_inner().to_string());
        error.public = error.public.replace("no field", "no parameter").replace("the field", "the parameter");
        error
    })
}

/// Refuses a parameter of more characters than the document says.
pub(crate) fn bounded(name: &str, value: Option<&str>, most: usize) -> Result<(), Error> {
    match value {
        Some(text) if text.chars().count() > most => {
            Err(Error::new(Code::InvalidField, format!("{name} has up to {most} characters")).field(name))
        }
        _ => Ok(()),
    }
}

/// A parameter that is on when it is there: `?list`, `?list=true`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flag(pub bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match String::deserialize(d)?.as_str() {
            "" | "true" => Ok(Self(true)),
            "false" => Ok(Self(false)),
            _ => Err(D::Error::custom("it is a switch: leave its value empty, or write true or false")),
        }
    }
}

/// What every list takes.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Entries of a page; 50 when absent.
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<u32>,
    /// Where the page begins: `next_cursor` of the page before.
    #[param(max_length = 200)]
    pub cursor: Option<String>,
    /// Only things with these labels: `a=b,c` for label `a` of value `b` and label `c` of any.
    #[param(max_length = 2000)]
    pub labels: Option<String>,
}

/// What a list takes that can be watched.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct WatchQuery {
    /// Entries of a page; 50 when absent.
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<u32>,
    /// Where the page begins: `next_cursor` of the page before.
    #[param(max_length = 200)]
    pub cursor: Option<String>,
    /// Only things with these labels: `a=b,c` for label `a` of value `b` and label `c` of any.
    #[param(max_length = 2000)]
    pub labels: Option<String>,
    /// Sends changes as server-sent events (or over WebSocket) instead of a page.
    #[param(value_type = Option<bool>)]
    pub watch: Flag,
    /// With `watch`: where to begin, as a page said; from now when absent.
    #[param(max_length = 64)]
    pub resource_version: Option<String>,
}

impl WatchQuery {
    pub(crate) fn page(&self) -> Result<PageRequest, Error> {
        bounded("labels", self.labels.as_deref(), 2000)?;
        bounded("cursor", self.cursor.as_deref(), 200)?;
        PageRequest::new(self.limit, self.cursor.as_deref(), self.labels.as_deref())
    }

    /// Whether a page of it is asked for.
    pub(crate) fn is_paged(&self) -> bool {
        self.limit.is_some() || self.cursor.is_some()
    }
}

impl ListQuery {
    pub(crate) fn page(&self) -> Result<PageRequest, Error> {
        bounded("labels", self.labels.as_deref(), 2000)?;
        bounded("cursor", self.cursor.as_deref(), 200)?;
        PageRequest::new(self.limit, self.cursor.as_deref(), self.labels.as_deref())
    }
}
