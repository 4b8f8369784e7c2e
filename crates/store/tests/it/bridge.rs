use std::sync::Arc;
use std::time::Duration;

use wharf_domain::rbac::Verb;
use wharf_domain::{Labels, Plain};
use wharf_ports::bus::Bus as _;
use wharf_ports::{Topic, Wake};

use crate::actors::{App, at, name};

#[tokio::test]
async fn a_commit_in_one_process_wakes_another_and_not_itself_twice() {
    let app = App::new().await;
    let lab = app.space("lab").await;
    let mut config = app.db.config();
    config.bridge = true;
    let (here, there) = (Arc::new(wharf_bus::Local::new()), Arc::new(wharf_bus::Local::new()));
    let first = app.db.store_with(config.clone(), here.clone()).await;
    let _second = app.db.store_with(config, there.clone()).await;
    let (mut heard_here, mut heard_there) = (here.subscribe(), there.subscribe());

    // The listener needs a moment to be there; until then wake-ups may get lost.
    let mut heard = None;
    for n in 0..100 {
        let mut scope = first.scope(&app.admin, &at("lab")).await.unwrap();
        let named = name(&format!("s-{n}"));
        let permit = scope.secrets().allow(Verb::Create, &named).await.unwrap();
        let new = wharf_store::NewSecret { name: named, value: Plain::new("v"), labels: Labels::default() };
        scope.secrets().create(&permit, new).await.unwrap();
        scope.commit().await.unwrap();
        if let Ok(wake) = tokio::time::timeout(Duration::from_millis(100), heard_there.next()).await {
            heard = wake;
            break;
        }
    }
    assert!(
        matches!(heard, Some(Wake::Topic(Topic::Space(s))) if s == lab.id)
            || heard == Some(Wake::Topic(Topic::Audit))
    );

    // Every wake-up reached this process once, by its own bus, and not again over the database.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut own = 0;
    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(20), heard_here.next()).await {
        own += 1;
    }
    let committed = app.store.space_events(&app.admin, lab.id, Default::default(), None, 500).await.unwrap();
    let secrets = committed.events.iter().filter(|e| e.resource == "secrets").count();
    assert_eq!(own, secrets * 2, "one of the space and one of the audit log for each commit");
}
