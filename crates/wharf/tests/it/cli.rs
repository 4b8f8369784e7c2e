//! The command line against the real server, as somebody new would use it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::installation::{Installation, Runtime, possible_on};
use crate::on_every_runtime;

/// Somebody with a home directory and the binary.
pub struct User {
    home: PathBuf,
}

impl User {
    pub fn new(wharf: &Installation, name: &str) -> Self {
        let home = wharf.dir().join(name);
        std::fs::create_dir(&home).unwrap();
        Self { home }
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command
            .args(line)
            .env_clear()
            .env("HOME", &self.home)
            .env("PATH", "/usr/bin:/bin")
            .current_dir(&self.home);
        command
    }

    pub fn run(&self, line: &[&str], stdin: &[u8]) -> Output {
        let mut command = self.command(line);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let bytes = stdin.to_vec();
        let feeder = std::thread::spawn(move || drop(input.write_all(&bytes)));
        let out = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        out
    }

    pub fn code(&self, line: &[&str]) -> i32 {
        self.run(line, b"").status.code().unwrap()
    }

    #[track_caller]
    pub fn ok(&self, line: &[&str], stdin: &[u8]) -> Vec<u8> {
        let out = self.run(line, stdin);
        assert!(out.status.success(), "{line:?}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr));
        out.stdout
    }

    #[track_caller]
    pub fn says(&self, line: &[&str]) -> String {
        String::from_utf8(self.ok(line, b"")).unwrap()
    }

    #[track_caller]
    pub fn json(&self, line: &[&str]) -> Value {
        let line: Vec<&str> = ["-o", "json"].into_iter().chain(line.iter().copied()).collect();
        serde_json::from_slice(&self.ok(&line, b"")).unwrap()
    }

    fn completions(&self, line: &[&str]) -> Vec<String> {
        let mut command = self.command(&["--"]);
        command.args(line).env("COMPLETE", "fish");
        let out = command.output().unwrap();
        assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        text.lines().map(|l| l.split('\t').next().unwrap().to_owned()).collect()
    }
}

/// Bytes that are no text, more than a pipe holds.
fn bytes() -> Vec<u8> {
    (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

on_every_runtime!(the_first_hour_on_the_command_line);

async fn the_first_hour_on_the_command_line(runtime: Runtime) {
    if !possible_on(runtime) {
        return;
    }
    let mut wharf = Installation::start_on(runtime).await;
    let admin = User::new(&wharf, "admin");
    login(&wharf, &admin);
    commands_run_as_if_they_ran_here(&admin);
    files_go_both_ways(&admin);
    turns_are_followed(&admin);
    sessions_come_and_go(&admin);
    secrets_stay_what_they_are(&admin);
    rights_are_what_was_given(&wharf, &admin);
    names_are_completed(&admin);
    a_restart_is_not_noticed(&mut wharf, &admin).await;
    admin.ok(&["logout"], b"");
    assert_eq!(admin.code(&["session", "list"]), 4);
    wharf.finish();
}

fn login(wharf: &Installation, admin: &User) {
    let url = format!("http://{}", wharf.address);
    assert_eq!(admin.code(&["session", "list", "--url", &url]), 4, "nobody is let in");
    let password = wharf.dir().join("data/initial-admin-password");
    let wrong =
        admin.run(&["login", &url, "--username", "admin", "--password-file", "-"], b"wrong-password\n");
    assert_eq!(wrong.status.code(), Some(4));
    admin.ok(&["login", &url, "--username", "admin", "--password-file", password.to_str().unwrap()], b"");
    assert_eq!(admin.says(&["whoami", "-o", "name"]), "user/admin\n");
    admin.ok(&["space", "create", "cli", "--use", "--default-image", "tiny"], b"");
    assert_eq!(admin.code(&["space", "create", "cli"]), 5);
}

fn commands_run_as_if_they_ran_here(admin: &User) {
    let made = admin.json(&["session", "create", "one", "--wait", "--label", "kind=test"]);
    assert_eq!(made["state"], "idle", "{made}");
    let both =
        admin.run(&["session", "exec", "one", "--", "sh", "-c", "echo out; echo err >&2; exit 7"], b"");
    assert_eq!(
        (both.status.code(), both.stdout, both.stderr),
        (Some(7), b"out\n".to_vec(), b"err\n".to_vec())
    );
    let bytes = bytes();
    assert!(
        admin.ok(&["session", "exec", "one", "--stdin", "--", "cat"], &bytes) == bytes,
        "bytes are as they were"
    );
    let root = admin.says(&[
        "session",
        "exec",
        "one",
        "--user",
        "root",
        "-e",
        "A=b c",
        "--command",
        "id -u; echo $A",
    ]);
    assert_eq!(root, "0\nb c\n");
    assert_eq!(admin.code(&["session", "exec", "one", "--timeout", "1s", "--", "sleep", "30"]), 124);
    assert_eq!(admin.code(&["session", "exec", "one", "--command", "kill -9 $$"]), 137);
    assert_eq!(admin.code(&["session", "exec", "nobody", "--", "true"]), 3);
    let process = admin.json(&["session", "exec", "one", "--background", "--", "sleep", "60"]);
    let listed = admin.json(&["session", "ps", "one"]);
    assert!(
        listed.as_array().unwrap().iter().any(|p| p["id"] == process["id"] && p["state"] == "running"),
        "{listed}"
    );
}

fn files_go_both_ways(admin: &User) {
    let home = &admin.home;
    std::fs::create_dir_all(home.join("tree/sub/empty")).unwrap();
    std::fs::write(home.join("tree/data"), bytes()).unwrap();
    std::fs::write(home.join("tree/sub/ä b"), "text").unwrap();
    std::os::unix::fs::symlink("data", home.join("tree/link")).unwrap();
    admin.ok(&["session", "cp", "tree", "one:"], b"");
    admin.ok(&["session", "close", "one", "--wait"], b"");
    admin.ok(&["session", "cp", "one:tree", "back"], b"");
    let same = Command::new("diff")
        .args(["-r", "--no-dereference", "tree", "back"])
        .current_dir(home)
        .output()
        .unwrap();
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
    assert_eq!(
        admin.json(&["session", "get", "one"])["state"],
        "closed",
        "looking at files does not wake it"
    );
    admin.ok(&["session", "cp", "-", "one:/tmp/piped"], b"through a pipe");
    assert_eq!(admin.says(&["session", "cp", "one:/tmp/piped", "-"]), "through a pipe");
    assert_eq!(admin.says(&["session", "ls", "one", "tree", "-o", "name"]), "data\nlink\nsub\n");
    assert_eq!(admin.code(&["session", "cp", "one:nothing", "."]), 3);
    assert_eq!(admin.code(&["session", "cp", "tree/data", "one:/no/such/place"]), 3);
}

fn turns_are_followed(admin: &User) {
    let said = admin.ok(&["session", "send", "one", "-"], "cat 'tree/sub/ä b'; echo; echo done".as_bytes());
    assert_eq!(String::from_utf8(said).unwrap(), "text\ndone\n", "it was restored, and its files are there");
    assert_eq!(admin.code(&["session", "send", "one", "exit 3"]), 1);
    let seqs = admin.says(&["session", "events", "one", "-o", "name"]);
    let seqs: Vec<i64> = seqs.lines().map(|l| l.parse().unwrap()).collect();
    assert!(seqs.iter().copied().eq(1..=seqs.len() as i64), "{seqs:?}");
    let rest = admin.says(&["session", "events", "one", "--after", "3", "-o", "name"]);
    assert_eq!(rest.lines().next(), Some("4"));
    let messages = admin.json(&["session", "messages", "one"]);
    assert_eq!(messages.as_array().unwrap().iter().filter(|m| m["role"] == "user").count(), 2);
}

fn sessions_come_and_go(admin: &User) {
    admin.ok(&["session", "snapshot", "create", "one", "before", "--wait"], b"");
    admin.ok(&["session", "exec", "one", "--", "rm", "-r", "tree"], b"");
    admin.ok(&["session", "fork", "one", "two", "--snapshot", "before", "--wait"], b"");
    assert_eq!(admin.code(&["session", "exec", "one", "--", "test", "-e", "tree"]), 1);
    assert_eq!(admin.code(&["session", "exec", "two", "--", "test", "-e", "tree/data"]), 0);
    assert_eq!(admin.says(&["session", "lineage", "two", "-o", "name"]), "one\ntwo\n");
    admin.ok(
        &["session", "update", "two", "--name", "three", "--label", "kind-", "--idle-timeout", "never"],
        b"",
    );
    assert_eq!(admin.says(&["session", "list", "--labels", "kind=test", "-o", "name"]), "one\n");
    assert_eq!(admin.code(&["session", "delete", "one", "three"]), 2, "two at once want a yes");
    admin.ok(&["session", "delete", "three", "--wait"], b"");
    assert_eq!(admin.code(&["session", "get", "three"]), 3);
    admin.ok(&["session", "stats", "one"], b"");
    admin.ok(&["space", "usage"], b"");
}

fn secrets_stay_what_they_are(admin: &User) {
    let value = b"\xff\x00secret\n";
    admin.ok(&["secret", "set", "key", "--file", "-"], value);
    assert_eq!(admin.ok(&["secret", "reveal", "key"], b""), value);
    admin.ok(&["secret", "set", "key", "--file", "-"], b"newer");
    assert_eq!(admin.says(&["secret", "reveal", "key"]), "newer");
    assert_eq!(admin.json(&["secret", "get", "key"])["version"], 2);
    admin.ok(&["secret", "delete", "key"], b"");
    assert_eq!(admin.code(&["secret", "reveal", "key"]), 3);
}

fn rights_are_what_was_given(wharf: &Installation, admin: &User) {
    let url = format!("http://{}", wharf.address);
    admin.ok(&["user", "create", "alice", "--password-file", "-"], b"a password of hers\n");
    admin.ok(&["binding", "create", "--role", "viewer", "--to", "user/alice", "--in", "cli"], b"");
    let alice = User::new(wharf, "alice");
    alice.ok(&["login", &url, "--username", "alice", "--password-file", "-"], b"a password of hers\n");
    assert_eq!(alice.says(&["session", "list", "-o", "name"]), "one\n", "her only space is chosen for her");
    assert_eq!(alice.code(&["session", "exec", "one", "--", "true"]), 4);
    assert_eq!(
        (alice.code(&["can-i", "list", "sessions"]), alice.code(&["can-i", "exec", "sessions"])),
        (0, 4)
    );
    admin.ok(&["service-account", "create", "ci"], b"");
    admin.ok(&["binding", "create", "--role", "developer", "--to", "service-account/ci", "--in", "cli"], b"");
    let token = admin.says(&["token", "create", "ci", "reader", "--rule", "get,list:sessions"]);
    let ci = User::new(wharf, "ci");
    ci.ok(&["login", &url, "--token-file", "-"], token.as_bytes());
    assert_eq!(ci.says(&["session", "list", "-o", "name", "--space", "cli"]), "one\n");
    assert_eq!(
        ci.code(&["session", "delete", "one", "--space", "cli"]),
        4,
        "the token is narrower than its owner"
    );
    admin.ok(&["token", "delete", "ci", "reader"], b"");
    assert_eq!(ci.code(&["session", "list", "--space", "cli"]), 4);
    admin.ok(&["user", "update", "alice", "--disable"], b"");
    assert_eq!(alice.code(&["session", "list"]), 4);
    let denied = admin.json(&["audit", "list", "--outcome", "denied", "--principal", "alice"]);
    assert!(denied.as_array().unwrap().iter().any(|e| e["verb"] == "exec"), "{denied}");
    admin.ok(&["audit", "verify"], b"");
    let exported = admin.says(&["audit", "export"]);
    assert!(
        exported.lines().count() > 20 && exported.lines().all(|l| serde_json::from_str::<Value>(l).is_ok())
    );
}

fn names_are_completed(admin: &User) {
    assert!(admin.completions(&["wharf", "session", "exec", "o"]).contains(&"one".to_owned()));
    assert!(admin.completions(&["wharf", "session", "list", "--space", ""]).contains(&"cli".to_owned()));
    assert!(admin.completions(&["wharf", "session", "cp", "on"]).contains(&"one:".to_owned()));
    let away = admin.completions(&["wharf", "session", "--url", "http://127.0.0.1:1", "get", ""]);
    assert!(
        !away.contains(&"one".to_owned()),
        "a server that is away has no names, and says nothing: {away:?}"
    );
}

async fn a_restart_is_not_noticed(wharf: &mut Installation, admin: &User) {
    let follower = admin
        .command(&["session", "events", "one", "--follow", "-o", "name"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    admin.ok(&["session", "send", "one", "echo before"], b"");
    wharf.stop();
    assert_eq!(admin.code(&["session", "list"]), 6);
    wharf.up().await;
    admin.ok(&["session", "send", "one", "echo after"], b"");
    let last = admin.says(&["session", "events", "one", "-o", "name"]).lines().last().unwrap().to_owned();
    let seqs = tokio::task::spawn_blocking(move || follow_until(follower, &last)).await.unwrap();
    assert!(seqs.iter().copied().eq(1..=seqs.len() as i64), "a gap or a repeat: {seqs:?}");
}

/// What the follower printed, up to that number.
fn follow_until(mut follower: std::process::Child, last: &str) -> Vec<i64> {
    use std::io::{BufRead as _, BufReader};
    let mut seqs = Vec::new();
    for line in BufReader::new(follower.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        seqs.push(line.parse().unwrap());
        if line == last {
            break;
        }
    }
    follower.kill().unwrap();
    follower.wait().unwrap();
    seqs
}
