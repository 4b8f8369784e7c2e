//! What was acknowledged, held against what the API and the sessions' own files say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::installation::{Installation, SPACE};

#[derive(Default)]
pub struct Ledger {
    sessions: BTreeMap<String, Book>,
}

#[derive(Default)]
struct Book {
    acknowledged: BTreeSet<u64>,
    next: u64,
    answered: usize,
}

impl Ledger {
    pub async fn open(&mut self, wharf: &Installation, name: &str) {
        let body = json!({
            "name": name, "image": "tiny", "idle_timeout_seconds": 0,
            "resources": { "cpu_millis": 500, "memory_mib": 64, "disk_mib": 64, "pids": 64 },
        });
        let made = wharf.post(&format!("/v1/spaces/{SPACE}/sessions?wait=ready"), body).await;
        assert_eq!(made["state"], "idle", "{made}");
        self.sessions.insert(name.to_owned(), Book::default());
    }

    pub fn sessions(&self) -> impl Iterator<Item = (&str, u64)> {
        self.sessions.iter().map(|(name, book)| (name.as_str(), book.next))
    }

    pub fn enter(&mut self, session: &str, acknowledged: Vec<u64>) {
        let book = self.sessions.get_mut(session).unwrap();
        for n in acknowledged {
            assert!(book.acknowledged.insert(n), "the test itself counted {n} twice");
            book.next = book.next.max(n + 1);
        }
    }

    pub fn messages(&self) -> usize {
        self.sessions.values().map(|b| b.acknowledged.len()).sum()
    }

    pub fn answered(&self) -> usize {
        self.sessions.values().map(|b| b.answered).sum()
    }

    /// Sessions whose computer is up.
    pub async fn running(&self, wharf: &Installation) -> usize {
        let page = wharf.get(&format!("/v1/spaces/{SPACE}/sessions")).await;
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|s| s["state"] == "idle" || s["state"] == "busy")
            .count()
    }

    pub async fn check(&mut self, wharf: &Installation) {
        for (name, book) in &mut self.sessions {
            let log = settled(wharf, name, book).await;
            book.answered = book.compare(name, &log);
            let written = lines(wharf, name).await;
            Book::compare_files(name, &log, &written);
        }
    }
}

struct Entry {
    n: u64,
    turn: String,
    state: String,
    reason: Option<String>,
}

struct Log {
    asked: Vec<Entry>,
    answers: BTreeMap<String, Vec<String>>,
}

impl Book {
    /// Each acknowledged message is there once and has ended once. Answers how many are done.
    fn compare(&self, session: &str, log: &Log) -> usize {
        let seen: Vec<u64> = log.asked.iter().map(|e| e.n).collect();
        let distinct: BTreeSet<u64> = seen.iter().copied().collect();
        assert_eq!(seen.len(), distinct.len(), "{session}: a message stands twice in the log: {seen:?}");
        assert_eq!(distinct, self.acknowledged, "{session}: the log and what was acknowledged differ");
        assert!(seen.is_sorted(), "{session}: messages are out of order: {seen:?}");
        for e in &log.asked {
            let answers = log.answers.get(&e.turn).map_or(&[][..], Vec::as_slice);
            match e.state.as_str() {
                "done" => {
                    // The second: the script itself was the victim, and its end is its answer.
                    let said = answers.len() == 1
                        && (answers[0] == format!("answer {}", e.n)
                            || answers[0].ends_with("[ended by signal 9]"));
                    assert!(said, "{session}: message {} is done with {answers:?}", e.n);
                }
                "failed" | "cancelled" => {
                    assert!(e.reason.is_some(), "{session}: message {} is {} without a reason", e.n, e.state);
                    assert!(answers.len() <= 1, "{session}: message {} was answered twice", e.n);
                }
                other => panic!("{session}: message {} is still {other}", e.n),
            }
        }
        log.asked.iter().filter(|e| e.state == "done").count()
    }

    /// No script ran twice, and those that are done ran.
    fn compare_files(session: &str, log: &Log, written: &[u64]) {
        let distinct: BTreeSet<u64> = written.iter().copied().collect();
        assert_eq!(written.len(), distinct.len(), "{session}: a script ran twice: {written:?}");
        let whole = |e: &&Entry| log.answers.get(&e.turn).is_some_and(|a| a[0] == format!("answer {}", e.n));
        for e in log.asked.iter().filter(|e| e.state == "done").filter(whole) {
            assert!(
                distinct.contains(&e.n),
                "{session}: message {} is done, but its line is not in the file",
                e.n
            );
        }
    }
}

fn text(message: &Value) -> String {
    let blocks = message["content"].as_array().unwrap();
    blocks.iter().filter_map(|b| b["text"].as_str()).collect::<String>().trim().to_owned()
}

/// All messages of a session once none is queued or running, and its computer is up again where it was closed: a
/// closed session keeps what waits in it, and its files are served by a computer that stays for a while.
async fn settled(wharf: &Installation, name: &str, book: &Book) -> Log {
    let path = format!("/v1/spaces/{SPACE}/sessions/{name}");
    let since = Instant::now();
    loop {
        let session = wharf.get(&path).await;
        if session["desired"] == "closed" {
            wharf.post(&format!("{path}/restore"), json!({})).await;
        }
        let log = read(wharf, name).await;
        let waiting = log.asked.iter().filter(|e| e.state == "queued" || e.state == "running").count();
        if waiting == 0 && session["state"] == "idle" {
            return log;
        }
        assert!(
            since.elapsed() < Duration::from_secs(90),
            "{name}: {waiting} of {} messages have not ended after 90 s; the session is {session}",
            book.acknowledged.len()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn read(wharf: &Installation, name: &str) -> Log {
    let mut log = Log { asked: Vec::new(), answers: BTreeMap::new() };
    let mut cursor = String::new();
    loop {
        let page = wharf.get(&format!("/v1/spaces/{SPACE}/sessions/{name}/messages?limit=500{cursor}")).await;
        for m in page["items"].as_array().unwrap() {
            let turn = m["turn"].as_str().unwrap().to_owned();
            if m["role"] == "user" {
                let script = text(m);
                let n =
                    script.strip_prefix("echo ").and_then(|s| s.split(' ').next()).unwrap().parse().unwrap();
                let state = m["state"].as_str().unwrap().to_owned();
                log.asked.push(Entry { n, turn, state, reason: m["reason"].as_str().map(str::to_owned) });
            } else {
                log.answers.entry(turn).or_default().push(text(m));
            }
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return log,
        }
    }
}

/// The file the scripts write, read through the API whatever state the session is in.
async fn lines(wharf: &Installation, name: &str) -> Vec<u64> {
    let path = format!("/v1/spaces/{SPACE}/sessions/{name}/files/home/agent/ledger");
    let since = Instant::now();
    loop {
        match wharf.call(Method::GET, &path, None, None).await {
            Ok((status, Value::String(text))) if status.is_success() => {
                return text.lines().map(|l| l.parse().unwrap_or_else(|_| panic!("{name}: {l:?}"))).collect();
            }
            Ok((status, Value::Number(n))) if status.is_success() => return vec![n.as_u64().unwrap()],
            Ok((status, _)) if status == 404 => return Vec::new(),
            other => {
                assert!(since.elapsed() < Duration::from_secs(30), "{name}: reading the ledger: {other:?}");
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
