//! One rule, compiled.

use regex::{Regex, RegexBuilder};
use wharf_domain::egress::{Pattern, Target};
use wharf_domain::guard::{
    APPROVAL_MAX_SECONDS, Action, Argv, ENTRIES, PATTERN_CHARS, Phase, RATE_MAX_SECONDS, REASON_CHARS, Rate,
    Rule,
};
use wharf_domain::{Code, Error, limits};

use crate::ask::Ask;
use crate::glob::{self, Tok};
use crate::paths;
use crate::shell::{Command, Word};

/// Bytes a compiled regular expression may take.
const REGEX_BYTES: usize = 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Compiled {
    pub phase: Phase,
    pub action: Action,
    pub reason: Option<String>,
    pub timeout_seconds: Option<u32>,
    pub rate: Option<Rate>,
    regex: Option<Regex>,
    tools: Vec<String>,
    argv: Option<Argv>,
    paths: Vec<paths::Pattern>,
    hosts: Vec<Pattern>,
    pub size_over_bytes: Option<u64>,
    agents: Vec<String>,
}

pub(crate) fn check_count(rules: usize) -> Result<(), Error> {
    let most = limits::POLICY_RULES;
    if rules == 0 {
        return Err(refuse("rules", "a policy needs at least one rule"));
    }
    if rules > most {
        return Err(refuse(
            "rules",
            format!("a policy has up to {most} rules (POLICY_RULES); make another one"),
        ));
    }
    Ok(())
}

/// Only when a policy is made: one from before is still read, and holds for what the gateway reads anyway.
pub(crate) fn check_size(n: usize, rule: &Rule) -> Result<(), Error> {
    let m = &rule.matches;
    if rule.phase == Phase::Egress && m.size_over_bytes.is_some() && m.hosts.is_empty() {
        let detail = "a rule about the size of requests names the hosts it is for: their TLS ends at the gateway, \
                      which cannot count what is in other tunnels";
        return Err(refuse(&format!("rules.{n}.match.hosts"), detail));
    }
    Ok(())
}

fn refuse(field: &str, detail: impl Into<String>) -> Error {
    Error::new(Code::InvalidField, detail).field(field)
}

impl Compiled {
    pub fn new(n: usize, rule: &Rule) -> Result<Self, Error> {
        let m = &rule.matches;
        let at = |field: &str| format!("rules.{n}.{field}");
        let phase = rule.phase;
        let unknown = |field: &str, which: &str| {
            let detail =
                format!("rules of phase {} cannot match by {field}: that is for {which}", phase.as_str());
            Err(refuse(&at(&format!("match.{field}")), detail))
        };
        if !m.tools.is_empty() && phase != Phase::Tool {
            return unknown("tools", "phase tool");
        }
        if m.argv.is_some() && phase != Phase::Tool {
            return unknown("argv", "phase tool");
        }
        if !m.paths.is_empty() && !matches!(phase, Phase::Tool | Phase::Egress) {
            return unknown("paths", "phases tool and egress");
        }
        if !m.hosts.is_empty() && phase != Phase::Egress {
            return unknown("hosts", "phase egress");
        }
        if phase == Phase::Egress && (m.regex.is_some() || !m.paths.is_empty()) && m.hosts.is_empty() {
            let detail =
                "a rule that looks into requests names the hosts it is for: their TLS ends at the gateway";
            return Err(refuse(&at("match.hosts"), detail));
        }
        if rule.action == Action::Redact && (m.regex.is_none() || phase == Phase::Egress) {
            let detail = "redact takes out what match.regex finds, in the phases input, output and tool";
            return Err(refuse(&at("action"), detail));
        }
        if rule.action == Action::Approve && phase == Phase::Output {
            let detail = "an answer of a model cannot wait for somebody: the next one would be another; deny or redact it";
            return Err(refuse(&at("action"), detail));
        }
        if rule.timeout_seconds.is_some() && rule.action != Action::Approve {
            return Err(refuse(
                &at("timeout_seconds"),
                "only an approval waits; leave it out, or make the action approve",
            ));
        }
        if rule.timeout_seconds.is_some_and(|s| s == 0 || s > APPROVAL_MAX_SECONDS) {
            let detail = format!("an approval waits 1 to {APPROVAL_MAX_SECONDS} seconds");
            return Err(refuse(&at("timeout_seconds"), detail));
        }
        if rule.reason.as_ref().is_some_and(|r| r.chars().count() > REASON_CHARS || r.contains('\0')) {
            return Err(refuse(&at("reason"), format!("a reason has up to {REASON_CHARS} characters")));
        }
        if let Some(rate) = m.rate
            && (rate.per_seconds == 0 || rate.per_seconds > RATE_MAX_SECONDS || rate.count > 100_000)
        {
            let detail = format!("a rate is up to 100000 in 1 to {RATE_MAX_SECONDS} seconds");
            return Err(refuse(&at("match.rate"), detail));
        }
        let empty = Argv::default();
        let argv = m.argv.as_ref().unwrap_or(&empty);
        for (field, list) in [
            ("match.tools", &m.tools),
            ("match.paths", &m.paths),
            ("match.agents", &m.agents),
            ("match.argv.program", &argv.program),
            ("match.argv.args", &argv.args),
        ] {
            check_list(&at(field), list)?;
        }
        if m.hosts.len() > ENTRIES {
            return Err(refuse(&at("match.hosts"), format!("up to {ENTRIES} can be named")));
        }
        if let Some(argv) = &m.argv {
            let says = !argv.program.is_empty() || !argv.args.is_empty();
            if argv.unreadable == says {
                let detail = "name a program or arguments, or say unreadable: one of the two";
                return Err(refuse(&at("match.argv"), detail));
            }
        }
        let regex = m.regex.as_ref().map(|text| regex(&at("match.regex"), text)).transpose()?;
        let mut compiled = Vec::with_capacity(m.paths.len());
        for path in &m.paths {
            compiled.push(paths::Pattern::new(path).map_err(|why| refuse(&at("match.paths"), why))?);
        }
        Ok(Self {
            phase,
            action: rule.action,
            reason: rule.reason.clone(),
            timeout_seconds: rule.timeout_seconds,
            rate: m.rate,
            regex,
            tools: m.tools.clone(),
            argv: m.argv.clone(),
            paths: compiled,
            hosts: m.hosts.clone(),
            size_over_bytes: m.size_over_bytes,
            agents: m.agents.clone(),
        })
    }

    /// Everything but the rate.
    pub fn matches(&self, ask: &Ask<'_>) -> bool {
        self.size_over_bytes.is_none_or(|most| ask.size() > most) && self.matches_at_any_size(ask)
    }

    /// Everything but the rate and the size.
    pub fn matches_at_any_size(&self, ask: &Ask<'_>) -> bool {
        let any = |list: &[String], name: &str| list.is_empty() || list.iter().any(|p| glob::fits(p, name));
        if !self.agents.is_empty() && !ask.agents.iter().any(|a| any(&self.agents, a)) {
            return false;
        }
        if !self.tools.is_empty() && !ask.tool.is_some_and(|t| any(&self.tools, t)) {
            return false;
        }
        if !self.hosts.is_empty()
            && !ask.target.is_some_and(|t| self.hosts.iter().any(|h| h.matches_any_port(t)))
        {
            return false;
        }
        if let Some(regex) = &self.regex
            && !ask.texts().iter().any(|t| regex.is_match(t))
        {
            return false;
        }
        if ask.unseen && (self.argv.is_some() || !self.paths.is_empty()) {
            // A command nobody has seen may be the one that is forbidden, and is not known to be one that is allowed.
            return self.action != Action::Allow;
        }
        let home = ask.place.home;
        let reaches = |path: &paths::Path| self.paths.iter().any(|p| p.matches(path, home));
        if let Some(argv) = &self.argv {
            return ask.commands().iter().any(|command| {
                is(argv, command)
                    && (self.paths.is_empty() || crate::ask::all_paths(command, home).iter().any(reaches))
            });
        }
        self.paths.is_empty() || ask.paths().iter().any(reaches)
    }

    /// Which of the texts it is about; all, where it looks at none in particular.
    pub fn about(&self, texts: &[String]) -> Vec<usize> {
        match &self.regex {
            Some(regex) => (0..texts.len()).filter(|n| regex.is_match(&texts[*n])).collect(),
            None => (0..texts.len()).collect(),
        }
    }

    pub fn looks_inside(&self, target: &Target) -> bool {
        (self.regex.is_some() || !self.paths.is_empty() || self.size_over_bytes.is_some())
            && self.hosts.iter().any(|h| h.matches_any_port(target))
    }

    pub fn redact(&self, text: &str, with: &str) -> Option<String> {
        let regex = self.regex.as_ref()?;
        regex.is_match(text).then(|| regex.replace_all(text, regex::NoExpand(with)).into_owned())
    }
}

fn check_list(field: &str, list: &[String]) -> Result<(), Error> {
    if list.len() > ENTRIES {
        return Err(refuse(field, format!("up to {ENTRIES} can be named")));
    }
    if list.iter().any(|e| e.is_empty() || e.chars().count() > PATTERN_CHARS || e.contains('\0')) {
        return Err(refuse(field, format!("an entry has 1 to {PATTERN_CHARS} characters")));
    }
    Ok(())
}

fn regex(field: &str, text: &str) -> Result<Regex, Error> {
    if text.chars().count() > PATTERN_CHARS {
        return Err(refuse(field, format!("a regular expression has up to {PATTERN_CHARS} characters")));
    }
    let built = RegexBuilder::new(text).size_limit(REGEX_BYTES).dfa_size_limit(REGEX_BYTES).build();
    let regex = built.map_err(|e| refuse(field, format!("the regular expression cannot be read: {e}")))?;
    if regex.is_match("") {
        return Err(refuse(
            field,
            "the regular expression finds something everywhere, even in nothing; narrow it",
        ));
    }
    Ok(regex)
}

/// Whether a command is one of those a rule speaks of.
fn is(argv: &Argv, command: &Command) -> bool {
    if argv.unreadable {
        return command.unreadable;
    }
    if command.program.is_empty() {
        return false;
    }
    let base = command.program.rsplit(|t| *t == Tok::Ch('/')).next().unwrap_or_default();
    let named = |p: &String| {
        let whole = if p.contains('/') { &command.program[..] } else { base };
        glob::meet(&glob::pattern(p), whole)
    };
    if !argv.program.is_empty() && !argv.program.iter().any(named) {
        return false;
    }
    let end = command.args.iter().position(|a| *a == glob::word("--")).unwrap_or(command.args.len());
    argv.args.iter().all(|wanted| {
        wanted
            .split('|')
            .any(|spelling| command.args.iter().enumerate().any(|(n, arg)| has(spelling, arg, n < end)))
    })
}

/// Whether an argument is one spelling of what a rule wants.
fn has(wanted: &str, arg: &Word, may_be_option: bool) -> bool {
    let mut chars = wanted.chars();
    if chars.next() == Some('-') && wanted.len() > 1 {
        if !may_be_option {
            return false;
        }
        let Some(arg) = glob::literal(arg) else {
            return glob::meet(&glob::pattern(wanted), arg);
        };
        let rest = chars.as_str();
        if let Some(long) = rest.strip_prefix('-') {
            let Some(given) = arg.strip_prefix("--") else { return false };
            let given = given.split('=').next().unwrap_or_default();
            // getopt takes the beginning of a long option for it.
            return !given.is_empty() && (glob::fits(long, given) || long.starts_with(given));
        }
        if rest.chars().count() == 1 {
            // One letter, alone or among others: -r, -rf, -fr.
            let cluster = arg.strip_prefix('-').filter(|c| !c.starts_with('-'));
            return cluster.is_some_and(|c| {
                c.chars().take_while(char::is_ascii_alphanumeric).any(|c| rest.starts_with(c))
            });
        }
        return glob::fits(wanted, &arg);
    }
    glob::meet(&glob::pattern(wanted), arg)
}
