use std::collections::BTreeSet;
use std::time::Duration;

use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Labels, Plain};
use wharf_ports::bus::Bus as _;
use wharf_ports::{Topic, Wake};
use wharf_store::{NewSecret, Position, Scope};

use crate::actors::{App, at, name};

async fn secret(scope: &mut Scope, named: &str) {
    let permit = scope.secrets().allow(Verb::Create, &name(named)).await.unwrap();
    let new = NewSecret { name: name(named), value: Plain::new("v"), labels: Labels::default() };
    scope.secrets().create(&permit, new).await.unwrap();
}

#[tokio::test]
async fn a_change_and_its_event_appear_together_and_wake_the_space() {
    let app = App::new().await;
    let lab = app.space("lab").await;
    let mut heard = app.db.bus.subscribe();
    let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
    secret(&mut scope, "db").await;
    drop(scope);
    let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
    secret(&mut scope, "mail").await;
    scope.commit().await.unwrap();
    assert_eq!(
        heard.next().await,
        Some(Wake::Topic(Topic::Space(lab.id))),
        "the first wake-up is of the commit"
    );

    let page = read_all(&app, lab.id, Position::default()).await;
    let names: Vec<_> = page.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["lab", "mail"], "what was rolled back left no event");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_goes_away_in_the_middle_of_a_commit_leaves_nobody_asleep() {
    let app = App::new().await;
    let lab = app.space("lab").await;
    let mut cut_short = 0;
    for i in 0..60_u32 {
        let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
        let named = format!("s{i}");
        secret(&mut scope, &named).await;
        let mut heard = app.db.bus.subscribe();
        let gone =
            tokio::time::timeout(Duration::from_micros(u64::from(i) * 60), scope.commit()).await.is_err();
        cut_short += u32::from(gone);
        let woken = tokio::time::timeout(Duration::from_millis(300), async {
            while heard.next().await != Some(Wake::Topic(Topic::Space(lab.id))) {}
        });
        let woken = woken.await.is_ok();
        let there = read_all(&app, lab.id, Position::default()).await.iter().any(|(name, _)| *name == named);
        assert!(!there || woken, "{named} is committed, and nobody was told");
    }
    assert!(cut_short > 0, "no commit was cut short");
}

async fn read_all(app: &App, space: wharf_domain::SpaceId, mut from: Position) -> Vec<(String, Position)> {
    let mut seen = Vec::new();
    for _ in 0..2000 {
        let page = app.store.space_events(&app.admin, space, from, None, 10).await.unwrap();
        seen.extend(page.events.into_iter().map(|e| (e.name.unwrap_or_default(), e.position)));
        from = page.next;
        if !page.more_soon {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("the stream never settles");
}

#[tokio::test]
async fn a_reader_among_concurrent_writers_misses_nothing_and_sees_nothing_twice() {
    const WRITERS: usize = 8;
    const EACH: usize = 12;
    let app = App::new().await;
    let lab = app.space("lab").await;
    let reader = {
        let (store, admin, space) = (app.store.clone(), app.admin.clone(), lab.id);
        tokio::spawn(async move {
            let (mut from, mut seen) = (Position::default(), Vec::new());
            let until = tokio::time::Instant::now() + Duration::from_secs(60);
            while seen.len() < WRITERS * EACH && tokio::time::Instant::now() < until {
                let page = store.space_events(&admin, space, from, Some(Resource::Secrets), 7).await.unwrap();
                for e in page.events {
                    assert!(e.position > from, "positions grow");
                    from = e.position;
                    seen.push(e.name.unwrap());
                }
                from = from.max(page.next);
            }
            seen
        })
    };
    let writers: Vec<_> = (0..WRITERS)
        .map(|w| {
            let (store, admin) = (app.store.clone(), app.admin.clone());
            tokio::spawn(async move {
                for n in 0..EACH {
                    let mut scope = store.scope(&admin, &at("lab")).await.unwrap();
                    secret(&mut scope, &format!("s-{w}-{n}")).await;
                    // Transactions of very different length: numbers are taken and committed in different orders.
                    tokio::time::sleep(Duration::from_millis(((w * 7 + n * 3) % 11) as u64)).await;
                    scope.commit().await.unwrap();
                }
            })
        })
        .collect();
    for w in writers {
        w.await.unwrap();
    }
    let seen = reader.await.unwrap();
    let unique: BTreeSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), unique.len()), (WRITERS * EACH, WRITERS * EACH));
}

#[tokio::test]
async fn a_watcher_that_begins_at_a_list_sees_every_later_change() {
    let app = App::new().await;
    let lab = app.space("lab").await;
    // A transaction that began before the list and commits after it.
    let mut slow = app.store.scope(&app.admin, &at("lab")).await.unwrap();
    secret(&mut slow, "slow").await;

    let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
    let from = scope.position().await.unwrap();
    let listed = scope.secrets().list(&Default::default()).await.unwrap();
    assert!(listed.items.is_empty());
    drop(scope);
    slow.commit().await.unwrap();

    let later = read_all(&app, lab.id, from).await;
    assert!(later.iter().any(|(name, _)| name == "slow"), "{later:?}");
    // The position survives the wire.
    let again: Position = from.to_string().parse().unwrap();
    assert_eq!(again, from);
    assert!(
        "12".parse::<Position>().is_err()
            && "a-b".parse::<Position>().is_err()
            && "-1--2".parse::<Position>().is_err()
    );
}

#[tokio::test]
async fn events_of_kinds_one_may_not_watch_are_left_out() {
    let app = App::new().await;
    let lab = app.space("lab").await;
    let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
    secret(&mut scope, "db").await;
    scope.commit().await.unwrap();
    read_all(&app, lab.id, Position::default()).await;
    let agent = app.user("anna", "agent", Some(lab.id)).await;
    let page = app.store.space_events(&agent, lab.id, Position::default(), None, 10).await.unwrap();
    assert!(page.events.is_empty());
}

#[tokio::test]
async fn a_reader_that_was_away_too_long_is_told_to_list_again() {
    let app = App::new().await;
    let lab = app.space("lab").await;
    let begun = read_all(&app, lab.id, Position::default()).await.last().unwrap().1;
    let add = async |named: &str| {
        let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
        secret(&mut scope, named).await;
        scope.commit().await.unwrap();
    };
    add("old").await;
    let settled = read_all(&app, lab.id, begun).await.last().unwrap().1;
    app.db.clock.advance(Duration::from_secs(8 * 86_400));
    let retention = app.store.system(wharf_store::Actor::Retention);
    for _ in 0..500 {
        // What is removed has settled: other tests' transactions on the same server hold it back.
        if retention.sweep().await.unwrap().events > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    add("new").await;

    let gap = app.store.space_events(&app.admin, lab.id, begun, None, 10).await.err().unwrap();
    assert!(gap.public.contains("list again"), "{gap}");
    let fine = read_all(&app, lab.id, settled).await;
    assert_eq!(fine.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), ["new"]);
}
