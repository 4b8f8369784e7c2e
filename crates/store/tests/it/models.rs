//! What a model request costs: counted once, judged before it is sent, seen where people look.

use std::time::Duration;

use wharf_domain::model::{Budget, Price, ProviderSpec, Tokens};
use wharf_domain::quota::Quotas;
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, ModelRequestId, SessionId, SpaceId};
use wharf_store::models::{ModelAsk, ModelBegun, ModelBill, ModelEnd, UsageFilter, UsageGroup};
use wharf_store::{Actor, Provider, System};

use crate::actors::{App, at, code, name};
use crate::providers::{put, secret, spec};

struct Desk {
    app: App,
    gateway: System,
    space: SpaceId,
    session: SessionId,
}

impl Desk {
    async fn new(quotas: Quotas) -> Self {
        let app = App::new().await;
        let space = app.space_with("lab", quotas).await.id;
        let gateway = app.store.system(Actor::Gateway);
        Self { app, gateway, space, session: SessionId::new() }
    }

    async fn begin(&self, provider: &Provider, model: &str) -> ModelBegun {
        self.begin_in(self.session, provider, model).await
    }

    async fn begin_in(&self, session: SessionId, provider: &Provider, model: &str) -> ModelBegun {
        let guessed = Tokens { input: 100, ..Tokens::default() };
        let ask = ModelAsk { space: self.space, session, provider, model, guessed };
        self.gateway.model_begin(&ask).await.unwrap()
    }

    /// A request from begin to end that used this much.
    async fn spend(&self, provider: &Provider, model: &str, tokens: Tokens) {
        let ModelBegun::Open { id, .. } = self.begin(provider, model).await else { panic!("it was refused") };
        assert!(self.settle(id, provider, model, tokens).await);
    }

    async fn settle(&self, id: ModelRequestId, provider: &Provider, model: &str, tokens: Tokens) -> bool {
        let cost_micro_usd = provider.spec.price(model).map_or(0, |p: Price| p.of(tokens));
        let bill = ModelBill {
            end: ModelEnd::Done,
            status: Some(200),
            attempts: 1,
            tokens,
            cost_micro_usd,
            estimated: false,
        };
        self.gateway.model_settle(id, &bill).await.unwrap()
    }

    async fn report(&self, by: UsageGroup) -> wharf_store::models::UsageReport {
        let today = self.app.store.now().to_utc().date_naive();
        let from = today.checked_sub_days(chrono::Days::new(3)).unwrap();
        let mut scope = self.app.store.global(&self.app.admin).await.unwrap();
        let permit = scope.spaces().permit(&at("lab"), Verb::Get).await.unwrap();
        let filter = UsageFilter { from, to: today, session: None, by };
        scope.spaces().model_usage(&permit, &filter).await.unwrap()
    }
}

const SOME: Tokens = Tokens { input: 1000, output: 200, cached: 50, cache_write: 5 };

#[tokio::test]
async fn a_request_is_counted_once_however_often_it_is_settled() {
    let desk = Desk::new(Quotas::default()).await;
    let provider = put(&desk.app, "lab", "anthropic", spec()).await;
    let ModelBegun::Open { id, turn } = desk.begin(&provider, "m").await else { panic!() };
    assert_eq!(turn, None);
    let (one, two) =
        tokio::join!(desk.settle(id, &provider, "m", SOME), desk.settle(id, &provider, "m", SOME));
    assert!(one ^ two, "one of the two counted it");
    assert!(!desk.settle(id, &provider, "m", SOME).await);
    let report = desk.report(UsageGroup { model: true, ..UsageGroup::default() }).await;
    assert_eq!(report.lines.len(), 1);
    assert_eq!((report.lines[0].requests, report.lines[0].tokens), (1, SOME));
    // (1000 + 50 + 5) * 3 + 200 * 15 micro-dollars.
    assert_eq!(report.lines[0].cost_micro_usd, 6165);
    assert_eq!((report.today_tokens, report.today_cost_micro_usd), (1255, 6165));
}

#[tokio::test]
async fn lines_are_kept_apart_by_what_was_asked_for() {
    let desk = Desk::new(Quotas::default()).await;
    let one = put(&desk.app, "lab", "anthropic", spec()).await;
    let two = put(&desk.app, "lab", "openai", spec()).await;
    desk.spend(&one, "a", SOME).await;
    desk.app.db.clock.advance(Duration::from_secs(24 * 3600));
    desk.spend(&one, "b", SOME).await;
    desk.spend(&two, "b", SOME).await;
    let names = |r: &wharf_store::models::UsageReport| {
        r.lines
            .iter()
            .map(|l| format!("{:?} {:?} {}", l.provider.as_deref(), l.model.as_deref(), l.requests))
            .collect::<Vec<_>>()
    };
    let by_model = desk.report(UsageGroup { model: true, ..UsageGroup::default() }).await;
    assert_eq!(names(&by_model), ["None Some(\"b\") 2", "None Some(\"a\") 1"]);
    let by_provider = desk.report(UsageGroup { provider: true, ..UsageGroup::default() }).await;
    assert_eq!(names(&by_provider), ["Some(\"anthropic\") None 2", "Some(\"openai\") None 1"]);
    let by_day = desk.report(UsageGroup { day: true, session: true, ..UsageGroup::default() }).await;
    assert_eq!(by_day.lines.iter().map(|l| l.requests).collect::<Vec<_>>(), [2, 1]);
    assert!(by_day.lines[0].day > by_day.lines[1].day && by_day.lines[0].session == Some(desk.session));
    assert_eq!(by_day.today_tokens, 2510);
}

#[tokio::test]
async fn a_budget_that_is_used_up_says_which_and_a_new_day_is_a_new_budget() {
    let desk = Desk::new(Quotas::default()).await;
    let budget = Budget { tokens_per_day: Some(2000), ..Budget::default() };
    let provider = put(&desk.app, "lab", "anthropic", ProviderSpec { budget, ..spec() }).await;
    desk.spend(&provider, "m", SOME).await;
    desk.spend(&provider, "m", SOME).await;
    let over = ModelBegun::Over { limit: "tokens_per_day", used: 2510, held: 0, most: 2000 };
    assert_eq!(desk.begin(&provider, "m").await, over);
    assert_eq!(desk.begin_in(SessionId::new(), &provider, "m").await, over, "all sessions share it");
    desk.app.db.clock.advance(Duration::from_secs(24 * 3600));
    assert!(matches!(desk.begin(&provider, "m").await, ModelBegun::Open { .. }));
}

#[tokio::test]
async fn a_sessions_budget_is_its_own_and_does_not_come_back_the_next_day() {
    let desk = Desk::new(Quotas::default()).await;
    let budget = Budget { cost_micro_usd_per_session: Some(6000), ..Budget::default() };
    let provider = put(&desk.app, "lab", "anthropic", ProviderSpec { budget, ..spec() }).await;
    desk.spend(&provider, "m", SOME).await;
    desk.app.db.clock.advance(Duration::from_secs(24 * 3600));
    let over = ModelBegun::Over { limit: "cost_micro_usd_per_session", used: 6165, held: 0, most: 6000 };
    assert_eq!(desk.begin(&provider, "m").await, over);
    assert!(matches!(desk.begin_in(SessionId::new(), &provider, "m").await, ModelBegun::Open { .. }));
}

#[tokio::test]
async fn the_spaces_quota_counts_all_providers() {
    let quotas = Quotas { model_tokens_per_day: Some(2000), ..Quotas::default() };
    let desk = Desk::new(quotas).await;
    let one = put(&desk.app, "lab", "anthropic", spec()).await;
    let two = put(&desk.app, "lab", "openai", spec()).await;
    desk.spend(&one, "m", SOME).await;
    desk.spend(&two, "m", SOME).await;
    let over = ModelBegun::Over { limit: "model_tokens_per_day", used: 2510, held: 0, most: 2000 };
    assert_eq!(desk.begin(&one, "m").await, over);
}

#[tokio::test]
async fn requests_beside_each_other_do_not_pass_a_limit_together() {
    let desk = Desk::new(Quotas { model_tokens_per_day: Some(450), ..Quotas::default() }).await;
    let budget = Budget { tokens_per_day: Some(250), ..Budget::default() };
    let one = put(&desk.app, "lab", "anthropic", ProviderSpec { budget, ..spec() }).await;
    let two = put(&desk.app, "lab", "openai", spec()).await;
    // Each is guessed to read 100.
    let all = (0..12).map(|_| desk.begin_in(SessionId::new(), &one, "m"));
    let begun = futures_util::future::join_all(all).await;
    let open: Vec<ModelRequestId> = begun
        .iter()
        .filter_map(|b| match b {
            ModelBegun::Open { id, .. } => Some(*id),
            ModelBegun::Over { .. } => None,
        })
        .collect();
    assert_eq!(open.len(), 3, "{begun:?}");
    let over = ModelBegun::Over { limit: "tokens_per_day", used: 0, held: 300, most: 250 };
    assert_eq!(begun.iter().filter(|b| **b == over).count(), 9, "{begun:?}");
    // The space's quota counts what is open at all providers.
    for _ in 0..2 {
        assert!(matches!(desk.begin(&two, "m").await, ModelBegun::Open { .. }));
    }
    let over = ModelBegun::Over { limit: "model_tokens_per_day", used: 0, held: 500, most: 450 };
    assert_eq!(desk.begin(&two, "m").await, over);
    // What is settled for less gives the rest back.
    for id in open {
        assert!(desk.settle(id, &one, "m", Tokens { input: 10, ..Tokens::default() }).await);
    }
    assert!(matches!(desk.begin(&one, "m").await, ModelBegun::Open { .. }));
}

#[tokio::test]
async fn a_gateway_of_the_previous_release_still_begins_requests() {
    let desk = Desk::new(Quotas::default()).await;
    let provider = put(&desk.app, "lab", "anthropic", spec()).await;
    let mut owner = desk.app.db.owner().await;
    let said: String = sqlx::query_scalar(
        "select outcome from model_begin($1, $2, $3, 'anthropic', 'm', 100, null, null, null, 100, 0, now())",
    )
    .bind(ModelRequestId::new().uuid())
    .bind(desk.space.uuid())
    .bind(desk.session.uuid())
    .fetch_one(&mut owner)
    .await
    .unwrap();
    assert_eq!(said, "open");
    let budget = Budget { tokens_per_session: Some(100), ..Budget::default() };
    let mut limited = provider.clone();
    limited.spec.budget = budget;
    let over = ModelBegun::Over { limit: "tokens_per_session", used: 0, held: 100, most: 100 };
    assert_eq!(desk.begin(&limited, "m").await, over);
}

#[tokio::test]
async fn what_a_dead_process_left_is_charged_with_the_guess() {
    let desk = Desk::new(Quotas::default()).await;
    let provider = put(&desk.app, "lab", "anthropic", spec()).await;
    let ModelBegun::Open { id, .. } = desk.begin(&provider, "m").await else { panic!() };
    assert_eq!(desk.gateway.model_reap(10).await.unwrap(), 0, "it may still be open");
    desk.app.db.clock.advance(wharf_store::models::ABANDONED + Duration::from_secs(1));
    let swept = desk.app.store.system(Actor::Retention).sweep().await.unwrap();
    assert_eq!(swept.model_requests_lost, 1);
    assert!(!desk.settle(id, &provider, "m", SOME).await, "it came back too late");
    let report = desk.report(UsageGroup::default()).await;
    assert_eq!((report.lines[0].tokens.input, report.lines[0].cost_micro_usd), (100, 300));
}

#[tokio::test]
async fn the_key_goes_to_the_gateway_and_to_nobody_else_and_its_use_is_in_the_log() {
    let desk = Desk::new(Quotas::default()).await;
    secret(&desk.app, "lab", "key", "sk-canary").await;
    put(&desk.app, "lab", "anthropic", ProviderSpec { secret: Some(name("key")), ..spec() }).await;
    let route = desk.gateway.model_route(desk.space, &name("anthropic")).await.unwrap().unwrap();
    assert_eq!(route.key.as_ref().unwrap().expose_str(), Some("sk-canary"));
    desk.gateway.model_key_used(desk.space, desk.session, &route).await.unwrap();
    assert_eq!(desk.app.audit("use").await, ["gateway allowed key"]);
    assert!(desk.gateway.model_route(desk.space, &name("other")).await.unwrap().is_none());
    let other = desk.app.store.system(Actor::Retention);
    assert_eq!(code(other.model_route(desk.space, &name("anthropic")).await.map(|_| ())), Code::Forbidden);
}
