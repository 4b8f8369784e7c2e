//! What everything that runs in a session finds in its environment besides the session's own variables: the way to the gateway,
//! and whom to trust. Nothing of it is secret. What the session or a request sets itself wins.

use std::sync::{Mutex, PoisonError};

use crate::egress::PROXY_PORT;
use crate::trust::Trusted;

/// What git starts in place of ssh: this program, where every runtime puts it. Whoever brings keys of their own unsets it.
const GIT_SSH: &str = "/run/wharf/wharf-host git-ssh";

pub struct Surroundings {
    /// Whether the host carries connections to a gateway.
    pub gateway: bool,
    trusted: Mutex<Option<Trusted>>,
}

impl Surroundings {
    pub fn new(gateway: bool) -> Self {
        Self { gateway, trusted: Mutex::new(None) }
    }

    pub fn trust(&self, trusted: Option<Trusted>) {
        *self.trusted.lock().unwrap_or_else(PoisonError::into_inner) = trusted;
    }

    pub fn trusts(&self) -> bool {
        self.trusted.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub fn variables(&self, hostname: Option<&str>) -> Vec<(String, String)> {
        let mut variables = Vec::new();
        let mut set = |name: &str, value: &str| variables.push((name.to_owned(), value.to_owned()));
        if self.gateway {
            let proxy = format!("http://127.0.0.1:{PROXY_PORT}");
            // Programs differ in which spelling they read.
            for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
                set(name, &proxy);
            }
            let own = hostname.map_or_else(String::new, |name| format!(",{name}"));
            let direct = format!("localhost,127.0.0.1,::1{own}");
            set("NO_PROXY", &direct);
            set("no_proxy", &direct);
            set("GIT_SSH_COMMAND", GIT_SSH);
            // It takes ssh's options, and git need not try it out.
            set("GIT_SSH_VARIANT", "ssh");
        }
        if let Some(trusted) = &*self.trusted.lock().unwrap_or_else(PoisonError::into_inner) {
            for name in
                ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT"]
            {
                set(name, &trusted.bundle);
            }
            // Added to what Node brings along: reading all authorities again would cost every start.
            set("NODE_EXTRA_CA_CERTS", &trusted.own);
        }
        variables
    }
}
