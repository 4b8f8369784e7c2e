//! `--egress` and `--allow`: what a session may reach.

use wharf_domain::egress::{Egress, Pattern};
use wharf_wire::api;

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Way {
    /// Nothing but Wharf's own gateway
    None,
    /// The hosts given with --allow
    Allowlist,
    /// Every public host
    Open,
}

/// What a session may reach.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Network")]
pub struct Network {
    /// The way out; with --allow it is `allowlist` when absent
    #[arg(long, value_name = "EGRESS", value_enum)]
    egress: Option<Way>,
    /// Host it may reach: pypi.org, *.debian.org, example.org:8443 (repeat for more)
    #[arg(long, value_name = "HOST", value_parser = pattern)]
    allow: Vec<Pattern>,
}

fn pattern(text: &str) -> Result<Pattern, String> {
    text.parse().map_err(|e: wharf_domain::Error| e.public)
}

impl Network {
    pub fn patch(&self) -> Option<api::NetworkPatch> {
        let egress = match (self.egress, self.allow.is_empty()) {
            (Some(Way::None), _) => Some(Egress::None),
            (Some(Way::Open), _) => Some(Egress::Open),
            (Some(Way::Allowlist), _) | (None, false) => Some(Egress::Allowlist),
            (None, true) => None,
        };
        let allow = (!self.allow.is_empty()).then(|| self.allow.clone());
        egress.is_some().then_some(api::NetworkPatch { egress, allow })
    }

    pub fn new_session(&self) -> Option<api::Network> {
        self.patch().map(|patch| patch.over(wharf_domain::egress::Policy::default()).into())
    }
}
