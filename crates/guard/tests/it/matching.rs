//! Rules: their order, what each matcher means, and which are refused.

use serde_json::{Value, json};
use wharf_domain::guard::{Action, Phase, Rule};
use wharf_guard::{Ask, Guard, Judged, check};

fn rules(rules: &Value) -> Vec<Rule> {
    serde_json::from_value(rules.clone()).unwrap()
}

fn guard(all: Value) -> Guard {
    let rules = rules(&all);
    check(&rules).unwrap();
    Guard::new([("p".parse().unwrap(), rules.as_slice())]).unwrap()
}

fn tool(guard: &Guard, name: &str, input: Value) -> Judged {
    guard.judge(Ask::tool(name, &input), &mut |_, _, _| false)
}

fn says(guard: &Guard, text: &str) -> Judged {
    guard.judge(Ask::new(Phase::Input, vec![text.to_owned()]), &mut |_, _, _| false)
}

#[test]
fn the_first_rule_that_matches_decides() {
    let guard = guard(json!([
        {"phase": "tool", "match": {"tools": ["bash"], "argv": {"program": ["git"]}}, "action": "allow"},
        {"phase": "tool", "match": {"tools": ["bash"]}, "action": "deny", "reason": "no shell"},
        {"phase": "tool", "match": {"tools": ["ba*"]}, "action": "approve"},
    ]));
    assert_eq!(tool(&guard, "bash", json!({"command": "git status"})).ruling, None);
    let denied = tool(&guard, "bash", json!({"command": "ls"})).ruling.unwrap();
    assert_eq!((denied.rule, denied.words().as_str()), (1, "no shell (policy p)"));
    assert_eq!(tool(&guard, "bazaar", json!({})).ruling.unwrap().rule, 2);
    assert_eq!(tool(&guard, "files", json!({})).ruling, None, "what no rule matches goes through");
    assert_eq!(says(&guard, "bash").ruling, None, "a rule is for its phase alone");
}

#[test]
fn what_is_redacted_is_gone_before_the_next_rule_looks() {
    let guard = guard(json!([
        {"phase": "input", "match": {"regex": "secret-[0-9]+"}, "action": "redact"},
        {"phase": "input", "match": {"regex": "secret"}, "action": "deny"},
    ]));
    let judged = says(&guard, "my secret-12 and secret-3");
    assert_eq!(judged.texts.unwrap(), ["my [redacted] and [redacted]"]);
    assert_eq!((judged.ruling, judged.redacted.len()), (None, 1));
    assert!(says(&guard, "a secret").ruling.is_some());
}

#[test]
fn what_a_rule_takes_out_is_not_written_down_although_another_decided_before_it() {
    let guard = guard(json!([
        {"phase": "tool", "match": {"tools": ["ok"]}, "action": "allow"},
        {"phase": "tool", "match": {"tools": ["no"]}, "action": "deny"},
        {"phase": "tool", "match": {"regex": "pin-[0-9]+", "rate": {"count": 9, "per_seconds": 9}}, "action": "redact"},
        {"phase": "tool", "match": {"tools": ["x"]}, "action": "deny"},
    ]));
    for name in ["ok", "no"] {
        let judged = tool(&guard, name, json!({"a": "pin-1", "b": "other"}));
        assert_eq!(judged.written, ["[redacted]", "other"]);
        assert_eq!(
            (judged.texts, judged.redacted.len()),
            (None, 0),
            "it decided, so nothing else changes the call"
        );
        assert_eq!(judged.ruling.is_some(), name == "no");
    }
}

#[test]
fn a_rule_that_waits_for_a_size_is_known_before_the_size_is() {
    let guard = guard(json!([
        {"phase": "egress", "match": {"hosts": ["a.org"], "size_over_bytes": 10}, "action": "deny"},
        {"phase": "egress", "match": {"hosts": ["b.org"], "size_over_bytes": 20}, "action": "deny"},
    ]));
    let target = wharf_domain::egress::Target::parse("a.org:443", None).unwrap();
    let mut ask = Ask::new(Phase::Egress, vec!["PUT https://a.org/".into()]);
    ask.target = Some(&target);
    ask.bytes = Some(0);
    let sized = guard.sized(&ask);
    assert_eq!(sized.iter().map(|s| (s.over_bytes, s.rule)).collect::<Vec<_>>(), [(10, 0)]);
}

#[test]
fn a_tools_input_is_redacted_in_place() {
    let guard = guard(json!([{"phase": "tool", "match": {"regex": "[0-9]{4}"}, "action": "redact"}]));
    let mut input = json!({"a": "pin 1234", "b": [{"c": "none"}, "4321"], "n": 5555});
    let texts = tool(&guard, "t", input.clone()).texts.unwrap();
    wharf_guard::with_strings(&mut input, &mut texts.into_iter());
    assert_eq!(input, json!({"a": "pin [redacted]", "b": [{"c": "none"}, "[redacted]"], "n": 5555}));
}

#[test]
fn size_agent_and_rate_narrow_a_rule() {
    let guard = guard(json!([
        {"phase": "input", "match": {"size_over_bytes": 10}, "action": "deny"},
        {"phase": "input", "match": {"agents": ["re*"], "regex": "x"}, "action": "deny"},
        {"phase": "input", "match": {"rate": {"count": 2, "per_seconds": 60}}, "action": "approve"},
    ]));
    assert!(says(&guard, "12345678901").ruling.is_some());
    assert_eq!(says(&guard, "1234567890").ruling, None);
    let of = |agent| {
        let mut ask = Ask::new(Phase::Input, vec!["x".into()]);
        ask.agents = vec!["computer-use", agent];
        guard.judge(ask, &mut |_, _, _| false).ruling
    };
    assert_eq!(of("writer"), None);
    assert_eq!(of("reviewer").unwrap().rule, 1);
    let mut seen = 0;
    let mut over = |_: &wharf_domain::Name, _: usize, rate: wharf_domain::guard::Rate| {
        seen += 1;
        seen > rate.count
    };
    let mut asked = || guard.judge(Ask::new(Phase::Input, vec!["y".into()]), &mut over).ruling.is_some();
    assert_eq!([asked(), asked(), asked()], [false, false, true]);
}

#[test]
fn paths_and_arguments_belong_to_one_command() {
    let guard = guard(json!([
        {"phase": "tool", "match": {"argv": {"program": ["rm"], "args": ["-r|--recursive", "-f"]}, "paths": ["/etc/**"]},
         "action": "deny"},
    ]));
    let denied = |command: &str| tool(&guard, "bash", json!({"command": command})).ruling.is_some();
    assert!(denied("rm -rf /etc"));
    assert!(denied("rm /etc/x -fr"));
    assert!(!denied("rm -r /etc/x"), "every argument is wanted");
    assert!(!denied("rm -rf /tmp; ls /etc"), "the path is another command's");
    assert!(!denied("rm -f /etc/x; ls -r"));
    assert!(!denied("rm -- -rf /etc"), "behind -- is no option");
}

/// An agent that does not show what it runs may run anything, as far as a rule about commands or paths can know.
#[test]
fn a_command_nobody_sees_is_whatever_a_rule_forbids() {
    let judged = |rules: Value| {
        let input = json!({"title": "Tidy up", "paths": ["/home/agent/x"]});
        let mut ask = Ask::tool("execute", &input);
        ask.unseen = true;
        let ruling = guard(rules).judge(ask, &mut |_, _, _| false).ruling;
        ruling.map(|r| (r.action, r.rule))
    };
    let rule = |action: &str, matches: Value| json!({"phase": "tool", "action": action, "match": matches});
    let rm = json!({"argv": {"program": ["rm"]}});
    assert_eq!(judged(json!([rule("deny", rm.clone())])), Some((Action::Deny, 0)));
    assert_eq!(
        judged(json!([rule("approve", json!({"argv": {"unreadable": true}}))])),
        Some((Action::Approve, 0))
    );
    assert_eq!(judged(json!([rule("deny", json!({"paths": ["/etc/**"]}))])), Some((Action::Deny, 0)));
    // What allows a command does not allow one that is not seen.
    let ls = json!({"argv": {"program": ["ls"]}});
    let home = json!({"paths": ["/home/agent/**"]});
    let all = json!([rule("allow", ls), rule("allow", home), rule("deny", rm.clone())]);
    assert_eq!(judged(all), Some((Action::Deny, 2)));
    // Rules that could not be about it are not, and those that look at something else still do.
    let other = json!({"argv": {"program": ["rm"]}, "tools": ["bash"]});
    assert_eq!(judged(json!([rule("deny", other), rule("deny", json!({"regex": "Wipe"}))])), None);
    assert_eq!(judged(json!([rule("allow", json!({"tools": ["execute"]})), rule("deny", rm)])), None);
}

#[test]
fn a_rule_that_could_not_do_what_it_says_is_refused_by_its_field() {
    let refused = |rule: Value| {
        let all = rules(&json!([{"phase": "input", "action": "allow"}, rule]));
        let error = check(&all).unwrap_err();
        (error.field.unwrap(), error.public)
    };
    for (rule, field) in [
        (json!({"phase": "input", "match": {"tools": ["x"]}, "action": "deny"}), "rules.1.match.tools"),
        (
            json!({"phase": "egress", "match": {"argv": {"program": ["x"]}}, "action": "deny"}),
            "rules.1.match.argv",
        ),
        (json!({"phase": "tool", "match": {"hosts": ["x.org"]}, "action": "deny"}), "rules.1.match.hosts"),
        (json!({"phase": "egress", "match": {"regex": "POST"}, "action": "deny"}), "rules.1.match.hosts"),
        (
            json!({"phase": "egress", "match": {"size_over_bytes": 9}, "action": "deny"}),
            "rules.1.match.hosts",
        ),
        (json!({"phase": "output", "match": {"paths": ["/x"]}, "action": "deny"}), "rules.1.match.paths"),
        (json!({"phase": "tool", "match": {"paths": ["etc"]}, "action": "deny"}), "rules.1.match.paths"),
        (json!({"phase": "tool", "match": {"paths": ["/a/../b"]}, "action": "deny"}), "rules.1.match.paths"),
        (json!({"phase": "input", "match": {"regex": "("}, "action": "deny"}), "rules.1.match.regex"),
        (json!({"phase": "input", "match": {"regex": "a*"}, "action": "redact"}), "rules.1.match.regex"),
        (json!({"phase": "input", "action": "redact"}), "rules.1.action"),
        (
            json!({"phase": "egress", "match": {"hosts": ["x.org"], "regex": "x"}, "action": "redact"}),
            "rules.1.action",
        ),
        (json!({"phase": "output", "action": "approve"}), "rules.1.action"),
        (json!({"phase": "input", "action": "deny", "timeout_seconds": 3}), "rules.1.timeout_seconds"),
        (json!({"phase": "input", "action": "approve", "timeout_seconds": 0}), "rules.1.timeout_seconds"),
        (json!({"phase": "tool", "match": {"argv": {}}, "action": "deny"}), "rules.1.match.argv"),
        (
            json!({"phase": "tool", "match": {"argv": {"program": ["x"], "unreadable": true}}, "action": "deny"}),
            "rules.1.match.argv",
        ),
        (json!({"phase": "tool", "match": {"tools": [""]}, "action": "deny"}), "rules.1.match.tools"),
        (
            json!({"phase": "input", "match": {"rate": {"count": 1, "per_seconds": 0}}, "action": "deny"}),
            "rules.1.match.rate",
        ),
    ] {
        assert_eq!(refused(rule.clone()).0, field, "{rule}");
    }
    assert_eq!(check(&[]).unwrap_err().field.unwrap(), "rules");
}
