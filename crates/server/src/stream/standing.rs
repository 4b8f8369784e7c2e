//! Whether the caller of a long answer still may have it: looked at again while it lasts.

use std::time::Duration;

use wharf_domain::{Error, Plain, Time};
use wharf_store::{Caller, Credential};

use crate::app::App;
use crate::extract::Auth;

/// How long a revoked right may still be used by a stream that is open.
const AGAIN: Duration = Duration::from_secs(15);

/// A caller who is asked for the credential again from time to time.
pub(crate) struct Standing {
    app: App,
    caller: Caller,
    bearer: Plain,
    checked: Time,
}

impl Standing {
    pub(crate) fn of(app: &App, auth: &Auth) -> Self {
        Self {
            app: app.clone(),
            caller: auth.caller.clone(),
            bearer: auth.bearer.clone(),
            checked: app.clock.now(),
        }
    }

    /// Whether it is time to look again.
    pub(crate) fn due(&self) -> bool {
        self.app.clock.now().since(self.checked) >= AGAIN
    }

    /// The caller with the rights of at most a few seconds ago.
    pub(crate) async fn caller(&mut self) -> Result<&Caller, Error> {
        if self.due() {
            let credential = Credential::Bearer(self.bearer.clone());
            self.caller = self.app.store.authenticate(credential, self.caller.meta()).await?;
            self.checked = self.app.clock.now();
        }
        Ok(&self.caller)
    }
}
