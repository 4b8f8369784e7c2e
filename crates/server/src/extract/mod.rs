//! The door of every handler: raw requests in, checked values out, and a precise problem for everything else.

mod auth;
mod headers;
mod idempotency;
mod json;
mod path;
mod query;
mod refuse;
mod strict;

pub(crate) use auth::{Anonymous, Auth, bearer, meta};
pub(crate) use headers::{IfMatch, Upgrade, last_event_id, wants_event_stream};
pub(crate) use idempotency::{Claim, Halt, Key, Keyed, KeyedOptional};
pub(crate) use json::{Json, OptionalJson};
pub(crate) use path::{At, FilePath, FromPath, Params, ProcessPath, SessionPath, SpacePath};
pub(crate) use query::{Flag, ListQuery, Query, WatchQuery, bounded};

#[cfg(test)]
mod tests;
