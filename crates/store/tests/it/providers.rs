use wharf_domain::model::{Budget, Price, Protocol, ProviderSpec};
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Labels, Plain};
use wharf_store::{NewProvider, NewSecret, Provider, ProviderPatch, Scope};

use crate::actors::{App, at, code, name};

pub fn spec() -> ProviderSpec {
    ProviderSpec {
        protocol: Protocol::Anthropic,
        base_url: None,
        secret: None,
        key_header: None,
        headers: [].into(),
        models: Vec::new(),
        prices: [(
            "*".to_owned(),
            Price { input_micro_usd: 3_000_000, output_micro_usd: 15_000_000, ..Price::default() },
        )]
        .into(),
        budget: Budget::default(),
        retries: 2,
        script: None,
    }
}

pub async fn put(app: &App, space: &str, named: &str, spec: ProviderSpec) -> Provider {
    let mut scope = app.store.scope(&app.admin, &at(space)).await.unwrap();
    let provider = make(&mut scope, named, spec).await.unwrap();
    scope.commit().await.unwrap();
    provider
}

async fn make(scope: &mut Scope, named: &str, spec: ProviderSpec) -> Result<Provider, wharf_domain::Error> {
    let permit = scope.providers().allow(Verb::Create, &name(named)).await?;
    let new = NewProvider { name: name(named), labels: Labels::default(), spec };
    scope.providers().create(&permit, new).await
}

pub async fn secret(app: &App, space: &str, named: &str, value: &str) {
    let mut scope = app.store.scope(&app.admin, &at(space)).await.unwrap();
    let permit = scope.secrets().allow(Verb::Create, &name(named)).await.unwrap();
    let new = NewSecret { name: name(named), value: Plain::new(value), labels: Labels::default() };
    scope.secrets().create(&permit, new).await.unwrap();
    scope.commit().await.unwrap();
}

#[tokio::test]
async fn a_provider_names_a_secret_that_is_there_and_then_cannot_go() {
    let app = App::new().await;
    app.space("lab").await;
    let with = || ProviderSpec { secret: Some(name("key")), ..spec() };
    let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
    assert_eq!(code(make(&mut scope, "anthropic", with()).await), Code::InvalidReference);
    drop(scope);
    secret(&app, "lab", "key", "sk-1").await;
    put(&app, "lab", "anthropic", with()).await;

    let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
    let permit = scope.secrets().permit(&at("key"), Verb::Delete).await.unwrap();
    assert_eq!(code(scope.secrets().delete(&permit, None).await), Code::InUse);
    drop(scope);
    let mut scope = app.store.global(&app.admin).await.unwrap();
    let permit = scope.spaces().permit(&at("lab"), Verb::Delete).await.unwrap();
    assert_eq!(code(scope.spaces().delete(&permit, None).await), Code::InUse);
    drop(scope);

    let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
    let permit = scope.providers().permit(&at("anthropic"), Verb::Delete).await.unwrap();
    scope.providers().delete(&permit, None).await.unwrap();
    let permit = scope.secrets().permit(&at("key"), Verb::Delete).await.unwrap();
    scope.secrets().delete(&permit, None).await.unwrap();
    scope.commit().await.unwrap();
}

#[tokio::test]
async fn names_are_taken_once_and_the_gateways_own_never() {
    let app = App::new().await;
    app.space("lab").await;
    put(&app, "lab", "openai", spec()).await;
    for (named, wanted) in [("openai", Code::AlreadyExists), ("guard", Code::InvalidField)] {
        let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
        assert_eq!(code(make(&mut scope, named, spec()).await), wanted, "{named}");
    }
}

#[tokio::test]
async fn a_developer_sees_providers_and_may_not_say_where_keys_go() {
    let app = App::new().await;
    let lab = app.space("lab").await;
    put(&app, "lab", "anthropic", spec()).await;
    let dora = app.user("dora", "developer", Some(lab.id)).await;
    let mut scope = app.store.scope(&dora, &at("lab")).await.unwrap();
    assert_eq!(scope.providers().list(&wharf_store::PageRequest::default()).await.unwrap().items.len(), 1);
    let refused = scope.providers().permit(&at("anthropic"), Verb::Update).await;
    assert_eq!(code(refused), Code::Forbidden);
    let mut scope = app.store.scope(&dora, &at("lab")).await.unwrap();
    assert_eq!(code(make(&mut scope, "mine", spec()).await), Code::Forbidden);
}

#[tokio::test]
async fn a_change_is_checked_whole_and_against_its_version() {
    let app = App::new().await;
    app.space("lab").await;
    put(&app, "lab", "anthropic", spec()).await;
    let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
    let permit = scope.providers().permit(&at("anthropic"), Verb::Update).await.unwrap();
    let patch = |spec| ProviderPatch { labels: None, spec: Some(spec) };
    let stale = scope.providers().update(&permit, patch(spec()), Some(7)).await;
    assert_eq!(code(stale), Code::PreconditionFailed);
    let missing = ProviderSpec { secret: Some(name("none")), ..spec() };
    assert_eq!(code(scope.providers().update(&permit, patch(missing), None).await), Code::InvalidReference);
    let row = scope
        .providers()
        .update(&permit, patch(ProviderSpec { retries: 5, ..spec() }), Some(1))
        .await
        .unwrap();
    assert_eq!((row.resource_version, row.spec.retries), (2, 5));
    scope.commit().await.unwrap();
    assert_eq!(app.audit("update").await[0], "admin allowed anthropic");
}
