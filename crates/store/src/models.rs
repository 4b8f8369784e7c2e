//! Model requests as the gateway works on them: which provider and key, whether the budget allows it, what it used.
//!
//! A request is begun in one statement that judges budgets and quotas and writes it down, and settled in one that counts
//! it once, whoever tries how often. Refuses to hand a key to anybody but the gateway's own actor.

mod usage;

pub use usage::{UsageFilter, UsageGroup, UsageLine, UsageReport};

use std::time::Duration;

use sqlx::Row as _;
use uuid::Uuid;
use wharf_domain::model::Tokens;
use wharf_domain::quota::Quotas;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Error, ModelRequestId, Name, Plain, SessionId, SpaceId, Time, TurnId};
use wharf_ports::Topic;

use crate::error::OrDomain as _;
use crate::providers::Provider;
use crate::secrets::{context, read_sealed};
use crate::spaces::from_json;
use crate::system::System;

/// Longer than any request may be open: what is older was left by a process that died.
pub const ABANDONED: Duration = Duration::from_secs(2 * 3600);

/// A provider with its key, for one request.
pub struct ModelRoute {
    pub provider: Provider,
    /// None: the provider needs none.
    pub key: Option<Plain>,
    /// Version of the secret the key is from.
    pub key_version: i32,
    /// Of the space.
    pub quotas: Quotas,
}

/// A request that is about to be sent.
#[derive(Clone, Debug)]
pub struct ModelAsk<'a> {
    pub space: SpaceId,
    pub session: SessionId,
    pub provider: &'a Provider,
    pub model: &'a str,
    /// What it reserves while it is open, and is charged with if this process dies before it settles.
    pub guessed: Tokens,
}

/// Whether it may be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelBegun {
    Open {
        id: ModelRequestId,
        /// The session's running turn, if there is one.
        turn: Option<TurnId>,
    },
    /// A budget of the provider or a quota of the space is used up: by what is settled, or with what requests hold that
    /// are open.
    Over { limit: &'static str, used: u64, held: u64, most: u64 },
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelEnd {
    Done,
    /// The provider refused it or could not be reached.
    Failed,
    /// The provider's answer broke off.
    Cut,
    /// The client went before the answer was over.
    Left,
    /// Nobody settled it.
    Lost,
}

impl ModelEnd {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cut => "cut",
            Self::Left => "left",
            Self::Lost => "lost",
        }
    }
}

/// What a request used.
#[derive(Clone, Copy, Debug)]
pub struct ModelBill {
    pub end: ModelEnd,
    pub status: Option<u16>,
    pub attempts: u32,
    pub tokens: Tokens,
    pub cost_micro_usd: u64,
    /// Counted from bytes, because the provider did not get to say it.
    pub estimated: bool,
}

/// The names that `model_begin` answers with.
const LIMITS: [&str; 8] = [
    "tokens_per_turn",
    "cost_micro_usd_per_turn",
    "tokens_per_day",
    "cost_micro_usd_per_day",
    "tokens_per_session",
    "cost_micro_usd_per_session",
    "model_tokens_per_day",
    "model_cost_micro_usd_per_day",
];

impl System {
    /// The provider of that name with its key; none when the space has no such provider.
    pub async fn model_route(&self, space: SpaceId, name: &Name) -> Result<Option<ModelRoute>, Error> {
        let row = sqlx::query(
            "select p.id, p.name, p.labels, p.spec, p.resource_version, p.created_at, p.updated_at,
                    s.name as secret_name, s.version, s.key_id, s.wrapped, s.payload, o.quotas
             from providers p join spaces o on o.id = p.space_id
                  left join secrets s on s.space_id = p.space_id and s.name = p.secret
             where p.space_id = $1 and p.name = $2",
        )
        .bind(space.uuid())
        .bind(name.as_str())
        .fetch_optional(self.store.pool())
        .await
        .or_domain()?;
        let Some(row) = row else { return Ok(None) };
        let provider = crate::providers::read(&row)?;
        let secret: Option<String> = row.try_get("secret_name").or_domain()?;
        let quotas: Quotas = from_json(row.try_get("quotas").or_domain()?)?;
        let Some(secret) = secret else {
            return Ok(Some(ModelRoute { provider, key: None, key_version: 0, quotas }));
        };
        if !self.caller.may(Some(space), Resource::Secrets, Verb::ReadValues, Some(&secret)) {
            return Err(crate::scope::forbidden(Verb::ReadValues, Resource::Secrets, Some(&secret)));
        }
        let sealed = read_sealed(&row)?;
        let key = self.store.0.keyring.open(&sealed, &context(space, &secret)).map_err(Error::internal)?;
        let key_version = row.try_get("version").or_domain()?;
        Ok(Some(ModelRoute { provider, key: Some(key), key_version, quotas }))
    }

    /// Writes that a session uses a secret through a provider: once for each version of it.
    pub async fn model_key_used(
        &self,
        space: SpaceId,
        session: SessionId,
        route: &ModelRoute,
    ) -> Result<(), Error> {
        let Some(secret) = &route.provider.spec.secret else { return Ok(()) };
        let mut scope = self.scope(space).await?;
        let detail = serde_json::json!({
            "session": session, "provider": route.provider.name, "version": route.key_version,
        });
        let outcome = crate::audit::Outcome::Allowed;
        scope.audit_as("use", "secrets", None, Some(secret.as_str()), outcome, detail);
        scope.commit().await
    }

    /// Judges budgets and quotas and writes the request down.
    pub async fn model_begin(&self, ask: &ModelAsk<'_>) -> Result<ModelBegun, Error> {
        let id = ModelRequestId::new();
        let budget = &ask.provider.spec.budget;
        let guessed_cost = ask.provider.spec.price(ask.model).map_or(0, |p| p.of(ask.guessed));
        let begin = "select * from model_begin($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
        let row = sqlx::query(begin)
            .bind(id.uuid())
            .bind(ask.space.uuid())
            .bind(ask.session.uuid())
            .bind(ask.provider.name.as_str())
            .bind(ask.model)
            .bind(budget.tokens_per_day.map(whole))
            .bind(budget.cost_micro_usd_per_day.map(whole))
            .bind(budget.tokens_per_session.map(whole))
            .bind(budget.cost_micro_usd_per_session.map(whole))
            .bind(budget.tokens_per_turn.map(whole))
            .bind(budget.cost_micro_usd_per_turn.map(whole))
            .bind(whole(ask.guessed.total()))
            .bind(whole(guessed_cost))
            .bind(self.store.now().to_utc())
            .fetch_one(self.store.pool())
            .await
            .or_domain()?;
        let outcome: &str = row.try_get("outcome").or_domain()?;
        if outcome == "open" {
            let turn = row.try_get::<Option<Uuid>, _>("turn").or_domain()?.map(TurnId::from_uuid);
            return Ok(ModelBegun::Open { id, turn });
        }
        let Some(limit) = LIMITS.into_iter().find(|l| *l == outcome) else {
            return Err(Error::not_found("space", ask.space));
        };
        let number = |column: &str| row.try_get::<i64, _>(column).map(|n| n.max(0) as u64).or_domain();
        Ok(ModelBegun::Over { limit, used: number("used")?, held: number("held")?, most: number("most")? })
    }

    /// Counts the request once; `false` when it was counted before.
    pub async fn model_settle(&self, id: ModelRequestId, bill: &ModelBill) -> Result<bool, Error> {
        let session: Option<Uuid> =
            sqlx::query_scalar("select model_settle($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)")
                .bind(id.uuid())
                .bind(bill.end.as_str())
                .bind(bill.status.map(i32::from))
                .bind(i32::try_from(bill.attempts).unwrap_or(i32::MAX))
                .bind(bill.estimated)
                .bind(whole(bill.tokens.input))
                .bind(whole(bill.tokens.output))
                .bind(whole(bill.tokens.cached))
                .bind(whole(bill.tokens.cache_write))
                .bind(whole(bill.cost_micro_usd))
                .bind(self.store.now().to_utc())
                .fetch_one(self.store.pool())
                .await
                .or_domain()?;
        if let Some(session) = session {
            self.store.wake(Topic::Session(SessionId::from_uuid(session)));
        }
        Ok(session.is_some())
    }

    /// Charges what processes that died left open, a batch at a time; answers how many.
    pub async fn model_reap(&self, batch: i64) -> Result<u64, Error> {
        let before = Time::from_millis(self.store.now().millis() - ABANDONED.as_millis() as i64);
        let rows = sqlx::query(
            "select id, guessed_tokens, guessed_cost from model_requests
             where state = 'open' and created_at < $1 order by created_at limit $2",
        )
        .bind(before.to_utc())
        .bind(batch)
        .fetch_all(self.store.pool())
        .await
        .or_domain()?;
        let mut done = 0;
        for row in &rows {
            let number = |column: &str| row.try_get::<i64, _>(column).map(|n| n.max(0) as u64).or_domain();
            let bill = ModelBill {
                end: ModelEnd::Lost,
                status: None,
                attempts: 0,
                tokens: Tokens { input: number("guessed_tokens")?, ..Tokens::default() },
                cost_micro_usd: number("guessed_cost")?,
                estimated: true,
            };
            let id = ModelRequestId::from_uuid(row.try_get("id").or_domain()?);
            done += u64::from(self.model_settle(id, &bill).await?);
        }
        Ok(done)
    }
}

/// PostgreSQL counts with a sign.
fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
