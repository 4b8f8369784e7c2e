//! Images as the runtime holds them. The runtime is the truth; these rows are what it said last.

use wharf_domain::image::ImageRef;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Error, Name};

use super::row::{self, ImageRow};
use crate::error::OrDomain as _;
use crate::permit::{New, Permit};
use crate::scope::Scope;

/// Images every space sees.
pub struct Images<'s>(&'s mut Scope);

impl Scope {
    pub fn images(&mut self) -> Images<'_> {
        Images(self)
    }
}

impl Images<'_> {
    /// All versions of all images, newest first of each name.
    pub async fn list(&mut self) -> Result<Vec<ImageRow>, Error> {
        let seen = self.0.listing(Resource::Images, Verb::List).await?;
        let rows = sqlx::query(
            "select id, name, digest, runtime, size_bytes, created_at from images
             where ($1::text[] is null or name = any($1)) order by name, created_at desc, id desc limit 10000",
        )
        .bind(seen.names())
        .fetch_all(self.0.tx()?)
        .await
        .or_domain()?;
        rows.iter().map(row::image_row).collect::<Result<_, _>>().or_domain()
    }

    /// The newest version of that name, or the version given; of those one runtime holds, where one is named.
    pub async fn permit(
        &mut self,
        name: &Name,
        digest: Option<&str>,
        runtime: Option<&str>,
        verb: Verb,
    ) -> Result<Permit<ImageRow>, Error> {
        let row = sqlx::query(
            "select id, name, digest, runtime, size_bytes, created_at from images
             where name = $1 and ($2::text is null or digest = $2) and ($3::text is null or runtime = $3) order by created_at desc, id desc limit 1",
        )
        .bind(name.as_str())
        .bind(digest)
        .bind(runtime)
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?;
        let row = row.as_ref().map(row::image_row).transpose().or_domain()?;
        self.0.judge(name.as_str(), row, verb).await
    }

    /// Allows importing a version under that name.
    pub async fn allow(&mut self, name: &Name) -> Result<Permit<New<ImageRow>>, Error> {
        self.0.allow_new::<ImageRow>(Some(name.as_str())).await
    }

    /// Sessions and snapshots of a runtime that stand on the version: not deleted, or not freed yet.
    pub async fn used_by(&mut self, image: &ImageRef, runtime: &str) -> Result<u64, Error> {
        let n: i64 = sqlx::query_scalar(
            "select (select count(*) from sessions where image_name = $1 and image_digest = $2 and runtime = $3 and gone_at is null)
                  + (select count(*) from snapshots where image_name = $1 and image_digest = $2 and runtime = $3 and gone_at is null)",
        )
        .bind(image.name.as_str())
        .bind(&image.digest)
        .bind(runtime)
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        Ok(n.max(0) as u64)
    }
}
