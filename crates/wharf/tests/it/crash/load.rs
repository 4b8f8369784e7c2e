//! Clients that post messages, and now and then close a session or run a command, and never give up on an answer.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::Dice;
use super::ledger::Ledger;
use crate::installation::{Installation, SPACE};

/// What one client of one session is about to do or does.
struct Client {
    session: String,
    next: AtomicU64,
    /// `next` was posted and its answer not heard: it may be in the log, so it is posted again before all else.
    unsure: AtomicBool,
    dice: Mutex<Dice>,
    /// Posted and acknowledged in this round.
    acknowledged: Mutex<Vec<u64>>,
}

pub struct Load {
    clients: Vec<Client>,
    stop: AtomicBool,
}

/// How long an answer may be overdue before the test calls it lost.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn start(_: &Installation, ledger: &Ledger, seed: u64) -> Load {
    let mut dice = Dice(seed);
    let clients = ledger
        .sessions()
        .map(|(session, next)| Client {
            session: session.to_owned(),
            next: AtomicU64::new(next),
            unsure: AtomicBool::new(false),
            dice: Mutex::new(Dice(dice.roll())),
            acknowledged: Mutex::default(),
        })
        .collect();
    Load { clients, stop: AtomicBool::new(false) }
}

impl Load {
    /// Runs until dropped. A request that was under way then is repeated by [`Load::drain`] with the same key.
    pub async fn run(&self, wharf: &Installation) {
        join_all(self.clients.iter().map(|c| c.work(wharf, &self.stop))).await;
    }

    /// Goes on for a moment after the kill, ends what is under way, and enters all of it in the ledger.
    pub async fn drain(self, wharf: &Installation, ledger: &mut Ledger) {
        let finish = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            self.stop.store(true, Ordering::Relaxed);
        };
        tokio::join!(self.run(wharf), finish);
        for client in self.clients {
            ledger.enter(&client.session, client.acknowledged.into_inner().unwrap());
        }
    }
}

impl Client {
    async fn work(&self, wharf: &Installation, stop: &AtomicBool) {
        if self.unsure.load(Ordering::Relaxed) {
            self.message(wharf).await;
        }
        while !stop.load(Ordering::Relaxed) {
            let choice = self.dice.lock().unwrap().below(20);
            match choice {
                0 => self.close(wharf).await,
                1 => self.exec(wharf).await,
                _ => self.message(wharf).await,
            }
            tokio::time::sleep(Duration::from_millis(choice * 2)).await;
        }
    }

    async fn message(&self, wharf: &Installation) {
        let n = self.next.load(Ordering::Relaxed);
        let script = format!("echo {n} >> ledger; echo answer {n}");
        let path = format!("/v1/spaces/{SPACE}/sessions/{}/messages", self.session);
        let key = format!("{}-{n}", self.session);
        self.unsure.store(true, Ordering::Relaxed);
        let (status, answer) = insist(wharf, &path, &json!({ "content": script }), Some(&key)).await;
        assert!(status.is_success(), "message {n} of {} was refused: {status}: {answer}", self.session);
        // Nothing between the answer and this line can be interrupted: it is in the ledger or will be asked again.
        self.acknowledged.lock().unwrap().push(n);
        self.next.store(n + 1, Ordering::Relaxed);
        self.unsure.store(false, Ordering::Relaxed);
    }

    async fn close(&self, wharf: &Installation) {
        let path = format!("/v1/spaces/{SPACE}/sessions/{}/close", self.session);
        insist(wharf, &path, &json!({}), None).await;
    }

    async fn exec(&self, wharf: &Installation) {
        let path = format!("/v1/spaces/{SPACE}/sessions/{}/exec", self.session);
        // Whether it ran is unknowable after a kill; that it is answered in the end is not.
        insist(wharf, &path, &json!({ "argv": ["true"] }), None).await;
    }
}

/// Repeats a request until something other than "try again" is the answer.
async fn insist(wharf: &Installation, path: &str, body: &Value, key: Option<&str>) -> (StatusCode, Value) {
    let since = Instant::now();
    loop {
        let answer = wharf.call(Method::POST, path, Some(body), key).await;
        match answer {
            Ok((status, answer)) if !status.is_server_error() && answer["retryable"] != true => {
                return (status, answer);
            }
            other => assert!(
                since.elapsed() < PATIENCE,
                "{path} is not answered for {PATIENCE:?}; last: {other:?}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
