//! Proof that the caller may do something to one row. Only this crate can make one.

use wharf_domain::Error;
use wharf_domain::rbac::Verb;

/// The row as it was read in the scope's transaction, and the verb it was allowed for.
#[derive(Debug)]
pub struct Permit<R> {
    row: R,
    verb: Verb,
}

impl<R> Permit<R> {
    pub(crate) fn grant(row: R, verb: Verb) -> Self {
        Self { row, verb }
    }

    pub fn verb(&self) -> Verb {
        self.verb
    }

    /// Refuses a permit that was granted for something else: every write asks.
    pub(crate) fn demand(&self, verb: Verb) -> Result<(), Error> {
        if self.verb == verb {
            return Ok(());
        }
        Err(Error::internal(format!("a permit for {} was used for {verb}", self.verb)))
    }

    pub fn row(&self) -> &R {
        &self.row
    }

    pub fn into_row(self) -> R {
        self.row
    }
}

impl<R> std::ops::Deref for Permit<R> {
    type Target = R;
    fn deref(&self) -> &R {
        &self.row
    }
}

/// Stands for a row that is yet to be made: `Permit<New<Space>>` allows one create.
#[derive(Debug)]
pub struct New<R>(std::marker::PhantomData<fn() -> R>);

impl<R> New<R> {
    pub(crate) fn permit() -> Permit<Self> {
        Permit::grant(Self(std::marker::PhantomData), Verb::Create)
    }
}

/// Whether judging a verb must hold the row until the scope ends, so that what is changed is what was judged.
/// Readers do not hold it: they would wait for each other and write to the log.
pub(crate) const fn changes(verb: Verb) -> bool {
    !matches!(verb, Verb::Get | Verb::List | Verb::Watch | Verb::ReadValues | Verb::Impersonate | Verb::Exec)
}

/// The statement with its row lock where the verb changes the row.
macro_rules! locked {
    ($verb:expr, $lock:literal, $($part:expr),+ $(,)?) => {
        if $crate::permit::changes($verb) { concat!($($part),+, $lock) } else { concat!($($part),+) }
    };
}
pub(crate) use locked;
