//! What to do next for one session: a pure decision on what is wanted and what was seen.
//!
//! [`plan`] answers steps in order. Each is idempotent, so a reconciler that died anywhere plans anew from what it
//! sees and repeats at most one step. The plan refuses nothing and waits for nothing: a step that cannot be done
//! yet is not in it, and the last step may say when to look again.

use std::time::Duration;

use crate::id::SnapshotId;
use crate::quota::Resources;
use crate::session::{Desired, State};
use crate::time::Time;

/// Failures in a row (starts that failed, computers that ended early) until a session is in error.
pub const FAILURES_MAX: u32 = 5;
/// A computer that ran this long before it ended had a good start: counting failures begins anew.
pub const STEADY_AFTER: Duration = Duration::from_secs(60);

/// Pause before attempt `failures + 1`: 200 ms doubling up to 10 s. The first restart is immediate, because the
/// most common reason is one command that took all the memory.
pub fn back_off(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        n => Duration::from_millis((200_u64 << (n - 2).min(10)).min(10_000)),
    }
}

/// What a held computer of a closed session may use: enough for a host that serves files.
pub const HELD: Resources = Resources { cpu_millis: 500, memory_mib: 128, disk_mib: 0, pids: 128 };

/// Where the volume's first content comes from, as the tables know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The image alone, or a snapshot that is there.
    Ready,
    /// A snapshot that is being taken.
    Waiting,
    /// The snapshot failed or was lost: there will never be a volume.
    Lost(String),
}

/// The turn that is recorded as running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningTurn {
    /// Somebody asked to end it, with the reason it will carry.
    pub cancel: Option<String>,
    pub deadline: Time,
}

/// What the tables say about one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub desired: Desired,
    pub state: State,
    /// A close was asked for and is not done. It is carried through even when the session is wanted again meanwhile:
    /// what a caller is told of then is the computer behind it, not the one that is about to end.
    pub closing: bool,
    pub resources: Resources,
    pub origin: Origin,
    /// The volume was made. Until then the origin is needed.
    pub volume: bool,
    /// There is a setup script that has not run to its end on this volume.
    pub setup: bool,
    /// Its computer is recorded: host socket and incarnation are known to the server.
    pub recorded: bool,
    /// No computer was ever recorded for it.
    pub fresh: bool,
    pub turn: Option<RunningTurn>,
    /// Messages wait.
    pub queued: bool,
    /// Snapshots of this session that were asked for and not taken, oldest first.
    pub snapshots: Vec<SnapshotId>,
    pub last_used_at: Time,
    /// A command, terminal, transfer or port connection is open; renewed by the server that carries it.
    pub in_use_until: Option<Time>,
    pub idle_timeout: Duration,
    /// A closed session whose files are being served until then.
    pub hold_until: Option<Time>,
    pub failures: u32,
    pub retry_at: Option<Time>,
}

/// What was seen of its computer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Jail {
    /// Nobody looked since this reconciler began.
    Unknown,
    Absent,
    Up {
        /// It was told who it is.
        greeted: bool,
        /// Limits applied by this reconciler; `None` when it does not know.
        limits: Option<Resources>,
    },
}

/// What the reconciler saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    pub jail: Jail,
    /// This reconciler reads the running turn's events.
    pub driving: bool,
}

/// How a turn is ended from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Cancelled(String),
    Failed(String),
}

/// One idempotent thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask the runtime whether its computer is up.
    Observe,
    /// Make the volume without starting a computer.
    MakeVolume,
    /// Start its computer (and make the volume) with these limits.
    Launch(Resources),
    /// Tell its host who it is.
    Greet,
    /// Run the setup script, once in the life of the volume.
    Setup,
    SetLimits(Resources),
    /// Record the computer so that the server finds it, and enter the state given.
    Open(Option<State>),
    /// It was up and is no more: forget what was recorded, count the failure, set the time to try again.
    NoteDeath,
    TakeSnapshot(SnapshotId),
    /// There is nothing to copy and there will not be.
    FailSnapshot(SnapshotId),
    /// Claim the oldest queued message and send it.
    StartTurn,
    /// Read on the events of the turn that runs.
    Drive,
    /// End the running turn.
    EndTurn(Ending),
    /// End the running turn and all that wait.
    EndAll(String),
    /// Want it closed because nobody used it.
    CloseIdle,
    /// End its computer and forget what was recorded of it.
    Stop,
    /// Enter a state, with the reason shown to users.
    Become(State, Option<String>),
    DeleteVolume,
    /// Nothing is left of it outside the tables: release what it reserved.
    Forget,
    /// Look again then. Always last.
    Wait(Time),
}

/// The steps that bring what is seen to what is wanted.
pub fn plan(want: &Wanted, seen: &Observed, now: Time) -> Vec<Step> {
    match want.desired {
        Desired::Deleted => delete(want, seen),
        Desired::Closed => close(want, seen, now),
        Desired::Running if want.state == State::Error => fail(want, seen),
        Desired::Running if want.closing && want.state != State::Closed => shut(want, seen),
        Desired::Running => run(want, seen, now),
    }
}

fn delete(want: &Wanted, seen: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    if want.turn.is_some() || want.queued {
        steps.push(Step::EndAll("deleted".into()));
    }
    // They were promised before the deletion: forks may stand on them.
    for &id in &want.snapshots {
        steps.push(if want.volume { Step::TakeSnapshot(id) } else { Step::FailSnapshot(id) });
    }
    if seen.jail != Jail::Absent || want.recorded {
        steps.push(Step::Stop);
    }
    steps.extend([Step::DeleteVolume, Step::Forget]);
    steps
}

/// From running to closed.
fn shut(want: &Wanted, seen: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    if want.turn.is_some() {
        steps.push(Step::EndTurn(Ending::Cancelled("closed".into())));
    }
    if seen.jail != Jail::Absent || want.recorded {
        steps.push(Step::Stop);
    }
    steps.push(Step::Become(State::Closed, None));
    steps
}

fn close(want: &Wanted, seen: &Observed, now: Time) -> Vec<Step> {
    if want.state != State::Closed {
        return shut(want, seen);
    }
    let mut steps = Vec::new();
    let possible = want.volume || want.origin == Origin::Ready;
    if !want.snapshots.is_empty() {
        if let Origin::Lost(_) = want.origin
            && !want.volume
        {
            steps.extend(want.snapshots.iter().copied().map(Step::FailSnapshot));
        } else if possible {
            if !want.volume {
                steps.push(Step::MakeVolume);
            }
            steps.extend(want.snapshots.iter().copied().map(Step::TakeSnapshot));
        }
    }
    match held_until(want.hold_until, want.in_use_until).filter(|until| *until > now && possible) {
        Some(until) => {
            let limits = held(want.resources);
            if wait_to_retry(want, seen, now, &mut steps) {
                return steps;
            }
            if bring_up(want, seen, limits, &mut steps) {
                steps.push(Step::Open(None));
            }
            if steps.last() != Some(&Step::Observe) {
                steps.push(Step::Wait(until));
            }
        }
        None => put_down(want, seen, &mut steps),
    }
    steps
}

/// Ends what may run. A start that was not recorded may have been cut short by a crash: look before believing.
fn put_down(want: &Wanted, seen: &Observed, steps: &mut Vec<Step>) {
    match seen.jail {
        Jail::Up { .. } => steps.push(Step::Stop),
        _ if want.recorded => steps.push(Step::Stop),
        Jail::Unknown => steps.push(Step::Observe),
        Jail::Absent => {}
    }
}

/// In error: nothing runs until somebody restores or deletes it.
fn fail(want: &Wanted, seen: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    if want.turn.is_some() {
        steps.push(Step::EndTurn(Ending::Failed("interrupted".into())));
    }
    for &id in &want.snapshots {
        steps.push(if want.volume { Step::TakeSnapshot(id) } else { Step::FailSnapshot(id) });
    }
    put_down(want, seen, &mut steps);
    steps
}

fn run(want: &Wanted, seen: &Observed, now: Time) -> Vec<Step> {
    let mut steps = Vec::new();
    if !want.volume {
        match &want.origin {
            Origin::Ready => {}
            // The session it comes from is reconciled now and wakes this one.
            Origin::Waiting => return steps,
            Origin::Lost(why) => {
                for &id in &want.snapshots {
                    steps.push(Step::FailSnapshot(id));
                }
                steps.push(Step::Become(State::Error, Some(why.clone())));
                return steps;
            }
        }
    }
    let living = matches!(want.state, State::Idle | State::Busy);
    if seen.jail == Jail::Absent && want.recorded {
        return vec![Step::NoteDeath];
    }
    let up = matches!(seen.jail, Jail::Up { .. });
    if !up && let Some(ending) = want.turn.as_ref().and_then(|t| due(t, now)) {
        // The runtime may be away for long; who cancels does not wait for it.
        steps.push(Step::EndTurn(ending));
        return steps;
    }
    if !up && want.failures >= FAILURES_MAX {
        if want.turn.is_some() {
            steps.push(Step::EndTurn(Ending::Failed("interrupted".into())));
        }
        steps.push(Step::Stop);
        let why = format!("its computer could not be kept up: {} failures in a row", want.failures);
        steps.push(Step::Become(State::Error, Some(why)));
        return steps;
    }
    if wait_to_retry(want, seen, now, &mut steps) {
        return steps;
    }
    let new = bring_up(want, seen, want.resources, &mut steps);
    if steps.last() == Some(&Step::Observe) {
        return steps;
    }
    if want.setup {
        steps.push(Step::Setup);
    }
    if new || !living {
        // What comes next is decided on the row as it is then.
        steps.push(Step::Open((!living).then_some(State::Idle)));
        return steps;
    }
    steps.extend(want.snapshots.iter().copied().map(Step::TakeSnapshot));
    match &want.turn {
        Some(turn) => {
            if !seen.driving {
                steps.push(Step::Drive);
            }
            match due(turn, now) {
                Some(ending) => steps.push(Step::EndTurn(ending)),
                None => steps.push(Step::Wait(turn.deadline)),
            }
        }
        None if want.state == State::Busy => steps.push(Step::Become(State::Idle, None)),
        None if want.queued => steps.push(Step::StartTurn),
        None => {
            let at = idle_deadline(want);
            steps.push(if at <= now { Step::CloseIdle } else { Step::Wait(at) });
        }
    }
    steps
}

/// Steps until its host knows who it is. True when there is something new to record.
fn bring_up(want: &Wanted, seen: &Observed, limits: Resources, steps: &mut Vec<Step>) -> bool {
    match &seen.jail {
        Jail::Unknown if want.fresh => steps.extend([Step::Launch(limits), Step::Greet]),
        Jail::Unknown => {
            steps.push(Step::Observe);
            return false;
        }
        Jail::Absent => steps.extend([Step::Launch(limits), Step::Greet]),
        Jail::Up { greeted, limits: have } => {
            if !greeted {
                steps.push(Step::Greet);
            }
            if *have != Some(limits) {
                steps.push(Step::SetLimits(limits));
            }
            return !want.recorded || !greeted;
        }
    }
    true
}

fn wait_to_retry(want: &Wanted, seen: &Observed, now: Time, steps: &mut Vec<Step>) -> bool {
    match want.retry_at {
        Some(at) if at > now && !matches!(seen.jail, Jail::Up { .. }) => {
            steps.push(Step::Wait(at));
            true
        }
        _ => false,
    }
}

fn due(turn: &RunningTurn, now: Time) -> Option<Ending> {
    match &turn.cancel {
        Some(reason) => Some(Ending::Cancelled(reason.clone())),
        None if turn.deadline <= now => Some(Ending::Failed("turn_timeout".into())),
        None => None,
    }
}

/// How long a closed session's computer stays up for its files: a transfer that takes longer than the hold is not cut off.
pub fn held_until(hold_until: Option<Time>, in_use_until: Option<Time>) -> Option<Time> {
    hold_until.map(|hold| in_use_until.map_or(hold, |used| hold.max(used)))
}

/// Idle time counts from the end of the last use, whatever the use was.
pub fn idle_deadline(want: &Wanted) -> Time {
    let used = want.in_use_until.map_or(want.last_used_at, |until| until.max(want.last_used_at));
    used.plus(want.idle_timeout)
}

fn held(own: Resources) -> Resources {
    Resources {
        cpu_millis: own.cpu_millis.min(HELD.cpu_millis),
        memory_mib: own.memory_mib.min(HELD.memory_mib),
        disk_mib: own.disk_mib,
        pids: own.pids.min(HELD.pids),
    }
}

#[cfg(test)]
mod tests;
