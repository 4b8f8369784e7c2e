use wharf_domain::quota::Quotas;
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Labels, Plain};
use wharf_store::{NewSecret, SpacePatch};

use crate::actors::{App, at, code, name};

#[tokio::test]
async fn a_space_is_made_changed_and_deleted_when_empty() {
    let app = App::new().await;
    let lab = app.space("lab").await;
    let mut scope = app.global(&app.admin).await;
    let permit = scope.spaces().permit(&at("lab"), Verb::Update).await.unwrap();
    let quotas = Quotas { sessions: Some(3), ..Default::default() };
    let patch = SpacePatch { quotas: Some(quotas.clone()), ..Default::default() };
    assert_eq!(
        code(scope.spaces().update(&permit, patch.clone(), Some(lab.resource_version + 7)).await),
        Code::PreconditionFailed
    );
    let changed = scope.spaces().update(&permit, patch, Some(lab.resource_version)).await.unwrap();
    assert_eq!((changed.quotas, changed.resource_version), (quotas, lab.resource_version + 1));
    scope.commit().await.unwrap();

    let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
    let permit = scope.secrets().allow(Verb::Create, &name("db")).await.unwrap();
    let new = NewSecret { name: name("db"), value: Plain::new("v"), labels: Labels::default() };
    scope.secrets().create(&permit, new).await.unwrap();
    scope.commit().await.unwrap();

    let mut scope = app.global(&app.admin).await;
    let permit = scope.spaces().permit(&at("lab"), Verb::Delete).await.unwrap();
    let e = scope.spaces().delete(&permit, None).await.err().unwrap();
    assert_eq!(e.code, Code::InUse);
    assert!(e.public.contains("secrets"), "it names what is left: {}", e.public);
    drop(scope);

    let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
    let permit = scope.secrets().permit(&at("db"), Verb::Delete).await.unwrap();
    scope.secrets().delete(&permit, None).await.unwrap();
    scope.commit().await.unwrap();
    let mut scope = app.global(&app.admin).await;
    let permit = scope.spaces().permit(&at("lab"), Verb::Delete).await.unwrap();
    scope.spaces().delete(&permit, None).await.unwrap();
    scope.commit().await.unwrap();
    assert_eq!(code(app.store.scope(&app.admin, &at("lab")).await), Code::NotFound);
    app.space("lab").await;
}

#[tokio::test]
async fn a_list_shows_the_spaces_one_has_a_role_in() {
    let app = App::new().await;
    let lab = app.space("lab").await;
    app.space("attic").await;
    let vera = app.user("vera", "viewer", Some(lab.id)).await;
    let seen = |page: wharf_store::Page<wharf_store::Space>| {
        page.items.into_iter().map(|s| s.name.to_string()).collect::<Vec<_>>()
    };
    let mut scope = app.global(&vera).await;
    assert_eq!(seen(scope.spaces().list(&Default::default()).await.unwrap()), ["lab"]);
    let mut scope = app.global(&app.admin).await;
    assert_eq!(seen(scope.spaces().list(&Default::default()).await.unwrap()), ["lab", "attic"]);
}

#[tokio::test]
async fn usage_needs_its_own_right() {
    let app = App::new().await;
    let lab = app.space("lab").await;
    let vera = app.user("vera", "viewer", Some(lab.id)).await;
    let mut scope = app.global(&vera).await;
    let permit = scope.spaces().permit(&at("lab"), Verb::Get).await.unwrap();
    assert_eq!(scope.spaces().usage(&permit).await.unwrap(), Default::default());
}

#[tokio::test]
async fn a_change_without_an_audit_entry_is_not_committed() {
    // Nothing public can do that; a scope that only read commits without one.
    let app = App::new().await;
    app.space("lab").await;
    let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
    scope.secrets().list(&Default::default()).await.unwrap();
    scope.commit().await.unwrap();
}
