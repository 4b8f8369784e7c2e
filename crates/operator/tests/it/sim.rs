//! Crashes between any two steps: the operator dies before or after each call it makes to the machine, and at random
//! moments; the next one must leave the same world behind.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use wharf_domain::SessionId;
use wharf_domain::rbac::Verb;
use wharf_domain::session::{Desired, State, TurnState};
use wharf_store::sessions::{Include, NewFork, NewSession};

use crate::lab::{Lab, says};

/// The life of a session and its fork, as far as a crash lets it be seen: every wish is recorded before it is waited for.
async fn story(lab: &Lab) -> Story {
    let id = lab
        .create(NewSession { setup: Some("prepare".into()), prompt: Some(says("one")), ..lab.plain() })
        .await;
    let mut posted = vec![(id, 2)];
    posted.push((id, lab.post(id, "two").await));
    Story { id, posted, child: None }
}

struct Story {
    id: SessionId,
    posted: Vec<(SessionId, i64)>,
    child: Option<SessionId>,
}

impl Story {
    async fn go_on(&mut self, lab: &mut Lab) {
        for (id, seq) in self.posted.clone() {
            settle(lab, async |lab| lab.turn_state(id, seq).await.ended()).await;
        }
        let id = self.id;
        lab.desire(id, Desired::Closed).await.unwrap();
        settle(lab, async |lab| lab.row(id).await.state == State::Closed).await;
        let child = {
            let mut scope = lab.scope().await;
            let parent = scope.sessions().permit(&wharf_domain::NameOrId::Id(id), Verb::Get).await.unwrap();
            let permit = scope.sessions().allow(None).await.unwrap();
            let fork = NewFork {
                name: None,
                snapshot: None,
                include: Include { files: true, messages: true },
                resources: None,
                network: None,
                labels: None,
                metadata: None,
                prompt: Some(says("three")),
            };
            let row = scope.sessions().fork(&permit, &parent, fork).await.unwrap();
            scope.commit().await.unwrap();
            row
        };
        self.child = Some(child.id);
        let seq = child.last_seq;
        self.posted.push((child.id, seq));
        self.posted.push((id, lab.post(id, "four").await));
        for (id, seq) in self.posted.clone() {
            settle(lab, async |lab| lab.turn_state(id, seq).await.ended()).await;
        }
    }

    async fn check_and_end(self, lab: &mut Lab) {
        for (id, seq) in &self.posted {
            let message = lab.ended(*id, *seq).await;
            assert_eq!(message.state, TurnState::Done, "{seq}: {:?}", message.reason);
            assert_eq!(lab.replies(*id, &message).await.len(), 1, "answered once");
        }
        for id in [Some(self.id), self.child].into_iter().flatten() {
            lab.log(id).await;
            let row = lab.row(id).await;
            assert!(matches!(row.state, State::Idle | State::Closed), "{:?}", row.state);
        }
        {
            let state = lab.machine.lock();
            assert!(state.runs.values().all(|n| *n == 1), "a message ran twice");
            assert_eq!(state.runs.len(), 4);
            assert!(state.most_at_once <= 1);
            assert_eq!(state.setups, 1);
        }
        for id in [Some(self.id), self.child].into_iter().flatten() {
            lab.desire(id, Desired::Deleted).await.unwrap();
        }
        settle(lab, async |lab| lab.usage().await == wharf_store::Usage::default()).await;
        settle(lab, async |lab| lab.machine.lock().snapshots.is_empty()).await;
        lab.nothing_is_left().await;
    }
}

/// Waits, and replaces an operator that hangs in a crash.
async fn settle(lab: &mut Lab, holds: impl AsyncFn(&Lab) -> bool) {
    let end = std::time::Instant::now() + crate::lab::SOON;
    while !holds(lab).await {
        if *lab.machine.gate.crashed.borrow() {
            lab.machine.gate.arm(None);
            lab.restart().await;
        }
        assert!(std::time::Instant::now() < end, "it did not come to that");
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
}

async fn live(lab: &mut Lab) {
    let mut s = story(lab).await;
    s.go_on(lab).await;
    s.check_and_end(lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_may_die_before_and_after_every_call_it_makes() {
    let mut lab = Lab::new().await;
    let before = lab.machine.gate.passed();
    live(&mut lab).await;
    let calls = lab.machine.gate.passed() - before;
    assert!(calls > 20, "only {calls} places to die at");
    for n in 1..=calls {
        lab.machine.lock().runs.clear();
        lab.machine.lock().setups = 0;
        lab.machine.gate.arm(Some(n));
        live(&mut lab).await;
        lab.machine.gate.arm(None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_may_die_at_any_moment() {
    let seed =
        std::env::var("WHARF_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("WHARF_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut lab = Lab::new().await;
    for _ in 0..10 {
        lab.machine.lock().runs.clear();
        let mut sessions = Vec::new();
        let mut posted = Vec::new();
        for _ in 0..4 {
            let id = lab.create(lab.plain()).await;
            sessions.push(id);
        }
        for n in 0..6 {
            for id in &sessions {
                posted.push((*id, lab.post(*id, &format!("sleep {}", (n * 7) % 5)).await));
                if rng.random_ratio(1, 8) {
                    lab.desire(*id, Desired::Closed).await.unwrap();
                }
            }
            tokio::time::sleep(Duration::from_micros(rng.random_range(0..30_000))).await;
            lab.restart().await;
            if rng.random_ratio(1, 6) {
                lab.machine.kill(sessions[rng.random_range(0..sessions.len())]);
            }
        }
        for id in &sessions {
            lab.desire(*id, Desired::Running).await.unwrap();
        }
        for (id, seq) in &posted {
            let message = lab.ended(*id, *seq).await;
            let replies = lab.replies(*id, &message).await.len();
            match message.state {
                TurnState::Done => assert_eq!(replies, 1),
                // Closed under it, or its computer was killed.
                TurnState::Cancelled => assert_eq!(message.reason.as_deref(), Some("closed")),
                TurnState::Failed => assert_eq!(message.reason.as_deref(), Some("interrupted")),
                other => panic!("{other:?}"),
            }
        }
        for id in &sessions {
            lab.log(*id).await;
        }
        assert!(lab.machine.lock().runs.values().all(|n| *n == 1), "a message ran twice");
        for id in &sessions {
            lab.desire(*id, Desired::Deleted).await.unwrap();
        }
        lab.nothing_is_left().await;
    }
}
