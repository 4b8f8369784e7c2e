//! Reading the audit log: newest first, filtered, in pages; an export is the same pages one after the other.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use serde::Serialize;
use serde_json::Value;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{AuditId, Code, Error, SpaceId, Time, limits};

use crate::error::OrDomain as _;
use crate::page::Page;
use crate::scope::Scope;
use crate::spaces::time;

#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Name of the principal or of the impersonator.
    pub principal: Option<String>,
    pub verb: Option<String>,
    pub resource: Option<String>,
    pub name: Option<String>,
    pub space: Option<SpaceId>,
    /// `allowed`, `denied` or `failed`.
    pub outcome: Option<String>,
    pub since: Option<Time>,
    pub until: Option<Time>,
    pub request_id: Option<Uuid>,
    pub limit: Option<u32>,
    pub cursor: Option<String>,
    /// Oldest first, for exports.
    pub ascending: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct AuditRecord {
    pub id: AuditId,
    pub at: Time,
    pub principal_kind: String,
    pub principal_id: Option<Uuid>,
    pub principal: String,
    pub impersonator_id: Option<Uuid>,
    pub impersonator: Option<String>,
    pub verb: String,
    pub resource: String,
    pub resource_id: Option<Uuid>,
    pub name: Option<String>,
    pub space_id: Option<Uuid>,
    pub space: Option<String>,
    pub outcome: String,
    pub address: Option<String>,
    pub request_id: Option<Uuid>,
    pub detail: Value,
    /// Place in the chain and the hash there, in hex; absent for the moment until it is chained.
    pub chain: Option<i64>,
    pub hash: Option<String>,
}

macro_rules! select {
    ($compare:literal, $order:literal) => {
        concat!(
            "select e.*, c.n, c.hash from audit_entries e
             left join audit_chain c on c.entry_id = e.id and c.entry_at = e.at
             where ($1::text is null or e.principal_name = $1 or e.impersonator_name = $1)
               and ($2::text is null or e.verb = $2) and ($3::text is null or e.resource = $3)
               and ($4::text is null or e.resource_name = $4) and ($5::uuid is null or e.space_id = $5)
               and ($6::text is null or e.outcome = $6)
               and ($7::timestamptz is null or e.at >= $7) and ($8::timestamptz is null or e.at < $8)
               and ($9::uuid is null or e.request_id = $9)
               and ($10::timestamptz is null or (e.at, e.id) ",
            $compare,
            " ($10, $11))
             order by e.at ",
            $order,
            ", e.id ",
            $order,
            " limit $12"
        )
    };
}

impl Scope {
    /// Needs `list` on audit, everywhere.
    pub async fn audit_list(&mut self, filter: &AuditFilter) -> Result<Page<AuditRecord>, Error> {
        self.listing(Resource::Audit, Verb::List).await?;
        let limit = filter.limit.unwrap_or(limits::PAGE_DEFAULT);
        if !(1..=limits::PAGE_MAX).contains(&limit) {
            return Err(Error::new(
                Code::InvalidField,
                format!("limit is between 1 and {}", limits::PAGE_MAX),
            )
            .field("limit"));
        }
        if let Some(outcome) = &filter.outcome
            && !["allowed", "denied", "failed"].contains(&outcome.as_str())
        {
            return Err(
                Error::new(Code::InvalidField, "outcome is one of allowed, denied, failed").field("outcome")
            );
        }
        let after = filter.cursor.as_deref().map(decode).transpose()?;
        let sql = if filter.ascending { select!(">", "asc") } else { select!("<", "desc") };
        let mut rows = sqlx::query(sql)
            .bind(&filter.principal)
            .bind(&filter.verb)
            .bind(&filter.resource)
            .bind(&filter.name)
            .bind(filter.space.map(SpaceId::uuid))
            .bind(&filter.outcome)
            .bind(filter.since.map(Time::to_utc))
            .bind(filter.until.map(Time::to_utc))
            .bind(filter.request_id)
            .bind(after.map(|(at, _)| at.to_utc()))
            .bind(after.map(|(_, id)| id))
            .bind(i64::from(limit) + 1)
            .fetch_all(self.tx()?)
            .await
            .or_domain()?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let items = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let next_cursor = if more { items.last().map(|r| encode(r.at, r.id.uuid())) } else { None };
        Ok(Page { items, next_cursor })
    }
}

fn encode(at: Time, id: Uuid) -> String {
    B64.encode([at.millis().to_be_bytes().as_slice(), id.as_bytes()].concat())
}

fn decode(cursor: &str) -> Result<(Time, Uuid), Error> {
    let wrong = || {
        Error::new(Code::InvalidField, "that is not a cursor of this list; start again without one")
            .field("cursor")
    };
    let bytes = B64.decode(cursor).map_err(|_| wrong())?;
    let (at, id) = bytes.split_at_checked(8).ok_or_else(wrong)?;
    let at = i64::from_be_bytes(at.try_into().map_err(|_| wrong())?);
    Ok((Time::from_millis(at), Uuid::from_slice(id).map_err(|_| wrong())?))
}

fn read(row: &PgRow) -> Result<AuditRecord, Error> {
    Ok(AuditRecord {
        id: AuditId::from_uuid(row.try_get("id").or_domain()?),
        at: time(row, "at")?,
        principal_kind: row.try_get("principal_kind").or_domain()?,
        principal_id: row.try_get("principal_id").or_domain()?,
        principal: row.try_get("principal_name").or_domain()?,
        impersonator_id: row.try_get("impersonator_id").or_domain()?,
        impersonator: row.try_get("impersonator_name").or_domain()?,
        verb: row.try_get("verb").or_domain()?,
        resource: row.try_get("resource").or_domain()?,
        resource_id: row.try_get("resource_id").or_domain()?,
        name: row.try_get("resource_name").or_domain()?,
        space_id: row.try_get("space_id").or_domain()?,
        space: row.try_get("space_name").or_domain()?,
        outcome: row.try_get("outcome").or_domain()?,
        address: row.try_get("address").or_domain()?,
        request_id: row.try_get("request_id").or_domain()?,
        detail: row.try_get("detail").or_domain()?,
        chain: row.try_get("n").or_domain()?,
        hash: row.try_get::<Option<Vec<u8>>, _>("hash").or_domain()?.map(hex::encode),
    })
}
