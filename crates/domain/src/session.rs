//! A session's states and which may follow which.
//!
//! `init → idle ⇄ busy`, `idle|busy → closed`, `closed → idle` (restore), any living state `→ error`,
//! `error → init` (restore). Deletion is not a state but the end of the row. Everything else is refused with an
//! error that names both states.

use serde::{Deserialize, Serialize};

use crate::error::{Code, Error};

/// What the reconciler saw last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Being made, or being made anew after an error.
    Init,
    /// Its computer is up and no turn runs.
    Idle,
    /// A turn runs.
    Busy,
    /// Its computer is down; files and log are kept.
    Closed,
    /// It could not be made or kept; `state_reason` says why.
    Error,
}

impl State {
    pub const ALL: &'static [Self] = &[Self::Init, Self::Idle, Self::Busy, Self::Closed, Self::Error];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Closed => "closed",
            Self::Error => "error",
        }
    }

    /// Whether CPU and memory are reserved for it.
    pub const fn running(self) -> bool {
        matches!(self, Self::Init | Self::Idle | Self::Busy)
    }

    pub const fn may_become(self, to: Self) -> bool {
        use State::{Busy, Closed, Error, Idle, Init};
        match self {
            Init => matches!(to, Idle | Closed | Error),
            Idle => matches!(to, Busy | Closed | Error),
            Busy => matches!(to, Idle | Closed | Error),
            Closed => matches!(to, Idle | Error),
            Error => matches!(to, Init | Closed),
        }
    }

    /// The only gate of a transition.
    pub fn check(self, to: Self) -> Result<(), Error> {
        if self.may_become(to) {
            return Ok(());
        }
        Err(Error::new(
            Code::InvalidState,
            format!("a session that is {} cannot become {}", self.as_str(), to.as_str()),
        ))
    }
}

impl std::str::FromStr for State {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        Self::ALL.iter().copied().find(|x| x.as_str() == s).ok_or_else(|| {
            Error::new(
                Code::InvalidField,
                format!(
                    "{:?} is none of init, idle, busy, closed, error",
                    s.chars().take(80).collect::<String>()
                ),
            )
        })
    }
}

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    Running,
    Closed,
    Deleted,
}

impl Desired {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Closed => "closed",
            Self::Deleted => "deleted",
        }
    }
}

impl std::str::FromStr for Desired {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "running" => Ok(Self::Running),
            "closed" => Ok(Self::Closed),
            "deleted" => Ok(Self::Deleted),
            _ => Err(Error::new(Code::InvalidField, "desired is one of running, closed, deleted")),
        }
    }
}

/// Where the processing of one user message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TurnState {
    Queued,
    Running,
    Done,
    Failed,
    Cancelled,
}

impl TurnState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub const fn ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

impl std::str::FromStr for TurnState {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        [Self::Queued, Self::Running, Self::Done, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|t| t.as_str() == s)
            .ok_or_else(|| {
                Error::new(Code::InvalidField, "a turn is queued, running, done, failed or cancelled")
            })
    }
}
