//! One failed step: what was being done, why it did not work, and what a caller can make of it.
//!
//! Refuses to be a catalogue of error types: a runtime's caller can retry, give up or clean up, nothing finer.

use std::borrow::Cow;

use wharf_ports::runtime::Fault;

/// What a caller can do about it; the same four outcomes as [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It will not work however often it is tried.
    Refused,
    /// The thing named is not there.
    Missing,
    /// Still in use, so not done.
    InUse,
    /// Anything else; trying again may help.
    Failed,
}

/// Names the step that failed and its cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {cause}")]
pub struct Step {
    pub kind: Kind,
    pub step: Cow<'static, str>,
    pub cause: String,
}

impl Step {
    pub fn failed(step: impl Into<Cow<'static, str>>, cause: impl ToString) -> Self {
        Self { kind: Kind::Failed, step: step.into(), cause: cause.to_string() }
    }

    pub fn refused(step: impl Into<Cow<'static, str>>, cause: impl ToString) -> Self {
        Self { kind: Kind::Refused, step: step.into(), cause: cause.to_string() }
    }

    pub fn missing(what: impl ToString) -> Self {
        Self { kind: Kind::Missing, step: Cow::Borrowed("look up"), cause: what.to_string() }
    }

    pub fn in_use(step: impl Into<Cow<'static, str>>, cause: impl ToString) -> Self {
        Self { kind: Kind::InUse, step: step.into(), cause: cause.to_string() }
    }
}

impl From<Step> for Fault {
    fn from(error: Step) -> Self {
        match error.kind {
            Kind::Refused => Self::Refused(error.to_string()),
            Kind::Missing => Self::Missing(error.cause),
            Kind::InUse => Self::InUse(error.cause),
            Kind::Failed => Self::Failed { step: error.step.into_owned(), cause: error.cause },
        }
    }
}

/// Puts the step's name on a foreign error.
pub trait At<T> {
    fn at(self, step: impl Into<Cow<'static, str>>) -> Result<T, Step>;
    /// As [`At::at`], the name built only when it failed.
    fn at_with(self, step: impl FnOnce() -> String) -> Result<T, Step>;
}

impl<T, E: std::fmt::Display> At<T> for Result<T, E> {
    fn at(self, step: impl Into<Cow<'static, str>>) -> Result<T, Step> {
        self.map_err(|cause| Step::failed(step, cause))
    }

    fn at_with(self, step: impl FnOnce() -> String) -> Result<T, Step> {
        self.map_err(|cause| Step::failed(step(), cause))
    }
}
