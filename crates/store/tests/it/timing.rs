//! What the way in costs: authentication, scope and permit are on every request's path.

use std::time::{Duration, Instant};

use wharf_domain::rbac::Verb;
use wharf_store::Credential;

use crate::actors::{App, at, meta};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_in_is_cheap() {
    let app = App::new().await;
    app.space("lab").await;
    app.user("vera", "viewer", None).await;
    let token = app.tokens("vera").await.access_token;
    let mut took = Vec::new();
    let mut parts = [const { Vec::new() }; 3];
    for n in 0..400 {
        let begun = Instant::now();
        let caller = app.store.authenticate(Credential::Bearer(token.clone()), meta()).await.unwrap();
        let authenticated = begun.elapsed();
        let mut scope = app.store.scope(&caller, &at("lab")).await.unwrap();
        let scoped = begun.elapsed();
        let permit = scope.spaces().permit(&at("lab"), Verb::Get).await.unwrap();
        let permitted = begun.elapsed();
        drop((permit, scope));
        if n >= 100 {
            took.push(begun.elapsed());
            parts[0].push(authenticated);
            parts[1].push(scoped - authenticated);
            parts[2].push(permitted - scoped);
        }
    }
    took.sort();
    let p50 = took[took.len() / 2];
    let [authenticate, scope, permit] = parts.map(|mut p: Vec<Duration>| {
        p.sort();
        p[p.len() / 2]
    });
    println!(
        "p50: authenticate {authenticate:?} + scope {scope:?} + permit {permit:?} = {p50:?}; p99 {:?}",
        took[took.len() * 99 / 100]
    );
    // A bound against a mistake (a lost index, a ping per acquire), far above what it takes on a busy machine.
    assert!(p50 < Duration::from_millis(20), "{p50:?}");
}
