//! Things of the API as tables.

use serde::de::DeserializeOwned;
use serde_json::json as value;
use wharf_cli::output::{Format, Out, Show};
use wharf_domain::Time;
use wharf_wire::api;

fn out(format: Format, width: Option<usize>) -> Out {
    Out::fixed(format, width, || "2026-01-31T12:00:00.000Z".parse::<Time>().unwrap())
}

fn read<T: DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn session(name: &str, state: &str, reason: Option<&str>) -> api::Session {
    read(value!({
        "id": "0192d3a0-0000-7000-8000-000000000000", "name": name, "space": "lab", "state": state, "state_reason": reason,
        "desired": "running", "agent": {"kind": "shell"}, "image": {"name": "base", "digest": "ab".repeat(32)},
        "resources": {"cpu_millis": 1500, "memory_mib": 2048, "disk_mib": 500, "pids": 512}, "network": {"egress": "none"},
        "allow_root": true, "env": {"MODE": "test"}, "instructions": "Be brief.\nBe kind.", "idle_timeout_seconds": 900, "turn_timeout_seconds": 3600,
        "labels": {"team": "ml"}, "metadata": {"ticket": 7}, "runtime": "native", "last_used_at": "2026-01-31T11:59:30.000Z",
        "created_at": "2026-01-30T12:00:00.000Z", "updated_at": "2026-01-31T11:59:30.000Z", "resource_version": 9
    }))
}

fn snapshot<T: Show>(name: &str, items: &[T], width: Option<usize>) {
    insta::with_settings!({ snapshot_path => "../snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name.to_owned(), out(Format::Table, width).list_text(items).unwrap());
    });
}

#[test]
fn sessions() {
    let all = [
        session("demo", "idle", None),
        session("a-much-longer-name", "error", Some("the image base is not there any more")),
    ];
    snapshot("rows-sessions", &all, None);
    snapshot("rows-sessions-narrow", &all, Some(60));
    insta::with_settings!({ snapshot_path => "../snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("one-session", out(Format::Table, None).one_text(&all[0]).unwrap());
        insta::assert_snapshot!("one-session-json", out(Format::Json, None).one_text(&all[0]).unwrap());
    });
}

#[test]
fn messages_and_audit_entries() {
    let message = |seq: i64, role: &str, text: &str, state: &str| -> api::Message {
        read(
            value!({"seq": seq, "role": role, "content": [{"type": "text", "text": text}, {"type": "image"}],
            "turn": "0192d3a0-0000-7000-8000-000000000000", "state": state, "created_at": "2026-01-31T11:00:00.000Z"}),
        )
    };
    snapshot(
        "rows-messages",
        &[message(1, "user", "ls\n-la", "done"), message(9, "agent", "total 0\n", "failed")],
        None,
    );
    let entry: api::AuditEntry = read(
        value!({"id": "0192d3a0-0000-7000-8000-000000000000", "at": "2026-01-31T11:00:00.000Z",
        "principal": "user/alice", "impersonator": "user/admin", "verb": "delete", "resource": "sessions", "name": "demo",
        "space": "lab", "outcome": "denied", "address": "127.0.0.1", "detail": {}}),
    );
    snapshot("rows-audit", &[entry], None);
}

#[test]
fn roles_and_tokens() {
    let role: api::Role = read(
        value!({"id": "0192d3a0-0000-7000-8000-000000000000", "name": "watcher", "built_in": false,
        "rules": [{"groups": ["sessions"], "resources": ["sessions", "messages"], "verbs": ["get", "list"]},
                  {"groups": ["core"], "resources": ["secrets"], "names": ["key"], "verbs": ["read-values"]}],
        "labels": {}, "created_at": "2026-01-31T11:00:00.000Z", "updated_at": "2026-01-31T11:00:00.000Z", "resource_version": 1}),
    );
    snapshot("rows-roles", &[role], None);
    for (text, back) in [
        ("get,list:sessions,messages", "get,list:sessions,messages"),
        ("read-values:secrets:key", "read-values:secrets:key"),
        ("*:*", "*:*"),
        ("get:core/*,sessions/*", "get:core/*,sessions/*"),
    ] {
        let rule = wharf_cli::command::role::parse_rule(text).unwrap();
        assert_eq!(wharf_cli::show::rule(&rule), back);
    }
    let mixed = wharf_cli::command::role::parse_rule("get:sessions,secrets").unwrap();
    assert_eq!(mixed.groups, ["core", "sessions"]);
    for bad in
        ["", "get", "get:core/*,secrets", "get:planes/*", "fly:sessions", "get:planes", ":sessions", "get:"]
    {
        assert!(wharf_cli::command::role::parse_rule(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_lineage_is_a_tree() {
    let node = |id: u32, name: &str, state: Option<&str>, from: Option<u32>| {
        let from = from.map(
            |f| value!({"session": format!("0192d3a0-0000-7000-8000-{f:012}"), "snapshot": null, "seq": 4}),
        );
        value!({"id": format!("0192d3a0-0000-7000-8000-{id:012}"), "name": name, "state": state, "from": from,
            "created_at": "2026-01-31T11:00:00.000Z"})
    };
    let lineage: api::Lineage = read(value!({
        "session": node(3, "me", Some("idle"), Some(2)),
        "ancestors": [node(2, "parent", Some("closed"), Some(1)), node(1, "eldest", None, None)],
        "descendants": [node(4, "child-a", Some("idle"), Some(3)), node(5, "grandchild", Some("busy"), Some(4)), node(6, "child-b", None, Some(3))]
    }));
    insta::with_settings!({ snapshot_path => "../snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("lineage", wharf_cli::command::session::tree(&lineage));
    });
}
