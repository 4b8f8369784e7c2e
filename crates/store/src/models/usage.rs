//! What model requests of a space used, summed as somebody wants to see it.

use sqlx::Row as _;
use wharf_domain::model::Tokens;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Error, SessionId};

use crate::error::OrDomain as _;
use crate::permit::Permit;
use crate::scope::Scope;
use crate::spaces::{Space, Spaces};

/// Lines of one report.
const LINES: i64 = 500;

/// What lines of a report are kept apart by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageGroup {
    pub day: bool,
    pub session: bool,
    pub provider: bool,
    pub model: bool,
}

#[derive(Clone, Debug)]
pub struct UsageFilter {
    /// First and last day, in UTC.
    pub from: chrono::NaiveDate,
    pub to: chrono::NaiveDate,
    pub session: Option<SessionId>,
    pub by: UsageGroup,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageLine {
    pub day: Option<chrono::NaiveDate>,
    pub session: Option<SessionId>,
    /// While the session's row is kept.
    pub session_name: Option<String>,
    pub provider: Option<String>,
    pub model: Option<String>,
    pub requests: u64,
    pub tokens: Tokens,
    pub cost_micro_usd: u64,
}

#[derive(Clone, Debug)]
pub struct UsageReport {
    /// Newest day first, then the dearest.
    pub lines: Vec<UsageLine>,
    /// There are more lines than are shown.
    pub more: bool,
    pub today_tokens: u64,
    pub today_cost_micro_usd: u64,
    /// Bytes that left and entered its sessions today.
    pub today_egress_bytes: u64,
}

impl Spaces<'_> {
    /// Needs `get` on usage in that space.
    pub async fn model_usage(
        &mut self,
        permit: &Permit<Space>,
        filter: &UsageFilter,
    ) -> Result<UsageReport, Error> {
        self.may_see_usage(permit).await?;
        let space = permit.id.uuid();
        let scope: &mut Scope = self.scope();
        let today = scope.now().to_utc().date_naive();
        let sums = sqlx::query(
            "select coalesce(sum(input_tokens + output_tokens + cached_tokens + cache_write_tokens), 0)::bigint as tokens,
                    coalesce(sum(cost_micro_usd), 0)::bigint as cost,
                    (select coalesce(sum(bytes_sent + bytes_received), 0)::bigint from egress_usage
                     where space_id = $1 and day = $2) as egress
             from model_usage where space_id = $1 and day = $2",
        )
        .bind(space)
        .bind(today)
        .fetch_one(scope.tx()?)
        .await
        .or_domain()?;
        let rows = sqlx::query(
            "select u.day, u.session_id, s.name as session_name, u.provider, u.model, u.requests, u.input_tokens,
                    u.output_tokens, u.cached_tokens, u.cache_write_tokens, u.cost
             from (select case when $5 then day end as day, case when $6 then session_id end as session_id,
                          case when $7 then provider end as provider, case when $8 then model end as model,
                          sum(requests)::bigint as requests, sum(input_tokens)::bigint as input_tokens,
                          sum(output_tokens)::bigint as output_tokens, sum(cached_tokens)::bigint as cached_tokens,
                          sum(cache_write_tokens)::bigint as cache_write_tokens, sum(cost_micro_usd)::bigint as cost
                   from model_usage
                   where space_id = $1 and day between $2 and $3 and ($4::uuid is null or session_id = $4)
                   group by 1, 2, 3, 4) u
             left join sessions s on s.id = u.session_id
             order by u.day desc nulls last, u.cost desc, u.input_tokens + u.output_tokens desc, u.session_id, u.provider,
                      u.model
             limit $9",
        )
        .bind(space)
        .bind(filter.from)
        .bind(filter.to)
        .bind(filter.session.map(SessionId::uuid))
        .bind(filter.by.day)
        .bind(filter.by.session)
        .bind(filter.by.provider)
        .bind(filter.by.model)
        .bind(LINES + 1)
        .fetch_all(scope.tx()?)
        .await
        .or_domain()?;
        let more = rows.len() > LINES as usize;
        let lines =
            rows.iter().take(LINES as usize).map(line).collect::<Result<_, sqlx::Error>>().or_domain()?;
        Ok(UsageReport {
            lines,
            more,
            today_tokens: number(&sums, "tokens").or_domain()?,
            today_cost_micro_usd: number(&sums, "cost").or_domain()?,
            today_egress_bytes: number(&sums, "egress").or_domain()?,
        })
    }

    pub(crate) async fn may_see_usage(&mut self, permit: &Permit<Space>) -> Result<(), Error> {
        let scope: &mut Scope = self.scope();
        if scope.caller().may(Some(permit.id), Resource::Usage, Verb::Get, None) {
            return Ok(());
        }
        let e = scope.denied(Resource::Usage, Verb::Get, None, None, Some(permit.id)).await;
        Err(e.unwrap_or_else(|| crate::scope::forbidden(Verb::Get, Resource::Usage, None)))
    }
}

fn number(row: &sqlx::postgres::PgRow, column: &str) -> Result<u64, sqlx::Error> {
    Ok(row.try_get::<i64, _>(column)?.max(0) as u64)
}

fn line(row: &sqlx::postgres::PgRow) -> Result<UsageLine, sqlx::Error> {
    Ok(UsageLine {
        day: row.try_get("day")?,
        session: row.try_get::<Option<uuid::Uuid>, _>("session_id")?.map(SessionId::from_uuid),
        session_name: row.try_get("session_name")?,
        provider: row.try_get("provider")?,
        model: row.try_get("model")?,
        requests: number(row, "requests")?,
        tokens: Tokens {
            input: number(row, "input_tokens")?,
            output: number(row, "output_tokens")?,
            cached: number(row, "cached_tokens")?,
            cache_write: number(row, "cache_write_tokens")?,
        },
        cost_micro_usd: number(row, "cost")?,
    })
}
