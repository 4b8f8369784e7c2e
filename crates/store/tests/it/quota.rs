use wharf_domain::Code;
use wharf_domain::quota::Quotas;
use wharf_domain::rbac::Verb;
use wharf_store::Actor;
use wharf_store::quota::Delta;

use crate::actors::{App, at};

#[tokio::test]
async fn concurrent_admissions_never_pass_the_limit_together() {
    let app = App::new().await;
    let lab = app
        .space_with("lab", Quotas { sessions: Some(5), memory_mib: Some(4096), ..Default::default() })
        .await;
    let tries: Vec<_> = (0..40)
        .map(|_| {
            let system = app.store.system(Actor::Operator);
            tokio::spawn(async move {
                let mut scope = system.scope(lab.id).await.unwrap();
                let one = Delta { sessions: 1, memory_mib: 1024, ..Default::default() };
                match scope.reserve(one).await {
                    Ok(()) => {
                        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                        scope.commit().await.unwrap();
                        Ok(())
                    }
                    Err(e) => Err(e),
                }
            })
        })
        .collect();
    let (mut admitted, mut refused) = (0, None);
    for t in tries {
        match t.await.unwrap() {
            Ok(()) => admitted += 1,
            Err(e) => refused = Some(e),
        }
    }
    // Memory is the tighter one: four times 1024.
    assert_eq!(admitted, 4);
    let e = refused.unwrap();
    assert_eq!((e.code, e.field.as_deref()), (Code::QuotaExceeded, Some("memory_mib")));
    assert!(e.public.contains("memory_mib is 4096 and 4096 are in use"), "{}", e.public);

    let mut scope = app.global(&app.admin).await;
    let permit = scope.spaces().permit(&at("lab"), Verb::Get).await.unwrap();
    let usage = scope.spaces().usage(&permit).await.unwrap();
    assert_eq!((usage.sessions, usage.memory_mib), (4, 4096));
}

#[tokio::test]
async fn releasing_is_never_refused_and_makes_room() {
    let app = App::new().await;
    let lab = app.space_with("lab", Quotas { sessions: Some(1), ..Default::default() }).await;
    let one = Delta { sessions: 1, ..Default::default() };
    let system = app.store.system(Actor::Operator);
    let mut scope = system.scope(lab.id).await.unwrap();
    scope.reserve(one).await.unwrap();
    scope.commit().await.unwrap();
    // The quota is lowered below what is in use: nothing breaks, nothing more is admitted.
    let mut scope = app.global(&app.admin).await;
    let permit = scope.spaces().permit(&at("lab"), Verb::Update).await.unwrap();
    let quotas = Some(Quotas { sessions: Some(0), ..Default::default() });
    let patch = wharf_store::SpacePatch { quotas, ..Default::default() };
    scope.spaces().update(&permit, patch, None).await.unwrap();
    scope.commit().await.unwrap();
    let mut scope = system.scope(lab.id).await.unwrap();
    scope.reserve(-one).await.unwrap();
    scope.commit().await.unwrap();
    let mut scope = system.scope(lab.id).await.unwrap();
    assert_eq!(scope.reserve(one).await.err().unwrap().code, Code::QuotaExceeded);
}
