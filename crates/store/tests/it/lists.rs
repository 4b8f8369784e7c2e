use std::collections::BTreeMap;

use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Labels};
use wharf_store::{NewPrincipal, NewRole, PageRequest};

use crate::actors::{App, code, name, rule};

async fn users(app: &App, count: usize) {
    let mut scope = app.global(&app.admin).await;
    for n in 0..count {
        let named = name(&format!("u-{n:03}"));
        let permit = scope.users().allow(Verb::Create, &named).await.unwrap();
        let team = if n % 2 == 0 { "red" } else { "blue" };
        let mut labels = BTreeMap::from([("team".to_owned(), team.to_owned())]);
        if n % 3 == 0 {
            labels.insert("lead".to_owned(), String::new());
        }
        let new = NewPrincipal {
            name: named,
            display_name: String::new(),
            labels: Labels::try_from(labels).unwrap(),
            password: None,
        };
        scope.users().create(&permit, new).await.unwrap();
    }
    scope.commit().await.unwrap();
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repeat() {
    let app = App::new().await;
    users(&app, 25).await;
    let mut seen = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut scope = app.global(&app.admin).await;
        let request = PageRequest::new(Some(7), cursor.as_deref(), None).unwrap();
        let page = scope.users().list(&request).await.unwrap();
        assert!(page.items.len() <= 7);
        seen.extend(page.items.iter().map(|u| u.name.to_string()));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    let mut wanted = vec!["admin".to_owned()];
    wanted.extend((0..25).map(|n| format!("u-{n:03}")));
    assert_eq!(seen, wanted);
}

#[tokio::test]
async fn labels_select() {
    let app = App::new().await;
    users(&app, 12).await;
    let mut scope = app.global(&app.admin).await;
    let request = PageRequest::new(None, None, Some("team=red,lead")).unwrap();
    let page = scope.users().list(&request).await.unwrap();
    let names: Vec<_> = page.items.iter().map(|u| u.name.to_string()).collect();
    assert_eq!(names, ["u-000", "u-006"]);
}

#[tokio::test]
async fn bad_limits_and_cursors_are_told() {
    assert_eq!(code(PageRequest::new(Some(0), None, None)), Code::InvalidField);
    assert_eq!(code(PageRequest::new(Some(501), None, None)), Code::InvalidField);
    assert_eq!(code(PageRequest::new(None, Some("no cursor"), None)), Code::InvalidField);
    assert_eq!(code(PageRequest::new(None, None, Some("=x"))), Code::InvalidField);
}

#[tokio::test]
async fn a_list_is_filtered_by_the_names_one_may_see_and_refused_where_that_is_none() {
    let app = App::new().await;
    users(&app, 4).await;
    let mut scope = app.global(&app.admin).await;
    let permit = scope.roles().allow(Verb::Create, &name("two")).await.unwrap();
    let rules = vec![rule(&["access"], &["users"], &["u-001", "u-003"], &["get", "list"])];
    scope
        .roles()
        .create(&permit, NewRole { name: name("two"), rules, labels: Labels::default() })
        .await
        .unwrap();
    scope.commit().await.unwrap();
    let tom = app.user("tom", "two", None).await;
    let mut scope = app.global(&tom).await;
    let page = scope.users().list(&Default::default()).await.unwrap();
    let names: Vec<_> = page.items.iter().map(|u| u.name.to_string()).collect();
    assert_eq!(names, ["u-001", "u-003"]);
    assert_eq!(code(scope.roles().list(&Default::default()).await), Code::Forbidden);
}
