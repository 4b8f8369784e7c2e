use std::time::Duration;

use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Code, Labels};
use wharf_store::{NewRole, PrincipalKind, PrincipalPatch, Review, RolePatch};

use crate::actors::{App, at, code, name, rule};

#[tokio::test]
async fn a_stranger_learns_nothing_a_viewer_may_look_and_a_developer_may_work() {
    let app = App::new().await;
    let lab = app.space("lab").await;
    app.stranger("sam").await;
    let sam = app.log_in("sam").await;
    assert_eq!(code(app.store.scope(&sam, &at("lab")).await), Code::NotFound);
    let missing = app.store.scope(&sam, &at("nowhere")).await.err().unwrap();
    let hidden = app.store.scope(&sam, &at("lab")).await.err().unwrap();
    assert_eq!(hidden.public.replace("lab", "nowhere"), missing.public, "the two cannot be told apart");

    let viewer = app.user("vera", "viewer", Some(lab.id)).await;
    let mut scope = app.store.scope(&viewer, &at("lab")).await.unwrap();
    assert!(scope.secrets().list(&Default::default()).await.is_ok());
    assert_eq!(code(scope.secrets().allow(Verb::Create, &name("db")).await), Code::Forbidden);

    let developer = app.user("dora", "developer", Some(lab.id)).await;
    let mut scope = app.store.scope(&developer, &at("lab")).await.unwrap();
    assert!(scope.secrets().allow(Verb::Create, &name("db")).await.is_ok());

    app.space("other").await;
    assert_eq!(code(app.store.scope(&developer, &at("other")).await), Code::NotFound);
}

#[tokio::test]
async fn every_denial_is_in_the_log() {
    let app = App::new().await;
    let lab = app.space("lab").await;
    let viewer = app.user("vera", "viewer", Some(lab.id)).await;
    let mut scope = app.store.scope(&viewer, &at("lab")).await.unwrap();
    let _ = scope.secrets().allow(Verb::Create, &name("db")).await;
    let mut scope = app.global(&viewer).await;
    let _ = scope.users().permit(&at("admin"), Verb::Delete).await;
    assert_eq!(app.audit("create").await[0], "vera denied db");
    assert_eq!(app.audit("delete").await[0], "vera denied admin");
}

#[tokio::test]
async fn a_denial_takes_what_was_done_before_it_with_it() {
    let app = App::new().await;
    let lab = app.space("lab").await;
    let developer = app.user("dora", "developer", Some(lab.id)).await;
    let mut scope = app.store.scope(&developer, &at("lab")).await.unwrap();
    let permit = scope.secrets().allow(Verb::Create, &name("db")).await.unwrap();
    let value = wharf_domain::Plain::new("v");
    let new = wharf_store::NewSecret { name: name("db"), value, labels: Labels::default() };
    scope.secrets().create(&permit, new).await.unwrap();
    assert_eq!(code(scope.users().permit(&at("admin"), Verb::Get).await), Code::NotFound);
    assert!(scope.commit().await.is_err(), "the scope ended with the denial");
    let mut scope = app.store.scope(&developer, &at("lab")).await.unwrap();
    assert!(scope.secrets().list(&Default::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn you_can_only_grant_what_you_hold() {
    let app = App::new().await;
    let lab = app.space("lab").await;
    // Someone who manages access, without holding everything.
    let mut scope = app.global(&app.admin).await;
    let permit = scope.roles().allow(Verb::Create, &name("access-manager")).await.unwrap();
    let rules = vec![
        rule(&["access"], &["roles", "role-bindings", "users"], &[], &["*"]),
        rule(&["sessions"], &["*"], &[], &["get", "list", "watch"]),
    ];
    scope
        .roles()
        .create(&permit, NewRole { name: name("access-manager"), rules, labels: Labels::default() })
        .await
        .unwrap();
    scope.commit().await.unwrap();
    let mallory = app.user("mallory", "access-manager", None).await;

    // Not by binding a stronger role, to himself or in a space.
    assert_eq!(code(app.bind(&mallory, "mallory", "admin", None).await), Code::Forbidden);
    assert_eq!(code(app.bind(&mallory, "mallory", "developer", Some(lab.id)).await), Code::Forbidden);
    // Not by writing one.
    let mut scope = app.global(&mallory).await;
    let permit = scope.roles().allow(Verb::Create, &name("mine")).await.unwrap();
    let all = vec![rule(&["*"], &["*"], &[], &["*"])];
    assert_eq!(
        code(
            scope
                .roles()
                .create(&permit, NewRole { name: name("mine"), rules: all, labels: Labels::default() })
                .await
        ),
        Code::Forbidden
    );
    // Not by widening his own.
    let mut scope = app.global(&mallory).await;
    let permit = scope.roles().permit(&at("access-manager"), Verb::Update).await.unwrap();
    let wider =
        RolePatch { rules: Some(vec![rule(&["core"], &["secrets"], &[], &["read-values"])]), labels: None };
    assert_eq!(code(scope.roles().update(&permit, wider, None).await), Code::Forbidden);
    // Not by taking the admin's account over.
    let mut scope = app.global(&mallory).await;
    let permit = scope.users().permit(&at("admin"), Verb::Update).await.unwrap();
    let patch =
        PrincipalPatch { password: Some(wharf_domain::Plain::new("mine now 123")), ..Default::default() };
    assert_eq!(code(scope.users().update(&permit, patch, None).await), Code::Forbidden);
    // Not by taking his rights away.
    let mut scope = app.global(&mallory).await;
    let permit = scope.bindings().permit(&at("admin"), Verb::Delete).await.unwrap();
    assert_eq!(code(scope.bindings().delete(&permit, None).await), Code::Forbidden);

    // What he holds he can hand on.
    app.stranger("bob").await;
    app.bind(&mallory, "bob", "access-manager", Some(lab.id)).await.unwrap();
}

#[tokio::test]
async fn built_in_roles_stay_and_bound_roles_are_in_use() {
    let app = App::new().await;
    let mut scope = app.global(&app.admin).await;
    let permit = scope.roles().permit(&at("viewer"), Verb::Delete).await.unwrap();
    assert_eq!(code(scope.roles().delete(&permit, None).await), Code::InvalidState);

    let permit = scope.roles().allow(Verb::Create, &name("mine")).await.unwrap();
    let rules = vec![rule(&["core"], &["spaces"], &[], &["get"])];
    scope
        .roles()
        .create(&permit, NewRole { name: name("mine"), rules, labels: Labels::default() })
        .await
        .unwrap();
    scope.commit().await.unwrap();
    app.user("uma", "mine", None).await;
    let mut scope = app.global(&app.admin).await;
    let permit = scope.roles().permit(&at("mine"), Verb::Delete).await.unwrap();
    assert_eq!(code(scope.roles().delete(&permit, None).await), Code::InUse);
}

#[tokio::test]
async fn a_rule_with_an_unknown_word_is_refused() {
    let app = App::new().await;
    let mut scope = app.global(&app.admin).await;
    let permit = scope.roles().allow(Verb::Create, &name("mine")).await.unwrap();
    let rules = vec![rule(&["core"], &["spacez"], &[], &["get"])];
    let e =
        scope.roles().create(&permit, NewRole { name: name("mine"), rules, labels: Labels::default() }).await;
    assert_eq!(code(e), Code::InvalidField);
}

#[tokio::test]
async fn the_last_admin_cannot_be_unbound() {
    let app = App::new().await;
    let mut scope = app.global(&app.admin).await;
    let permit = scope.bindings().permit(&at("admin"), Verb::Delete).await.unwrap();
    assert_eq!(code(scope.bindings().delete(&permit, None).await), Code::InvalidState);
    drop(scope);
    app.user("second", "admin", None).await;
    let mut scope = app.global(&app.admin).await;
    let permit = scope.bindings().permit(&at("admin"), Verb::Delete).await.unwrap();
    scope.bindings().delete(&permit, None).await.unwrap();
    scope.commit().await.unwrap();
}

#[tokio::test]
async fn a_review_names_the_binding_that_allows() {
    let app = App::new().await;
    let lab = app.space("lab").await;
    let vera = app.user("vera", "viewer", Some(lab.id)).await;
    let mut scope = app.global(&vera).await;
    let ask = |verb| Review { verb, resource: Resource::Sessions, name: None, space: Some(at("lab")) };
    let yes = scope.review(&ask(Verb::Get)).await.unwrap();
    assert!(yes.allowed);
    assert_eq!(yes.role.as_deref(), Some("viewer"));
    assert!(yes.binding.unwrap().starts_with("vera-viewer-"));
    assert!(!scope.review(&ask(Verb::Delete)).await.unwrap().allowed);
    let elsewhere =
        Review { verb: Verb::Get, resource: Resource::Sessions, name: None, space: Some(at("nowhere")) };
    assert_eq!(code(scope.review(&elsewhere).await), Code::NotFound);
}

#[tokio::test]
async fn acting_as_someone_else_leaves_both_names_in_the_log() {
    let app = App::new().await;
    let lab = app.space("lab").await;
    app.user("dora", "developer", Some(lab.id)).await;
    let scope = app.global(&app.admin).await;
    let (token, _, who) =
        scope.impersonate(PrincipalKind::User, &at("dora"), Duration::from_secs(300)).await.unwrap();
    assert_eq!(who.name, "dora");
    let acting = app.as_bearer(&token).await.unwrap();
    assert_eq!(acting.identity().name, "dora");
    assert_eq!(acting.impersonator().unwrap().name, "admin");

    let mut scope = app.store.scope(&acting, &at("lab")).await.unwrap();
    let permit = scope.secrets().allow(Verb::Create, &name("db")).await.unwrap();
    let new = wharf_store::NewSecret {
        name: name("db"),
        value: wharf_domain::Plain::new("v"),
        labels: Labels::default(),
    };
    scope.secrets().create(&permit, new).await.unwrap();
    scope.commit().await.unwrap();
    let mut scope = app.global(&app.admin).await;
    let filter = wharf_store::audit::AuditFilter { name: Some("db".into()), ..Default::default() };
    let entry = scope.audit_list(&filter).await.unwrap().items.remove(0);
    assert_eq!((entry.principal.as_str(), entry.impersonator.as_deref()), ("dora", Some("admin")));

    // It has dora's rights, not admin's; it does not chain; it ends with admin's login.
    assert_eq!(code(app.global(&acting).await.users().permit(&at("admin"), Verb::Get).await), Code::NotFound);
    let scope = app.global(&acting).await;
    let chained = scope.impersonate(PrincipalKind::User, &at("dora"), Duration::from_secs(60)).await;
    assert!(matches!(code(chained), Code::NotFound | Code::Forbidden));
    app.store.logout(&app.admin).await.unwrap();
    assert_eq!(code(app.as_bearer(&token).await), Code::Unauthenticated);
}

#[tokio::test]
async fn nobody_acts_as_someone_who_may_do_more() {
    let app = App::new().await;
    let mut scope = app.global(&app.admin).await;
    let permit = scope.roles().allow(Verb::Create, &name("support")).await.unwrap();
    let rules = vec![
        rule(&["access"], &["users"], &[], &["get", "list", "impersonate"]),
        rule(&["core", "sessions", "work", "workers"], &["*"], &[], &["get", "list", "watch"]),
    ];
    scope
        .roles()
        .create(&permit, NewRole { name: name("support"), rules, labels: Labels::default() })
        .await
        .unwrap();
    scope.commit().await.unwrap();
    let sue = app.user("sue", "support", None).await;
    app.user("vera", "viewer", None).await;

    let as_admin = app.global(&sue).await;
    let refused = as_admin.impersonate(PrincipalKind::User, &at("admin"), Duration::from_secs(60)).await;
    assert_eq!(code(refused), Code::Forbidden);
    assert_eq!(app.audit("impersonate").await[0], "sue denied admin");

    let as_vera = app.global(&sue).await;
    let (token, _, _) =
        as_vera.impersonate(PrincipalKind::User, &at("vera"), Duration::from_secs(60)).await.unwrap();
    assert!(app.as_bearer(&token).await.is_ok());
    // Vera is promoted: the token does not follow her up.
    app.bind(&app.admin, "vera", "admin", None).await.unwrap();
    assert_eq!(code(app.as_bearer(&token).await), Code::Forbidden);
}

#[tokio::test]
async fn an_admin_of_one_space_administers_nothing_beyond_it() {
    let app = App::new().await;
    let lab = app.space("lab").await;
    let chief = app.user("chief", "admin", Some(lab.id)).await;
    // Global kinds are out of reach, from a global scope and from inside the space.
    for inside in [false, true] {
        let open = async || {
            if inside { app.store.scope(&chief, &at("lab")).await.unwrap() } else { app.global(&chief).await }
        };
        assert_eq!(code(open().await.users().permit(&at("admin"), Verb::Update).await), Code::NotFound);
        assert_eq!(code(open().await.users().list(&Default::default()).await), Code::Forbidden);
        assert_eq!(code(open().await.bindings().allow(Verb::Create, &name("b")).await), Code::Forbidden);
        assert_eq!(code(open().await.audit_list(&Default::default()).await), Code::Forbidden);
    }
    let mut scope = app.global(&chief).await;
    let review = Review { verb: Verb::Update, resource: Resource::Users, name: None, space: Some(at("lab")) };
    assert!(!scope.review(&review).await.unwrap().allowed);
    let permit = scope.spaces().permit(&at("lab"), Verb::Update).await.unwrap();
    assert_eq!(permit.name.as_str(), "lab");
}

#[tokio::test]
async fn a_permit_for_one_thing_does_not_do_another() {
    let app = App::new().await;
    let mut scope = app.global(&app.admin).await;
    app.space("lab").await;
    let look = scope.spaces().permit(&at("lab"), Verb::Get).await.unwrap();
    let refused = scope.spaces().delete(&look, None).await.err().unwrap();
    assert_eq!(refused.code, Code::Internal, "a defect, not an answer: {refused}");
}
