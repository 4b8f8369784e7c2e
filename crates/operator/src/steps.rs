//! One step of a plan each. Idempotent: an operator that died after any line here is followed by one that repeats it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::time::timeout;
use wharf_domain::plan::{Ending, Jail, Step};
use wharf_domain::quota::Resources;
use wharf_domain::{Code, Error, SessionId, SnapshotId, TurnId};
use wharf_ports::SandboxRuntime;
use wharf_ports::runtime::{Fault, JailSpec, Running, Source, VolumeSpec};
use wharf_store::sessions::SessionRow;
use wharf_store::sessions::work::{Claimed, Task, TurnResult, TurnWork};
use wharf_wire::host::turn::{Outcome, Said, SetupRequest};
use wharf_wire::host::{AgentName, Env, Identity, SessionLimits};

use crate::driver::{Drive, Driven, agent_name};
use crate::host::HostFault;
use crate::operator::Inner;
use crate::reconcile::Failed;
use crate::slot::Driver;

/// Between SIGTERM and SIGKILL for the init of a computer.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// A host answers these at once or not at all.
const HOST_ANSWER: Duration = Duration::from_secs(10);
/// How long the end of a turn may take: longer than the driver's own patience with the host.
const END_TURN: Duration = Duration::from_secs(15);
/// Characters of a setup script's output that its failure shows.
const SETUP_TAIL: usize = 400;

type Done = Result<(), Failed>;

impl Inner {
    pub(crate) async fn step(self: &Arc<Self>, task: &Task, step: &Step) -> Done {
        match step {
            Step::Observe => self.observe(task).await,
            Step::MakeVolume => {
                self.runtime(task)?.prepare_volume(&volume_spec(task)).await?;
                Ok(self.work.volume_made(task).await?)
            }
            Step::Launch(limits) => self.launch(task, *limits).await,
            Step::Greet => self.greet(task).await,
            Step::Setup => self.setup(task).await,
            Step::SetLimits(limits) => self.set_limits(task, *limits).await,
            Step::Open(to) => {
                let running = self.running(task)?;
                self.work.open(task, &running, *to).await?;
                Ok(self.work.announce(task).await?)
            }
            Step::NoteDeath => {
                tracing::info!(session = %task.id(), "a computer ended by itself");
                self.abandon_driver(task);
                Ok(self.work.note_death(task).await?)
            }
            Step::TakeSnapshot(id) => self.take_snapshot(task, *id).await,
            Step::FailSnapshot(id) => {
                Ok(self.work.snapshot_failed(task, *id, "the session it is of has no files", true).await?)
            }
            Step::StartTurn => match self.work.claim_turn(task).await? {
                Claimed::Turn(turn) => self.drive(task, turn),
                Claimed::Empty => Ok(()),
            },
            Step::Drive => match &task.turn {
                Some(turn) => match self.work.turn(task, turn.id).await {
                    Ok(turn) => self.drive(task, turn),
                    // It ended meanwhile.
                    Err(e) if e.code == Code::NotFound => Ok(()),
                    Err(e) => Err(e.into()),
                },
                None => Ok(()),
            },
            Step::EndTurn(ending) => self.end_turn(task, ending).await,
            Step::EndAll(reason) => {
                if task.turn.is_some() {
                    self.end_turn(task, &Ending::Cancelled(reason.clone())).await?;
                }
                Ok(self.work.end_all(task, reason).await?)
            }
            Step::CloseIdle => self.work.close_idle(task).await.map(drop).map_err(Failed::from),
            Step::Stop => self.stop(task).await,
            Step::Become(to, reason) => Ok(self.work.become_state(task, *to, reason.as_deref()).await?),
            Step::DeleteVolume => match self.runtime(task)?.delete_volume(task.session.volume).await {
                Ok(()) | Err(Fault::Missing(_)) => Ok(()),
                Err(e) => Err(e.into()),
            },
            Step::Forget => {
                self.work.forget(task).await?;
                self.slots.lose(task.id());
                Ok(())
            }
            Step::Wait(_) => Ok(()),
        }
    }

    /// The runtime the session was created with.
    fn runtime(&self, task: &Task) -> Result<&Arc<dyn SandboxRuntime>, Failed> {
        Ok(self.runtimes.get(&task.session.runtime)?)
    }

    fn running(&self, task: &Task) -> Result<Running, Failed> {
        self.slots.with(task.id(), |s| s.running.clone()).ok_or(Failed::Replan)
    }

    async fn observe(&self, task: &Task) -> Done {
        let running = self.runtime(task)?.observe(task.id()).await?;
        let recorded = task.session.computer.as_ref();
        let same = running.as_ref().is_some_and(|r| recorded.is_some_and(|c| c.incarnation == r.incarnation));
        if let (true, true, Some(r)) = (task.session.suspect, same, &running) {
            let alive = timeout(HOST_ANSWER, self.host.alive(&r.host_socket, task.id())).await;
            if !matches!(alive, Ok(Ok(()))) {
                tracing::info!(session = %task.id(), "a computer is up but its host does not answer; it is started anew");
                self.runtime(task)?.stop(task.id(), STOP_GRACE).await?;
                self.slots.with(task.id(), |s| s.seen(None, false));
                return Ok(());
            }
        }
        if task.session.suspect {
            // The record goes with the suspicion, or somebody would believe it for a moment.
            if same || recorded.is_none() {
                self.work.trusted(task).await?;
            } else {
                self.work.note_death(task).await?;
            }
        }
        self.slots.with(task.id(), |s| s.seen(running, same));
        Ok(())
    }

    async fn launch(&self, task: &Task, limits: Resources) -> Done {
        let s = &task.session;
        let spec = JailSpec {
            session: s.id,
            incarnation: s.incarnation + 1,
            volume: volume_spec(task),
            resources: limits,
            hostname: s.name.clone(),
            allow_root: s.allow_root,
        };
        let spec = if let Source::Snapshot(_) = spec.volume.source {
            self.runtime(task)?.prepare_volume(&spec.volume).await?;
            JailSpec { volume: VolumeSpec { source: Source::Existing, ..spec.volume }, ..spec }
        } else {
            spec
        };
        let running = self.runtime(task)?.launch(&spec).await?;
        self.slots.with(s.id, |slot| {
            slot.jail = Jail::Up { greeted: false, limits: Some(limits) };
            slot.running = Some(running);
        });
        Ok(())
    }

    async fn greet(&self, task: &Task) -> Done {
        let s = &task.session;
        let running = self.running(task)?;
        let identity = Identity {
            session: s.id,
            hostname: s.name.to_string(),
            env: Env(s.env.0.clone()),
            agents: agents(s),
            instructions: s.instructions.clone(),
            limits: SessionLimits::default(),
            authority: Some(self.work.authority_certificate(s.space).await?.to_string()),
        };
        let greeting = self.host.identify(&running.host_socket, &identity);
        match timeout(HOST_ANSWER, greeting).await {
            Ok(Ok(())) => {}
            // It knows itself already, from before a name or an instruction was changed.
            Ok(Err(HostFault::Refused { .. }))
                if self.host.alive(&running.host_socket, s.id).await.is_ok() => {}
            Ok(Err(e)) => return Err(e.into()),
            Err(_) => return Err(Failed::Passing("the session's host did not answer the greeting".into())),
        }
        crate::packages::install(self.work.store(), &running.host_socket, s)
            .await
            .map_err(Failed::Passing)?;
        self.slots.with(s.id, |slot| {
            if let Jail::Up { greeted, .. } = &mut slot.jail {
                *greeted = true;
            }
        });
        Ok(())
    }

    /// Runs the script and keeps what it says in the log. Whoever closes or deletes the session meanwhile is heard.
    async fn setup(&self, task: &Task) -> Done {
        let s = &task.session;
        let Some(script) = s.setup.clone() else { return Ok(()) };
        let running = self.running(task)?;
        // The gateway has to know whose jail it is: the script may fetch what it installs.
        self.work.open(task, &running, None).await?;
        let request = SetupRequest {
            script,
            env: Env::default(),
            user: None,
            timeout_seconds: Some(s.turn_timeout_seconds),
        };
        let mut events = self.host.setup(&running.host_socket, &request).await?;
        self.work.say(task, "setup.started", &serde_json::json!({})).await?;
        let mut tail = String::new();
        let done = loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = self.called_off(task) => return Err(Failed::Replan),
            };
            match event {
                Some(Ok(event)) => match event.said {
                    Said::Done(done) => break done,
                    Said::Output { stream, piece, .. } => {
                        let bytes = piece.into_bytes();
                        let text = String::from_utf8_lossy(&bytes).into_owned();
                        tail.push_str(&text);
                        let cut = tail.chars().count().saturating_sub(SETUP_TAIL);
                        tail = tail.chars().skip(cut).collect();
                        self.work
                            .say(task, "setup.output", &serde_json::json!({"stream": stream, "text": text}))
                            .await?;
                    }
                    _ => {}
                },
                Some(Err(e)) => return Err(e.into()),
                None => return Err(Failed::Passing("the setup script's output ended early".into())),
            }
        };
        let detail = serde_json::json!({"exit_code": done.exit_code, "outcome": done.outcome});
        self.work.say(task, "setup.ended", &detail).await?;
        if done.outcome == Outcome::Done && !done.is_error && done.exit_code.unwrap_or(0) == 0 {
            return Ok(self.work.setup_done(task).await?);
        }
        let how = match (done.exit_code, done.detail) {
            (Some(code), _) => format!("with exit code {code}"),
            (None, Some(detail)) => format!("with: {detail}"),
            (None, None) => "before its end".to_owned(),
        };
        Err(Failed::Certain(format!("the setup script ended {how}; its output ended: {}", tail.trim_end())))
    }

    /// Returns when the session shall not run any more.
    async fn called_off(&self, task: &Task) {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let called = self.slots.with(task.id(), |s| std::mem::take(&mut s.called));
            if called && !self.work.still_running(task).await.unwrap_or(true) {
                self.slots.with(task.id(), |s| s.called = true);
                return;
            }
        }
    }

    async fn set_limits(&self, task: &Task, limits: Resources) -> Done {
        self.runtime(task)?.set_limits(task.id(), task.session.volume, &limits).await?;
        self.slots.with(task.id(), |slot| {
            if let Jail::Up { limits: have, .. } = &mut slot.jail {
                *have = Some(limits);
            }
        });
        Ok(())
    }

    async fn take_snapshot(&self, task: &Task, id: SnapshotId) -> Done {
        let socket = self.slots.with(task.id(), |s| match s.jail {
            Jail::Up { greeted: true, .. } => s.running.as_ref().map(|r| r.host_socket.clone()),
            _ => None,
        });
        if let Some(socket) = socket {
            // What programs wrote and the kernel has not; a host that does not answer must not keep the copy back,
            // which is consistent either way.
            if !matches!(timeout(HOST_ANSWER, self.host.sync(&socket)).await, Ok(Ok(()))) {
                tracing::debug!(session = %task.id(), "the host did not sync before a snapshot");
            }
        }
        match self.runtime(task)?.snapshot(task.session.volume, id).await {
            Ok(info) => Ok(self.work.snapshot_taken(task, &info).await?),
            Err(Fault::Away(why)) => Err(Failed::Away(why)),
            Err(fault) => {
                let certain = matches!(fault, Fault::Refused(_) | Fault::Missing(_));
                let why = fault.to_string();
                self.work.snapshot_failed(task, id, &why, certain).await?;
                // Nothing that comes after it in the plan may be done before it is settled: the plan of a deletion goes on
                // with the volume.
                if certain { Ok(()) } else { Err(Failed::Away(why)) }
            }
        }
    }

    fn drive(self: &Arc<Self>, task: &Task, work: TurnWork) -> Done {
        let running = self.running(task)?;
        let (socket, incarnation): (PathBuf, u64) = (running.host_socket, running.incarnation);
        let turn = work.turn;
        let (ending, wanted) = watch::channel(None);
        let (over, is_over) = watch::channel(false);
        let (inner, session) = (self.clone(), task.session.clone());
        let driver = tokio::spawn(async move {
            let _called = CallAfter(inner.clone(), session.id);
            let drive = Drive {
                work: &inner.work,
                host: &*inner.host,
                socket,
                session: &session,
                turn: work,
                incarnation,
                ending: wanted,
                stuck: &|| inner.slots.with(session.id, |s| s.stuck = true),
            };
            let driven = drive.run().await;
            inner.driven(&session, &driven);
            let _ = over.send(true);
        });
        let task_handle = driver.abort_handle();
        self.slots.with(task.id(), |s| {
            s.driver = Some(Driver { turn, ending, over: is_over, task: task_handle });
        });
        Ok(())
    }

    fn driven(&self, session: &SessionRow, driven: &Driven) {
        let id = session.id;
        match driven {
            Driven::Ended => {}
            Driven::Stuck => {
                tracing::info!(session = %id, "a host did not end its turn; its computer is started anew");
            }
            Driven::HostLost(why) => {
                tracing::debug!(session = %id, why, "the host was lost in a turn");
                self.slots.with(id, super::slot::Slot::doubt);
            }
            Driven::Store(error) if error.code == Code::LeaseLost => {
                self.slots.with(id, super::slot::Slot::doubt);
            }
            // It ended, or was sent, before this driver got to it; the look that follows sees which.
            Driven::Store(error) if error.code == Code::PreconditionFailed => {}
            Driven::Store(error) => {
                tracing::warn!(session = %id, %error, "a turn waits for the database");
            }
        }
    }

    fn abandon_driver(&self, task: &Task) {
        if let Some(driver) = self.slots.with(task.id(), |s| s.driver.take()) {
            driver.task.abort();
        }
    }

    /// Through the driver where there is one, so that what was said so far is in the log; else by hand.
    async fn end_turn(&self, task: &Task, ending: &Ending) -> Done {
        let Some(turn) = &task.turn else { return Ok(()) };
        let over = self.slots.with(task.id(), |s| {
            s.driver.as_ref().filter(|d| d.turn == turn.id).map(|d| {
                d.ending.send_replace(Some(ending.clone()));
                d.over.clone()
            })
        });
        if let Some(mut over) = over
            && timeout(END_TURN, over.wait_for(|o| *o)).await.is_ok()
        {
            self.slots.with(task.id(), |s| s.driver = None);
            // Whether it ended or the host was lost is in the tables.
            return if self.work.turn(task, turn.id).await.is_err_and(|e: Error| e.code == Code::NotFound) {
                Ok(())
            } else {
                self.end_by_hand(task, turn.id, ending).await
            };
        }
        self.abandon_driver(task);
        self.end_by_hand(task, turn.id, ending).await
    }

    async fn end_by_hand(&self, task: &Task, turn: TurnId, ending: &Ending) -> Done {
        if let Some(computer) = &task.session.computer {
            let told = timeout(Duration::from_secs(2), self.host.cancel(&computer.host_socket, turn)).await;
            if !matches!(told, Ok(Ok(()))) {
                tracing::debug!(session = %task.id(), %turn, "the host was not told that its turn ended");
            }
        }
        let result = match ending {
            Ending::Failed(reason) => TurnResult::failed(reason, None),
            Ending::Cancelled(reason) => TurnResult::cancelled(reason),
        };
        Ok(self.work.end_turn(task.id(), task.session.space, task.token, turn, &result).await?)
    }

    async fn stop(&self, task: &Task) -> Done {
        self.abandon_driver(task);
        self.runtime(task)?.stop(task.id(), STOP_GRACE).await?;
        self.slots.with(task.id(), |s| s.seen(None, false));
        if task.session.computer.is_some() || task.session.suspect {
            self.work.stopped(task).await?;
        }
        Ok(())
    }
}

/// What agents are told of each other.
fn agents(s: &SessionRow) -> Vec<AgentName> {
    let description = |a: &serde_json::Value| a.get("description")?.as_str().map(str::to_owned);
    s.agents.iter().map(|a| AgentName { name: agent_name(a), description: description(a) }).collect()
}

fn volume_spec(task: &Task) -> VolumeSpec {
    let s = &task.session;
    let source = match s.parent.and_then(|p| p.snapshot) {
        _ if s.volume_made => Source::Existing,
        Some(snapshot) => Source::Snapshot(snapshot),
        None => Source::Empty,
    };
    VolumeSpec { volume: s.volume, image: s.image.clone(), disk_mib: s.resources.disk_mib, source }
}

/// However a driver ends, somebody looks at the session then.
struct CallAfter(Arc<Inner>, SessionId);

impl Drop for CallAfter {
    fn drop(&mut self) {
        self.0.call(self.1);
    }
}
