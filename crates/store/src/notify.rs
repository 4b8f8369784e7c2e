//! Wake-ups between processes over LISTEN/NOTIFY.
//!
//! NOTIFY takes a database-wide lock at commit, so it is never sent by the transaction that changed something:
//! topics are collected and sent at most once per tick, without waiting for the disk. What a process hears from
//! itself is ignored; what is lost costs the subscribers' slow poll.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;
use wharf_domain::{BuildId, SessionId, SpaceId};
use wharf_ports::{Bus, Topic};

const CHANNEL: &str = "wharf";
const TICK: Duration = Duration::from_millis(5);
/// PostgreSQL refuses payloads of 8000 bytes and more.
const PAYLOAD: usize = 7900;
/// Topics waiting for a tick; beyond this they are dropped, as a wake-up may be.
const QUEUE: usize = 65_536;

pub(crate) struct Bridge {
    tx: mpsc::Sender<Topic>,
    tasks: Vec<JoinHandle<()>>,
}

impl Bridge {
    pub(crate) fn start(options: PgConnectOptions, bus: Arc<dyn Bus>) -> Self {
        let (tx, rx) = mpsc::channel(QUEUE);
        let own = Uuid::new_v4().simple().to_string();
        let options = options.options([("synchronous_commit", "off"), ("statement_timeout", "0")]);
        // One connection to send and one to listen, neither taken from the pool that requests use.
        let pool = PgPoolOptions::new()
            .max_connections(2)
            .acquire_timeout(Duration::from_secs(5))
            .idle_timeout(None)
            .connect_lazy_with(options);
        let send = tokio::spawn(send(pool.clone(), rx, own.clone()));
        let hear = tokio::spawn(hear(pool, bus, own));
        Self { tx, tasks: vec![send, hear] }
    }

    pub(crate) fn tell(&self, topic: Topic) {
        let _ = self.tx.try_send(topic);
    }

    pub(crate) fn stop(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn send(pool: sqlx::PgPool, mut rx: mpsc::Receiver<Topic>, own: String) {
    while let Some(first) = rx.recv().await {
        tokio::time::sleep(TICK).await;
        let mut topics = HashSet::from([first]);
        while let Ok(topic) = rx.try_recv() {
            topics.insert(topic);
        }
        let mut payloads = vec![own.clone()];
        for topic in topics {
            let word = write(topic);
            match payloads.last_mut() {
                Some(last) if last.len() + word.len() < PAYLOAD => {
                    last.push(' ');
                    last.push_str(&word);
                }
                _ => payloads.push(format!("{own} {word}")),
            }
        }
        let sent = sqlx::query("select pg_notify($1, p) from unnest($2::text[]) p")
            .bind(CHANNEL)
            .bind(&payloads)
            .execute(&pool)
            .await;
        if let Err(error) = sent {
            tracing::debug!(%error, "wake-ups did not leave; other processes will poll");
        }
    }
}

async fn hear(pool: sqlx::PgPool, bus: Arc<dyn Bus>, own: String) {
    loop {
        if let Ok(mut listener) = PgListener::connect_with(&pool).await
            && listener.listen(CHANNEL).await.is_ok()
        {
            while let Ok(note) = listener.recv().await {
                let mut words = note.payload().split(' ');
                if words.next() == Some(&own) {
                    continue;
                }
                words.filter_map(read).for_each(|topic| bus.wake(topic));
            }
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

fn write(topic: Topic) -> String {
    match topic {
        Topic::Session(id) => format!("s{}", id.uuid().simple()),
        Topic::SessionLog(id) => format!("l{}", id.uuid().simple()),
        Topic::Space(id) => format!("p{}", id.uuid().simple()),
        Topic::Build(id) => format!("b{}", id.uuid().simple()),
        Topic::BuildLog(id) => format!("o{}", id.uuid().simple()),
        Topic::Audit => "a".to_owned(),
    }
}

fn read(word: &str) -> Option<Topic> {
    let (kind, id) = word.split_at_checked(1)?;
    let id = || Uuid::try_parse(id).ok();
    Some(match kind {
        "s" => Topic::Session(SessionId::from_uuid(id()?)),
        "l" => Topic::SessionLog(SessionId::from_uuid(id()?)),
        "p" => Topic::Space(SpaceId::from_uuid(id()?)),
        "b" => Topic::Build(BuildId::from_uuid(id()?)),
        "o" => Topic::BuildLog(BuildId::from_uuid(id()?)),
        "a" => Topic::Audit,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
