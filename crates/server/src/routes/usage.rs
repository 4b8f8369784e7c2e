//! What a space uses: of its quotas now, and of models over days.

use axum::extract::State;
use chrono::{Days, NaiveDate};
use serde::Deserialize;
use utoipa::IntoParams;
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Error, NameOrId, SessionId};
use wharf_store::models::{UsageFilter, UsageGroup, UsageLine};
use wharf_wire::api;

use crate::app::App;
use crate::extract::{At, Auth, Json, Query, SpacePath, bounded};
use crate::problem::Problem;

/// Days of a report that does not say which.
const DAYS: u64 = 30;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct UsageQuery {
    /// The first day of the report, in UTC; 29 days before the last when absent.
    #[param(value_type = Option<String>, format = Date)]
    from: Option<String>,
    /// The last day of the report, in UTC; today when absent.
    #[param(value_type = Option<String>, format = Date)]
    to: Option<String>,
    /// What lines are kept apart by, with commas: `day`, `session`, `provider`, `model`; `provider,model` when absent.
    #[param(pattern = "^(day|session|provider|model)(,(day|session|provider|model))*$", max_length = 100)]
    by: Option<String>,
    /// Only this session, by name or id.
    #[param(max_length = 63, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    session: Option<String>,
}

/// Get what a space uses
///
/// Of its quotas, and tokens and cost of its model requests by day, session, provider and model. Days are days of UTC.
#[utoipa::path(get, path = "/v1/spaces/{space}/usage", tag = "spaces", params(UsageQuery),
    responses((status = 200, body = api::SpaceUsage)))]
pub(crate) async fn get_usage(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
    Query(query): Query<UsageQuery>,
) -> Result<Json<api::SpaceUsage>, Problem> {
    let mut filter = filter(&query, app.store.now().to_utc().date_naive())?;
    if let Some(session) = &query.session {
        let session: NameOrId<SessionId> = session.parse().map_err(|e: Error| e.field("session"))?;
        let mut scope = app.store.scope(&caller, &at.space).await?;
        filter.session = Some(match session {
            // Also of one that is deleted: its bill stays.
            NameOrId::Id(id) => id,
            named @ NameOrId::Name(_) => scope.sessions().permit(&named, Verb::Get).await?.id,
        });
    }
    let mut scope = app.store.global(&caller).await?;
    let permit = scope.spaces().permit(&at.space, Verb::Get).await?;
    let used = scope.spaces().usage(&permit).await?;
    let models = scope.spaces().model_usage(&permit, &filter).await?;
    let quotas = &permit.quotas;
    let line = |used, limit| api::Used { used, limit };
    Ok(Json(api::SpaceUsage {
        sessions: line(used.sessions, quotas.sessions.map(u64::from)),
        running_sessions: line(used.running_sessions, quotas.running_sessions.map(u64::from)),
        cpu_millis: line(used.cpu_millis, quotas.cpu_millis),
        memory_mib: line(used.memory_mib, quotas.memory_mib),
        disk_mib: line(used.disk_mib, quotas.disk_mib),
        model_tokens_per_day: line(models.today_tokens, quotas.model_tokens_per_day),
        model_cost_micro_usd_per_day: line(models.today_cost_micro_usd, quotas.model_cost_micro_usd_per_day),
        egress_bytes_per_day: line(models.today_egress_bytes, quotas.egress_bytes_per_day),
        git_bytes: line(used.git_bytes, quotas.git_bytes),
        package_bytes: line(used.package_bytes, quotas.package_bytes),
        models: api::ModelReport {
            from: filter.from.to_string(),
            to: filter.to.to_string(),
            lines: models.lines.into_iter().map(show).collect(),
            more: models.more,
        },
    }))
}

fn show(line: UsageLine) -> api::ModelUsageLine {
    api::ModelUsageLine {
        day: line.day.map(|d| d.to_string()),
        session: line.session,
        session_name: line.session_name,
        provider: line.provider,
        model: line.model,
        usage: api::ModelUsage {
            requests: line.requests,
            input_tokens: line.tokens.input,
            output_tokens: line.tokens.output,
            cached_tokens: line.tokens.cached,
            cache_write_tokens: line.tokens.cache_write,
            cost_micro_usd: line.cost_micro_usd,
        },
    }
}

fn filter(query: &UsageQuery, today: NaiveDate) -> Result<UsageFilter, Error> {
    let refuse = |field: &str, detail: String| Error::new(Code::InvalidField, detail).field(field);
    let day = |field: &'static str, text: &Option<String>| {
        bounded(field, text.as_deref(), 10)?;
        let read = |t: &String| {
            NaiveDate::parse_from_str(t, "%Y-%m-%d")
                .ok()
                .filter(|d| *d >= NaiveDate::default())
                .ok_or_else(|| refuse(field, format!("{field} is a day since 1970 written as 2026-01-31")))
        };
        text.as_ref().map(read).transpose()
    };
    let to = day("to", &query.to)?.unwrap_or(today);
    let from = match day("from", &query.from)? {
        Some(from) => from,
        None => to.checked_sub_days(Days::new(DAYS - 1)).unwrap_or(to),
    };
    if from > to {
        return Err(refuse("from", format!("from ({from}) is after to ({to})")));
    }
    bounded("by", query.by.as_deref(), 100)?;
    let mut by = UsageGroup::default();
    for word in query.by.as_deref().unwrap_or("provider,model").split(',') {
        match word {
            "day" => by.day = true,
            "session" => by.session = true,
            "provider" => by.provider = true,
            "model" => by.model = true,
            _ => return Err(refuse("by", "by is a list of day, session, provider and model".to_owned())),
        }
    }
    Ok(UsageFilter { from, to, session: None, by })
}
