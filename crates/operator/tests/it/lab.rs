//! A laboratory: a database, a machine, and as many operators as a story wants.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use wharf_chassis::lifecycle::{Stop, Stopper};
use wharf_domain::quota::Quotas;
use wharf_domain::rbac::Verb;
use wharf_domain::session::{Desired, State, TurnState};
use wharf_domain::{Error, Labels, Name, NameOrId, SessionId, SpaceId};
use wharf_operator::{Operator, Settings};
use wharf_store::sessions::{LogRow, MessageRow, NewSession, SessionRow};
use wharf_store::{Actor, NewSpace, Permit, Scope, Store};
use wharf_testkit::TestDb;

use crate::machine::{Hosts, Machine};

pub struct Lab {
    pub db: TestDb,
    pub store: Store,
    pub machine: Arc<Machine>,
    pub space: SpaceId,
    operators: Vec<Running>,
    ticker: tokio::task::JoinHandle<()>,
}

struct Running {
    task: tokio::task::JoinHandle<Result<(), Error>>,
    stopper: Stopper,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.ticker.abort();
        self.operators.iter().for_each(|o| o.task.abort());
    }
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn says(text: &str) -> Value {
    json!([{"type": "text", "text": text}])
}

/// Longer than anything takes on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

impl Lab {
    /// With an operator at work.
    pub async fn new() -> Self {
        let mut lab = Self::idle(Quotas::default()).await;
        lab.start();
        lab.until(async || lab.knows_images().await).await;
        lab
    }

    pub async fn idle(quotas: Quotas) -> Self {
        let db = TestDb::new().await;
        let store = db.store().await;
        let mut scope = store.system(Actor::Setup).global().await.unwrap();
        let permit = scope.spaces().allow(Verb::Create, &name("lab")).await.unwrap();
        let new = NewSpace { name: name("lab"), labels: Labels::default(), quotas, defaults: json!({}) };
        let space = scope.spaces().create(&permit, new).await.unwrap().id;
        scope.commit().await.unwrap();
        let clock = db.clock.clone();
        // The test's clock runs with the machine's, and a story moves it ahead.
        let ticker = tokio::spawn(async move {
            let mut last = std::time::Instant::now();
            loop {
                tokio::time::sleep(Duration::from_millis(2)).await;
                clock.advance(Duration::from_millis(last.elapsed().as_millis() as u64));
                last += Duration::from_millis(last.elapsed().as_millis() as u64);
            }
        });
        Self { db, store, machine: Machine::new(), space, operators: Vec::new(), ticker }
    }

    async fn knows_images(&self) -> bool {
        !self.scope().await.images().list().await.unwrap().is_empty()
    }

    pub fn start(&mut self) {
        self.start_on("here", Duration::from_millis(300));
    }

    pub fn start_on(&mut self, machine: &str, look_around: Duration) {
        let warm = vec![(name("base"), 2), (name("later"), 1)];
        let settings = Settings { look_around, warm, ..Settings::of(machine) };
        let hosts = Arc::new(Hosts(self.machine.clone()));
        let operator = Operator::new(&self.store, self.machine.clone(), hosts, settings);
        let (stopper, stop): (Stopper, Stop) = Stopper::new();
        self.operators.push(Running { task: tokio::spawn(operator.run(stop)), stopper });
    }

    /// Kill -9: nothing is tidied up.
    pub async fn crash(&mut self) {
        for o in self.operators.drain(..) {
            o.task.abort();
            let _ = o.task.await;
        }
    }

    pub async fn drain(&mut self) {
        for o in self.operators.drain(..) {
            o.stopper.drain();
            o.task.await.unwrap().unwrap();
        }
    }

    pub async fn restart(&mut self) {
        self.crash().await;
        self.start();
    }

    /// Time passes; whoever waits for it is told.
    pub fn pass(&self, time: Duration) {
        self.db.clock.advance(time);
        for _ in 0..9000 {
            // More than the ring holds: everybody looks at everything.
            wharf_ports::Bus::wake(&*self.db.bus, wharf_ports::Topic::Audit);
        }
    }

    pub async fn scope(&self) -> Scope {
        self.store.system(Actor::Setup).scope(self.space).await.unwrap()
    }

    #[allow(clippy::unused_self)] // it reads as what this laboratory makes
    pub fn plain(&self) -> NewSession {
        NewSession::of(name("base"))
    }

    pub async fn create(&self, new: NewSession) -> SessionId {
        self.try_create(new).await.unwrap()
    }

    pub async fn try_create(&self, new: NewSession) -> Result<SessionId, Error> {
        let mut scope = self.scope().await;
        let permit = scope.sessions().allow(None).await?;
        let row = scope.sessions().create(&permit, new).await?;
        scope.commit().await?;
        Ok(row.id)
    }

    /// A session that is idle.
    pub async fn session(&self) -> SessionId {
        let id = self.create(self.plain()).await;
        self.state(id, State::Idle).await;
        id
    }

    pub async fn permit(&self, id: SessionId) -> Permit<SessionRow> {
        self.scope().await.sessions().permit(&NameOrId::Id(id), Verb::Get).await.unwrap()
    }

    pub async fn row(&self, id: SessionId) -> SessionRow {
        self.permit(id).await.into_row()
    }

    pub async fn state(&self, id: SessionId, state: State) -> SessionRow {
        let permit = self.permit(id).await;
        let row = self.store.wait_session(&permit, SOON, |s| s.state == state).await.unwrap().unwrap();
        assert_eq!(row.state, state, "{:?} {:#?}", row.state_reason, self.kinds(id).await);
        row
    }

    pub async fn desire(&self, id: SessionId, desired: Desired) -> Result<SessionRow, Error> {
        let mut scope = self.scope().await;
        let verb = if desired == Desired::Deleted { Verb::Delete } else { Verb::Update };
        let permit = scope.sessions().permit(&NameOrId::Id(id), verb).await?;
        let row = scope.sessions().desire(&permit, desired).await?;
        scope.commit().await?;
        Ok(row)
    }

    pub async fn close(&self, id: SessionId) {
        self.desire(id, Desired::Closed).await.unwrap();
        self.state(id, State::Closed).await;
    }

    pub async fn post(&self, id: SessionId, text: &str) -> i64 {
        self.try_post(id, text).await.unwrap()
    }

    pub async fn try_post(&self, id: SessionId, text: &str) -> Result<i64, Error> {
        let mut scope = self.scope().await;
        let permit = scope.sessions().permit_messages(&NameOrId::Id(id), Verb::Create).await?;
        let seq = scope.sessions().post_message(&permit, &says(text), None).await?.seq;
        scope.commit().await?;
        Ok(seq)
    }

    pub async fn cancel(&self, id: SessionId) {
        let mut scope = self.scope().await;
        let permit = scope.sessions().permit(&NameOrId::Id(id), Verb::Update).await.unwrap();
        scope.sessions().cancel(&permit).await.unwrap();
        scope.commit().await.unwrap();
    }

    pub async fn sessions(&self) -> Vec<SessionRow> {
        let (filter, page) =
            (wharf_store::sessions::SessionFilter::default(), wharf_store::PageRequest::default());
        self.scope().await.sessions().list(&filter, &page).await.unwrap().items
    }

    /// The message once its turn has ended.
    pub async fn ended(&self, id: SessionId, seq: i64) -> MessageRow {
        let permit = self.permit(id).await;
        let message = self.store.wait_turn(&permit, seq, SOON).await.unwrap();
        assert!(
            message.state.ended(),
            "the turn of {seq} is {:?}: {:#?}",
            message.state,
            self.kinds(id).await
        );
        message
    }

    pub async fn running(&self, id: SessionId, seq: i64) {
        self.until(async || self.turn_state(id, seq).await == TurnState::Running).await;
    }

    pub async fn turn_state(&self, id: SessionId, seq: i64) -> TurnState {
        let permit = self.permit(id).await;
        self.scope().await.sessions().message(&permit, seq).await.unwrap().state
    }

    pub async fn replies(&self, id: SessionId, message: &MessageRow) -> Vec<String> {
        let permit = self.permit(id).await;
        let replies = self.scope().await.sessions().replies(&permit, message.turn).await.unwrap();
        replies.iter().map(|m| m.content[0]["text"].as_str().unwrap().to_owned()).collect()
    }

    pub async fn ask(&self, id: SessionId, text: &str) -> Vec<String> {
        let seq = self.post(id, text).await;
        let message = self.ended(id, seq).await;
        assert_eq!(message.state, TurnState::Done, "{:?}", message.reason);
        self.replies(id, &message).await
    }

    /// The whole log, with the numbers checked: no gap, no repeat.
    pub async fn log(&self, id: SessionId) -> Vec<LogRow> {
        let permit = self.permit(id).await;
        let (mut log, mut after) = (Vec::new(), 0);
        loop {
            let page = self.store.session_log(&permit, after, 7).await.unwrap();
            after = page.entries.last().map_or(after, |e| e.seq);
            log.extend(page.entries);
            if !page.more {
                break;
            }
        }
        // What came along with a fork has the numbers it had; between them are those of events that did not.
        let own = permit.row().parent.map_or(0, |p| p.seq);
        for pair in log.windows(2) {
            let (a, b) = (pair[0].seq, pair[1].seq);
            assert!(b == a + 1 || (b > a && b <= own + 1), "the log has a gap between {a} and {b}");
        }
        log
    }

    pub async fn kinds(&self, id: SessionId) -> Vec<String> {
        let permit = self.permit(id).await;
        let page = self.store.session_log(&permit, 0, 500).await.unwrap();
        page.entries
            .into_iter()
            .map(|e| match e.kind.as_str() {
                "session.state" => format!("{} {}", e.kind, e.data["state"].as_str().unwrap()),
                "turn.failed" | "turn.cancelled" => {
                    format!("{} {}", e.kind, e.data["reason"].as_str().unwrap())
                }
                "session.trouble" => format!("{} {}", e.kind, e.data["reason"]),
                _ => e.kind,
            })
            .collect()
    }

    pub async fn usage(&self) -> wharf_store::Usage {
        let mut scope = self.store.system(Actor::Setup).global().await.unwrap();
        let permit = scope.spaces().permit(&NameOrId::Id(self.space), Verb::Get).await.unwrap();
        scope.spaces().usage(&permit).await.unwrap()
    }

    pub async fn until(&self, mut holds: impl AsyncFnMut() -> bool) {
        let end = std::time::Instant::now() + SOON;
        while !holds().await {
            assert!(std::time::Instant::now() < end, "it did not come to that");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Deletes the session and waits until nothing is left of it.
    pub async fn delete(&self, id: SessionId) {
        let volume = self.row(id).await.volume;
        self.desire(id, Desired::Deleted).await.unwrap();
        self.until(async || {
            let state = self.machine.lock();
            !state.jails.contains_key(&id) && !state.volumes.contains_key(&volume)
        })
        .await;
    }

    pub async fn nothing_is_left(&self) {
        self.until(async || {
            let usage = self.usage().await;
            usage == wharf_store::Usage::default()
        })
        .await;
        let state = self.machine.lock();
        assert!(
            state.jails.is_empty() && state.volumes.is_empty() && state.snapshots.is_empty(),
            "something is left"
        );
    }
}
