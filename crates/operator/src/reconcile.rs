//! Brings one session to what is wanted: claim the lease, plan, do the steps, until a plan has none left.
//!
//! The plan decides, this executes. A step that fails ends the plan; how it failed decides whether the session is looked
//! at again at once, later, or never.

use std::sync::Arc;
use std::time::Duration;

use wharf_domain::plan::{Observed, Step, plan};
use wharf_domain::session::State;
use wharf_domain::{Code, Error, SessionId, Time};
use wharf_ports::runtime::Fault;
use wharf_store::sessions::work::{Claim, Task};

use crate::host::HostFault;
use crate::operator::Inner;

/// Plans in one go before others get their turn.
const ROUNDS: usize = 100;

/// When to look at the session again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When somebody calls.
    Rest,
    /// At that time, or when somebody calls.
    At(Time),
    /// After a pause: something was away.
    After(Duration),
}

/// How a step went wrong.
#[derive(Debug)]
pub enum Failed {
    /// What was believed is not so: plan anew.
    Replan,
    /// Something is away; nothing is counted against the session.
    Away(String),
    /// It may pass: counted, and tried again.
    Passing(String),
    /// It will not pass: the session is in error with this reason.
    Certain(String),
    Store(Error),
}

impl From<Error> for Failed {
    fn from(e: Error) -> Self {
        Self::Store(e)
    }
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(why) => Self::Certain(why),
            Fault::Missing(what) => Self::Certain(format!("there is no {what}")),
            Fault::Away(why) => Self::Away(why),
            Fault::Fenced(why) | Fault::InUse(why) => Self::Passing(why),
            Fault::Failed { .. } => Self::Passing(fault.to_string()),
        }
    }
}

impl From<HostFault> for Failed {
    fn from(fault: HostFault) -> Self {
        Self::Passing(fault.to_string())
    }
}

impl Inner {
    /// One go at a session.
    pub(crate) async fn reconcile(self: &Arc<Self>, id: SessionId) -> Next {
        for _ in 0..ROUNDS {
            match self.round(id).await {
                Ok(None) => {
                    self.slots.with(id, |s| s.away = 0);
                }
                Ok(Some(next)) => {
                    self.slots.with(id, |s| s.away = 0);
                    return next;
                }
                Err(error) => return self.trouble(id, error),
            }
        }
        tracing::error!(session = %id, "the plan of a session does not come to rest; it is looked at again in a while");
        Next::After(Duration::from_secs(5))
    }

    fn trouble(&self, id: SessionId, error: Error) -> Next {
        match error.code {
            Code::LeaseLost => {
                tracing::info!(session = %id, "another operator works on this session now");
                self.slots.lose(id);
                Next::After(wharf_store::sessions::work::LEASE)
            }
            Code::PreconditionFailed => Next::After(Duration::ZERO),
            _ => {
                let away = self.slots.with(id, |s| {
                    s.away += 1;
                    s.away
                });
                // Logged at once when it is a defect, and not at every attempt when something is away.
                if error.code != Code::Unavailable {
                    tracing::error!(session = %id, %error, "reconciling failed; it is tried again");
                } else if away == 5 {
                    tracing::warn!(session = %id, %error, "reconciling waits for something that is away");
                }
                Next::After(pause(away))
            }
        }
    }

    /// Claims, plans and does. `None`: plan again at once.
    async fn round(self: &Arc<Self>, id: SessionId) -> Result<Option<Next>, Error> {
        self.slots.with(id, |s| s.called = false);
        let task = match self.work.claim(id).await? {
            Claim::Mine(task) => task,
            Claim::Held(until) => {
                self.slots.lose(id);
                return Ok(Some(Next::At(until.plus(Duration::from_millis(50)))));
            }
            Claim::Gone => {
                self.slots.lose(id);
                self.free_snapshots(Some(id)).await?;
                return Ok(Some(Next::Rest));
            }
        };
        if self.slots.with(id, |s| std::mem::take(&mut s.stuck)) {
            if let Err(failed) = self.step(&task, &Step::Stop).await {
                self.slots.with(id, |s| s.stuck = true);
                return self.failed(&task, &Step::Stop, failed).await;
            }
            return Ok(None);
        }
        if task.owed {
            self.work.announce(&task).await?;
        }
        let seen = self.look(&task);
        let steps = plan(&task.wanted(), &seen, self.now());
        tracing::trace!(session = %id, state = task.session.state.as_str(), ?steps, "plan");
        let mut next = Next::Rest;
        let mut did = false;
        for step in steps {
            if let Step::Wait(at) = step {
                next = Next::At(at);
                break;
            }
            did = true;
            if let Err(failed) = self.step(&task, &step).await {
                return self.failed(&task, &step, failed).await;
            }
        }
        if did {
            return Ok(None);
        }
        if task.doomed {
            self.free_snapshots(Some(id)).await?;
        }
        Ok(Some(next))
    }

    /// What this process knows, checked against what the row says.
    fn look(&self, task: &Task) -> Observed {
        self.slots.with(task.id(), |slot| {
            if slot.token != task.token {
                // A new lease: whoever had it before may have done anything.
                if slot.token != 0 {
                    slot.doubt();
                    if let Some(driver) = slot.driver.take() {
                        driver.task.abort();
                    }
                }
                slot.token = task.token;
            }
            if let Some(driver) = &slot.driver
                && (*driver.over.borrow()
                    || driver.task.is_finished()
                    || Some(driver.turn) != task.turn.as_ref().map(|t| t.id))
            {
                slot.driver = None;
            }
            let recorded = task.session.computer.as_ref().map(|c| c.incarnation);
            let known = slot.running.as_ref().map(|r| r.incarnation);
            if task.session.suspect || (recorded.is_some() && known.is_some() && recorded > known) {
                slot.doubt();
            }
            Observed { jail: slot.jail.clone(), driving: slot.driving(task.turn.as_ref().map(|t| t.id)) }
        })
    }

    async fn failed(
        self: &Arc<Self>,
        task: &Task,
        step: &Step,
        failed: Failed,
    ) -> Result<Option<Next>, Error> {
        let id = task.id();
        match failed {
            Failed::Replan => Ok(None),
            Failed::Store(error) => Err(error),
            Failed::Away(why) => {
                let away = self.slots.with(id, |s| {
                    s.away += 1;
                    s.away
                });
                if away == 5 {
                    tracing::warn!(session = %id, ?step, why, "a step waits for the runtime");
                }
                Ok(Some(Next::After(pause(away))))
            }
            Failed::Passing(why) => {
                tracing::info!(session = %id, ?step, why, "a step failed and is tried again");
                self.slots.with(id, super::slot::Slot::doubt);
                self.work.note_failure(task, &why).await?;
                // Steps of a deletion have no limit of attempts, but do not spin either.
                Ok(match step {
                    Step::DeleteVolume | Step::Stop => Some(Next::After(Duration::from_secs(1))),
                    _ => None,
                })
            }
            Failed::Certain(why) => {
                tracing::info!(session = %id, ?step, why, "a step was refused");
                self.give_up(task, step, &why).await
            }
        }
    }

    /// A promise that cannot be kept: the session is in error and says why. What cannot be in error stays as it is.
    async fn give_up(self: &Arc<Self>, task: &Task, step: &Step, why: &str) -> Result<Option<Next>, Error> {
        let id = task.id();
        match step {
            Step::DeleteVolume | Step::Stop | Step::Observe => {
                self.work.note_failure(task, why).await?;
                return Ok(Some(Next::After(Duration::from_secs(5))));
            }
            Step::SetLimits(limits) => {
                // The computer runs on with the limits it has; its log says so, and the wish is not repeated endlessly.
                self.work.note_failure(task, &format!("new limits could not be applied: {why}")).await?;
                self.slots.with(id, |s| {
                    if let wharf_domain::plan::Jail::Up { limits: have, .. } = &mut s.jail {
                        *have = Some(*limits);
                    }
                });
                return Ok(None);
            }
            _ => {}
        }
        if task.session.state == State::Closed
            && task.session.desired != wharf_domain::session::Desired::Running
        {
            // Only its files were asked for.
            self.work.note_failure(task, why).await?;
            return Ok(Some(Next::After(Duration::from_secs(5))));
        }
        if let Some(turn) = &task.turn {
            let result = wharf_store::sessions::work::TurnResult::failed("interrupted", Some(why.to_owned()));
            self.work.end_turn(id, task.session.space, task.token, turn.id, &result).await?;
        }
        self.work.become_state(task, State::Error, Some(why)).await?;
        Ok(None)
    }
}

/// 100 ms doubling up to 5 s: a dependency that comes back is noticed within that.
fn pause(attempts: u32) -> Duration {
    Duration::from_millis((100_u64 << attempts.saturating_sub(1).min(6)).min(5_000))
}
