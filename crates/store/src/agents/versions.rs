//! Versions of an agent: what a build brought forth, under the next number. Going back is making an earlier one active.

use serde_json::{Value, json};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use wharf_domain::rbac::Verb;
use wharf_domain::{BuildId, Code, Error, Time};

use super::{Agent, Agents, read as read_agent};
use crate::error::OrDomain as _;
use crate::page::{Page, PageRequest};
use crate::permit::Permit;
use crate::spaces::{check_version, time};

#[derive(Clone, Debug)]
pub struct Version {
    pub version: i32,
    pub build: BuildId,
    /// Of the packed directory.
    pub digest: String,
    pub bytes: i64,
    pub manifest: Value,
    pub created_by: Option<String>,
    pub created_at: Time,
}

/// Why a secret that a package wants would not reach anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet {
    /// The space has none of that name.
    Missing,
    /// It has, and no connection and no provider sends it anywhere.
    Unused,
}

impl Agents<'_> {
    /// Of these secrets, those that a session of the space would have nothing of.
    pub async fn unmet(&mut self, secrets: &[String]) -> Result<Vec<(String, Unmet)>, Error> {
        if secrets.is_empty() {
            return Ok(Vec::new());
        }
        let space = self.0.space()?.id;
        let rows = sqlx::query(
            "select w.name, s.id is not null as known from unnest($2::text[]) with ordinality w (name, n)
                left join secrets s on s.space_id = $1 and s.name = w.name
             where s.id is null or not (
                exists (select from connections c where c.space_id = $1 and c.secret_id = s.id)
                or exists (select from providers p where p.space_id = $1 and p.secret = s.name))
             order by w.n",
        )
        .bind(space.uuid())
        .bind(secrets)
        .fetch_all(self.0.tx()?)
        .await
        .or_domain()?;
        rows.iter()
            .map(|row| {
                let known: bool = row.try_get("known").or_domain()?;
                let name = row.try_get("name").or_domain()?;
                Ok((name, if known { Unmet::Unused } else { Unmet::Missing }))
            })
            .collect()
    }

    /// Newest first.
    pub async fn versions(
        &mut self,
        permit: &Permit<Agent>,
        request: &PageRequest,
    ) -> Result<Page<Version>, Error> {
        let rows = sqlx::query(
            "select version, build_id, digest, bytes, manifest, created_by, created_at from agent_versions
             where agent_id = $1 and version < $2 order by version desc limit $3",
        )
        .bind(permit.id.uuid())
        .bind(request.after_number()?.unwrap_or(i32::MAX))
        .bind(request.fetch())
        .fetch_all(self.0.tx()?)
        .await
        .or_domain()?;
        let rows = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(request.page(rows, |v| PageRequest::numbered(v.version)))
    }

    /// One version, or the active one. It stays until the transaction's end: see [`Self::delete_version`].
    pub async fn version(&mut self, permit: &Permit<Agent>, version: Option<i32>) -> Result<Version, Error> {
        let Some(wanted) = version.or(permit.active) else {
            return Err(Error::new(
                Code::InvalidReference,
                format!(
                    "agent {} has no version yet; build one with `wharf agent build {}`",
                    permit.name, permit.name
                ),
            ));
        };
        let row = sqlx::query(
            "select version, build_id, digest, bytes, manifest, created_by, created_at from agent_versions
             where agent_id = $1 and version = $2 for key share",
        )
        .bind(permit.id.uuid())
        .bind(wanted)
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?;
        row.as_ref().map(read).transpose()?.ok_or_else(|| {
            Error::new(Code::InvalidReference, format!("agent {} has no version {wanted}", permit.name))
                .field("version")
        })
    }

    /// Makes a version the one that sessions get from now on.
    pub async fn activate(&mut self, permit: &Permit<Agent>, version: i32) -> Result<Agent, Error> {
        permit.demand(Verb::Update)?;
        self.version(permit, Some(version)).await?;
        let row = sqlx::query(
            "update agents set active = $2, resource_version = resource_version + 1, updated_at = $3 where id = $1
             returning id, name, description, labels, active, resource_version, created_at, updated_at",
        )
        .bind(permit.id.uuid())
        .bind(version)
        .bind(self.0.now().to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let agent = read_agent(&row)?;
        self.note("updated", Verb::Update, &agent, json!({"active": version, "was": permit.active}))?;
        Ok(agent)
    }

    /// Removes a version and frees what it holds of the quota. Refused for the active one, and while a session has it: a session
    /// unpacks it before its first turn, and again where its files do not come along.
    pub async fn delete_version(
        &mut self,
        permit: &Permit<Agent>,
        version: i32,
        if_version: Option<i64>,
    ) -> Result<Agent, Error> {
        permit.demand(Verb::Delete)?;
        check_version(permit.resource_version, if_version)?;
        // Whoever is about to use it holds it until their commit; what they did is seen by what follows.
        let digest: Option<String> = sqlx::query_scalar(
            "select digest from agent_versions where agent_id = $1 and version = $2 for update",
        )
        .bind(permit.id.uuid())
        .bind(version)
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?;
        let name = &permit.name;
        let Some(digest) = digest else {
            return Err(Error::new(Code::NotFound, format!("agent {name} has no version {version}")));
        };
        let (is_active, users): (bool, Vec<String>) = sqlx::query_as(
            "select coalesce((select active = $2 from agents where id = $1), false), array(
                select s.name from sessions s
                where s.space_id = (select space_id from agents where id = $1) and s.deleted_at is null
                  and exists (select from (select s.agent as one union all select json_array_elements(s.agents)) a
                    where a.one ->> 'package' = $3 and a.one ->> 'version' = $2::text
                      and a.one -> 'built' ->> 'digest' = $4)
                order by s.id limit 5)",
        )
        .bind(permit.id.uuid())
        .bind(version)
        .bind(name.as_str())
        .bind(&digest)
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        if is_active {
            let detail =
                format!("version {version} of {name} is the active one; make another one active first");
            return Err(Error::new(Code::InUse, detail));
        }
        if !users.is_empty() {
            let detail = format!(
                "version {version} of {name} is used by {}; delete those sessions first",
                users.join(", ")
            );
            return Err(Error::new(Code::InUse, detail));
        }
        sqlx::query("delete from agent_versions where agent_id = $1 and version = $2")
            .bind(permit.id.uuid())
            .bind(version)
            .execute(self.0.tx()?)
            .await
            .or_domain()?;
        let row = sqlx::query(
            "update agents set resource_version = resource_version + 1, updated_at = $2 where id = $1
             returning id, name, description, labels, active, resource_version, created_at, updated_at",
        )
        .bind(permit.id.uuid())
        .bind(self.0.now().to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let agent = read_agent(&row)?;
        self.note("updated", Verb::Delete, &agent, json!({"deleted_version": version}))?;
        Ok(agent)
    }
}

fn read(row: &PgRow) -> Result<Version, Error> {
    Ok(Version {
        version: row.try_get("version").or_domain()?,
        build: BuildId::from_uuid(row.try_get("build_id").or_domain()?),
        digest: row.try_get("digest").or_domain()?,
        bytes: row.try_get("bytes").or_domain()?,
        manifest: row.try_get("manifest").or_domain()?,
        created_by: row.try_get("created_by").or_domain()?,
        created_at: time(row, "created_at")?,
    })
}
