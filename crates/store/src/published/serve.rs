//! Reading a published copy: by its link and nothing else. No caller, no scope: the link is the credential.

use sqlx::Row as _;
use uuid::Uuid;
use wharf_domain::{Code, Error, Name, PublishedId};

use super::link;
use crate::agents::blobs::CHUNK;
use crate::error::OrDomain as _;
use crate::spaces::name;
use crate::store::Store;

/// A copy whose link was good.
#[derive(Clone, Debug)]
pub struct Open {
    pub id: PublishedId,
    pub name: Name,
    pub public: bool,
}

/// A file of a copy.
#[derive(Clone, Debug)]
pub struct StoredFile {
    blob: Uuid,
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub digest: String,
}

/// An entry of a directory of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub directory: bool,
    /// All below it together.
    pub bytes: u64,
}

/// What a path of a copy is.
#[derive(Clone, Debug)]
pub enum Served {
    File(StoredFile),
    Directory(Vec<Entry>),
}

fn nowhere() -> Error {
    Error::new(
        Code::NotFound,
        "this link leads nowhere (any more); ask whoever gave it to you for another one",
    )
}

impl Store {
    /// `not_found` for a link that is none, or none any more: whether there was ever anything is nobody's business but its
    /// holder's, who is told that it has expired.
    pub async fn open_published(&self, text: &str) -> Result<Open, Error> {
        let asked = link::read(text).ok_or_else(nowhere)?;
        let now = self.now();
        let row = sqlx::query(
            "select id, name, visibility, link_public from published
             where slug = $1 and (expires_at is null or expires_at > $2)",
        )
        .bind(asked.slug)
        .bind(now.to_utc())
        .fetch_optional(self.pool())
        .await
        .or_domain()?
        .ok_or_else(nowhere)?;
        let public = row.try_get::<&str, _>("visibility").or_domain()? == "public";
        match asked.signed {
            None if public => {}
            None => return Err(nowhere()),
            Some((expires, signature)) => {
                let key: Vec<u8> = row.try_get("link_public").or_domain()?;
                if !link::signed_by(&key, asked.slug, expires, &signature) {
                    return Err(nowhere());
                }
                if expires.saturating_mul(1000) <= now.millis() {
                    let detail = "this link has expired; ask whoever gave it to you for another one";
                    return Err(Error::new(Code::NotFound, detail));
                }
            }
        }
        let id = PublishedId::from_uuid(row.try_get("id").or_domain()?);
        Ok(Open { id, name: name(&row, "name")?, public })
    }

    /// What stands at a path: a file, or a directory where something is below it. The root is the empty path.
    pub async fn published_at(
        &self,
        copy: PublishedId,
        path: &str,
        most: i64,
    ) -> Result<Option<Served>, Error> {
        let trimmed = path.trim_end_matches('/');
        if trimmed == path
            && !path.is_empty()
            && let Some(file) = self.published_file(copy, path).await?
        {
            return Ok(Some(Served::File(file)));
        }
        let below = if trimmed.is_empty() { String::new() } else { format!("{trimmed}/") };
        let entries = self.published_entries(copy, &below, most).await?;
        Ok((!entries.is_empty() || below.is_empty()).then_some(Served::Directory(entries)))
    }

    pub async fn published_file(&self, copy: PublishedId, path: &str) -> Result<Option<StoredFile>, Error> {
        let row = sqlx::query(
            "select blob_id, bytes, digest from published_files where published_id = $1 and path = $2",
        )
        .bind(copy.uuid())
        .bind(path)
        .fetch_optional(self.pool())
        .await
        .or_domain()?;
        row.map(|row| {
            Ok(StoredFile {
                blob: row.try_get("blob_id")?,
                bytes: row.try_get::<i64, _>("bytes")? as u64,
                digest: row.try_get("digest")?,
            })
        })
        .transpose()
        .or_domain()
    }

    async fn published_entries(
        &self,
        copy: PublishedId,
        below: &str,
        most: i64,
    ) -> Result<Vec<Entry>, Error> {
        let rows = sqlx::query(
            "select split_part(e.rest, '/', 1) as name, bool_or(position('/' in e.rest) > 0) as directory,
                sum(e.bytes)::bigint as bytes
             from (select substr(path, length($2) + 1) as rest, bytes from published_files
                   where published_id = $1 and starts_with(path, $2)) e
             group by 1 order by 2 desc, 1 limit $3",
        )
        .bind(copy.uuid())
        .bind(below)
        .bind(most)
        .fetch_all(self.pool())
        .await
        .or_domain()?;
        rows.iter()
            .map(|row| {
                Ok(Entry {
                    name: row.try_get("name")?,
                    directory: row.try_get("directory")?,
                    bytes: row.try_get::<i64, _>("bytes")? as u64,
                })
            })
            .collect::<Result<_, sqlx::Error>>()
            .or_domain()
    }

    /// Bytes of a file from `at` on: what one chunk holds of them. `None` at the end.
    pub async fn published_bytes(&self, file: &StoredFile, at: u64) -> Result<Option<Vec<u8>>, Error> {
        if at >= file.bytes {
            return Ok(None);
        }
        let chunk = CHUNK as u64;
        let mut bytes = self
            .blob_chunk(file.blob, (at / chunk) as i32)
            .await?
            .ok_or_else(|| Error::internal("a chunk of a published file is not there"))?;
        bytes.drain(..((at % chunk) as usize).min(bytes.len()));
        if bytes.is_empty() {
            return Err(Error::internal("a chunk of a published file is too short"));
        }
        Ok(Some(bytes))
    }
}
