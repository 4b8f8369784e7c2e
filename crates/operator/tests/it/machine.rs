//! A machine that runs sessions in memory: a runtime and the hosts of its computers, with a ledger of what ran.
//!
//! Volumes keep what a host would write to disk (the journal of turns, the mark of the setup script, files); a computer
//! that ends takes its running turn with it and nothing else. A [`Gate`] in front of and behind every call lets a test
//! crash the caller there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use tokio::sync::{Notify, watch};
use wharf_domain::image::ImageRef;
use wharf_domain::quota::Resources;
use wharf_domain::{Code, JailId, Name, SessionId, SnapshotId, TurnId, VolumeId};
use wharf_operator::HostPort;
use wharf_operator::host::{Events, HostFault};
use wharf_ports::SandboxRuntime;
use wharf_ports::runtime::{
    Capabilities, Fault, ImageInfo, Inventory, JailSpec, Running, SnapshotInfo, Source, Stats, VolumeSpec,
};
use wharf_wire::host::exec::Stream;
use wharf_wire::host::turn::{Block, Done, Outcome, Reason, Said, SetupRequest, TurnEvent, TurnRequest};
use wharf_wire::host::{Identity, Piece};

/// Crashes the caller at its n-th passage: it is told, and the call never returns.
pub struct Gate {
    countdown: Mutex<Option<usize>>,
    passed: Mutex<usize>,
    pub crashed: watch::Sender<bool>,
}

impl Gate {
    async fn pass(&self) {
        let stop = {
            *self.passed.lock().unwrap() += 1;
            let mut left = self.countdown.lock().unwrap();
            match left.as_mut() {
                Some(0) => true,
                Some(n) => {
                    *n -= 1;
                    if *n == 0 {
                        *left = Some(0);
                        true
                    } else {
                        false
                    }
                }
                None => false,
            }
        };
        if stop {
            self.crashed.send_replace(true);
            std::future::pending::<()>().await;
        }
    }

    /// Arms the gate: the n-th passage from now (counted from 1) crashes.
    pub fn arm(&self, n: Option<usize>) {
        *self.countdown.lock().unwrap() = n;
        self.crashed.send_replace(false);
    }

    pub fn passed(&self) -> usize {
        *self.passed.lock().unwrap()
    }
}

#[derive(Clone, Default)]
struct Journal {
    events: Vec<TurnEvent>,
    /// The incarnation that ran it.
    by: u64,
}

impl Journal {
    fn done(&self) -> bool {
        self.events.last().is_some_and(|e| matches!(e.said, Said::Done(_)))
    }

    fn say(&mut self, said: Said) {
        let n = self.events.len() as u64 + 1;
        self.events.push(TurnEvent { n, at_ms: 0, by: None, said });
    }
}

#[derive(Clone, Default)]
pub struct Volume {
    pub files: BTreeSet<String>,
    turns: BTreeMap<TurnId, Journal>,
    setup: Option<Journal>,
}

pub struct Jail {
    pub running: Running,
    pub limits: Resources,
    pub identity: Option<Identity>,
    tasks: Vec<tokio::task::AbortHandle>,
}

#[derive(Default)]
pub struct State {
    pub jails: HashMap<SessionId, Jail>,
    pub volumes: HashMap<VolumeId, Volume>,
    pub snapshots: HashMap<SnapshotId, Volume>,
    pub images: Vec<ImageInfo>,
    newest: HashMap<SessionId, u64>,
    /// How often each turn was run from its beginning.
    pub runs: HashMap<TurnId, u32>,
    /// Messages in the order they were run, by session.
    pub ran: Vec<(SessionId, String)>,
    pub setups: u32,
    pub launches: u32,
    /// Turns running now, and the most of them at once in one session.
    pub at_once: HashMap<SessionId, u32>,
    /// Computers that stand ready, by image, as asked for last.
    pub warm: BTreeMap<String, u32>,
    pub most_at_once: u32,
    pub refuse_launch: Option<String>,
    pub refuse_limits: Option<String>,
    pub fail_launches: u32,
    pub away: bool,
    pub fail_snapshots: u32,
    /// Computers that end this long after they were greeted.
    pub dies: bool,
}

pub struct Machine {
    state: Mutex<State>,
    pub gate: Gate,
    said: Notify,
}

pub fn base() -> ImageRef {
    ImageRef { name: "base".parse().unwrap(), digest: "d".repeat(64) }
}

impl Machine {
    pub fn new() -> Arc<Self> {
        let image = ImageInfo { image: base(), size_bytes: 1, created_ms: 1, used_by: 0 };
        Arc::new(Self {
            state: Mutex::new(State { images: vec![image], ..State::default() }),
            gate: Gate {
                countdown: Mutex::new(None),
                passed: Mutex::new(0),
                crashed: watch::channel(false).0,
            },
            said: Notify::new(),
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As the kernel would after an out-of-memory kill of PID 1.
    pub fn kill(&self, session: SessionId) {
        self.lock().end(session);
        self.said.notify_waiters();
    }

    /// Everything that runs is gone, as after a restart of the machine; what was not synced is gone too.
    pub fn reboot(&self) {
        let mut state = self.lock();
        for volume in state.volumes.values_mut() {
            volume.turns.clear();
        }
        for id in state.jails.keys().copied().collect::<Vec<_>>() {
            state.end(id);
        }
        drop(state);
        self.said.notify_waiters();
    }

    fn present(&self) -> Result<MutexGuard<'_, State>, Fault> {
        let state = self.lock();
        if state.away { Err(Fault::Away("nobody listens".into())) } else { Ok(state) }
    }
}

impl State {
    fn end(&mut self, session: SessionId) {
        if let Some(jail) = self.jails.remove(&session) {
            jail.tasks.iter().for_each(tokio::task::AbortHandle::abort);
            self.at_once.insert(session, 0);
        }
    }

    fn at(&mut self, socket: &Path) -> Result<&mut Jail, HostFault> {
        self.jails
            .values_mut()
            .find(|j| j.running.host_socket == socket)
            .ok_or_else(|| HostFault::Away("no such socket".into()))
    }

    fn make(&mut self, spec: &VolumeSpec) -> Result<(), Fault> {
        if self.volumes.contains_key(&spec.volume) {
            return Ok(());
        }
        let volume = match spec.source {
            Source::Empty => Volume::default(),
            Source::Existing => return Err(Fault::Missing(format!("volume {}", spec.volume))),
            Source::Snapshot(id) => {
                self.snapshots.get(&id).cloned().ok_or_else(|| Fault::Missing(format!("snapshot {id}")))?
            }
        };
        self.volumes.insert(spec.volume, volume);
        Ok(())
    }
}

#[async_trait]
impl SandboxRuntime for Machine {
    fn name(&self) -> &'static str {
        "native"
    }

    async fn capabilities(&self) -> Result<Capabilities, Fault> {
        Err(Fault::Refused("nobody asks".into()))
    }

    async fn inventory(&self) -> Result<Inventory, Fault> {
        let state = self.present()?;
        Ok(Inventory {
            running: state.jails.values().map(|j| j.running.clone()).collect(),
            volumes: state.volumes.keys().copied().collect(),
            snapshots: state.snapshots.keys().copied().collect(),
            images: state.images.clone(),
        })
    }

    async fn prepare_volume(&self, spec: &VolumeSpec) -> Result<(), Fault> {
        self.gate.pass().await;
        self.present()?.make(spec)?;
        self.gate.pass().await;
        Ok(())
    }

    async fn launch(&self, spec: &JailSpec) -> Result<Running, Fault> {
        self.gate.pass().await;
        let running = {
            let mut state = self.present()?;
            if let Some(why) = &state.refuse_launch {
                return Err(Fault::Refused(why.clone()));
            }
            if state.fail_launches > 0 {
                state.fail_launches -= 1;
                return Err(Fault::Failed { step: "clone".into(), cause: "no luck".into() });
            }
            let newest = state.newest.entry(spec.session).or_default();
            if spec.incarnation < *newest {
                return Err(Fault::Fenced(format!("{} has been here", *newest)));
            }
            *newest = spec.incarnation;
            let up = state.jails.get(&spec.session).map(|j| j.running.clone());
            match up {
                Some(up) if up.incarnation == spec.incarnation => up,
                _ => {
                    state.end(spec.session);
                    assert!(
                        !matches!(spec.volume.source, Source::Snapshot(_)),
                        "a launch makes volumes of the image alone"
                    );
                    state.make(&spec.volume)?;
                    state.launches += 1;
                    let jail = JailId::new();
                    let running = Running {
                        jail,
                        session: spec.session,
                        incarnation: spec.incarnation,
                        volume: spec.volume.volume,
                        host_socket: PathBuf::from(format!("/run/{jail}/host.sock")),
                        warm: false,
                    };
                    let jail = Jail {
                        running: running.clone(),
                        limits: spec.resources,
                        identity: None,
                        tasks: Vec::new(),
                    };
                    state.jails.insert(spec.session, jail);
                    running
                }
            }
        };
        self.gate.pass().await;
        Ok(running)
    }

    async fn observe(&self, session: SessionId) -> Result<Option<Running>, Fault> {
        Ok(self.present()?.jails.get(&session).map(|j| j.running.clone()))
    }

    async fn stop(&self, session: SessionId, _grace: Duration) -> Result<(), Fault> {
        self.gate.pass().await;
        self.present()?.end(session);
        self.said.notify_waiters();
        self.gate.pass().await;
        Ok(())
    }

    async fn set_limits(
        &self,
        session: SessionId,
        _volume: VolumeId,
        resources: &Resources,
    ) -> Result<(), Fault> {
        self.gate.pass().await;
        {
            let mut state = self.present()?;
            if let Some(why) = &state.refuse_limits {
                return Err(Fault::Refused(why.clone()));
            }
            let jail = state
                .jails
                .get_mut(&session)
                .ok_or_else(|| Fault::Failed { step: "limits".into(), cause: "not up".into() })?;
            jail.limits = *resources;
        }
        self.gate.pass().await;
        Ok(())
    }

    async fn stats(&self, _session: SessionId, _volume: VolumeId) -> Result<Stats, Fault> {
        Ok(Stats::default())
    }

    async fn snapshot(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<SnapshotInfo, Fault> {
        self.gate.pass().await;
        {
            let mut state = self.present()?;
            if state.fail_snapshots > 0 {
                state.fail_snapshots -= 1;
                return Err(Fault::Failed { step: "snapshot".into(), cause: "no luck".into() });
            }
            if !state.snapshots.contains_key(&snapshot) {
                let copy = state
                    .volumes
                    .get(&volume)
                    .cloned()
                    .ok_or_else(|| Fault::Missing(format!("volume {volume}")))?;
                state.snapshots.insert(snapshot, copy);
            }
        }
        self.gate.pass().await;
        Ok(SnapshotInfo { snapshot, bytes: 7, stall_micros: 42 })
    }

    async fn delete_snapshot(&self, snapshot: SnapshotId) -> Result<(), Fault> {
        self.gate.pass().await;
        self.present()?.snapshots.remove(&snapshot);
        self.gate.pass().await;
        Ok(())
    }

    async fn delete_volume(&self, volume: VolumeId) -> Result<(), Fault> {
        self.gate.pass().await;
        {
            let mut state = self.present()?;
            if state.jails.values().any(|j| j.running.volume == volume) {
                return Err(Fault::InUse(format!("volume {volume}")));
            }
            state.volumes.remove(&volume);
        }
        self.gate.pass().await;
        Ok(())
    }

    async fn keep_warm(&self, image: &Name, count: u32) -> Result<(), Fault> {
        let mut state = self.present()?;
        if !state.images.iter().any(|i| i.image.name == *image) {
            return Err(Fault::Missing(format!("image {image}")));
        }
        state.warm.insert(image.to_string(), count);
        Ok(())
    }

    async fn import_image(&self, _name: &Name, _archive: std::fs::File) -> Result<ImageInfo, Fault> {
        Err(Fault::Refused("this machine imports nothing".into()))
    }

    async fn delete_image(&self, _image: &ImageRef) -> Result<(), Fault> {
        Err(Fault::Refused("this machine deletes nothing".into()))
    }
}

/// The hosts of a machine's computers.
#[derive(Clone)]
pub struct Hosts(pub Arc<Machine>);

/// A turn's or the setup's journal on a volume.
#[derive(Clone, Copy)]
enum Key {
    Turn(TurnId),
    Setup,
}

impl Volume {
    fn journal(&mut self, key: Key) -> Option<&mut Journal> {
        match key {
            Key::Turn(id) => self.turns.get_mut(&id),
            Key::Setup => self.setup.as_mut(),
        }
    }
}

impl Hosts {
    fn say(&self, session: SessionId, incarnation: u64, volume: VolumeId, key: Key, said: Said) {
        let mut state = self.0.lock();
        if state.jails.get(&session).is_none_or(|j| j.running.incarnation != incarnation) {
            return;
        }
        if let (Key::Turn(_), Said::Done(_)) = (key, &said) {
            state.at_once.insert(session, 0);
        }
        if let Some(journal) = state.volumes.get_mut(&volume).and_then(|v| v.journal(key))
            && !journal.done()
        {
            journal.say(said);
        }
        drop(state);
        self.0.said.notify_waiters();
    }

    /// Follows a journal; ends after `done`, or with a fault when the computer is gone.
    fn follow(&self, socket: PathBuf, volume: VolumeId, key: Key, after: u64) -> Events {
        let hosts = self.clone();
        stream::unfold(Some(after), move |after| {
            let (hosts, socket) = (hosts.clone(), socket.clone());
            async move {
                let after = after?;
                loop {
                    let heard = hosts.0.said.notified();
                    tokio::pin!(heard);
                    heard.as_mut().enable();
                    {
                        let mut state = hosts.0.lock();
                        if state.at(&socket).is_err() {
                            return Some((Err(HostFault::Away("the connection broke".into())), None));
                        }
                        let journal = state.volumes.get_mut(&volume).and_then(|v| v.journal(key).cloned());
                        if let Some(event) = journal.and_then(|j| j.events.get(after as usize).cloned()) {
                            let last = matches!(event.said, Said::Done(_));
                            return Some((Ok(event), if last { None } else { Some(after + 1) }));
                        }
                    }
                    heard.await;
                }
            }
        })
        .boxed()
    }
}

fn text_of(blocks: &[Block]) -> String {
    blocks.iter().filter_map(Block::as_text).collect::<Vec<_>>().join("\n")
}

fn done(outcome: Outcome, reason: Option<Reason>, exit_code: Option<i32>) -> Said {
    let is_error = exit_code.is_some_and(|c| c != 0);
    Said::Done(Done { outcome, reason, detail: None, exit_code, is_error, usage: None })
}

#[async_trait]
impl HostPort for Hosts {
    async fn identify(&self, socket: &Path, identity: &Identity) -> Result<(), HostFault> {
        self.0.gate.pass().await;
        {
            let mut state = self.0.lock();
            let dies = state.dies;
            let jail = state.at(socket)?;
            match &jail.identity {
                Some(i) if i != identity => {
                    return Err(HostFault::Refused {
                        code: Code::InvalidState,
                        detail: "I am another".into(),
                    });
                }
                _ => jail.identity = Some(identity.clone()),
            }
            if dies {
                let session = jail.running.session;
                let machine = self.0.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    machine.kill(session);
                });
            }
        }
        self.0.gate.pass().await;
        Ok(())
    }

    async fn alive(&self, socket: &Path, session: SessionId) -> Result<(), HostFault> {
        let mut state = self.0.lock();
        let jail = state.at(socket)?;
        match &jail.identity {
            Some(i) if i.session == session => Ok(()),
            _ => Err(HostFault::Refused { code: Code::InvalidState, detail: "nobody told me".into() }),
        }
    }

    async fn setup(&self, socket: &Path, request: &SetupRequest) -> Result<Events, HostFault> {
        self.0.gate.pass().await;
        let (session, incarnation, volume) = {
            let mut state = self.0.lock();
            let running = state.at(socket)?.running.clone();
            let (session, incarnation, volume) = (running.session, running.incarnation, running.volume);
            let old = state.volumes.get_mut(&volume).unwrap().setup.clone();
            if old.is_none_or(|j| !j.done() && j.by != incarnation) {
                state.setups += 1;
                state.volumes.get_mut(&volume).unwrap().setup =
                    Some(Journal { by: incarnation, ..Journal::default() });
                let (hosts, script) = (self.clone(), request.script.clone());
                let task = tokio::spawn(async move {
                    let code = i32::from(script.contains("fail"));
                    if script.contains("slow") {
                        tokio::time::sleep(Duration::from_secs(30)).await;
                    }
                    let piece = Piece::from(script.into_bytes());
                    let out = Said::Output { stream: Stream::Stdout, offset: 0, piece };
                    hosts.say(session, incarnation, volume, Key::Setup, out);
                    hosts.say(
                        session,
                        incarnation,
                        volume,
                        Key::Setup,
                        done(Outcome::Done, None, Some(code)),
                    );
                });
                state.at(socket)?.tasks.push(task.abort_handle());
            }
            (session, incarnation, volume)
        };
        let _ = (session, incarnation);
        self.0.gate.pass().await;
        Ok(self.follow(socket.to_path_buf(), volume, Key::Setup, 0))
    }

    async fn turn(&self, socket: &Path, request: &TurnRequest, after: u64) -> Result<Events, HostFault> {
        self.0.gate.pass().await;
        let volume = self.start(socket, request)?;
        self.0.gate.pass().await;
        Ok(self.follow(socket.to_path_buf(), volume, Key::Turn(request.turn), after))
    }

    async fn attach(&self, socket: &Path, turn: TurnId, after: u64) -> Result<Option<Events>, HostFault> {
        self.0.gate.pass().await;
        let volume = {
            let mut state = self.0.lock();
            let running = state.at(socket)?.running.clone();
            let disk = state.volumes.get_mut(&running.volume).unwrap();
            let Some(journal) = disk.turns.get_mut(&turn) else { return Ok(None) };
            if !journal.done() && journal.by != running.incarnation {
                journal.say(done(Outcome::Failed, Some(Reason::Interrupted), None));
            }
            running.volume
        };
        Ok(Some(self.follow(socket.to_path_buf(), volume, Key::Turn(turn), after)))
    }

    async fn cancel(&self, socket: &Path, turn: TurnId) -> Result<(), HostFault> {
        self.0.gate.pass().await;
        let (session, incarnation, volume) = {
            let mut state = self.0.lock();
            let running = state.at(socket)?.running.clone();
            let deaf =
                state.ran.iter().rev().find(|(s, _)| *s == running.session).is_some_and(|(_, t)| t == "deaf");
            if deaf {
                return Ok(());
            }
            (running.session, running.incarnation, running.volume)
        };
        let said = done(Outcome::Cancelled, Some(Reason::Cancelled), None);
        self.say(session, incarnation, volume, Key::Turn(turn), said);
        self.0.gate.pass().await;
        Ok(())
    }

    async fn cancel_others(&self, socket: &Path, turn: TurnId) -> Result<(), HostFault> {
        let others: Vec<TurnId> = {
            let mut state = self.0.lock();
            let volume = state.at(socket)?.running.volume;
            let turns = &state.volumes[&volume].turns;
            turns.iter().filter(|(id, j)| **id != turn && !j.done()).map(|(id, _)| *id).collect()
        };
        for other in others {
            self.cancel(socket, other).await?;
        }
        Ok(())
    }

    async fn sync(&self, socket: &Path) -> Result<(), HostFault> {
        self.0.lock().at(socket).map(drop)
    }
}

impl Hosts {
    /// What a host does with a turn: known ones are handed back, an unknown one runs, once.
    fn start(&self, socket: &Path, request: &TurnRequest) -> Result<VolumeId, HostFault> {
        let mut state = self.0.lock();
        let running = state.at(socket)?.running.clone();
        let (session, incarnation, volume) = (running.session, running.incarnation, running.volume);
        let disk = state.volumes.get_mut(&volume).unwrap();
        if let Some(journal) = disk.turns.get_mut(&request.turn) {
            if !journal.done() && journal.by != incarnation && request.agent.kind.resumes() {
                // Its agent finds in a journal of its own how far it was.
                journal.by = incarnation;
                journal.say(Said::Event { name: "resumed".into(), data: json!({}) });
                journal.say(Said::Message { content: vec![Block::text("after all")] });
                journal.say(done(Outcome::Done, None, None));
            } else if !journal.done() && journal.by != incarnation {
                journal.say(done(Outcome::Failed, Some(Reason::Interrupted), None));
            }
            return Ok(volume);
        }
        if disk.turns.values().any(|j| !j.done() && j.by == incarnation) {
            return Err(HostFault::Refused { code: Code::InvalidState, detail: "another turn runs".into() });
        }
        disk.turns.insert(request.turn, Journal { by: incarnation, ..Journal::default() });
        let text = text_of(&request.message.content);
        disk.files.insert(text.clone());
        *state.runs.entry(request.turn).or_default() += 1;
        state.ran.push((session, text.clone()));
        let now = state.at_once.entry(session).or_default();
        *now += 1;
        let now = *now;
        state.most_at_once = state.most_at_once.max(now);
        let (hosts, turn) = (self.clone(), request.turn);
        let task = tokio::spawn(async move {
            let say = |said| hosts.say(session, incarnation, volume, Key::Turn(turn), said);
            say(Said::Started { agent: "shell".into() });
            let piece = Piece::from(format!("$ {text}\0").into_bytes());
            say(Said::Output { stream: Stream::Stdout, offset: 0, piece });
            match text.split_once(' ') {
                Some(("sleep", ms)) => tokio::time::sleep(Duration::from_millis(ms.parse().unwrap())).await,
                _ if text == "hang" || text == "deaf" => std::future::pending().await,
                _ if text == "die" => {
                    hosts.0.kill(session);
                    return;
                }
                _ => {}
            }
            say(Said::Event { name: "tool_use".into(), data: json!({"id": "1"}) });
            say(Said::Message { content: vec![Block::text(format!("re: {text}"))] });
            let code = i32::from(text == "false");
            say(done(Outcome::Done, None, Some(code)));
        });
        state.at(socket)?.tasks.push(task.abort_handle());
        Ok(volume)
    }
}
