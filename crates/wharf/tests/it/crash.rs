//! Kill -9 of anything at any time, under load: no message is lost or answered twice, nothing is left behind.
//!
//! `WHARF_CRASH_ROUNDS` says how many rounds (20, and fewer on Docker Engine, which takes its time), `WHARF_CRASH_SEED` which ones:
//! a round prints its seed, and the same seed makes the same choices again. `WHARF_CRASH_VICTIM` (`control`, `jailer`,
//! `postgres`, `host`, `keeper`, `everything`, `inside`, `broker`, `engine`) kills nothing else.

mod ledger;
mod load;

use std::process::Command;
use std::time::{Duration, Instant};

use crate::installation::{Installation, Part, Runtime, possible_on};
use crate::on_every_runtime;
use ledger::Ledger;

/// How many sessions there are, and how many rounds unless that is said.
fn size(runtime: Runtime) -> (usize, u64) {
    match runtime {
        Runtime::Native => (4, 20),
        Runtime::Docker => (2, 8),
    }
}

/// SplitMix64: choices that a printed number brings back.
pub struct Dice(u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }
}

#[derive(Debug)]
enum Victim {
    One(Part),
    Everything,
    /// Docker Engine, under all that it runs.
    Engine,
}

const VICTIMS: &[(&str, Victim)] = &[
    ("control", Victim::One(Part::Control)),
    ("jailer", Victim::One(Part::Jailer)),
    ("postgres", Victim::One(Part::Postgres)),
    ("host", Victim::One(Part::Host)),
    ("keeper", Victim::One(Part::Keeper)),
    ("everything", Victim::Everything),
    ("inside", Victim::One(Part::Inside)),
    ("broker", Victim::One(Part::Docker)),
    ("engine", Victim::Engine),
];

/// Who may be one: of two runtimes each has somebody in its service.
fn victims(runtime: Runtime) -> Vec<&'static str> {
    let other: &[&str] = match runtime {
        Runtime::Native => &["broker", "engine"],
        Runtime::Docker => &["jailer"],
    };
    VICTIMS.iter().map(|(name, _)| *name).filter(|name| !other.contains(name)).collect()
}

fn victim(runtime: Runtime, seed: u64) -> &'static Victim {
    let named = std::env::var("WHARF_CRASH_VICTIM").ok();
    let names = named.as_ref().map_or_else(|| victims(runtime), |names| names.split(',').collect());
    let name = names[(seed % names.len() as u64) as usize];
    VICTIMS.iter().find(|(n, _)| *n == name).map_or_else(|| panic!("no victim {name}"), |(_, v)| v)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

on_every_runtime!(no_kill_at_any_time_loses_a_message_or_answers_one_twice);

async fn no_kill_at_any_time_loses_a_message_or_answers_one_twice(runtime: Runtime) {
    if !possible_on(runtime) {
        return;
    }
    let (sessions, rounds) = size(runtime);
    let rounds = number("WHARF_CRASH_ROUNDS").unwrap_or(rounds);
    let first = number("WHARF_CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 16 | 0xA5);
    let mut wharf = Installation::start_on(runtime).await;
    let mut ledger = Ledger::default();
    for i in 0..sessions {
        ledger.open(&wharf, &format!("s{i}")).await;
    }
    for round in 0..rounds {
        let seed = first.wrapping_add(round);
        let mut dice = Dice(seed);
        // Every kind of victim comes by in turn, so that few rounds meet all of them.
        let victim = victim(runtime, seed);
        let after = Duration::from_millis(20 + dice.below(900));
        eprintln!("round {round} of {rounds}, seed {seed}: {victim:?} after {after:?}");
        let since = Instant::now();
        let load = load::start(&wharf, &ledger, dice.roll());
        let strike = async {
            tokio::time::sleep(after).await;
            kill(&wharf, runtime, victim, &mut dice)
        };
        // The load goes on through the kill, and its requests are repeated until they are answered.
        let struck = tokio::select! {
            struck = strike => struck,
            () = load.run(&wharf) => unreachable!("the load runs until it is told to stop"),
        };
        if struck.engine {
            tokio::time::sleep(Duration::from_millis(dice.below(500))).await;
            tokio::task::block_in_place(|| wharf.engine().up());
        }
        if struck.keeper {
            wharf.wait_gone().await;
            wharf.up().await;
        } else {
            wharf.ready().await;
        }
        load.drain(&wharf, &mut ledger).await;
        ledger.check(&wharf).await;
        no_leak(&wharf, &ledger).await;
        eprintln!("round {round}: {} messages so far, {:?}", ledger.messages(), since.elapsed());
    }
    assert!(
        ledger.answered() > rounds as usize,
        "only {} messages were answered in {rounds} rounds",
        ledger.answered()
    );
    wharf.finish();
}

/// Who is gone that somebody has to start again.
#[derive(Default)]
struct Struck {
    keeper: bool,
    engine: bool,
}

fn kill(wharf: &Installation, runtime: Runtime, victim: &Victim, dice: &mut Dice) -> Struck {
    let parts = wharf.parts();
    let targets: Vec<(Part, u32)> = match victim {
        Victim::Everything => parts,
        Victim::One(part) => {
            let of: Vec<_> = parts.into_iter().filter(|(p, _)| p == part).collect();
            if of.is_empty() {
                return Struck::default(); // a jailer between two lives, say
            }
            vec![of[dice.below(of.len() as u64) as usize]]
        }
        Victim::Engine => Vec::new(),
    };
    let engine = runtime == Runtime::Docker && matches!(victim, Victim::Everything | Victim::Engine);
    let mut pids: Vec<String> = targets.iter().map(|(_, pid)| pid.to_string()).collect();
    pids.insert(0, "-9".into());
    // Some may be gone already: their parent went first.
    if !targets.is_empty() {
        let _ = Command::new("kill").args(&pids).stderr(std::process::Stdio::null()).status().unwrap();
    }
    if engine {
        wharf.engine().kill(dice.below(2) == 0);
    }
    Struck { keeper: targets.iter().any(|(p, _)| *p == Part::Keeper), engine }
}

/// As many computers as sessions that want one, and those standing ready.
async fn no_leak(wharf: &Installation, ledger: &Ledger) {
    let since = Instant::now();
    loop {
        let running = ledger.running(wharf).await;
        let hosts = wharf.parts().iter().filter(|(p, _)| *p == Part::Host).count();
        let dirs = wharf.jail_dirs();
        if (running..=running + 1).contains(&hosts) && hosts == dirs {
            return;
        }
        assert!(
            since.elapsed() < Duration::from_secs(40),
            "{running} sessions run, 1 computer may stand ready, but there are {hosts} and {dirs} directories of them"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
