use std::time::Duration;

use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Labels, Plain};
use wharf_store::{NewApiToken, NewPrincipal, PrincipalKind, PrincipalPatch};

use crate::actors::{App, PASSWORD, at, code, name, rule};

async fn service_account(app: &App, named: &str) {
    let mut scope = app.global(&app.admin).await;
    let permit = scope.service_accounts().allow(Verb::Create, &name(named)).await.unwrap();
    let new = NewPrincipal {
        name: name(named),
        display_name: String::new(),
        labels: Labels::default(),
        password: None,
    };
    scope.service_accounts().create(&permit, new).await.unwrap();
    scope.commit().await.unwrap();
}

async fn bind_account(app: &App, named: &str, role: &str) {
    let mut scope = app.global(&app.admin).await;
    let binding = name(&format!("{named}-{role}"));
    let permit = scope.bindings().allow(Verb::Create, &binding).await.unwrap();
    let new = wharf_store::NewBinding {
        name: binding,
        role: at(role),
        principal_kind: PrincipalKind::ServiceAccount,
        principal: at(named),
        space: None,
        labels: Labels::default(),
    };
    scope.bindings().create(&permit, new).await.unwrap();
    scope.commit().await.unwrap();
}

async fn token(app: &App, owner: &str, new: NewApiToken) -> Result<Plain, wharf_domain::Error> {
    token_by(app, &app.admin, owner, new).await
}

async fn token_by(
    app: &App,
    by: &wharf_store::Caller,
    owner: &str,
    new: NewApiToken,
) -> Result<Plain, wharf_domain::Error> {
    let mut scope = app.store.global(by).await?;
    let owner = scope.service_accounts().permit(&at(owner), Verb::Get).await?;
    let permit = scope.tokens(&owner).allow(Verb::Create, &new.name).await?;
    let issued = scope.tokens(&owner).create(&permit, new).await?;
    scope.commit().await?;
    Ok(issued.token)
}

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn a_token_does_what_its_owner_may_until_it_expires_or_is_deleted() {
    let app = App::new().await;
    service_account(&app, "ci").await;
    bind_account(&app, "ci", "viewer").await;
    let secret =
        token(&app, "ci", NewApiToken { name: name("t"), rules: None, lifetime: DAY }).await.unwrap();
    assert!(secret.expose_str().unwrap().starts_with("wharf_"));
    let ci = app.as_bearer(&secret).await.unwrap();
    assert_eq!(ci.identity().name, "ci");

    app.space("lab").await;
    assert!(app.store.scope(&ci, &at("lab")).await.is_ok());
    app.db.clock.advance(DAY);
    assert_eq!(code(app.as_bearer(&secret).await), Code::TokenExpired);

    let other = token(&app, "ci", NewApiToken { name: name("u"), rules: None, lifetime: DAY }).await.unwrap();
    assert!(app.as_bearer(&other).await.is_ok());
    let mut scope = app.global(&app.admin).await;
    let owner = scope.service_accounts().permit(&at("ci"), Verb::Get).await.unwrap();
    let permit = scope.tokens(&owner).permit(&at("u"), Verb::Delete).await.unwrap();
    scope.tokens(&owner).delete(&permit).await.unwrap();
    scope.commit().await.unwrap();
    assert_eq!(code(app.as_bearer(&other).await), Code::Unauthenticated);
}

#[tokio::test]
async fn a_narrowed_token_stays_within_its_rules_and_within_its_owner() {
    let app = App::new().await;
    service_account(&app, "ci").await;
    bind_account(&app, "ci", "operator").await;
    let lab = app.space("lab").await;
    let rules = vec![rule(&["core"], &["spaces", "secrets"], &[], &["get", "list", "delete"])];
    let new = NewApiToken { name: name("narrow"), rules: Some(rules), lifetime: DAY };
    let secret = token(&app, "ci", new).await.unwrap();
    let ci = app.as_bearer(&secret).await.unwrap();

    let mut scope = app.store.scope(&ci, &at("lab")).await.unwrap();
    assert_eq!(code(scope.secrets().allow(Verb::Create, &name("x")).await), Code::Forbidden);
    // The owner loses a right: the token has it no more, although its rules still name it.
    use wharf_domain::rbac::Resource;
    assert!(ci.may(Some(lab.id), Resource::Secrets, Verb::Delete, None));
    let mut scope = app.global(&app.admin).await;
    let permit = scope.bindings().permit(&at("ci-operator"), Verb::Delete).await.unwrap();
    scope.bindings().delete(&permit, None).await.unwrap();
    scope.commit().await.unwrap();
    bind_account(&app, "ci", "viewer").await;
    let ci = app.as_bearer(&secret).await.unwrap();
    assert!(!ci.may(Some(lab.id), Resource::Secrets, Verb::Delete, None));
    assert!(ci.may(Some(lab.id), Resource::Secrets, Verb::Get, None));
}

#[tokio::test]
async fn nobody_makes_a_token_that_may_do_more_than_he() {
    let app = App::new().await;
    service_account(&app, "root").await;
    bind_account(&app, "root", "admin").await;
    // Someone who administers tokens but not the rest.
    app.stranger("tina").await;
    let mut scope = app.global(&app.admin).await;
    let permit = scope.roles().allow(Verb::Create, &name("token-maker")).await.unwrap();
    let rules = vec![rule(&["access"], &["tokens", "service-accounts"], &[], &["*"])];
    scope
        .roles()
        .create(&permit, wharf_store::NewRole { name: name("token-maker"), rules, labels: Labels::default() })
        .await
        .unwrap();
    scope.commit().await.unwrap();
    app.bind(&app.admin, "tina", "token-maker", None).await.unwrap();
    let tina = app.log_in("tina").await;

    let all = NewApiToken { name: name("all"), rules: None, lifetime: DAY };
    assert_eq!(code(token_by(&app, &tina, "root", all).await), Code::Forbidden);
    let some = vec![rule(&["sessions"], &["sessions"], &[], &["get"])];
    let narrow = NewApiToken { name: name("narrow"), rules: Some(some), lifetime: DAY };
    assert_eq!(code(token_by(&app, &tina, "root", narrow).await), Code::Forbidden);
    let own = vec![rule(&["access"], &["tokens"], &[], &["list"])];
    let fine = NewApiToken { name: name("fine"), rules: Some(own), lifetime: DAY };
    assert!(token_by(&app, &tina, "root", fine).await.is_ok());
}

#[tokio::test]
async fn neither_the_database_nor_a_list_shows_a_token() {
    let app = App::new().await;
    service_account(&app, "ci").await;
    let secret =
        token(&app, "ci", NewApiToken { name: name("t"), rules: None, lifetime: DAY }).await.unwrap();
    let mut scope = app.global(&app.admin).await;
    let owner = scope.service_accounts().permit(&at("ci"), Verb::Get).await.unwrap();
    let listed = scope.tokens(&owner).list(&Default::default()).await.unwrap();
    let shown = serde_json::to_string(&listed).unwrap();
    let tail = &secret.expose_str().unwrap()[14..];
    assert!(!shown.contains(tail));
    assert_eq!(listed.items[0].prefix, secret.expose_str().unwrap()[..12]);
}

#[tokio::test]
async fn the_use_of_a_token_is_kept_coarsely() {
    let app = App::new().await;
    service_account(&app, "ci").await;
    let secret =
        token(&app, "ci", NewApiToken { name: name("t"), rules: None, lifetime: DAY }).await.unwrap();
    let used = async || {
        let mut scope = app.global(&app.admin).await;
        let owner = scope.service_accounts().permit(&at("ci"), Verb::Get).await.unwrap();
        scope.tokens(&owner).list(&Default::default()).await.unwrap().items[0].last_used_at
    };
    assert_eq!(used().await, None);
    app.as_bearer(&secret).await.unwrap();
    let mut first = None;
    for _ in 0..200 {
        first = used().await;
        if first.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(first.is_some(), "the use was noted");
    app.db.clock.advance(Duration::from_secs(60));
    app.as_bearer(&secret).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(used().await, first, "not written again within five minutes");
}

#[tokio::test]
async fn a_service_account_has_no_password_and_a_deleted_name_is_free() {
    let app = App::new().await;
    service_account(&app, "ci").await;
    let mut scope = app.global(&app.admin).await;
    let permit = scope.service_accounts().permit(&at("ci"), Verb::Update).await.unwrap();
    let patch = PrincipalPatch { password: Some(Plain::new(PASSWORD)), ..Default::default() };
    assert_eq!(code(scope.service_accounts().update(&permit, patch, None).await), Code::InvalidField);
    drop(scope);
    let mut scope = app.global(&app.admin).await;
    let permit = scope.service_accounts().permit(&at("ci"), Verb::Delete).await.unwrap();
    scope.service_accounts().delete(&permit, None).await.unwrap();
    scope.commit().await.unwrap();
    service_account(&app, "ci").await;
}

#[tokio::test]
async fn a_taken_name_and_a_stale_version_are_told() {
    let app = App::new().await;
    let alice = app.stranger("alice").await;
    let mut scope = app.global(&app.admin).await;
    let permit = scope.users().allow(Verb::Create, &name("alice")).await.unwrap();
    let again = NewPrincipal {
        name: name("alice"),
        display_name: String::new(),
        labels: Labels::default(),
        password: None,
    };
    let e = scope.users().create(&permit, again).await.err().unwrap();
    assert_eq!((e.code, e.field.as_deref()), (Code::AlreadyExists, Some("name")));
    drop(scope);

    let mut scope = app.global(&app.admin).await;
    let permit = scope.users().permit(&at("alice"), Verb::Update).await.unwrap();
    let patch = PrincipalPatch { display_name: Some("Alice".into()), ..Default::default() };
    let stale = scope.users().update(&permit, patch, Some(alice.resource_version + 1)).await;
    assert_eq!(code(stale), Code::PreconditionFailed);
}
