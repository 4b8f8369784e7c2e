//! Passwords that were right a moment ago, for programs that bring one along with every request (git does).
//!
//! Without it each request would cost what a login is made to cost, and a few at the same time would look like guessing.
//! What is kept is a keyed digest, for a minute, in this process alone; it counts only while the account's stored
//! hash is the one it was right for. Logins never ask here.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use wharf_domain::{Error, Plain, Time};

const KEPT: Duration = Duration::from_secs(60);
const MOST: usize = 1000;

#[derive(Default)]
pub(crate) struct Remembered {
    /// Those that are not known yet take turns: of several equal ones the first is looked at, the others find it here.
    pub(crate) turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    key: Option<[u8; 32]>,
    /// Digest of user and password → the stored hash it was right for, and until when that is believed.
    right: HashMap<[u8; 32], (String, Time)>,
}

impl State {
    fn digest(&mut self, user: &str, password: &Plain) -> Result<[u8; 32], Error> {
        let key = match self.key {
            Some(key) => key,
            None => {
                let mut fresh = [0; 32];
                getrandom::fill(&mut fresh).map_err(|e| Error::internal(e.to_string()))?;
                *self.key.insert(fresh)
            }
        };
        let mut hasher = Sha256::new();
        // A user's name holds no NUL, so no two pairs read alike.
        hasher.update(key);
        hasher.update(user.as_bytes());
        hasher.update([0]);
        hasher.update(password.expose());
        Ok(hasher.finalize().into())
    }
}

impl Remembered {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn knows(&self, user: &str, password: &Plain, stored: &str, now: Time) -> Result<bool, Error> {
        let mut state = self.state();
        let digest = state.digest(user, password)?;
        Ok(state.right.get(&digest).is_some_and(|(hash, until)| hash == stored && *until > now))
    }

    pub(crate) fn learn(&self, user: &str, password: &Plain, stored: &str, now: Time) -> Result<(), Error> {
        let mut state = self.state();
        let digest = state.digest(user, password)?;
        if state.right.len() >= MOST {
            state.right.retain(|_, (_, until)| *until > now);
            if state.right.len() >= MOST {
                state.right.clear();
            }
        }
        state.right.insert(digest, (stored.to_owned(), now.plus(KEPT)));
        Ok(())
    }
}
