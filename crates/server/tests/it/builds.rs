//! Agents of a space: built from an upload in a computer of their own, conversed with, gone back with.

use axum::body::Body;
use http::Method;
use serde_json::{Value, json};

use crate::lab::{Answer, Caller, Lab, until};

const AGENTS: &str = "/v1/spaces/lab/agents";
const SESSIONS: &str = "/v1/spaces/lab/sessions";

const GREETER: &str = r#"
import os, pathlib, words
def answer(message, context):
    here = pathlib.Path(context.package)
    return f"{words.GREETING}, {message.text}; built: {(here / 'built').read_text().strip()}; {os.environ['MOOD']}; {context.instructions}"
"#;

/// A tar of these files.
fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let out = std::process::Command::new("tar").arg("-C").arg(dir.path()).args(["-c", "."]).output().unwrap();
    assert!(out.status.success());
    out.stdout
}

async fn build(caller: &Caller, agent: &str, archive: Vec<u8>) -> Answer {
    let request = caller
        .request(Method::POST, &format!("{AGENTS}/{agent}/build"))
        .header("content-type", "application/x-tar")
        .body(Body::from(archive))
        .unwrap();
    caller.send(request).await
}

/// The build at its end, and its log.
async fn ended(caller: &Caller, build: &Value) -> (Value, String) {
    let at = format!("/v1/spaces/lab/builds/{}", build["id"].as_str().unwrap());
    let log = caller.get(&format!("{at}/log?after=0")).await.text();
    let build = caller.get(&at).await.expect(200);
    assert!(build["ended_at"].is_string(), "the log ends with the build: {build} {log}");
    (build, log)
}

fn greeter(greeting: &str, command: &str) -> Vec<(String, String)> {
    let manifest = format!(
        "name = \"greeter\"\ndescription = \"Greets\"\nkind = \"python\"\nentry = \"agent:answer\"\n\
         instructions = \"be kind\"\nenv = {{ MOOD = \"sunny\" }}\n[build]\ncommands = [\"echo building\", {command:?}]\n"
    );
    vec![
        ("wharf.toml".into(), manifest),
        ("agent.py".into(), GREETER.into()),
        ("words.py".into(), format!("GREETING = {greeting:?}")),
    ]
}

fn archive(files: &[(String, String)]) -> Vec<u8> {
    let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    tar(&files)
}

async fn says(caller: &Caller, session: &str, text: &str) -> String {
    let at = format!("{SESSIONS}/{session}/messages?wait=done");
    let said = caller.post(&at, json!({"content": text})).await.expect(202);
    assert_eq!(said["state"], "done", "{said}");
    said["replies"][0]["content"][0]["text"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_reaches_what_the_space_grants_and_not_whatever_its_manifest_asks_for() {
    let lab = Lab::at_work().await;
    let (admin, dora) = (lab.admin().await, lab.actor("dora", &[("developer", Some("lab"))]).await);
    dora.post(AGENTS, json!({"name": "greeter"})).await.expect(201);
    let built = async |by: &Caller, egress: &str| {
        let mut files = greeter("Hello", "echo one > built");
        files[0].1.push_str(&["egress = ", egress, "\n"].concat());
        let begun = build(by, "greeter", archive(&files)).await.expect(202);
        let (build, log) = ended(by, &begun).await;
        let reason = build["reason"].as_str().unwrap_or_default().to_owned();
        assert_eq!(build["state"] == "succeeded", reason.is_empty(), "{build} {log}");
        reason
    };
    let refused = built(&dora, r#"["pypi.org", "evil.example"]"#).await;
    for word in ["reach evil.example, which", "build_egress", "--build-egress", "policies"] {
        assert!(refused.contains(word), "{word}: {refused}");
    }
    assert!(built(&dora, "\"open\"").await.contains("egress open"));
    assert_eq!(built(&dora, r#"["pypi.org", "registry.npmjs.org:443"]"#).await, "");
    // Who may change the space's policies grants what they begin.
    assert_eq!(built(&admin, r#"["evil.example"]"#).await, "");

    let space = "/v1/spaces/lab";
    let grant = json!({"defaults": {"build_egress": ["*.example"]}});
    dora.call(Method::PATCH, space, Some(grant.clone()), &[]).await.refused(403, "forbidden");
    let changed = admin.call(Method::PATCH, space, Some(grant), &[]).await.expect(200);
    assert_eq!(changed["defaults"]["build_egress"], json!(["*.example"]));
    assert_eq!(built(&dora, r#"["evil.example"]"#).await, "");
    assert!(built(&dora, r#"["pypi.org"]"#).await.contains("pypi.org"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_becomes_a_version_that_answers_and_can_be_gone_back_to() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    admin.post(AGENTS, json!({"name": "greeter"})).await.expect(201);
    let none = admin
        .post(SESSIONS, json!({"agent": {"package": "greeter"}}))
        .await
        .refused(422, "invalid_reference");
    assert!(none["detail"].as_str().unwrap().contains("no version yet"), "{none}");

    let begun = build(&admin, "greeter", archive(&greeter("Hello", "echo one > built"))).await.expect(202);
    let (first, log) = ended(&admin, &begun).await;
    assert_eq!((&first["state"], &first["version"]), (&json!("succeeded"), &json!(1)), "{first} {log}");
    for word in ["$ echo building", "an agent of kind python, by its wharf.toml", "packed", "event: build"] {
        assert!(log.contains(word), "{word}: {log}");
    }
    let session = first["session"].as_str().unwrap();
    until(|| async { admin.get(&format!("{SESSIONS}/{session}")).await.status == 404 }).await;

    let body = json!({"name": "one", "agent": {"package": "greeter"}});
    let made = admin.post(&format!("{SESSIONS}?wait=ready"), body).await.expect(201);
    assert_eq!((&made["state"], &made["agent"]["version"]), (&json!("idle"), &json!(1)), "{made}");
    assert!(made["agent"].get("built").is_none());
    assert_eq!(says(&admin, "one", "Ann").await, "Hello, Ann; built: one; sunny; be kind");

    let begun = build(&admin, "greeter", archive(&greeter("Moin", "echo two > built"))).await.expect(202);
    let (second, log) = ended(&admin, &begun).await;
    assert_eq!(second["version"], 2, "{second} {log}");
    assert_eq!(
        says(&admin, "one", "Ann").await,
        "Hello, Ann; built: one; sunny; be kind",
        "it keeps what it has"
    );
    let body = json!({"name": "two", "agent": {"package": "greeter"}});
    admin.post(&format!("{SESSIONS}?wait=ready"), body).await.expect(201);
    assert_eq!(says(&admin, "two", "Ann").await, "Moin, Ann; built: two; sunny; be kind");

    let back = admin.post(&format!("{AGENTS}/greeter/activate"), json!({"version": 1})).await.expect(200);
    assert_eq!(back["active_version"], 1);
    let body = json!({"name": "three", "agent": {"package": "greeter", "name": "hi"}});
    let made = admin.post(&format!("{SESSIONS}?wait=ready"), body).await.expect(201);
    assert_eq!((&made["agent"]["version"], &made["agent"]["name"]), (&json!(1), &json!("hi")));
    let versions = admin.get(&format!("{AGENTS}/greeter/versions")).await.expect(200);
    let active: Vec<bool> =
        versions["items"].as_array().unwrap().iter().map(|v| v["active"] == true).collect();
    assert_eq!(active, [false, true], "{versions}");
    assert_eq!(versions["items"][0]["manifest"]["kind"], "python");
    admin
        .post(&format!("{AGENTS}/greeter/activate"), json!({"version": 9}))
        .await
        .refused(422, "invalid_reference");

    admin.delete(&format!("{AGENTS}/greeter")).await.expect(204);
    assert_eq!(says(&admin, "three", "Ann").await, "Hello, Ann; built: one; sunny; be kind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_says_why_and_changes_nothing() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    admin.post(AGENTS, json!({"name": "greeter"})).await.expect(201);
    let begun = build(&admin, "greeter", archive(&greeter("Hello", "echo one > built"))).await.expect(202);
    ended(&admin, &begun).await;
    for (files, reason) in [
        (greeter("x", "echo oops >&2; exit 3"), "ended with exit code 3"),
        (vec![("README".into(), "nothing".into())], "requirements.txt"),
        (vec![("wharf.toml".into(), "kind = \"pyton\"".into())], "did you mean \"python\"?"),
        (
            vec![("wharf.toml".into(), "kind = \"command\"\nentry = \"./run\"".into())],
            "its entry ./run is not there after the build",
        ),
        (
            vec![("wharf.toml".into(), "kind = \"command\"\nentry = \"run\"\nimage = \"other\"".into())],
            "asks for a place it cannot have: there is no image other",
        ),
        (vec![("wharf.toml".into(), "kind = \"shell\"".into())], "is part of Wharf"),
    ] {
        let begun = build(&admin, "greeter", archive(&files)).await.expect(202);
        let (failed, log) = ended(&admin, &begun).await;
        assert_eq!(failed["state"], "failed", "{log}");
        assert!(failed["reason"].as_str().unwrap().contains(reason), "{failed}");
        assert!(log.contains("failed: "), "{log}");
        if reason.contains("exit code 3") {
            assert!(log.contains("oops"), "{log}");
        }
    }
    let agent = admin.get(&format!("{AGENTS}/greeter")).await.expect(200);
    assert_eq!(agent["active_version"], 1);
    build(&admin, "greeter", Vec::new()).await.refused(422, "invalid_field");
    let begun = build(&admin, "greeter", b"no archive at all".to_vec()).await.expect(202);
    let (failed, _) = ended(&admin, &begun).await;
    assert!(failed["reason"].as_str().unwrap().contains("the upload"), "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_ends_with_its_session_and_bad_sources_are_refused_at_once() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    admin.post(AGENTS, json!({"name": "greeter"})).await.expect(201);
    let begun = build(&admin, "greeter", archive(&greeter("x", "sleep 300"))).await.expect(202);
    let at = format!("/v1/spaces/lab/builds/{}", begun["id"].as_str().unwrap());
    until(|| async {
        admin.get(&format!("{at}/log?after=0&no_follow=true")).await.text().contains("sleep 300")
    })
    .await;
    admin.delete(&format!("{AGENTS}/greeter")).await.refused(409, "in_use");
    admin.delete(&format!("{SESSIONS}/{}", begun["session"].as_str().unwrap())).await.expect(202);
    let (failed, log) = ended(&admin, &begun).await;
    assert_eq!(failed["state"], "failed", "{failed} {log}");

    let keyed = async || {
        let body = archive(&greeter("x", "true"));
        let request = admin
            .request(Method::POST, &format!("{AGENTS}/greeter/build"))
            .header("content-type", "application/x-tar")
            .header("idempotency-key", "once")
            .body(Body::from(body))
            .unwrap();
        admin.send(request).await
    };
    let first = keyed().await.expect(202);
    assert_eq!(keyed().await.expect(202)["id"], first["id"], "the same key and archive are one build");
    let other = admin
        .request(Method::POST, &format!("{AGENTS}/greeter/build"))
        .header("content-type", "application/x-tar")
        .header("idempotency-key", "once")
        .body(Body::from(archive(&greeter("y", "true"))))
        .unwrap();
    admin.send(other).await.refused(409, "idempotency_mismatch");
    ended(&admin, &first).await;

    let start = format!("{AGENTS}/greeter/build");
    for (git, field) in [
        (json!({"url": "file:///srv/x.git"}), "git.url"),
        (json!({"url": "https://user:secret@example.com/x.git"}), "git.url"),
        (json!({"url": "https://example.com/x.git", "ref": "--upload-pack=x"}), "git.ref"),
    ] {
        let problem = admin.post(&start, json!({"git": git})).await.refused(422, "invalid_field");
        assert_eq!(problem["field"], field, "{problem}");
        assert!(!problem["detail"].as_str().unwrap().contains("secret@"), "{problem}");
    }
}

/// A package of one program, with these lines about how it is built.
fn program(build: &str) -> Vec<u8> {
    let manifest = format!("kind = \"command\"\nentry = \"./run\"\n{build}");
    tar(&[("wharf.toml", manifest.as_str()), ("run", "")])
}

const MAKES_IT: &str = "commands = [\"printf '#!/bin/sh' > run && chmod +x run\"]\n";

async fn import(caller: &Caller, name: &str) {
    let request = caller
        .request(Method::POST, &format!("/v1/spaces/lab/images?name={name}"))
        .header("content-type", "application/x-tar")
        .body(Body::from(format!("an archive of {name}")))
        .unwrap();
    caller.send(request).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_goes_on_in_the_image_and_with_the_limits_its_package_asks_for() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    admin.post(AGENTS, json!({"name": "runner"})).await.expect(201);
    import(&admin, "tools").await;
    let place =
        "[build]\nimage = \"tools\"\n".to_owned() + MAKES_IT + "[build.resources]\nmemory_mib = 777\n";
    let begun = build(&admin, "runner", program(&place)).await.expect(202);
    let (done, log) = ended(&admin, &begun).await;
    assert_eq!(done["state"], "succeeded", "{done} {log}");
    assert!(log.contains("it goes on in image tools, with ") && log.contains("777 MiB of memory"), "{log}");
    assert_ne!(done["session"], begun["session"], "another computer");
    for session in [&begun["session"], &done["session"]] {
        let at = format!("{SESSIONS}/{}", session.as_str().unwrap());
        until(|| async { admin.get(&at).await.status == 404 }).await;
    }

    // In the same image the computer gets its limits where it is, and a build that is not wanted is cancelled.
    let limits = "[build]\ncommands = [\"sleep 300\"]\n[build.resources]\nmemory_mib = 778\npids = 99\n";
    let begun = build(&admin, "runner", program(limits)).await.expect(202);
    let at = format!("/v1/spaces/lab/builds/{}", begun["id"].as_str().unwrap());
    let log = format!("{at}/log?after=0&no_follow=true");
    until(|| async { admin.get(&log).await.text().contains("$ sleep 300") }).await;
    let computer = format!("{SESSIONS}/{}", begun["session"].as_str().unwrap());
    let session = admin.get(&computer).await.expect(200);
    assert_eq!(session["resources"]["memory_mib"], 778, "{session}");
    assert_eq!(session["resources"]["pids"], 99, "{session}");
    let viewer = lab.actor("vera", &[("viewer", Some("lab"))]).await;
    viewer.post(&format!("{at}/cancel"), json!({})).await.refused(403, "forbidden");
    let cancelled = admin.post(&format!("{at}/cancel"), json!({})).await.expect(202);
    assert_eq!(
        (&cancelled["state"], &cancelled["reason"]),
        (&json!("cancelled"), &json!("cancelled by admin"))
    );
    let (after, log) = ended(&admin, &begun).await;
    assert_eq!(after, cancelled);
    assert!(log.contains("cancelled by admin"), "{log}");
    until(|| async { admin.get(&computer).await.status == 404 }).await;
    assert_eq!(admin.post(&format!("{at}/cancel"), json!({})).await.expect(202), cancelled, "once is enough");
    let done = format!("/v1/spaces/lab/builds/{}", done["id"].as_str().unwrap());
    admin.post(&format!("{done}/cancel"), json!({})).await.refused(409, "invalid_state");
    assert_eq!(
        admin.get(&at).await.expect(200)["state"],
        "cancelled",
        "whoever worked on it does not undo that"
    );

    // What cannot be had says so: another image than the named one, one that is not there, more than the space has.
    let named = admin
        .request(Method::POST, &format!("{AGENTS}/runner/build?image=base"))
        .header("content-type", "application/x-tar")
        .body(Body::from(program(&place)))
        .unwrap();
    let begun = admin.send(named).await.expect(202);
    let (failed, _) = ended(&admin, &begun).await;
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains("wants to be built in image tools, and base was named"), "{reason}");
    admin.patch("/v1/spaces/lab", json!({"quotas": {"memory_mib": 4096}})).await.expect(200);
    let much = "[build]\ncommands = []\n[build.resources]\nmemory_mib = 8192\n";
    let begun = build(&admin, "runner", program(much)).await.expect(202);
    let (failed, _) = ended(&admin, &begun).await;
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains("a place it cannot have") && reason.contains("memory_mib"), "{reason}");
    let long = "[build]\ncommands = []\ntimeout_seconds = 7200\n";
    let begun = build(&admin, "runner", program(long)).await.expect(202);
    let (failed, _) = ended(&admin, &begun).await;
    assert!(failed["reason"].as_str().unwrap().contains("builds.max_seconds"), "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_builds_of_one_space_hold_up_none_of_another() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    admin.post(AGENTS, json!({"name": "runner"})).await.expect(201);
    let long = "[build]\ncommands = [\"sleep 300\"]\n";
    let mut begun = Vec::new();
    for _ in 0..9 {
        begun.push(build(&admin, "runner", program(long)).await.expect(202));
    }
    let state = async |build: &Value| {
        let at = format!("/v1/spaces/lab/builds/{}", build["id"].as_str().unwrap());
        admin.get(&at).await.expect(200)["state"].as_str().unwrap().to_owned()
    };
    until(|| async { state(&begun[0]).await == "running" && state(&begun[1]).await == "running" }).await;
    admin.post("/v1/spaces", json!({"name": "other"})).await.expect(201);
    admin.post("/v1/spaces/other/agents", json!({"name": "runner"})).await.expect(201);
    let request = admin
        .request(Method::POST, "/v1/spaces/other/agents/runner/build")
        .header("content-type", "application/x-tar")
        .body(Body::from(program(&format!("[build]\n{MAKES_IT}"))))
        .unwrap();
    let other = admin.send(request).await.expect(202);
    let at = format!("/v1/spaces/other/builds/{}", other["id"].as_str().unwrap());
    let log = admin.get(&format!("{at}/log?after=0")).await.text();
    assert_eq!(admin.get(&at).await.expect(200)["state"], "succeeded", "{log}");
    for waiting in &begun[2..] {
        assert_eq!(state(waiting).await, "queued", "a space has two at a time");
    }
    let cancel = format!("/v1/spaces/lab/builds/{}/cancel", begun[0]["id"].as_str().unwrap());
    admin.post(&cancel, json!({})).await.expect(202);
    until(|| async { state(&begun[2]).await == "running" }).await;
    assert_eq!(state(&begun[3]).await, "queued");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_cannot_be_called_fails_the_build_and_not_somebodys_turn() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    admin.post(AGENTS, json!({"name": "greeter"})).await.expect(201);
    let agent = "import json\nGREETING = 'hello'\ndef answer(message, context):\n    return GREETING\nprint('noise')\n";
    let module = "console.log('noise');\nexport const greeting = 'hello';\nexport function answer() {}\n";
    for (kind, entry, reason) in [
        ("python", "agnet:answer", "its entry agnet:answer names module agnet, which is not in the package"),
        ("python", "agent:reply", "its entry agent:reply names reply, which agent has not"),
        ("python", "agent:GREETING", "which is a str and cannot be called"),
        ("python", "needs:answer", "it needs module nowhere_to_be_found, which is not installed"),
        ("python", "wrong:answer", "cannot be imported: SyntaxError"),
        (
            "node",
            "agent.mjs#reply",
            "names reply, which agent.mjs does not export as a function; it exports answer, greeting",
        ),
        ("node", "agnet.mjs#answer", "its entry agnet.mjs is not there after the build"),
        ("node", "needs.mjs#answer", "cannot be imported"),
        ("command", "./agent.py", "its entry ./agent.py is no program: make it one with chmod +x"),
        ("command", "no-such-program", "its entry no-such-program is no program that is found"),
        ("acp", "./missing", "its entry ./missing is not there after the build"),
        // Right, or not to be known here.
        ("python", "agent:answer", ""),
        ("python", "asks:answer", ""),
        ("node", "agent.mjs#answer", ""),
        ("command", "sh", ""),
    ] {
        let manifest = format!("kind = {kind:?}\nentry = {entry:?}\n[build]\ncommands = []\n");
        let files = tar(&[
            ("wharf.toml", manifest.as_str()),
            ("agent.py", agent),
            ("needs.py", "import nowhere_to_be_found\n"),
            (
                "asks.py",
                "import os\nKEY = os.environ['A_KEY_OF_THE_SESSION']\ndef answer(m, c): return KEY\n",
            ),
            ("wrong.py", "def answer(:\n"),
            ("agent.mjs", module),
            ("needs.mjs", "import 'nowhere-to-be-found';\nexport function answer() {}\n"),
        ]);
        let begun = build(&admin, "greeter", files).await.expect(202);
        let (done, log) = ended(&admin, &begun).await;
        if reason.is_empty() {
            assert_eq!(done["state"], "succeeded", "{entry}: {done} {log}");
            let asked = log.contains("is not known: its import raised KeyError");
            assert_eq!(asked, entry == "asks:answer", "{entry}: {log}");
        } else {
            assert_eq!(done["state"], "failed", "{entry}: {log}");
            assert!(done["reason"].as_str().unwrap().contains(reason), "{entry}: {done}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_gets_the_secrets_it_wants_or_no_session() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    admin.post(AGENTS, json!({"name": "mailer"})).await.expect(201);
    let manifest = "kind = \"command\"\nentry = \"sh\"\nsecrets = [\"mail-key\", \"model-key\"]\n[build]\ncommands = []\n";
    let begun = build(&admin, "mailer", tar(&[("wharf.toml", manifest)])).await.expect(202);
    assert_eq!(ended(&admin, &begun).await.0["state"], "succeeded");
    let body = json!({"name": "one", "agents": [{"name": "sh", "kind": "shell"}, {"package": "mailer"}]});
    let wanting = async |word: &str| {
        let problem = admin.post(SESSIONS, body.clone()).await.refused(422, "invalid_reference");
        assert_eq!(problem["field"], "agents.1.package", "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("agent mailer wants secret ") && detail.contains(word), "{detail}");
    };
    wanting("wharf secret set mail-key").await;
    for name in ["mail-key", "model-key"] {
        admin.post("/v1/spaces/lab/secrets", json!({"name": name, "value": "v"})).await.expect(201);
    }
    wanting("no connection and no provider of the space uses it").await;
    let connection = json!({"name": "mail", "match": {"host": "mail.example"}, "inject": {"basic": "x", "secret": "mail-key"}});
    admin.post("/v1/spaces/lab/connections", connection).await.expect(201);
    wanting("wants secret model-key").await;
    let provider = json!({"name": "anthropic", "secret": "model-key"});
    admin.post("/v1/spaces/lab/providers", provider).await.expect(201);
    admin.post(SESSIONS, body.clone()).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_is_not_what_was_built_is_not_run() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    admin.post(AGENTS, json!({"name": "greeter"})).await.expect(201);
    let begun = build(&admin, "greeter", archive(&greeter("Hello", "echo one > built"))).await.expect(202);
    assert_eq!(ended(&admin, &begun).await.0["state"], "succeeded");
    let mut owner = lab.db.owner().await;
    let changed = sqlx::query(
        "update blob_chunks set data = overlay(data placing 'J'::bytea from position('Hello'::bytea in data) for 1)
         where position('Hello'::bytea in data) > 0",
    )
    .execute(&mut owner)
    .await
    .unwrap();
    assert!(changed.rows_affected() > 0);
    let made =
        admin.post(SESSIONS, json!({"name": "one", "agent": {"package": "greeter"}})).await.expect(201);
    let at = format!("{SESSIONS}/{}", made["id"].as_str().unwrap());
    until(|| async { admin.get(&at).await.expect(200)["state"] == "error" }).await;
    let files = admin.get(&format!("{at}/files/opt/wharf/agents/greeter/words.py")).await;
    assert_ne!(files.status, 200, "{}", files.text());
}
