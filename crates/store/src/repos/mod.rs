//! Git repositories of a space, as rows. Their content lies on the server's disk (crate `git`); a row and its directory
//! are made one after the other and brought together again at start.

mod due;
mod pushes;
mod work;

pub use due::{Due, Pusher};
pub use pushes::NewPush;
pub use work::{KeptRepo, OpenPush, Settled};

use serde::Serialize;
use serde_json::json;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::repo::{Branch, BranchPattern};
use wharf_domain::{Code, Error, Labels, Name, NameOrId, RepoId, SpaceId, Time, limits};

use crate::error::OrDomain as _;
use crate::events::Event;
use crate::page::{Page, PageRequest};
use crate::permit::{New, Permit, locked};
use crate::quota::Delta;
use crate::scope::{Row, Scope};
use crate::spaces::{check_version, from_json, name, split, time, time_opt, to_json};

#[derive(Clone, Debug, Serialize)]
pub struct Repo {
    pub id: RepoId,
    #[serde(skip)]
    pub space: SpaceId,
    pub name: Name,
    pub description: Option<String>,
    pub labels: Labels,
    pub default_branch: Branch,
    pub protected: Vec<BranchPattern>,
    /// `None`: the installation's limit.
    pub max_bytes: Option<u64>,
    pub size_bytes: u64,
    pub pushed_at: Option<Time>,
    pub resource_version: i64,
    pub created_at: Time,
    pub updated_at: Time,
}

impl Row for Repo {
    const KIND: &'static str = "repository";
    const RESOURCE: Resource = Resource::Repos;
    fn uuid(&self) -> Uuid {
        self.id.uuid()
    }
    fn name(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

pub struct NewRepo {
    /// Chosen before the row is written: the directory of this id is there already.
    pub id: RepoId,
    pub name: Name,
    pub description: Option<String>,
    pub labels: Labels,
    pub default_branch: Branch,
    pub protected: Vec<BranchPattern>,
    pub max_bytes: Option<u64>,
    /// Of the empty repository.
    pub bytes: u64,
}

/// What a merge patch changes; `None` leaves it.
#[derive(Default)]
pub struct RepoPatch {
    /// `Some(None)` removes it.
    pub description: Option<Option<String>>,
    pub labels: Option<Labels>,
    pub default_branch: Option<Branch>,
    pub protected: Option<Vec<BranchPattern>>,
    pub max_bytes: Option<Option<u64>>,
}

/// Messages for this module's constraints; see [`crate::error`].
pub(crate) fn constraint(name: &str) -> Option<(Code, &'static str, &'static str)> {
    Some(match name {
        "repos_name" => (
            Code::AlreadyExists,
            "name",
            "there is already a repository of that name in the space; choose another",
        ),
        "repos_space" => (Code::InUse, "space", "the space still holds git repositories; delete them first"),
        _ => return None,
    })
}

pub struct Repos<'s>(pub(super) &'s mut Scope);

impl Scope {
    pub fn repos(&mut self) -> Repos<'_> {
        Repos(self)
    }
}

macro_rules! columns {
    () => {
        "id, space_id, name, description, labels, default_branch, protected, max_bytes, bytes, pushed_at, \
         resource_version, created_at, updated_at"
    };
}
pub(super) use columns;

impl Repos<'_> {
    pub async fn permit(&mut self, at: &NameOrId<RepoId>, verb: Verb) -> Result<Permit<Repo>, Error> {
        let space = self.0.space()?.id;
        let (id, named) = split(at);
        let row = sqlx::query(locked!(
            verb,
            " for no key update",
            "select ",
            columns!(),
            " from repos where space_id = $1 and (id = $2 or name = $3) and deleted_at is null"
        ))
        .bind(space.uuid())
        .bind(id)
        .bind(named)
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?;
        let row = row.as_ref().map(read).transpose()?;
        self.0.judge(&at.to_string(), row, verb).await
    }

    pub async fn allow(&mut self, name: &Name) -> Result<Permit<New<Repo>>, Error> {
        self.0.allow_new::<Repo>(Some(name.as_str())).await
    }

    /// Refuses what could not be made, before its directory is.
    pub async fn room(&mut self, _permit: &Permit<New<Repo>>, name: &Name) -> Result<(), Error> {
        let space = self.0.space()?.id;
        let row = sqlx::query(
            "select count(*) as n, coalesce(bool_or(name = $2), false) as taken from repos
             where space_id = $1 and deleted_at is null",
        )
        .bind(space.uuid())
        .bind(name.as_str())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        if row.try_get("taken").or_domain()? {
            let (code, field, text) = constraint("repos_name").unwrap_or((Code::AlreadyExists, "name", ""));
            return Err(Error::new(code, text).field(field));
        }
        if row.try_get::<i64, _>("n").or_domain()? as usize >= limits::REPOS {
            return Err(Error::new(
                Code::QuotaExceeded,
                format!("a space has up to {} repositories (REPOS); delete one first", limits::REPOS),
            ));
        }
        Ok(())
    }

    pub async fn create(&mut self, _permit: &Permit<New<Repo>>, new: NewRepo) -> Result<Repo, Error> {
        check(new.description.as_deref(), Some(&new.protected))?;
        let space = self.0.space()?.id;
        let now = self.0.now();
        let row = sqlx::query(concat!(
            "insert into repos (id, space_id, name, description, labels, default_branch, protected, max_bytes, bytes,
                created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10) returning ",
            columns!()
        ))
        .bind(new.id.uuid())
        .bind(space.uuid())
        .bind(new.name.as_str())
        .bind(&new.description)
        .bind(to_json(&new.labels)?)
        .bind(new.default_branch.as_str())
        .bind(texts(&new.protected))
        .bind(new.max_bytes.map(|n| n as i64))
        .bind(new.bytes as i64)
        .bind(now.to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let repo = read(&row)?;
        self.0.reserve(Delta { git_bytes: new.bytes as i64, ..Delta::default() }).await?;
        self.note("created", Verb::Create, &repo)?;
        Ok(repo)
    }

    pub async fn list(&mut self, request: &PageRequest) -> Result<Page<Repo>, Error> {
        let space = self.0.space()?.id;
        let visible = self.0.listing(Resource::Repos, Verb::List).await?;
        let rows = sqlx::query(concat!(
            "select ",
            columns!(),
            " from repos
             where space_id = $1 and id > $2 and deleted_at is null and ($3::text[] is null or name = any($3))
               and labels @> $4 and labels ?& $5
             order by id limit $6"
        ))
        .bind(space.uuid())
        .bind(request.after())
        .bind(visible.names())
        .bind(request.label_pairs())
        .bind(request.label_keys())
        .bind(request.fetch())
        .fetch_all(self.0.tx()?)
        .await
        .or_domain()?;
        let rows = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(request.page(rows, |r| r.id.uuid()))
    }

    pub async fn update(
        &mut self,
        permit: &Permit<Repo>,
        patch: RepoPatch,
        if_version: Option<i64>,
    ) -> Result<Repo, Error> {
        permit.demand(Verb::Update)?;
        check_version(permit.resource_version, if_version)?;
        check(patch.description.as_ref().and_then(Option::as_deref), patch.protected.as_deref())?;
        let now = self.0.now();
        let row = sqlx::query(concat!(
            "update repos set description = case when $2 then $3 else description end, labels = coalesce($4, labels),
                default_branch = coalesce($5, default_branch), protected = coalesce($6, protected),
                max_bytes = case when $7 then $8 else max_bytes end,
                resource_version = resource_version + 1, updated_at = $9
             where id = $1 returning ",
            columns!()
        ))
        .bind(permit.id.uuid())
        .bind(patch.description.is_some())
        .bind(patch.description.flatten())
        .bind(patch.labels.as_ref().map(to_json).transpose()?)
        .bind(patch.default_branch.as_ref().map(Branch::as_str))
        .bind(patch.protected.as_deref().map(texts))
        .bind(patch.max_bytes.is_some())
        .bind(patch.max_bytes.flatten().map(|n| n as i64))
        .bind(now.to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let repo = read(&row)?;
        self.note("updated", Verb::Update, &repo)?;
        Ok(repo)
    }

    /// Frees the name and the quota. The row goes with its directory ([`crate::System::repo_gone`]).
    pub async fn delete(&mut self, permit: &Permit<Repo>, if_version: Option<i64>) -> Result<(), Error> {
        permit.demand(Verb::Delete)?;
        check_version(permit.resource_version, if_version)?;
        let now = self.0.now();
        let held: i64 = sqlx::query_scalar(
            "with old as (select bytes from repos where id = $1), gone as (delete from repo_pushes where repo_id = $1)
             update repos r set deleted_at = $2, updated_at = $2, bytes = 0 from old where r.id = $1 returning old.bytes",
        )
        .bind(permit.id.uuid())
        .bind(now.to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        self.0.reserve(Delta { git_bytes: -held, ..Delta::default() }).await?;
        self.note("deleted", Verb::Delete, permit.row())
    }

    fn note(&mut self, kind: &str, verb: Verb, repo: &Repo) -> Result<(), Error> {
        let (id, name) = (repo.id.uuid(), Some(repo.name.as_str()));
        let detail = json!({
            "default_branch": repo.default_branch, "protected": repo.protected, "max_bytes": repo.max_bytes,
        });
        self.0.audit(verb, Resource::Repos, Some(id), name, detail);
        self.0.emit(Event::new(kind, Resource::Repos, id, name, repo.resource_version, to_json(repo)?));
        Ok(())
    }
}

fn check(description: Option<&str>, protected: Option<&[BranchPattern]>) -> Result<(), Error> {
    if description.is_some_and(|t| t.len() > 1024) {
        return Err(Error::new(Code::InvalidField, "a description has up to 1024 bytes").field("description"));
    }
    if protected.is_some_and(|p| p.len() > limits::REPO_PROTECTED) {
        let detail = format!(
            "a repository has up to {} patterns of protected branches (REPO_PROTECTED)",
            limits::REPO_PROTECTED
        );
        return Err(Error::new(Code::InvalidField, detail).field("protected"));
    }
    Ok(())
}

fn texts(patterns: &[BranchPattern]) -> Vec<String> {
    patterns.iter().map(ToString::to_string).collect()
}

/// A name that was checked before it was written.
fn kept<T: std::str::FromStr<Err = Error>>(text: &str) -> Result<T, Error> {
    text.parse().map_err(|e: Error| Error::internal(e.to_string()))
}

pub(super) fn read(row: &PgRow) -> Result<Repo, Error> {
    let protected: Vec<String> = row.try_get("protected").or_domain()?;
    Ok(Repo {
        id: RepoId::from_uuid(row.try_get("id").or_domain()?),
        space: SpaceId::from_uuid(row.try_get("space_id").or_domain()?),
        name: name(row, "name")?,
        description: row.try_get("description").or_domain()?,
        labels: from_json(row.try_get("labels").or_domain()?)?,
        default_branch: kept(row.try_get("default_branch").or_domain()?)?,
        protected: protected.iter().map(|p| kept(p)).collect::<Result<_, _>>()?,
        max_bytes: row.try_get::<Option<i64>, _>("max_bytes").or_domain()?.map(|n| n as u64),
        size_bytes: row.try_get::<i64, _>("bytes").or_domain()? as u64,
        pushed_at: time_opt(row, "pushed_at")?,
        resource_version: row.try_get("resource_version").or_domain()?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
    })
}
