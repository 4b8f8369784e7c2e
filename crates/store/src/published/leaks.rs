//! Keeps secrets out of published copies: what is copied is compared with the values of the space's secrets.
//!
//! A value is found as it is. Encoded, compressed or split it is not, and values under eight bytes are not looked for: they would be
//! found everywhere. The first line of defence is that credentials never enter a session; this is the second.

use sqlx::Row as _;
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Error, Name, Plain, SpaceId};

use super::PublishedCopies;
use crate::error::OrDomain as _;
use crate::permit::Permit;
use crate::secrets::{context, read_sealed};
use crate::sessions::SessionRow;
use crate::spaces::name;

/// Shorter values are part of ordinary text.
const SHORTEST: usize = 8;

/// The values of a space's secrets, while something is copied.
pub struct Leaks {
    secrets: Vec<(Name, Plain)>,
}

/// One file (or name) on its way.
#[derive(Default)]
pub(super) struct Scan {
    /// The end of what was seen, where a value may have begun.
    tail: Vec<u8>,
}

impl Leaks {
    pub(super) fn of(secrets: impl IntoIterator<Item = (Name, Plain)>) -> Self {
        // Files and shells add a newline to what they keep.
        let trimmed =
            secrets.into_iter().map(|(name, value)| (name, Plain::new(value.expose().trim_ascii())));
        Self { secrets: trimmed.filter(|(_, value)| value.len() >= SHORTEST).collect() }
    }

    /// How many values are looked for.
    pub fn len(&self) -> usize {
        self.secrets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    fn longest(&self) -> usize {
        self.secrets.iter().map(|(_, value)| value.len()).max().unwrap_or(0)
    }

    fn find(&self, bytes: &[u8]) -> Option<&Name> {
        let found = |value: &Plain| memchr::memmem::find(bytes, value.expose()).is_some();
        self.secrets.iter().find(|(_, value)| found(value)).map(|(name, _)| name)
    }

    pub(super) fn look(&self, scan: &mut Scan, bytes: &[u8], path: &str) -> Result<(), Error> {
        if self.secrets.is_empty() {
            return Ok(());
        }
        scan.tail.extend_from_slice(bytes);
        let found = self.find(&scan.tail);
        let keep = (self.longest() - 1).min(scan.tail.len());
        let from = scan.tail.len() - keep;
        scan.tail.drain(..from);
        match found {
            None => Ok(()),
            Some(secret) => Err(Error::new(
                Code::InvalidState,
                format!("{path} holds the value of the secret {secret}; take it out, nothing was published"),
            )
            .field("paths")),
        }
    }
}

impl PublishedCopies<'_> {
    /// Opens the space's secrets to look for them in what is about to be published.
    pub async fn leaks(&mut self, session: &Permit<SessionRow>) -> Result<Leaks, Error> {
        session.demand(Verb::Publish)?;
        let space: SpaceId = self.0.space()?.id;
        let rows = sqlx::query(
            "select name, key_id, wrapped, payload from secrets where space_id = $1 order by name",
        )
        .bind(space.uuid())
        .fetch_all(self.0.tx()?)
        .await
        .or_domain()?;
        let mut secrets = Vec::with_capacity(rows.len());
        for row in &rows {
            let place = context(space, row.try_get("name").or_domain()?);
            let value = self.0.store.0.keyring.open(&read_sealed(row)?, &place).map_err(Error::internal)?;
            secrets.push((name(row, "name")?, value));
        }
        Ok(Leaks::of(secrets))
    }
}

#[cfg(test)]
mod tests;
