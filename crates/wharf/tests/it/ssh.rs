//! Repositories behind ssh: a real sshd on this machine, git in real computers, and a key that is in none of them.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use wharf_testkit::sshd::{self, Sshd};

use crate::beyond::Session;
use crate::installation::{Installation, Outside, Part, Runtime, SPACE, image_archive, possible_on};
use crate::{on_every_runtime, planted};

/// The log of a build that has ended, and its state.
async fn built(wharf: &Installation, agent: &str, url: &str) -> (String, String) {
    let space = format!("/v1/spaces/{SPACE}");
    let source = json!({ "git": { "url": url, "ref": "main" }, "image": "base" });
    let build = wharf.post(&format!("{space}/agents/{agent}/build"), source).await;
    let at = format!("{space}/builds/{}", build["id"].as_str().unwrap());
    let since = Instant::now();
    loop {
        let build = wharf.get(&at).await;
        let state = build["state"].as_str().unwrap();
        if matches!(state, "succeeded" | "failed") {
            let log = wharf.bytes(&format!("{at}/log?no_follow=true")).await;
            return (state.to_owned(), String::from_utf8_lossy(&log).into_owned());
        }
        assert!(since.elapsed() < Duration::from_secs(120), "{build}\n{}", wharf.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn change(wharf: &Installation, inject: &Value) {
    let path = format!("/v1/spaces/{SPACE}/connections/forge");
    let (status, said) =
        wharf.call(Method::PATCH, &path, Some(&json!({ "inject": inject })), None).await.unwrap();
    assert!(status.is_success(), "{status} {said}");
}

/// Changes of a connection count for the next request, a moment after they are made.
async fn says(session: &Session<'_>, script: &str, said: &str) {
    let since = Instant::now();
    loop {
        let (code, text) = session.run(script).await;
        if code != 0 && text.contains(said) {
            return;
        }
        assert!(
            since.elapsed() < Duration::from_secs(30),
            "{script}\n{code} {text}\n{}",
            session.wharf.log()
        );
    }
}

on_every_runtime!(repositories_behind_ssh_are_reached_with_a_key_that_is_not_inside);

async fn repositories_behind_ssh_are_reached_with_a_key_that_is_not_inside(runtime: Runtime) {
    let (true, None, Some(archive)) = (possible_on(runtime), sshd::missing(), image_archive("base")) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let sshd = Sshd::start(dir.path());
    let key = sshd.let_in("robot", "ed25519");
    let mut noise = vec![0_u8; 8 << 20];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut noise).unwrap();
    sshd.repository("team/berths", &[("berths", b"7\n".as_slice()), ("noise", noise.as_slice())]);
    let triage = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/agents/triage");
    let files = ["graph.py", "triage.py", "wharf.toml"].map(|f| (f, std::fs::read(triage.join(f)).unwrap()));
    sshd.repository("team/triage", &files.each_ref().map(|(name, bytes)| (*name, bytes.as_slice())));
    sshd.repository("other/secrets", &[("x", b"x")]);

    let port = sshd.port;
    let outside = Outside {
        settings: format!("\n[gateway]\nallow_private = [\"127.0.0.1:{port}\"]\n"),
        hosts: "127.0.0.1 localhost forge.test elsewhere.test\n".to_owned(),
        runtime,
        ..Outside::default()
    };
    let wharf = Installation::start_with(&outside).await;
    wharf.import(&archive, "base").await;
    let space = format!("/v1/spaces/{SPACE}");
    wharf.post(&format!("{space}/secrets"), json!({ "name": "robot", "value": key.private })).await;
    wharf.post(&format!("{space}/agents"), json!({ "name": "triage" })).await;
    let network = json!({ "egress": "allowlist",
        "allow": [format!("forge.test:{port}"), format!("elsewhere.test:{port}")] });
    let session = Session::create(&wharf, "one", "base", network).await;
    let url = format!("ssh://git@forge.test:{port}/team/berths.git");

    // Without a connection there is no way, and what to do is said where git is read.
    says(&session, &format!("git ls-remote {url}"), "wharf connection create NAME --host forge.test").await;
    let agent_url = format!("ssh://git@forge.test:{port}/team/triage.git");
    let (state, log) = built(&wharf, "triage", &agent_url).await;
    assert!(state == "failed" && log.contains("no connection of space lab brings a key"), "{log}");

    let inject = |host_key: &str, push: bool| json!({ "secret": "robot", "ssh": { "user": Sshd::user(), "host_keys": [host_key], "push": push } });
    let [known, _] = &sshd.host_keys;
    let rule = json!({ "host": format!("forge.test:{port}"), "path_prefix": "/team" });
    let other = sshd::key(dir.path(), "other", "ed25519", "");
    let connection = json!({ "name": "forge", "match": rule, "inject": inject(&other.fingerprint, false) });
    wharf.post(&format!("{space}/connections"), connection).await;
    says(&session, &format!("git ls-remote {url}"), &format!("--host-key {}", known.fingerprint)).await;
    assert!(!sshd.log().contains("Accepted"), "{}", sshd.log());
    change(&wharf, &inject(&format!("forge.test {} comment", known.public), false)).await;

    let since = Instant::now();
    while session.run(&format!("rm -rf a; git clone -q {url} a")).await.0 != 0 {
        assert!(
            since.elapsed() < Duration::from_secs(30),
            "{:?}",
            session.run(&format!("git clone {url} a")).await
        );
    }
    assert_eq!(session.ok("git -C a fsck --no-progress && cat a/berths").await, "7");
    assert_eq!(session.ok("wc -c < a/noise").await, noise.len().to_string());
    assert!(sshd.commands().contains("version=2 git-upload-pack"), "{}", sshd.commands());
    // As scp has it, an archive, and as root of the session.
    let scp = format!("git@[forge.test:{port}]:team/berths.git");
    assert_eq!(session.ok(&format!("git clone -q --depth 1 '{scp}' b && cat b/berths")).await, "7");
    assert_eq!(session.ok(&format!("git archive --remote {url} main berths | tar -xO")).await, "7");

    assert_eq!(session.ok(&format!("sudo -E git ls-remote {url} main | wc -l")).await, "1");

    let push = "cd a && echo 8 > berths && git -c user.name=a -c user.email=a@b.test commit -qam more; git push -q origin HEAD:more 2>&1";
    says(&session, push, "wharf connection update forge --push").await;
    change(&wharf, &inject(&known.fingerprint, true)).await;
    let since = Instant::now();
    loop {
        let (code, text) = session.run("cd a && head -c 6000000 /dev/urandom > more && git add more && git -c user.name=a -c user.email=a@b.test commit -qm much; git push -q origin HEAD:more").await;
        if code == 0 {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "{text}");
    }
    let bare = sshd.git().join("team/berths.git");
    let there = Command::new("git").arg("-C").arg(&bare).args(["rev-parse", "more"]).output().unwrap();
    assert_eq!(session.ok("git -C a rev-parse HEAD").await, String::from_utf8(there.stdout).unwrap().trim());

    // Other paths, other servers, other programs.
    for (script, said) in [
        (format!("git ls-remote ssh://git@forge.test:{port}/other/secrets.git"), "forge is for other paths"),
        (
            format!("git ls-remote ssh://git@forge.test:{port}/team/../other/secrets.git"),
            "forge is for other paths",
        ),
        (
            format!("git ls-remote ssh://git@elsewhere.test:{port}/team/berths.git"),
            "no connection of space lab",
        ),
        (format!("git ls-remote ssh://git@denied.test:{port}/team/berths.git"), "network.allow"),
        (format!("git ls-remote --upload-pack=id {url}"), "is not let out"),
        (format!("git ls-remote ssh://git@forge.test:{port}/team/missing.git"), "team/missing.git"),
        (format!("$GIT_SSH_COMMAND -p {port} git@forge.test id"), "is not let out"),
        (format!("$GIT_SSH_COMMAND -p {port} git@forge.test"), "no shell"),
    ] {
        let (code, text) = session.run(&script).await;
        assert!(code != 0 && text.contains(said), "{script}\n{code} {text}");
    }

    // A login that stands open, and the key is in nothing of the session: neither memory nor files.
    session
        .ok(&format!(
            "setsid sh -c 'sleep 300 | $GIT_SSH_COMMAND -p {port} git@forge.test \"git-upload-pack '\\''team/berths.git'\\''\" > /tmp/seen' \
             < /dev/null > /dev/null 2>&1 & for i in $(seq 100); do test -s /tmp/seen && exit 0; sleep 0.1; done; exit 1"
        ))
        .await;
    let inside: Vec<u32> = wharf
        .parts()
        .into_iter()
        .filter(|(part, _)| matches!(part, Part::Host | Part::Inside))
        .map(|(_, pid)| pid)
        .collect();
    // The line that holds the private half, and not the beginning, which is the public one.
    let lines: Vec<&str> = key.private.lines().collect();
    let secret = lines[lines.len() - 3];
    let control = "refs/heads/more";
    let found = planted::look(&inside, &[secret, control]);
    let seen = found[control].to_string();
    assert!(seen.contains("memory of") && seen.contains("/tmp/seen"), "nothing is really looked at: {found}");
    assert_eq!(found[secret], json!([]), "the key is in the session");
    let (begin, end) = secret.split_at(20);
    let grep = format!(
        "begin={begin}; sudo grep -rlaF -e \"$begin\"{end} -e 'PRIVATE KEY-----' /home /root /tmp /var /opt 2>/dev/null | grep -v nothing; true"
    );
    let (_, files) = session.run(&grep).await;
    assert!(!files.contains("/home") && !files.contains("/tmp"), "{files}");

    // The same way leads to an agent.
    let (state, log) = built(&wharf, "triage", &agent_url).await;
    assert!(state == "succeeded" && log.contains("at commit "), "{log}\n{}", wharf.log());
    let (_, log) = built(&wharf, "triage", &format!("ssh://git@forge.test:{port}/other/secrets.git")).await;
    assert!(log.contains("forge is for other paths"), "{log}");
    let two = json!({ "name": "two", "image": "base", "agent": { "package": "triage" } });
    wharf.post(&format!("{space}/sessions?wait=ready"), two).await;
    let said = json!({ "content": "The tanker asks for a place" });
    let said = wharf.post(&format!("{space}/sessions/two/messages?wait=done"), said).await;
    assert!(said.to_string().contains("The tanker goes to berth 5."), "{said}");

    // One line each, without paths; and no key in what anybody is shown.
    let mut shown = String::new();
    for path in ["sessions/one/egress?limit=500", "connections", "builds"] {
        shown += &wharf.get(&format!("{space}/{path}")).await.to_string();
    }
    for word in ["git-upload-pack", "git-receive-pack", "host_keys"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    assert!(!shown.contains(secret) && !wharf.log().contains(secret));
    wharf.finish();
}
