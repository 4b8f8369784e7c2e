//! Guardrails: which of a space's rules says what to a text, a tool's call or a request.
//!
//! [`Guard`] is a space's policies, compiled; [`Guard::judge`] asks their rules in order, and the first that matches decides. Pure:
//! no clock of its own and no memory but the one it is handed. Commands are matched by what a shell would run
//! ([`shell`]), never by how they are spelt; paths by where they lead ([`paths`]).
//!
//! Refuses, when a policy is made, a rule that could never do what it says: a matcher its phase does not know, a redaction without
//! something to find.

pub mod ask;
pub mod glob;
pub mod paths;
mod rule;
pub mod shell;

use wharf_domain::guard::{Action, Phase, REDACTED, Rate, Rule};
use wharf_domain::{Error, Name};

pub use ask::{Ask, strings, with_strings};

/// Says whether this rule's rate is passed, counting this time.
pub type Over<'a> = &'a mut dyn FnMut(&Name, usize, Rate) -> bool;

/// A space's policies, ready to be asked.
#[derive(Debug, Default)]
pub struct Guard {
    policies: Vec<(Name, Vec<rule::Compiled>)>,
}

/// What a rule that matched said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    pub action: Action,
    pub policy: Name,
    /// Its place in the policy, from 0.
    pub rule: usize,
    pub reason: Option<String>,
    pub timeout_seconds: Option<u32>,
}

impl Ruling {
    /// For those whose request it is.
    pub fn words(&self) -> String {
        let policy = &self.policy;
        match &self.reason {
            Some(reason) => format!("{reason} (policy {policy})"),
            None => format!("policy {policy} forbids it"),
        }
    }
}

/// What came of asking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// The texts, where something was taken out of them.
    pub texts: Option<Vec<String>>,
    /// Who took it out.
    pub redacted: Vec<Ruling>,
    /// `None`: it goes through.
    pub ruling: Option<Ruling>,
    /// The texts the ruling is about, by their places.
    pub about: Vec<usize>,
    /// The texts as they may be written down: without what any rule takes out, whichever decided before it was asked.
    pub written: Vec<String>,
}

/// A rule that waits for a size, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sized {
    pub over_bytes: u64,
    pub policy: Name,
    pub rule: usize,
}

impl Guard {
    /// In the order in which they are asked. A rule that cannot be read is an error that names it.
    pub fn new<'a>(policies: impl IntoIterator<Item = (Name, &'a [Rule])>) -> Result<Self, Error> {
        let mut all = Vec::new();
        for (name, rules) in policies {
            all.push((name, compile(rules)?));
        }
        Ok(Self { policies: all })
    }

    fn rules(&self, phase: Phase) -> impl Iterator<Item = (&Name, usize, &rule::Compiled)> {
        self.policies.iter().flat_map(move |(name, rules)| {
            let mine = rules.iter().enumerate().filter(move |(_, r)| r.phase == phase);
            mine.map(move |(n, r)| (name, n, r))
        })
    }

    /// Whether any rule is about the phase.
    pub fn concerns(&self, phase: Phase) -> bool {
        self.rules(phase).next().is_some()
    }

    /// Whether requests to the host are to be read, to be judged by more than their host.
    pub fn looks_inside(&self, target: &wharf_domain::egress::Target) -> bool {
        self.rules(Phase::Egress).any(|(_, _, r)| r.looks_inside(target))
    }

    /// Asks the rules in order.
    pub fn judge(&self, mut ask: Ask<'_>, over: Over<'_>) -> Judged {
        let mut judged = Judged::default();
        let mut decided = false;
        for (policy, n, rule) in self.rules(ask.phase) {
            if (decided && rule.action != Action::Redact) || !rule.matches(&ask) {
                continue;
            }
            if decided {
                ask.redact(|text| rule.redact(text, REDACTED));
                continue;
            }
            if let Some(rate) = rule.rate
                && !over(policy, n, rate)
            {
                continue;
            }
            let ruling = || Ruling {
                action: rule.action,
                policy: policy.clone(),
                rule: n,
                reason: rule.reason.clone(),
                timeout_seconds: rule.timeout_seconds,
            };
            match rule.action {
                Action::Allow => decided = true,
                Action::Redact => {
                    if ask.redact(|text| rule.redact(text, REDACTED)) {
                        judged.redacted.push(ruling());
                        judged.texts = Some(ask.texts().to_vec());
                    }
                }
                Action::Deny | Action::Approve => {
                    judged.ruling = Some(ruling());
                    judged.about = rule.about(ask.texts());
                    decided = true;
                }
            }
        }
        judged.written = ask.into_texts();
        judged
    }

    /// Rules that would match but for the size: of what comes without saying how much it is.
    pub fn sized(&self, ask: &Ask<'_>) -> Vec<Sized> {
        let mine = self.rules(ask.phase).filter_map(|(policy, rule, compiled)| {
            let over_bytes = compiled.size_over_bytes.filter(|_| compiled.matches_at_any_size(ask))?;
            Some(Sized { over_bytes, policy: policy.clone(), rule })
        });
        mine.collect()
    }
}

/// Reads the rules of one policy, as [`check`] does.
fn compile(rules: &[Rule]) -> Result<Vec<rule::Compiled>, Error> {
    rules.iter().enumerate().map(|(n, rule)| rule::Compiled::new(n, rule)).collect()
}

/// Refuses rules that could not do what they say.
pub fn check(rules: &[Rule]) -> Result<(), Error> {
    rule::check_count(rules.len())?;
    rules.iter().enumerate().try_for_each(|(n, rule)| rule::check_size(n, rule))?;
    compile(rules).map(drop)
}
