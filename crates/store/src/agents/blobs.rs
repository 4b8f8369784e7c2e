//! Bytes by content, in chunks. A blob is nobody's until it is whole and something names it; what is left of one that was not
//! finished is swept away.

use sha2::{Digest as _, Sha256};
use sqlx::Row as _;
use uuid::Uuid;
use wharf_domain::{Code, Error};

use crate::error::OrDomain as _;
use crate::store::Store;

/// Bytes of one chunk.
pub(crate) const CHUNK: usize = 1024 * 1024;

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
}

impl Store {
    /// A new blob of at most so many bytes.
    pub async fn blob_writer(&self, most: u64) -> Result<BlobWriter, Error> {
        let id = Uuid::now_v7();
        sqlx::query("insert into blobs (id, created_at) values ($1, $2)")
            .bind(id)
            .bind(self.now().to_utc())
            .execute(self.pool())
            .await
            .or_domain()?;
        Ok(BlobWriter { store: self.clone(), id, n: 0, buffer: Vec::new(), bytes: 0, most })
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
        row.map(|row| {
            Ok(Blob { id: row.try_get("id")?, digest: row.try_get("digest")?, bytes: row.try_get("bytes")? })
        })
        .transpose()
        .or_domain()
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

    /// The blob is whole. Where the same content is kept already, that is what is answered.
    pub async fn finish(mut self, digest: &str) -> Result<Blob, Error> {
        let rest = std::mem::take(&mut self.buffer);
        if !rest.is_empty() {
            self.put(&rest).await?;
        }
        if let Some(known) = self.store.blob(digest).await? {
            self.forget().await?;
            return Ok(known);
        }
        let named = sqlx::query(
            "update blobs set digest = $2, bytes = $3 where id = $1
             and not exists (select from blobs where digest = $2)",
        )
        .bind(self.id)
        .bind(digest)
        .bind(self.bytes as i64)
        .execute(self.store.pool())
        .await
        .or_domain()?;
        if named.rows_affected() == 1 {
            return Ok(Blob { id: self.id, digest: digest.to_owned(), bytes: self.bytes as i64 });
        }
        self.forget().await?;
        self.store.blob(digest).await?.ok_or_else(|| Error::internal("a blob was swept while it was written"))
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
