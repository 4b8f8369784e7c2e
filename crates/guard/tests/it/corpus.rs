//! Danger in disguise, and what only looks like it: every line of the corpus comes out as it says, under the policy the docs show.

use serde::Deserialize;
use serde_json::{Value, json};
use wharf_domain::egress::Target;
use wharf_domain::guard::{Action, Phase, Rule};
use wharf_guard::{Ask, Guard};

#[derive(Deserialize)]
struct Policy {
    name: String,
    rules: Vec<Rule>,
}

pub fn careful() -> Guard {
    let policy: Policy =
        serde_json::from_str(include_str!("../../../../examples/policies/careful.json")).unwrap();
    wharf_guard::check(&policy.rules).unwrap();
    Guard::new([(policy.name.parse().unwrap(), policy.rules.as_slice())]).unwrap()
}

#[derive(Deserialize)]
struct Line {
    want: String,
    command: Option<String>,
    tool: Option<String>,
    input: Option<Value>,
    host: Option<String>,
    say: Option<String>,
}

fn comes_out(guard: &Guard, ask: Ask<'_>) -> &'static str {
    let judged = guard.judge(ask, &mut |_, _, _| false);
    match judged.ruling.map(|r| r.action) {
        Some(Action::Approve) => "approve",
        Some(_) => "deny",
        None if judged.texts.is_some() => "redact",
        None => "allow",
    }
}

fn judge(guard: &Guard, line: &Line) -> &'static str {
    if let Some(command) = &line.command {
        return comes_out(guard, Ask::tool("bash", &json!({ "command": command })));
    }
    if let (Some(tool), Some(input)) = (&line.tool, &line.input) {
        return comes_out(guard, Ask::tool(tool, input));
    }
    if let Some(host) = &line.host {
        let target = Target::parse(host, None).unwrap();
        let mut ask = Ask::new(Phase::Egress, Vec::new());
        ask.target = Some(&target);
        return comes_out(guard, ask);
    }
    comes_out(guard, Ask::new(Phase::Input, vec![line.say.clone().unwrap()]))
}

/// Measures a file of the corpus: how many dangers pass, how many harmless lines alarm.
fn measure(name: &str, text: &str, least: usize) {
    let guard = careful();
    let (mut dangers, mut harmless, mut missed, mut alarms) = (0, 0, Vec::new(), Vec::new());
    for line in text.lines() {
        let line: Line = serde_json::from_str(line).unwrap();
        let got = judge(&guard, &line);
        let shown = || {
            let what = json!([line.command, line.tool, line.input, line.host, line.say]);
            format!("  {what}\n    wanted {}, got {got}", line.want)
        };
        if line.want == "allow" {
            harmless += 1;
            if got != "allow" {
                alarms.push(shown());
            }
        } else {
            dangers += 1;
            if got != line.want {
                missed.push(shown());
            }
        }
    }
    println!(
        "{name}: {dangers} in disguise, {} missed; {harmless} look-alikes, {} false alarms",
        missed.len(),
        alarms.len()
    );
    assert!(dangers + harmless >= least, "the corpus of {name} shrank");
    let wrong = [missed, alarms].concat();
    assert!(wrong.is_empty(), "these come out wrong:\n{}", wrong.join("\n"));
}

#[test]
fn commands_in_disguise_are_found_and_look_alikes_pass() {
    measure("commands", include_str!("../corpus/commands.jsonl"), 350);
}

#[test]
fn calls_of_tools_are_judged_by_what_they_do_and_not_by_what_they_say() {
    measure("tools", include_str!("../corpus/tools.jsonl"), 13);
}

#[test]
fn hosts_are_told_from_those_that_look_like_them() {
    measure("hosts", include_str!("../corpus/hosts.jsonl"), 15);
}

#[test]
fn keys_are_told_from_words_that_begin_like_them() {
    measure("texts", include_str!("../corpus/texts.jsonl"), 8);
}
