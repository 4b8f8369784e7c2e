//! What the database refuses, in the caller's words.
//!
//! Constraints are the checks: a violated one is looked up here by name. Anything not named is a defect and
//! becomes `internal`; a lost connection becomes `unavailable`, because trying again may work.

use sqlx::error::DatabaseError;
use wharf_domain::{Code, Error};

/// Turns database errors into domain errors with `?`-friendly calls.
pub trait OrDomain<T> {
    fn or_domain(self) -> Result<T, Error>;
}

impl<T> OrDomain<T> for Result<T, sqlx::Error> {
    fn or_domain(self) -> Result<T, Error> {
        self.map_err(from_sqlx)
    }
}

/// Foreign keys to bytes. Those are written before the rows that name them, and swept when nothing names them for long: a request
/// that meets that may be sent again.
const BLOBS: [&str; 4] = ["agent_versions_blob", "build_caches_blob", "builds_blob", "published_files_blob"];

/// Unique constraint → what is taken. Foreign key → what is missing or in use.
fn constraint(name: &str) -> Option<(Code, &'static str, &'static str)> {
    Some(match name {
        "principals_name" => {
            (Code::AlreadyExists, "name", "there is already one of that name; choose another")
        }
        "spaces_name" => {
            (Code::AlreadyExists, "name", "there is already a space of that name; choose another")
        }
        "roles_name" => (Code::AlreadyExists, "name", "there is already a role of that name; choose another"),
        "role_bindings_name" => {
            (Code::AlreadyExists, "name", "there is already a role binding of that name; choose another")
        }
        "role_bindings_grant" => (Code::AlreadyExists, "role", "the principal already has that role there"),
        "secrets_name" => {
            (Code::AlreadyExists, "name", "the space already has a secret of that name; update it instead")
        }
        "api_tokens_name" => (Code::AlreadyExists, "name", "the principal already has a token of that name"),
        "role_bindings_role" => (Code::InUse, "role", "the role is bound; delete its role bindings first"),
        "role_bindings_principal" => (Code::InvalidReference, "principal", "there is no such principal"),
        "role_bindings_space" => (Code::InvalidReference, "space", "there is no such space"),
        "providers_name" => {
            (Code::AlreadyExists, "name", "the space already has a provider of that name; update it instead")
        }
        "providers_space" => (Code::InUse, "space", "the space still holds providers; delete them first"),
        "providers_secret" => (
            Code::InUse,
            "secret",
            "a provider uses the secret; give the provider another one or delete it first",
        ),
        "policies_name" => {
            (Code::AlreadyExists, "name", "the space already has a policy of that name; update it instead")
        }
        "connections_name" => (
            Code::AlreadyExists,
            "name",
            "the space already has a connection of that name; update it instead",
        ),
        "connections_secret" => {
            (Code::InUse, "secret", "connections of the space use the secret; delete or change them first")
        }
        "published_name" => (
            Code::AlreadyExists,
            "name",
            "the space already has a published copy of that name; delete it or choose another",
        ),
        "published_space" => {
            (Code::InUse, "space", "the space still holds published copies; delete them first")
        }
        "secrets_space" => (Code::InUse, "space", "the space still holds secrets; delete them first"),
        _ => {
            return crate::agents::constraint(name)
                .or_else(|| crate::repos::constraint(name))
                .or_else(|| crate::sessions::constraint(name));
        }
    })
}

/// SQLSTATE classes after which the same call may succeed.
fn away(db: &dyn DatabaseError) -> bool {
    // 08 connection, 57P01..3 shutdown and start, 53 out of resources, 40 serialisation and deadlock,
    // 57014 the statement's time limit.
    db.code().is_some_and(|c| {
        c.starts_with("08")
            || c.starts_with("57P")
            || c.starts_with("53")
            || c.starts_with("40")
            || c == "57014"
    })
}

pub(crate) fn from_sqlx(error: sqlx::Error) -> Error {
    match &error {
        sqlx::Error::Database(db) => {
            // A parent row deleted while the child was being written: the other side of the same constraint.
            if db.is_foreign_key_violation() && db.message().starts_with("insert or update") {
                if db.constraint().is_some_and(|name| BLOBS.contains(&name)) {
                    return crate::agents::blobs::swept().because(error);
                }
                let known = db.constraint().and_then(constraint);
                if known.is_none_or(|(code, ..)| code == Code::InUse) {
                    return Error::new(Code::NotFound, "what this belongs to was deleted in the meantime").because(error);
                }
            }
            if let Some((code, field, text)) = db.constraint().and_then(constraint) {
                return Error::new(code, text).field(field);
            }
            // 22021 and 22P05: PostgreSQL's text holds every character but one.
            if db.code().is_some_and(|c| c == "22021" || c == "22P05") {
                return Error::new(Code::InvalidField, "text cannot hold the character U+0000; leave it out").because(error);
            }
            if away(&**db) { Error::unavailable("the database", error) } else { Error::internal(error) }
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        // A connection cut in the middle of a message reads as a protocol error.
        | sqlx::Error::Protocol(_) => Error::unavailable("the database", error),
        _ => Error::internal(error),
    }
}
