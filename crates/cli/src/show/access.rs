//! Rows of who may do what, and of what was done.

use wharf_domain::Time;
use wharf_wire::api;

use super::{aged, word, yes_no};
use crate::output::format::age;
use crate::output::{Cell, Show, Style};

impl Show for api::User {
    const HEAD: &'static [&'static str] = &["NAME", "DISPLAY NAME", "DISABLED", "AGE"];
    fn row(&self, now: Time) -> Vec<Cell> {
        vec![
            Cell::new(&self.name),
            Cell::new(&self.display_name),
            yes_no(self.disabled),
            aged(self.created_at, now),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Show for api::ServiceAccount {
    const HEAD: &'static [&'static str] = &["NAME", "DESCRIPTION", "DISABLED", "AGE"];
    fn row(&self, now: Time) -> Vec<Cell> {
        vec![
            Cell::new(&self.name),
            Cell::new(&self.description),
            yes_no(self.disabled),
            aged(self.created_at, now),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Show for api::ApiToken {
    const HEAD: &'static [&'static str] = &["NAME", "NARROWED", "EXPIRES", "LAST USED", "AGE"];
    fn row(&self, now: Time) -> Vec<Cell> {
        let expires = match self.expires_at {
            at if at <= now => Cell::styled("expired", Style::Bad),
            at => Cell::new(format!("in {}", age(now, at))),
        };
        vec![
            Cell::new(&self.name),
            yes_no(self.rules.is_some()),
            expires,
            self.last_used_at.map_or(Cell::styled("never", Style::Dim), |t| aged(t, now)),
            aged(self.created_at, now),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

/// A rule as `verbs on resources [named names]`.
pub fn rule(rule: &wharf_domain::rbac::Rule) -> String {
    let star = |list: &[String]| list.iter().any(|w| w == "*");
    // All resources of some groups: the groups say which.
    let resources = if star(&rule.resources) && !star(&rule.groups) {
        rule.groups.iter().map(|g| format!("{g}/*")).collect::<Vec<_>>().join(",")
    } else {
        rule.resources.join(",")
    };
    let names = if rule.names.is_empty() { String::new() } else { format!(":{}", rule.names.join(",")) };
    format!("{}:{resources}{names}", rule.verbs.join(","))
}

impl Show for api::Role {
    const HEAD: &'static [&'static str] = &["NAME", "BUILT IN", "AGE", "RULES"];
    fn row(&self, now: Time) -> Vec<Cell> {
        vec![
            Cell::new(&self.name),
            yes_no(self.built_in),
            aged(self.created_at, now),
            Cell::new(self.rules.iter().map(rule).collect::<Vec<_>>().join("; ")),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Show for api::RoleBinding {
    const HEAD: &'static [&'static str] = &["NAME", "ROLE", "PRINCIPAL", "SPACE", "AGE"];
    fn row(&self, now: Time) -> Vec<Cell> {
        vec![
            Cell::new(&self.name),
            Cell::new(&self.role),
            Cell::new(&self.principal),
            self.space.as_ref().map_or(Cell::styled("everywhere", Style::Dim), Cell::new),
            aged(self.created_at, now),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Show for api::AuditEntry {
    const HEAD: &'static [&'static str] =
        &["AT", "PRINCIPAL", "VERB", "RESOURCE", "NAME", "SPACE", "OUTCOME", "ADDRESS"];
    fn row(&self, _: Time) -> Vec<Cell> {
        let style = match self.outcome {
            api::AuditOutcome::Allowed => Style::Good,
            api::AuditOutcome::Denied | api::AuditOutcome::Failed => Style::Bad,
        };
        let principal = match &self.impersonator {
            Some(by) => format!("{} (by {by})", self.principal),
            None => self.principal.clone(),
        };
        vec![
            Cell::new(self.at),
            Cell::new(principal),
            Cell::new(&self.verb),
            Cell::new(&self.resource),
            Cell::opt(self.name.as_ref()),
            Cell::opt(self.space.as_ref()),
            Cell::styled(word(&self.outcome), style),
            Cell::opt(self.address.as_ref()),
        ]
    }
    fn name(&self) -> String {
        self.id.to_string()
    }
}

impl Show for api::SpaceEvent {
    const HEAD: &'static [&'static str] = &["AT", "TYPE", "RESOURCE", "NAME"];
    fn row(&self, _: Time) -> Vec<Cell> {
        vec![
            Cell::styled(self.at, Style::Dim),
            Cell::new(&self.kind),
            Cell::new(&self.resource),
            Cell::new(self.name.clone().unwrap_or_else(|| self.id.clone())),
        ]
    }
    fn name(&self) -> String {
        self.cursor.clone()
    }
}
