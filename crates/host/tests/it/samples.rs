//! The agents of `examples/agents`, run as their manifests say and conversed with.

use std::collections::BTreeMap;
use std::path::PathBuf;

use wharf_domain::manifest::{self, Kind, Manifest};
use wharf_wire::host::turn::{AgentKind, AgentSpec, Outcome, PastMessage, Said, TurnRequest};

use crate::harness::{Host, done, reply, turn_of};

fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/agents").join(name)
}

/// A host with the package in its place, and the agent its manifest describes.
async fn packed(name: &str) -> (Host, AgentSpec) {
    let host = Host::start().await;
    let at = host.root().join("opt/wharf/agents").join(name);
    std::fs::create_dir_all(&at).unwrap();
    let copied =
        std::process::Command::new("cp").arg("-r").arg(example(name).join(".")).arg(&at).status().unwrap();
    assert!(copied.success());
    let top: BTreeMap<String, Option<String>> = std::fs::read_dir(&at)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read_to_string(entry.path()).ok()))
        .collect();
    let manifest = match top.get("wharf.toml") {
        Some(text) => Manifest::parse(text.as_deref().unwrap(), &top).unwrap(),
        None => manifest::detect(&top).unwrap(),
    };
    assert_eq!(manifest.name.as_ref().map(wharf_domain::Name::as_str), Some(name));
    let kind = match manifest.kind {
        Kind::Python => AgentKind::Python,
        Kind::Node => AgentKind::Node,
        Kind::Acp => AgentKind::Acp,
        _ => AgentKind::Command,
    };
    let spec = AgentSpec {
        name: name.to_owned(),
        kind,
        entry: manifest.entry,
        package: Some(format!("/opt/wharf/agents/{name}")),
        ..AgentSpec::shell()
    };
    (host, spec)
}

#[tokio::test]
async fn the_graph_of_triage_sorts_and_answers() {
    let (host, agent) = packed("triage").await;
    let events = host.run(&turn_of(agent.clone(), "The tanker asks for a place")).await;
    assert_eq!(reply(&events), "The tanker goes to berth 5.", "{events:?}");
    let steps: Vec<&str> = events
        .iter()
        .filter_map(|e| match &e.said {
            Said::Event { name, data } if name == "step" => data["name"].as_str(),
            _ => None,
        })
        .collect();
    assert_eq!(steps, ["read", "sort", "berth"]);
    assert!(reply(&host.run(&turn_of(agent.clone(), "Fire on the barge!")).await).starts_with("Alarm"));
    let mut turn = turn_of(agent, "hello");
    let content = turn.message.content.clone();
    turn.history.push(PastMessage { seq: 1, role: "user".into(), agent: None, content });
    assert!(reply(&host.run(&turn).await).ends_with("You said 1 things before."));
}

#[tokio::test]
async fn clerk_counts_over_its_turns() {
    let (host, agent) = packed("clerk").await;
    host.run(&turn_of(agent.clone(), "rope rope anchor")).await;
    let events = host.run(&turn_of(agent, "Rope and chain")).await;
    assert_eq!(reply(&events), "3 words. Most said so far: rope (3), anchor (1), and (1).", "{events:?}");
}

#[tokio::test]
async fn abacus_is_built_and_adds() {
    let (host, agent) = packed("abacus").await;
    let at = host.root().join("opt/wharf/agents/abacus");
    std::fs::create_dir_all(at.join("bin")).unwrap();
    let built = std::process::Command::new("rustc")
        .args(["--edition", "2021", "-o"])
        .arg(at.join("bin/abacus"))
        .arg(at.join("src/main.rs"))
        .status()
        .unwrap();
    assert!(built.success());
    let events = host.run(&turn_of(agent, "12 crates, 30 barrels and -2.5 boxes")).await;
    assert_eq!(
        (done(&events).outcome, reply(&events).as_str()),
        (Outcome::Done, "The sum is 39.5."),
        "{events:?}"
    );
}

#[tokio::test]
async fn notes_keeps_them_over_its_own_death() {
    let (host, agent) = packed("notes").await;
    let ask = |text: &str| -> TurnRequest { turn_of(agent.clone(), text) };
    assert_eq!(reply(&host.run(&ask("notes")).await), "No notes yet.");
    let events = host.run(&ask("buy rope")).await;
    assert_eq!(reply(&events), "Noted.", "{events:?}");
    let named =
        |wanted: &str| events.iter().any(|e| matches!(&e.said, Said::Event { name, .. } if name == wanted));
    assert!(named("tool_use") && named("permission") && named("tool_result"), "{events:?}");
    let host = Host::start_in(host.kill()).await;
    assert_eq!(reply(&host.run(&ask("notes")).await), "- buy rope\n");
    assert_eq!(std::fs::read_to_string(host.home().join("notes.txt")).unwrap(), "- buy rope\n");
}
