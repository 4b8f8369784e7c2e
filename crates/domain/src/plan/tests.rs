//! A small world that does what the steps say, under random histories and crashes between any two steps.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn at(ms: u64) -> Time {
    Time::from_millis(ms as i64)
}

fn fresh() -> Wanted {
    Wanted {
        desired: Desired::Running,
        state: State::Init,
        closing: false,
        resources: Resources::default(),
        origin: Origin::Ready,
        volume: false,
        setup: false,
        recorded: false,
        fresh: true,
        turn: None,
        queued: false,
        snapshots: Vec::new(),
        last_used_at: at(0),
        in_use_until: None,
        idle_timeout: Duration::from_secs(100),
        hold_until: None,
        failures: 0,
        retry_at: None,
    }
}

fn idle() -> Wanted {
    Wanted { state: State::Idle, volume: true, recorded: true, fresh: false, ..fresh() }
}

fn up() -> Observed {
    Observed { jail: Jail::Up { greeted: true, limits: Some(Resources::default()) }, driving: false }
}

fn nothing() -> Observed {
    Observed { jail: Jail::Absent, driving: false }
}

fn unknown() -> Observed {
    Observed { jail: Jail::Unknown, driving: false }
}

#[test]
fn a_new_session_is_launched_without_a_look_first() {
    let r = Resources::default();
    assert_eq!(
        plan(&fresh(), &unknown(), at(0)),
        [Step::Launch(r), Step::Greet, Step::Open(Some(State::Idle))]
    );
}

#[test]
fn setup_runs_between_the_greeting_and_the_first_use() {
    let want = Wanted { setup: true, ..fresh() };
    let steps = plan(&want, &unknown(), at(0));
    assert_eq!(steps[2..], [Step::Setup, Step::Open(Some(State::Idle))]);
}

#[test]
fn an_idle_session_waits_for_its_idle_deadline_and_no_longer() {
    assert_eq!(plan(&idle(), &up(), at(99_999)), [Step::Wait(at(100_000))]);
    assert_eq!(plan(&idle(), &up(), at(100_000)), [Step::CloseIdle]);
}

#[test]
fn an_open_terminal_moves_the_deadline_past_its_end() {
    let want = Wanted { in_use_until: Some(at(90_000)), ..idle() };
    assert_eq!(plan(&want, &up(), at(120_000)), [Step::Wait(at(190_000))]);
}

#[test]
fn a_busy_session_is_never_closed_for_idleness_but_its_turn_has_a_limit() {
    let turn = RunningTurn { cancel: None, deadline: at(900_000) };
    let want = Wanted { state: State::Busy, turn: Some(turn), ..idle() };
    let seen = Observed { driving: true, ..up() };
    assert_eq!(plan(&want, &seen, at(500_000)), [Step::Wait(at(900_000))]);
    assert_eq!(plan(&want, &seen, at(900_000)), [Step::EndTurn(Ending::Failed("turn_timeout".into()))]);
}

#[test]
fn closing_a_busy_session_cancels_its_turn_first() {
    let turn = RunningTurn { cancel: None, deadline: at(900_000) };
    let want = Wanted { state: State::Busy, desired: Desired::Closed, turn: Some(turn), ..idle() };
    assert_eq!(
        plan(&want, &up(), at(1)),
        [Step::EndTurn(Ending::Cancelled("closed".into())), Step::Stop, Step::Become(State::Closed, None)]
    );
}

#[test]
fn a_close_is_carried_through_although_the_session_is_wanted_again() {
    let turn = RunningTurn { cancel: Some("closed".into()), deadline: at(900_000) };
    let want = Wanted { state: State::Busy, closing: true, turn: Some(turn), queued: true, ..idle() };
    assert_eq!(
        plan(&want, &up(), at(1)),
        [Step::EndTurn(Ending::Cancelled("closed".into())), Step::Stop, Step::Become(State::Closed, None)]
    );
    // Then it is as any closed one that is wanted.
    let want = Wanted { state: State::Closed, recorded: false, ..idle() };
    assert_eq!(plan(&want, &nothing(), at(1)).last(), Some(&Step::Open(Some(State::Idle))));
}

#[test]
fn files_that_are_being_read_are_not_pulled_away_when_the_time_of_the_hold_is_over() {
    let want = Wanted {
        state: State::Closed,
        desired: Desired::Closed,
        hold_until: Some(at(50)),
        in_use_until: Some(at(70)),
        ..idle()
    };
    let small = held(want.resources);
    let seen = Observed { jail: Jail::Up { greeted: true, limits: Some(small) }, driving: false };
    assert_eq!(plan(&want, &seen, at(60)), [Step::Wait(at(70))]);
    assert_eq!(plan(&want, &seen, at(70)), [Step::Stop]);
    // A use alone holds nothing up: that of a session that was closed under it.
    let want = Wanted { hold_until: None, ..want };
    assert_eq!(plan(&want, &seen, at(60)), [Step::Stop]);
}

#[test]
fn a_message_that_waits_is_not_started_before_a_fork_was_taken() {
    let id = SnapshotId::new();
    let want = Wanted { queued: true, snapshots: vec![id], ..idle() };
    assert_eq!(plan(&want, &up(), at(1)), [Step::TakeSnapshot(id), Step::StartTurn]);
}

#[test]
fn files_of_a_closed_session_are_served_by_a_small_computer_for_as_long_as_they_are_asked_for() {
    let want = Wanted {
        state: State::Closed,
        desired: Desired::Closed,
        recorded: false,
        hold_until: Some(at(50)),
        ..idle()
    };
    let small = held(want.resources);
    assert!(small.memory_mib < want.resources.memory_mib);
    assert_eq!(
        plan(&want, &nothing(), at(10)),
        [Step::Launch(small), Step::Greet, Step::Open(None), Step::Wait(at(50))]
    );
    let held = Wanted { recorded: true, ..want.clone() };
    let seen = Observed { jail: Jail::Up { greeted: true, limits: Some(small) }, driving: false };
    assert_eq!(plan(&held, &seen, at(50)), [Step::Stop]);
    // Restore promotes it: no second start.
    let restored = Wanted { desired: Desired::Running, ..held };
    assert_eq!(
        plan(&restored, &seen, at(20)),
        [Step::SetLimits(restored.resources), Step::Open(Some(State::Idle))]
    );
}

#[test]
fn a_closed_session_costs_nothing() {
    let want = Wanted { state: State::Closed, desired: Desired::Closed, recorded: false, ..idle() };
    assert_eq!(plan(&want, &nothing(), at(1 << 40)), []);
    // A start may have been cut short by a crash.
    assert_eq!(plan(&want, &unknown(), at(1 << 40)), [Step::Observe]);
}

#[test]
fn a_computer_that_keeps_dying_ends_in_error_and_its_turn_is_not_lost() {
    let turn = RunningTurn { cancel: None, deadline: at(900_000) };
    let want =
        Wanted { state: State::Busy, turn: Some(turn), recorded: false, failures: FAILURES_MAX, ..idle() };
    let steps = plan(&want, &nothing(), at(1));
    assert_eq!(steps[0], Step::EndTurn(Ending::Failed("interrupted".into())));
    assert!(matches!(&steps[2], Step::Become(State::Error, Some(why)) if why.contains("5 failures")));
}

#[test]
fn a_fork_waits_for_its_snapshot_and_fails_when_there_will_be_none() {
    let want = Wanted { origin: Origin::Waiting, ..fresh() };
    assert_eq!(plan(&want, &unknown(), at(1)), []);
    let want = Wanted { origin: Origin::Lost("its snapshot failed".into()), ..fresh() };
    assert_eq!(
        plan(&want, &unknown(), at(1)),
        [Step::Become(State::Error, Some("its snapshot failed".into()))]
    );
}

#[test]
fn deletion_takes_the_snapshots_that_were_promised_before_it_frees_the_volume() {
    let id = SnapshotId::new();
    let want = Wanted { desired: Desired::Deleted, snapshots: vec![id], queued: true, ..idle() };
    assert_eq!(
        plan(&want, &up(), at(1)),
        [
            Step::EndAll("deleted".into()),
            Step::TakeSnapshot(id),
            Step::Stop,
            Step::DeleteVolume,
            Step::Forget
        ]
    );
}

#[test]
fn the_pause_before_a_retry_grows_and_is_bounded() {
    let pauses: Vec<_> = (0..20).map(back_off).collect();
    assert!(pauses.windows(2).all(|w| w[0] <= w[1]));
    assert_eq!(pauses[19], Duration::from_secs(10));
}

// ---------------------------------------------------------------------------------------------------------------

/// What a user, the machine or time may do.
#[derive(Clone, Debug)]
enum Act {
    Message,
    Close,
    Restore,
    Delete,
    Cancel,
    Snapshot,
    Hold,
    Resize(u32),
    JailDies,
    AgentEnds,
    Pass(u64),
    /// The reconciler does this many steps of its plan and dies.
    CrashAfter(usize),
    Reconcile,
    RuntimeAway(bool),
    LaunchRefused,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Message),
        2 => Just(Act::Close),
        3 => Just(Act::Restore),
        1 => Just(Act::Delete),
        2 => Just(Act::Cancel),
        2 => Just(Act::Snapshot),
        1 => Just(Act::Hold),
        1 => (100_u32..2000).prop_map(Act::Resize),
        3 => Just(Act::JailDies),
        4 => Just(Act::AgentEnds),
        3 => (1_u64..200_000).prop_map(Act::Pass),
        4 => (0_usize..5).prop_map(Act::CrashAfter),
        6 => Just(Act::Reconcile),
        1 => any::<bool>().prop_map(Act::RuntimeAway),
        1 => Just(Act::LaunchRefused),
    ]
}

struct World {
    now: Time,
    row: Wanted,
    seen: Observed,
    // The machine itself.
    jail: Option<(bool, Resources)>,
    volume: bool,
    away: bool,
    refuse_next_launch: bool,
    gone: bool,
    // The ledger.
    posted: u32,
    started: u32,
    ended: u32,
    setup_runs: u32,
    taken: Vec<SnapshotId>,
    failed: Vec<SnapshotId>,
    asked: Vec<SnapshotId>,
}

impl World {
    fn new(setup: bool) -> Self {
        Self {
            now: at(0),
            row: Wanted { setup, ..fresh() },
            seen: unknown(),
            jail: None,
            volume: false,
            away: false,
            refuse_next_launch: false,
            gone: false,
            posted: 0,
            started: 0,
            ended: 0,
            setup_runs: 0,
            taken: Vec::new(),
            failed: Vec::new(),
            asked: Vec::new(),
        }
    }

    fn become_state(&mut self, to: State) {
        if self.row.state != to {
            self.row.state.check(to).unwrap();
            self.row.state = to;
            self.row.closing &= !matches!(to, State::Closed | State::Error | State::Init);
        }
    }

    fn waiting(&self) -> u32 {
        self.posted - self.started
    }

    fn end_turn(&mut self) {
        assert!(self.row.turn.take().is_some(), "a turn was ended that did not run");
        self.ended += 1;
        self.seen.driving = false;
        self.row.last_used_at = self.now;
        if self.row.state == State::Busy {
            self.become_state(State::Idle);
        }
    }

    fn act(&mut self, act: &Act) {
        if self.gone {
            return;
        }
        let deleted = self.row.desired == Desired::Deleted;
        match act {
            Act::Message if !deleted && self.row.state != State::Error => {
                self.posted += 1;
                self.row.desired = Desired::Running;
                self.row.last_used_at = self.now;
            }
            Act::Close if !deleted => {
                self.row.desired = Desired::Closed;
                self.row.closing |= matches!(self.row.state, State::Init | State::Idle | State::Busy);
                if let Some(t) = &mut self.row.turn {
                    t.cancel.get_or_insert("closed".into());
                }
            }
            Act::Restore if !deleted => {
                self.row.desired = Desired::Running;
                self.row.last_used_at = self.now;
                if self.row.state == State::Error {
                    self.become_state(State::Init);
                    self.row.failures = 0;
                    self.row.retry_at = None;
                }
            }
            Act::Delete => self.row.desired = Desired::Deleted,
            Act::Cancel => {
                if let Some(t) = &mut self.row.turn {
                    t.cancel.get_or_insert("cancelled".into());
                }
            }
            Act::Snapshot if !deleted && self.row.state != State::Error => {
                let id = SnapshotId::new();
                self.asked.push(id);
                self.row.snapshots.push(id);
            }
            Act::Hold if self.row.state == State::Closed => {
                self.row.hold_until = Some(self.now.plus(Duration::from_secs(30)));
            }
            Act::Resize(cpu) if !deleted => self.row.resources.cpu_millis = *cpu,
            Act::JailDies => {
                self.jail = None;
                self.seen = unknown();
            }
            Act::AgentEnds if self.seen.driving && self.jail.is_some() => self.end_turn(),
            Act::Pass(ms) => self.now = self.now.plus(Duration::from_millis(*ms)),
            Act::CrashAfter(steps) => {
                self.reconcile(Some(*steps));
                self.seen = unknown();
            }
            Act::Reconcile => self.reconcile(None),
            Act::RuntimeAway(away) => self.away = *away,
            Act::LaunchRefused => self.refuse_next_launch = true,
            _ => {}
        }
    }

    fn reconcile(&mut self, crash_after: Option<usize>) {
        let mut done = 0;
        for _ in 0..200 {
            if self.gone {
                return;
            }
            self.row.queued = self.waiting() > 0;
            let steps = plan(&self.row, &self.seen, self.now);
            if steps.iter().all(|s| matches!(s, Step::Wait(_))) {
                return;
            }
            for step in steps {
                if crash_after == Some(done) {
                    return;
                }
                done += 1;
                if !self.apply(&step) {
                    break;
                }
            }
            if self.away {
                return;
            }
        }
        panic!("the plan does not settle: {:?} {:?}", self.row, self.seen);
    }

    /// False when the step failed; the rest of the plan is dropped.
    fn apply(&mut self, step: &Step) -> bool {
        let runtime = matches!(
            step,
            Step::Observe
                | Step::MakeVolume
                | Step::Launch(_)
                | Step::SetLimits(_)
                | Step::Stop
                | Step::DeleteVolume
                | Step::TakeSnapshot(_)
        );
        if runtime && self.away {
            return false;
        }
        match step {
            Step::Observe => {
                self.seen.jail = match self.jail {
                    None => Jail::Absent,
                    Some(_) => Jail::Up { greeted: false, limits: None },
                }
            }
            Step::MakeVolume => {
                self.volume = true;
                self.row.volume = true;
            }
            Step::Launch(limits) => {
                if std::mem::take(&mut self.refuse_next_launch) {
                    self.row.failures += 1;
                    self.row.retry_at = Some(self.now.plus(back_off(self.row.failures)));
                    return false;
                }
                self.volume = true;
                self.jail.get_or_insert((false, *limits)).1 = *limits;
                self.seen.jail = Jail::Up { greeted: false, limits: Some(*limits) };
            }
            Step::Greet => {
                let jail = self.jail.as_mut().expect("greeted a computer that is not up");
                jail.0 = true;
                if let Jail::Up { greeted, .. } = &mut self.seen.jail {
                    *greeted = true;
                }
            }
            Step::Setup => {
                assert!(self.row.setup && self.jail.is_some_and(|j| j.0));
                self.setup_runs += 1;
                self.row.setup = false;
            }
            Step::SetLimits(limits) => {
                self.jail.as_mut().expect("limits of nothing").1 = *limits;
                if let Jail::Up { limits: have, .. } = &mut self.seen.jail {
                    *have = Some(*limits);
                }
            }
            Step::Open(to) => {
                assert!(self.jail.is_some_and(|j| j.0), "opened before it was greeted");
                assert!(!self.row.setup || to.is_none());
                self.row.recorded = true;
                self.row.volume = true;
                self.row.fresh = false;
                if let Some(to) = to {
                    self.become_state(*to);
                    self.row.hold_until = None;
                }
            }
            Step::NoteDeath => {
                assert!(self.jail.is_none());
                self.row.recorded = false;
                self.row.failures += 1;
                self.row.retry_at = Some(self.now.plus(back_off(self.row.failures)));
            }
            Step::TakeSnapshot(id) => {
                assert!(self.volume, "a copy of nothing");
                self.row.snapshots.retain(|s| s != id);
                self.taken.push(*id);
            }
            Step::FailSnapshot(id) => {
                self.row.snapshots.retain(|s| s != id);
                self.failed.push(*id);
            }
            Step::StartTurn => {
                assert!(!self.row.closing, "a turn begins in a computer that is about to end");
                assert!(self.jail.is_some_and(|j| j.0) && self.row.recorded && self.row.turn.is_none());
                self.become_state(State::Busy);
                self.started += 1;
                self.row.turn =
                    Some(RunningTurn { cancel: None, deadline: self.now.plus(Duration::from_secs(1000)) });
                self.seen.driving = true;
            }
            Step::Drive => {
                assert!(self.jail.is_some_and(|j| j.0));
                self.seen.driving = true;
            }
            Step::EndTurn(_) => self.end_turn(),
            Step::EndAll(_) => {
                if self.row.turn.is_some() {
                    self.end_turn();
                }
                self.ended += self.waiting();
                self.started = self.posted;
            }
            Step::CloseIdle => {
                assert_eq!(self.row.state, State::Idle, "only an idle session closes by itself");
                assert_eq!(self.waiting(), 0);
                self.row.desired = Desired::Closed;
                self.row.closing = true;
            }
            Step::Stop => {
                self.jail = None;
                self.seen = nothing();
                self.row.recorded = false;
            }
            Step::Become(to, _) => {
                if *to == State::Closed || *to == State::Error {
                    assert!(self.row.turn.is_none(), "a turn was left behind");
                }
                self.become_state(*to);
            }
            Step::DeleteVolume => {
                assert!(self.jail.is_none(), "the volume was pulled from under a computer");
                self.volume = false;
            }
            Step::Forget => {
                assert!(self.jail.is_none() && !self.volume, "something outlived its session");
                assert!(self.row.turn.is_none() && self.waiting() == 0 && self.row.snapshots.is_empty());
                self.gone = true;
            }
            Step::Wait(until) => assert!(*until > self.now, "waits for the past"),
        }
        assert_eq!(
            self.row.state == State::Busy,
            self.row.turn.is_some(),
            "busy means a turn runs: {step:?}"
        );
        assert!(self.ended <= self.started || self.gone, "a message was answered twice");
        true
    }

    /// Lets everything come to rest: the machine works, time passes, agents end their turns.
    fn settle(&mut self) {
        self.away = false;
        self.refuse_next_launch = false;
        for _ in 0..400 {
            self.now = self.now.plus(Duration::from_secs(11));
            self.reconcile(None);
            self.act(&Act::AgentEnds);
            self.reconcile(None);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_is_lost_doubled_or_left_over(
        setup in any::<bool>(),
        acts in prop::collection::vec(act(), 0..60),
    ) {
        let mut world = World::new(setup);
        for a in &acts {
            world.act(a);
        }
        let wanted = world.row.desired;
        world.settle();
        // Every snapshot that was promised was taken, once, or has failed.
        let mut ends = [world.taken.clone(), world.failed.clone()].concat();
        ends.sort();
        let mut asked = world.asked.clone();
        asked.sort();
        prop_assert_eq!(ends, asked);
        prop_assert!(world.setup_runs <= 1);
        match world.row.state {
            _ if world.gone => {
                prop_assert_eq!(wanted, Desired::Deleted);
                prop_assert_eq!(world.ended, world.posted);
            }
            // Nobody used it for long enough.
            State::Closed => {
                prop_assert!(world.jail.is_none());
                if wanted == Desired::Running {
                    prop_assert_eq!(world.ended, world.posted, "all messages were answered before it closed");
                }
            }
            State::Error => prop_assert!(world.jail.is_none()),
            other => prop_assert!(false, "it rests in {:?} although nobody used it", other),
        }
        prop_assert!(world.gone || wanted != Desired::Deleted, "a deleted session goes away");
    }
}
