//! Bytes by content, in chunks. A blob is nobody's until it is whole and something names it; what is left of one that was not
//! finished is swept away.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wharf_domain::{Code, Error, Time};

use crate::error::OrDomain as _;
use crate::store::Store;

/// Bytes of one chunk.
pub(crate) const CHUNK: usize = 1024 * 1024;
/// Between two signs that a blob is still being written. The sweep leaves what had one within the hour.
const TOUCH: Duration = Duration::from_mins(5);
/// Of writers of the same content at the same moment one names it, and the others find it.
const TRIES: u32 = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    pub id: Uuid,
    pub digest: String,
    /// As they are kept.
    pub bytes: i64,
}

/// Takes bytes as they come.
pub struct BlobWriter {
    store: Store,
    id: Uuid,
    n: i32,
    buffer: Vec<u8>,
    bytes: u64,
    most: u64,
    /// When the sweep was last told that it is still being written.
    touched: Time,
}

impl Store {
    /// A new blob of at most so many bytes.
    pub async fn blob_writer(&self, most: u64) -> Result<BlobWriter, Error> {
        let (id, now) = (Uuid::now_v7(), self.now());
        sqlx::query("insert into blobs (id, created_at) values ($1, $2)")
            .bind(id)
            .bind(now.to_utc())
            .execute(self.pool())
            .await
            .or_domain()?;
        Ok(BlobWriter { store: self.clone(), id, n: 0, buffer: Vec::new(), bytes: 0, most, touched: now })
    }

    /// A chunk of a blob; `None` behind the last.
    pub async fn blob_chunk(&self, blob: Uuid, n: i32) -> Result<Option<Vec<u8>>, Error> {
        sqlx::query_scalar("select data from blob_chunks where blob_id = $1 and n = $2")
            .bind(blob)
            .bind(n)
            .fetch_optional(self.pool())
            .await
            .or_domain()
    }

    pub async fn blob(&self, digest: &str) -> Result<Option<Blob>, Error> {
        let row = sqlx::query("select id, digest, bytes from blobs where digest = $1")
            .bind(digest)
            .fetch_optional(self.pool())
            .await
            .or_domain()?;
        row.map(read).transpose().or_domain()
    }

    /// The same for somebody who is about to name it: no sweep takes it within the hour that follows.
    pub(crate) async fn blob_again(&self, digest: &str) -> Result<Option<Blob>, Error> {
        let row = sqlx::query(
            "update blobs set created_at = greatest(created_at, $2) where digest = $1 returning id, digest, bytes",
        )
        .bind(digest)
        .bind(self.now().to_utc())
        .fetch_optional(self.pool())
        .await
        .or_domain()?;
        row.map(read).transpose().or_domain()
    }

    /// Removes what nothing needs any more.
    pub async fn sweep_blobs(&self) -> Result<i64, Error> {
        sqlx::query_scalar("select blobs_sweep($1)")
            .bind(self.now().to_utc())
            .fetch_one(self.pool())
            .await
            .or_domain()
    }
}

impl BlobWriter {
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.most {
            return Err(Error::new(
                Code::TooLarge,
                format!("it takes more than {} bytes, which is the limit", self.most),
            ));
        }
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() >= CHUNK {
            let rest = self.buffer.split_off(CHUNK);
            let chunk = std::mem::replace(&mut self.buffer, rest);
            self.put(&chunk).await?;
        }
        Ok(())
    }

    async fn put(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let now = self.store.now();
        if now.since(self.touched) >= TOUCH {
            self.touch(now).await?;
        }
        sqlx::query("insert into blob_chunks (blob_id, n, data) values ($1, $2, $3)")
            .bind(self.id)
            .bind(self.n)
            .bind(chunk)
            .execute(self.store.pool())
            .await
            .or_domain()?;
        self.n += 1;
        Ok(())
    }

    async fn touch(&mut self, now: Time) -> Result<(), Error> {
        let touched = sqlx::query("update blobs set created_at = $2 where id = $1")
            .bind(self.id)
            .bind(now.to_utc())
            .execute(self.store.pool())
            .await
            .or_domain()?;
        if touched.rows_affected() == 0 {
            return Err(swept());
        }
        self.touched = now;
        Ok(())
    }

    /// The blob is whole. Where the same content is kept already, that is what is answered.
    pub async fn finish(mut self, digest: &str) -> Result<Blob, Error> {
        let rest = std::mem::take(&mut self.buffer);
        if !rest.is_empty() {
            self.put(&rest).await?;
        }
        // Another writer of the same content may be first between the look and the name; and what it named may be swept.
        for _ in 0..TRIES {
            if let Some(known) = self.store.blob_again(digest).await? {
                self.forget().await?;
                return Ok(known);
            }
            let named =
                sqlx::query("update blobs set digest = $2, bytes = $3, created_at = $4 where id = $1")
                    .bind(self.id)
                    .bind(digest)
                    .bind(self.bytes as i64)
                    .bind(self.store.now().to_utc())
                    .execute(self.store.pool())
                    .await;
            match named {
                Ok(named) if named.rows_affected() == 1 => {
                    return Ok(Blob { id: self.id, digest: digest.to_owned(), bytes: self.bytes as i64 });
                }
                Ok(_) => return Err(swept()),
                Err(e) if e.as_database_error().is_some_and(|d| d.constraint() == Some("blobs_digest")) => {}
                Err(e) => return Err(e).or_domain(),
            }
        }
        Err(swept())
    }

    /// Gives it up.
    pub async fn forget(&self) -> Result<(), Error> {
        sqlx::query("delete from blobs where id = $1 and digest is null")
            .bind(self.id)
            .execute(self.store.pool())
            .await
            .or_domain()?;
        Ok(())
    }
}

fn read(row: PgRow) -> Result<Blob, sqlx::Error> {
    Ok(Blob { id: row.try_get("id")?, digest: row.try_get("digest")?, bytes: row.try_get("bytes")? })
}

/// Bytes that went away under whoever was about to name them: the same request again writes them anew.
pub(crate) fn swept() -> Error {
    Error::new(
        Code::Unavailable,
        "bytes of this were swept away before anything named them; send the request again",
    )
    .retry_after(Duration::from_secs(1))
}

/// Names content by its bytes.
#[derive(Default)]
pub struct Hasher(Sha256);

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn digest(self) -> String {
        use std::fmt::Write as _;
        self.0.finalize().iter().fold(String::from("sha256:"), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}
