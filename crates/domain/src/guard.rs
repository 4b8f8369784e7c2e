//! Guardrails as they are written down: ordered rules, what each matches, and what then happens.
//!
//! Shapes only. What a rule means for a command, a text or a request is decided by the crate `guard`, outside of the session.

use serde::{Deserialize, Serialize};

use crate::egress::Pattern;

/// Entries of one list in a rule.
pub const ENTRIES: usize = 64;
/// Characters of a pattern, and of a reason.
pub const PATTERN_CHARS: usize = 1000;
pub const REASON_CHARS: usize = 500;
/// Seconds an approval waits when its rule does not say, and at the most.
pub const APPROVAL_SECONDS: u32 = 3600;
pub const APPROVAL_MAX_SECONDS: u32 = 7 * 86_400;
/// Where a policy stands when it does not say.
pub const PRIORITY: u16 = 100;
pub const PRIORITY_MAX: u16 = 1000;
/// Seconds a rate may be counted over.
pub const RATE_MAX_SECONDS: u32 = 86_400;
/// What stands where something was taken out.
pub const REDACTED: &str = "[redacted]";

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$vdoc])* $variant),* }
        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text),* } }
        }
        impl std::str::FromStr for $name {
            type Err = crate::Error;
            fn from_str(s: &str) -> Result<Self, crate::Error> {
                match s {
                    $($text => Ok(Self::$variant),)*
                    other => Err(crate::Error::new(crate::Code::InvalidField, format!(
                        "{:?} is none of {}", other.chars().take(80).collect::<String>(), [$($text),*].join(", ")))),
                }
            }
        }
    };
}

words! {
    /// What is judged.
    Phase {
        /// What a session sends to a model.
        Input = "input",
        /// What a model answers.
        Output = "output",
        /// A tool the agent is about to use.
        Tool = "tool",
        /// A tunnel or request that leaves a session.
        Egress = "egress",
    }
}

words! {
    /// What happens to what matches.
    Action {
        /// It goes through, and no later rule is asked.
        Allow = "allow",
        /// It is refused with the rule's reason.
        Deny = "deny",
        /// What the rule's regular expression finds is taken out, and the next rule is asked.
        Redact = "redact",
        /// It waits until somebody with the verb `approve` decides, or its time is over: then it is refused.
        Approve = "approve",
    }
}

words! {
    /// Where an approval stands.
    ApprovalState {
        /// Nobody has decided yet.
        Pending = "pending",
        /// Somebody allowed it.
        Allowed = "allowed",
        /// Somebody denied it.
        Denied = "denied",
        /// Nobody decided in time: denied.
        Expired = "expired",
        /// Its turn ended before anybody decided.
        Cancelled = "cancelled",
    }
}

/// A rule: the first that matches decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PolicyRule)]
pub struct Rule {
    /// What is judged.
    pub phase: Phase,
    /// What it is about; everything of the phase when absent.
    #[serde(rename = "match", default, skip_serializing_if = "Match::is_empty")]
    pub matches: Match,
    /// What happens to what matches.
    pub action: Action,
    /// What those are told whose request it is, and those who approve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 500)]
    pub reason: Option<String>,
    /// How long an approval waits; an hour when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 604_800)]
    pub timeout_seconds: Option<u32>,
}

/// What a rule is about: everything that is given must match; of a list, one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = PolicyMatch)]
pub struct Match {
    /// A regular expression found in a text: of a message, of a tool's input, or in `METHOD URL` of a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000)]
    pub regex: Option<String>,
    /// Names of tools; `*` stands for anything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub tools: Vec<String>,
    /// A command, by its program and arguments as a shell would run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub argv: Option<Argv>,
    /// Paths: of files a tool works on (`/etc/**`, `~/.ssh/**`, `**/.env`), or of a request's URL.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub paths: Vec<String>,
    /// Hosts of egress, as `example.org` or `*.example.org`, on every port unless one is named.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub hosts: Vec<Pattern>,
    /// Only what has more bytes; in the phase egress together with hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_over_bytes: Option<u64>,
    /// Only what comes more often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Names or kinds of agents: of the one whose turn runs, or of all the session's when none does; `*` stands for anything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub agents: Vec<String>,
}

impl Match {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A command: wherever it stands in a script, and however it is spelt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = PolicyArgv)]
pub struct Argv {
    /// The program's name, without its directory; `*` stands for anything. Any program when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub program: Vec<String>,
    /// Arguments it must all have, in any order; `|` stands between other spellings of one (`-r|-R|--recursive`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub args: Vec<String>,
    /// Instead: commands of which nobody can say before they run what they are, as `curl … | sh` or `$x …`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unreadable: bool,
}

/// More than `count` in `per_seconds`, in one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PolicyRate)]
pub struct Rate {
    /// So many are not yet meant.
    #[schema(minimum = 0, maximum = 100_000)]
    pub count: u32,
    /// The time they are counted in.
    #[schema(minimum = 1, maximum = 86_400)]
    pub per_seconds: u32,
}
