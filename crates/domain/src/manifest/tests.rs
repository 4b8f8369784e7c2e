#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Files = BTreeMap<String, Option<String>>;

fn files<const N: usize>(files: [(&str, &str); N]) -> Files {
    files.into_iter().map(|(name, text)| (name.to_owned(), Some(text.to_owned()))).collect()
}

fn parse(text: &str) -> Manifest {
    Manifest::parse(text, &Files::new()).unwrap()
}

fn refusal(text: &str) -> String {
    let e = Manifest::parse(text, &Files::new()).unwrap_err();
    assert_eq!((e.code, e.field.as_deref()), (Code::InvalidField, Some(FILE)));
    e.public
}

const WHOLE: &str = r#"
name = "greeter"
description = "Says hello"
kind = "python"
entry = "agent:answer"
image = "base"
env = { LANG = "C" }
secrets = ["openai-key"]
egress = ["api.example.com"]
instructions = "Be kind."

[resources]
memory_mib = 2048

[build]
commands = ["python3 -m venv .venv", ".venv/bin/pip install -r requirements.txt"]
egress = ["pypi.org", "*.pythonhosted.org:443"]
timeout_seconds = 60
"#;

#[test]
fn a_manifest_says_everything_once() {
    let m = parse(WHOLE);
    assert_eq!(m.name.unwrap().as_str(), "greeter");
    assert_eq!((m.kind, m.entry), (Kind::Python, vec!["agent:answer".to_owned()]));
    assert_eq!(m.egress, Egress::Allow(vec!["api.example.com".parse().unwrap()]));
    assert_eq!(
        m.build.egress,
        Egress::Allow(vec!["pypi.org".parse().unwrap(), "*.pythonhosted.org:443".parse().unwrap()])
    );
    assert_eq!((m.build.commands.len(), m.build.timeout_seconds), (2, 60));
    let r = m.resources.over(Resources::default());
    assert_eq!((r.memory_mib, r.cpu_millis), (2048, Resources::default().cpu_millis));
    assert_eq!(m.recognised, Recognised::Manifest);
}

#[test]
fn what_a_build_may_reach_is_granted_by_others_than_its_manifest() {
    let granted: Vec<Pattern> =
        ["pypi.org", "*.debian.org", "git.example:8443"].map(|p| p.parse().unwrap()).into();
    let beyond = |egress: Egress| egress.beyond(&granted);
    let wants = |hosts: &[&str]| beyond(Egress::Allow(hosts.iter().map(|p| p.parse().unwrap()).collect()));
    assert!(beyond(Egress::None).is_empty());
    assert_eq!(beyond(Egress::Open).len(), 1);
    assert!(
        wants(&[
            "pypi.org",
            "pypi.org:443",
            "deb.debian.org",
            "*.snapshot.debian.org",
            "*.debian.org:80",
            "git.example:8443"
        ])
        .is_empty()
    );
    let more =
        ["pypi.org:8080", "*.pypi.org", "debian.org", "*.org", "git.example", "evil.example", "xdebian.org"];
    assert_eq!(wants(&more), more);
    assert!(registries().len() > 10 && Egress::Allow(registries()).beyond(&registries()).is_empty());
}

#[test]
fn egress_named_once_holds_for_the_build_too() {
    let m = parse("kind = \"command\"\nentry = \"./run\"\negress = \"open\"\n");
    assert_eq!((m.egress, m.build.egress), (Egress::Open, Egress::Open));
    let m = parse("kind = \"command\"\nentry = \"./run\"\negress = \"open\"\n[build]\negress = \"none\"\n");
    assert_eq!((m.egress, m.build.egress), (Egress::Open, Egress::None));
}

#[test]
fn a_wrong_key_is_told_with_its_line_and_the_nearest_known_one() {
    let detail = refusal("kind = \"command\"\nentri = \"./run\"\n");
    assert!(
        detail.contains("line 2") && detail.contains("\"entri\"") && detail.contains("\"entry\""),
        "{detail}"
    );
    let detail = refusal("kind = \"command\"\nentry = \"./run\"\n[build]\ncomands = []\n");
    assert!(detail.contains("\"commands\""), "{detail}");
    let detail = refusal("kind = \"command\"\nentry = \"./run\"\n[resources]\nmemory = 3\n");
    assert!(detail.contains("memory_mib"), "{detail}");
    let detail = refusal("xyzzyplugh = 1\n");
    assert!(detail.contains("known are") && detail.contains("secrets"), "{detail}");
}

#[test]
fn what_cannot_be_meant_is_refused_with_what_to_write() {
    for (text, word) in [
        ("", "names no kind"),
        ("kind = \"pyton\"", "\"python\""),
        ("kind = \"python\"", "module:function"),
        ("kind = \"python\"\nentry = \"agent.py\"", "module:function"),
        ("kind = \"python\"\nentry = \"1x:f\"", "module:function"),
        ("kind = \"node\"\nentry = \"../x.mjs#f\"", "file#export"),
        ("kind = \"node\"\nentry = [\"a.mjs\", \"b.mjs\"]", "file#export"),
        ("kind = \"command\"\nentry = \"./run --fast\"", "as a list"),
        ("kind = \"command\"\nentry = []", "program and arguments"),
        ("kind = \"shell\"\nentry = \"./run\"", "has no entry"),
        ("kind = \"command\"\nentry = \"./run\"\negress = \"some\"", "\"open\""),
        ("kind = \"command\"\nentry = \"./run\"\negress = [\"http://x\"]", "http://x"),
        ("kind = \"command\"\nentry = \"./run\"\negress = [\"x:99999\"]", "99999"),
        ("kind = \"command\"\nentry = \"./run\"\n[resources]\npids = 1", "between 8"),
        ("kind = \"command\"\nentry = \"./run\"\n[build]\ntimeout_seconds = 0", "timeout_seconds"),
        ("kind = \"command\"\nentry = \"./run\"\n[build]\ncommands = [\" \"]", "build.commands"),
        ("kind = \"command\"\nentry = \"./run\"\nenv = { \"A=B\" = \"c\" }", "cannot be set"),
        ("kind = \"command\"\nentry = \"./run\"\nname = \"No Name\"", "is not a name"),
        ("kind = ", "line 1"),
    ] {
        let detail = refusal(text);
        assert!(detail.contains(word), "{text:?}: {detail}");
    }
}

#[test]
fn a_repository_without_a_manifest_is_recognised() {
    let rust = detect(&files([
        ("Cargo.toml", "[package]\nname = \"my_agent\"\n[[bin]]\nname = \"talker\"\npath = \"x.rs\"\n"),
        ("Cargo.lock", ""),
    ]))
    .unwrap();
    assert_eq!((rust.kind, rust.entry[0].as_str()), (Kind::Command, "./bin/talker"));
    assert_eq!(rust.name.unwrap().as_str(), "my-agent");
    assert!(
        rust.build.commands[0].contains("--no-install-recommends cargo"),
        "Debian's, where there is none"
    );
    assert!(rust.build.commands[1].contains("--locked"));

    let python = detect(&files([("requirements.txt", "langgraph\n"), ("agent.py", "")])).unwrap();
    assert_eq!((python.kind, python.entry[0].as_str()), (Kind::Python, "agent:answer"));
    assert!(
        matches!(&python.build.egress, Egress::Allow(hosts) if hosts.contains(&"pypi.org".parse().unwrap()))
    );

    let project =
        detect(&files([("pyproject.toml", "[project]\nname = \"Nice.Agent\"\n"), ("main.py", "")])).unwrap();
    assert_eq!((project.name.unwrap().as_str(), project.recognised), ("nice-agent", Recognised::Pyproject));

    let node = detect(&files([("package.json", r#"{"name":"@x/bot","main":"lib/a.js"}"#)])).unwrap();
    assert_eq!((node.kind, node.entry[0].as_str()), (Kind::Node, "lib/a.js"));
    assert!(node.build.commands.is_empty(), "nothing to install, nothing to run");
    assert_eq!(node.build.egress, Egress::None);
    let node = detect(&files([
        ("package.json", r#"{"dependencies":{"zod":"4"}}"#),
        ("package-lock.json", "{}"),
        ("index.mjs", ""),
    ]))
    .unwrap();
    assert!(node.build.commands[0].contains("npm ci --omit=dev"));
}

#[test]
fn a_lockfile_is_followed_where_its_tool_is_there_and_told_of_where_it_is_not() {
    for (file, tool) in [("uv.lock", "uv sync --frozen"), ("poetry.lock", "poetry install")] {
        let m = detect(&files([("pyproject.toml", ""), ("agent.py", ""), (file, "")])).unwrap();
        let command = &m.build.commands[0];
        assert!(command.contains(tool) && command.contains(&format!("{file} is not followed")), "{command}");
    }
    let package = ("package.json", r#"{"dependencies":{"zod":"4"}}"#);
    let m = detect(&files([package, ("pnpm-lock.yaml", ""), ("index.mjs", "")])).unwrap();
    assert!(m.build.commands[0].contains("pnpm install --frozen-lockfile --prod"), "{m:?}");
    // Every one of them names a cache.
    for file in ["Cargo.lock", "pnpm-lock.yaml", "yarn.lock", "uv.lock", "poetry.lock", "package-lock.json"] {
        assert!(lockfiles().contains(&file), "{file}");
    }
}

#[test]
fn where_a_package_is_built_is_read_without_the_rest_of_it() {
    let text = "kind = \"python\"\nimage = \"base\"\n[build]\nimage = \"tools\"\n[build.resources]\nmemory_mib = 4096\n";
    let at = place(text);
    assert_eq!(at.image.as_ref().map(Name::as_str), Some("tools"));
    assert_eq!(at.resources, Limits { memory_mib: Some(4096), ..Limits::default() });
    assert_eq!(place("image = \"base\"\n").image.as_ref().map(Name::as_str), Some("base"));
    assert_eq!(place("imag = \"base\"\n"), Place::default(), "the build itself tells what is wrong");
    let both = Limits { pids: Some(9), ..at.resources }.or(Limits {
        memory_mib: Some(1),
        cpu_millis: Some(5),
        ..Limits::default()
    });
    assert_eq!((both.memory_mib, both.cpu_millis, both.pids), (Some(4096), Some(5), Some(9)));
}

#[test]
fn what_is_not_recognised_is_told_what_to_add() {
    let e = detect(&files([("README.md", "")])).unwrap_err();
    assert!(e.public.contains("requirements.txt") && e.public.contains(FILE));
    let e = detect(&files([("requirements.txt", "")])).unwrap_err();
    assert!(e.public.contains("kind python") && e.public.contains("module:function"), "{}", e.public);
    let e = detect(&files([("Cargo.toml", "[[bin]]\nname=\"a\"\n[[bin]]\nname=\"b\"\n")])).unwrap_err();
    assert!(e.public.contains("Cargo.toml"), "{}", e.public);
}

#[test]
fn a_manifest_leaves_to_the_files_what_it_does_not_say() {
    let source = files([("requirements.txt", "x\n"), ("agent.py", "")]);
    let m = Manifest::parse("name = \"a\"\n", &source).unwrap();
    assert_eq!((m.kind, m.entry[0].as_str(), m.build.commands.len()), (Kind::Python, "agent:answer", 2));
    assert!(matches!(m.build.egress, Egress::Allow(_)) && m.egress == Egress::None);
    let m =
        Manifest::parse("kind = \"python\"\nentry = \"other:f\"\n[build]\ncommands = []\n", &source).unwrap();
    assert!(m.build.commands.is_empty() && m.build.egress == Egress::None);
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_fall(text in ".{0,200}") {
        let _ = Manifest::parse(&text, &Files::new());
    }

    #[test]
    fn no_repository_makes_detection_fall(cargo in ".{0,80}", package in ".{0,80}", project in ".{0,80}") {
        let _ = detect(&files([("Cargo.toml", cargo.as_str())]));
        let _ = detect(&files([("package.json", package.as_str())]));
        let _ = detect(&files([("pyproject.toml", project.as_str())]));
    }

    #[test]
    fn one_letter_wrong_is_always_guessed(key in prop::sample::select(vec![
        "name", "description", "kind", "entry", "image", "secrets", "egress", "resources", "instructions", "build",
    ]), at in any::<prop::sample::Index>()) {
        let mut wrong = key.to_owned();
        wrong.remove(at.index(key.len()));
        let detail = refusal(&format!("{wrong} = 1\n"));
        prop_assert!(detail.contains(&format!("{key:?}")), "{detail}");
    }

    #[test]
    fn what_is_accepted_passes_its_own_checks(kind in prop::sample::select(Kind::ALL.to_vec()), entry in "[a-z:#./ ]{0,12}") {
        let text = format!("kind = \"{kind}\"\nentry = \"{entry}\"\n");
        if let Ok(m) = Manifest::parse(&text, &Files::new()) {
            prop_assert!(m.kind.check_entry(&m.entry).is_ok());
        }
    }
}
