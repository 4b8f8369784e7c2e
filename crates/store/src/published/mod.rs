//! Published copies of a space: made whole in one transaction, never changed, deleted with what they hold.
//!
//! Their bytes are blobs, written before the rows that name them; what a crash leaves between the two is swept with other
//! blobs nobody names. A copy refers to its session by id alone and outlives it.

mod copy;
mod leaks;
mod link;
mod serve;

use serde_json::json;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use uuid::Uuid;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Error, Labels, Name, NameOrId, PublishedId, SessionId, Time};

use crate::error::OrDomain as _;
use crate::events::Event;
use crate::page::{Page, PageRequest};
use crate::permit::{Permit, locked};
use crate::quota::{self, Delta};
use crate::scope::{Row, Scope};
use crate::sessions::SessionRow;
use crate::spaces::{check_version, name, split, time, time_opt, to_json};
use crate::system::System;

pub use copy::{Copied, CopiedFile, Copier};
pub use leaks::Leaks;
pub use serve::{Entry, Open, Served, StoredFile};

pub(crate) use link::context as link_context;

/// A published copy.
#[derive(Clone, Debug)]
pub struct Published {
    pub id: PublishedId,
    pub name: Name,
    pub session: SessionId,
    pub session_name: Name,
    pub public: bool,
    pub slug: String,
    pub paths: Vec<String>,
    pub files: u32,
    pub bytes: u64,
    pub left_out: u32,
    pub labels: Labels,
    pub expires_at: Option<Time>,
    pub resource_version: i64,
    pub created_at: Time,
}

impl Row for Published {
    const KIND: &'static str = "published copy";
    const RESOURCE: Resource = Resource::Published;
    fn uuid(&self) -> Uuid {
        self.id.uuid()
    }
    fn name(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

/// A copy to be made of what was copied.
#[derive(Clone, Debug)]
pub struct NewPublished {
    /// Made up when absent.
    pub name: Option<Name>,
    pub public: bool,
    pub paths: Vec<String>,
    pub labels: Labels,
    pub expires_at: Option<Time>,
}

/// Published copies of the scope's space.
pub struct PublishedCopies<'s>(&'s mut Scope);

impl Scope {
    pub fn published(&mut self) -> PublishedCopies<'_> {
        PublishedCopies(self)
    }
}

macro_rules! columns {
    () => {
        "id, name, session_id, session_name, visibility, slug, paths, files, bytes, left_out, labels, expires_at, \
         resource_version, created_at"
    };
}

impl PublishedCopies<'_> {
    pub async fn permit(
        &mut self,
        at: &NameOrId<PublishedId>,
        verb: Verb,
    ) -> Result<Permit<Published>, Error> {
        let space = self.0.space()?.id;
        let now = self.0.now();
        let (id, named) = split(at);
        let row = sqlx::query(locked!(
            verb,
            " for no key update",
            "select ",
            columns!(),
            " from published where space_id = $1 and (id = $2 or name = $3) and (expires_at is null or expires_at > $4)"
        ))
        .bind(space.uuid())
        .bind(id)
        .bind(named)
        .bind(now.to_utc())
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?;
        let row = row.as_ref().map(read).transpose()?;
        self.0.judge(&at.to_string(), row, verb).await
    }

    pub async fn list(
        &mut self,
        of: Option<SessionId>,
        request: &PageRequest,
    ) -> Result<Page<Published>, Error> {
        let visible = self.0.listing(Resource::Published, Verb::List).await?;
        let space = self.0.space()?.id;
        let now = self.0.now();
        let rows = sqlx::query(concat!(
            "select ",
            columns!(),
            " from published
             where space_id = $1 and id > $2 and ($3::text[] is null or name = any($3)) and labels @> $4 and labels ?& $5
               and (expires_at is null or expires_at > $6) and ($7::uuid is null or session_id = $7)
             order by id limit $8"
        ))
        .bind(space.uuid())
        .bind(request.after())
        .bind(visible.names())
        .bind(request.label_pairs())
        .bind(request.label_keys())
        .bind(now.to_utc())
        .bind(of.map(SessionId::uuid))
        .bind(request.fetch())
        .fetch_all(self.0.tx()?)
        .await
        .or_domain()?;
        let rows = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(request.page(rows, |p| p.id.uuid()))
    }

    /// Makes the copy of what was copied; its bytes are there already.
    pub async fn create(
        &mut self,
        session: &Permit<SessionRow>,
        new: NewPublished,
        copied: Copied,
    ) -> Result<Published, Error> {
        session.demand(Verb::Publish)?;
        let space = self.0.space()?.id;
        let now = self.0.now();
        let id = PublishedId::new();
        let made_up = || format!("copy-{}", &id.uuid().simple().to_string()[20..]).parse();
        let name: Name = new.name.clone().map_or_else(made_up, Ok)?;
        let slug = link::slug()?;
        let key = link::key(&self.0.store, &slug)?;
        let bytes = copied.bytes();
        let disk_mib = bytes.div_ceil(1024 * 1024) as i64;
        quota::reserve(self.0.tx()?, space, Delta { disk_mib, ..Delta::default() }).await?;
        let by = self.0.caller().identity().name.clone();
        let row = sqlx::query(concat!(
            "insert into published (id, space_id, session_id, session_name, name, visibility, slug, link_public, key_id, wrapped,
                payload, paths, files, bytes, left_out, disk_mib, labels, expires_at, created_by, created_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20) returning ",
            columns!()
        ))
        .bind(id.uuid())
        .bind(space.uuid())
        .bind(session.row().id.uuid())
        .bind(session.row().name.as_str())
        .bind(name.as_str())
        .bind(if new.public { "public" } else { "link" })
        .bind(&slug)
        .bind(key.public.as_slice())
        .bind(&key.sealed.key_id)
        .bind(&key.sealed.wrapped)
        .bind(&key.sealed.payload)
        .bind(Json(&new.paths))
        .bind(copied.files.len() as i32)
        .bind(bytes as i64)
        .bind(copied.left_out as i32)
        .bind(disk_mib)
        .bind(to_json(&new.labels)?)
        .bind(new.expires_at.map(Time::to_utc))
        .bind(by)
        .bind(now.to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let (mut paths, mut blobs, mut sizes, mut digests) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for file in copied.files {
            paths.push(file.path);
            blobs.push(file.blob);
            sizes.push(file.bytes as i64);
            digests.push(file.digest);
        }
        sqlx::query(
            "insert into published_files (published_id, path, blob_id, bytes, digest)
             select $1, u.path, u.blob, u.bytes, u.digest
             from unnest($2::text[], $3::uuid[], $4::bigint[], $5::text[]) as u(path, blob, bytes, digest)",
        )
        .bind(id.uuid())
        .bind(&paths)
        .bind(&blobs)
        .bind(&sizes)
        .bind(&digests)
        .execute(self.0.tx()?)
        .await
        .or_domain()?;
        let published = read(&row)?;
        let detail = json!({"session": published.session, "paths": published.paths,
            "visibility": if published.public { "public" } else { "link" }, "files": published.files, "bytes": published.bytes,
            "secrets_checked": copied.secrets_checked});
        self.0.audit(
            Verb::Publish,
            Resource::Published,
            Some(id.uuid()),
            Some(name.as_str()),
            detail.clone(),
        );
        self.0.emit(Event::new("created", Resource::Published, id.uuid(), Some(name.as_str()), 1, detail));
        Ok(published)
    }

    /// Nobody reads it from here on; its bytes go with the next sweep.
    pub async fn delete(&mut self, permit: &Permit<Published>, if_version: Option<i64>) -> Result<(), Error> {
        permit.demand(Verb::Delete)?;
        check_version(permit.resource_version, if_version)?;
        self.remove(&[permit.id.uuid()]).await?;
        let detail = json!({"session": permit.session});
        let (id, name) = (permit.id.uuid(), permit.name.to_string());
        self.0.audit(Verb::Delete, Resource::Published, Some(id), Some(&name), detail);
        Ok(())
    }

    /// Deletes every copy of a session; answers how many there were.
    pub async fn delete_of(&mut self, session: &Permit<SessionRow>) -> Result<u32, Error> {
        session.demand(Verb::Publish)?;
        let ids: Vec<Uuid> = sqlx::query_scalar("select id from published where session_id = $1 for update")
            .bind(session.row().id.uuid())
            .fetch_all(self.0.tx()?)
            .await
            .or_domain()?;
        let gone = self.remove(&ids).await? as u32;
        let (id, name) = (session.row().id.uuid(), session.row().name.to_string());
        let detail = json!({"unpublished": gone});
        self.0.audit(Verb::Publish, Resource::Sessions, Some(id), Some(&name), detail);
        Ok(gone)
    }

    async fn remove(&mut self, ids: &[Uuid]) -> Result<i64, Error> {
        let now = self.0.now();
        let gone = sqlx::query_scalar("select published_delete($1, $2)")
            .bind(ids)
            .bind(now.to_utc())
            .fetch_one(self.0.tx()?)
            .await
            .or_domain()?;
        let space = self.0.space()?.id;
        self.0.wake(wharf_ports::Topic::Space(space));
        Ok(gone)
    }
}

impl System {
    /// Deletes copies whose time is over.
    pub(crate) async fn published_expire(&self, batch: i64) -> Result<u64, Error> {
        let now = self.store.now().to_utc();
        let gone: i64 = sqlx::query_scalar(
            "select published_delete(coalesce(array_agg(id), '{}'), $1) from (
                select id from published where expires_at <= $1 order by expires_at limit $2 for update skip locked) p",
        )
        .bind(now)
        .bind(batch)
        .fetch_one(self.store.pool())
        .await
        .or_domain()?;
        Ok(gone as u64)
    }
}

fn read(row: &PgRow) -> Result<Published, Error> {
    let number = |column: &str| row.try_get::<i32, _>(column).map(|n| n as u32).or_domain();
    Ok(Published {
        id: PublishedId::from_uuid(row.try_get("id").or_domain()?),
        name: name(row, "name")?,
        session: SessionId::from_uuid(row.try_get("session_id").or_domain()?),
        session_name: name(row, "session_name")?,
        public: row.try_get::<&str, _>("visibility").or_domain()? == "public",
        slug: row.try_get("slug").or_domain()?,
        paths: row.try_get::<Json<Vec<String>>, _>("paths").or_domain()?.0,
        files: number("files")?,
        bytes: row.try_get::<i64, _>("bytes").or_domain()? as u64,
        left_out: number("left_out")?,
        labels: row.try_get::<Json<Labels>, _>("labels").or_domain()?.0,
        expires_at: time_opt(row, "expires_at")?,
        resource_version: row.try_get("resource_version").or_domain()?,
        created_at: time(row, "created_at")?,
    })
}
