use super::*;

#[tokio::test]
async fn a_process_is_ready_when_all_it_requires_answers() {
    let health = Health::default();
    assert!(health.report().await.ready);
    health.require("database", || async { Ok(()) });
    health.want("jailer", || async { Err("not running".to_owned()) });
    let report = health.report().await;
    assert!(report.ready);
    assert_eq!(
        report.checks.iter().map(|c| (c.name, c.ok)).collect::<Vec<_>>(),
        [("database", true), ("jailer", false)]
    );
    health.require("disk", || async { Err("full".to_owned()) });
    assert!(!health.report().await.ready);
}

#[tokio::test(start_paused = true)]
async fn a_part_that_does_not_answer_is_not_ready() {
    let health = Health::default();
    health.require("stuck", std::future::pending);
    let report = health.report().await;
    assert!(!report.ready);
    assert_eq!(report.checks[0].problem.as_deref(), Some("no answer in 2s"));
}
