use std::time::Duration;

use wharf_domain::{Code, Plain};

use crate::actors::{App, PASSWORD, code, from};

#[tokio::test]
async fn guessing_locks_the_account_and_says_when_to_try_again() {
    let app = App::new().await;
    app.stranger("alice").await;
    for n in 0..8 {
        let guess =
            app.store.login("alice", &Plain::new(format!("guess number {n}")), from("203.0.113.1")).await;
        assert_eq!(code(guess), Code::Unauthenticated, "guess {n}");
    }
    // The right one does not help now, from wherever it comes.
    let locked = app.store.login("alice", &Plain::new(PASSWORD), from("203.0.113.2")).await.err().unwrap();
    assert_eq!(locked.code, Code::RateLimited);
    let wait = locked.retry_after.unwrap();
    assert!(wait > Duration::from_secs(60) && wait <= Duration::from_secs(300), "{wait:?}");

    app.db.clock.advance(wait + Duration::from_millis(1));
    assert!(app.store.login("alice", &Plain::new(PASSWORD), from("203.0.113.2")).await.is_ok());
}

#[tokio::test]
async fn a_right_password_clears_the_count() {
    let app = App::new().await;
    app.stranger("alice").await;
    for _ in 0..3 {
        for _ in 0..6 {
            assert!(app.store.login("alice", &Plain::new("wrong guess"), from("203.0.113.1")).await.is_err());
        }
        assert!(app.store.login("alice", &Plain::new(PASSWORD), from("203.0.113.1")).await.is_ok());
    }
}

#[tokio::test]
async fn one_address_trying_many_accounts_is_locked_out_and_others_are_not() {
    let app = App::new().await;
    app.stranger("alice").await;
    let mut answers = Vec::new();
    for n in 0..45 {
        let guess =
            app.store.login(&format!("user-{n}"), &Plain::new("password1"), from("203.0.113.7")).await;
        answers.push(code(guess));
    }
    assert_eq!(answers.iter().filter(|c| **c == Code::Unauthenticated).count(), 40);
    assert!(answers[40..].iter().all(|c| *c == Code::RateLimited));
    assert!(app.store.login("alice", &Plain::new(PASSWORD), from("203.0.113.8")).await.is_ok());
}

#[tokio::test]
async fn parallel_guesses_do_not_slip_past_the_limit_together() {
    let app = App::new().await;
    app.stranger("alice").await;
    let tries: Vec<_> = (0..30)
        .map(|n| {
            let store = app.store.clone();
            tokio::spawn(async move {
                code(
                    store.login("alice", &Plain::new(format!("guess number {n}")), from("203.0.113.1")).await,
                )
            })
        })
        .collect();
    let mut looked_at = 0;
    for t in tries {
        looked_at += u32::from(t.await.unwrap() == Code::Unauthenticated);
    }
    assert_eq!(looked_at, 8, "only so many passwords were compared");
}
