//! Repositories as their users see them: with the real git client, against a real listener.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use wharf_server::{App, Git};

use crate::lab::{Caller, Lab, until};

/// What hooks run here: built beside the tests.
pub fn hook_program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let program = own.parent().unwrap().parent().unwrap().join("examples/git-hook");
    assert!(program.exists(), "build it first: cargo build -p wharf-server --example git-hook");
    program
}

/// A laboratory with a listener, a space `lab` and a repository `demo` in it.
struct Harbour {
    lab: Lab,
    admin: Caller,
    address: std::net::SocketAddr,
    home: tempfile::TempDir,
}

const REPO: &str = "/v1/spaces/lab/repos/demo";

/// Somebody's working directory.
struct Work {
    dir: PathBuf,
    home: PathBuf,
}

/// A user of whose the machine's own settings are not.
fn client(home: &Path, dir: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", home)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C.UTF-8")
        .current_dir(dir)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

impl Work {
    async fn run(&self, line: &[&str]) -> Output {
        let ran = client(&self.home, &self.dir).args(line).output();
        tokio::time::timeout(Duration::from_secs(120), ran).await.expect("git in time").unwrap()
    }

    #[track_caller]
    fn ok(&self, line: &[&str]) -> impl Future<Output = String> {
        let at = std::panic::Location::caller();
        async move {
            let out = self.run(line).await;
            assert!(out.status.success(), "{at}: git {line:?}: {}", said(&out));
            said(&out).trim().to_owned()
        }
    }

    /// Fails, and says all of this.
    #[track_caller]
    fn refused(&self, line: &[&str], wants: &[&str]) -> impl Future<Output = String> {
        let at = std::panic::Location::caller();
        async move {
            let out = self.run(line).await;
            assert!(!out.status.success(), "{at}: git {line:?} was let through: {}", said(&out));
            // Where git breaks a line is its own affair.
            let text = said(&out);
            for want in wants {
                assert!(text.contains(want), "{at}: {want:?} is not in\n{text}");
            }
            text
        }
    }

    async fn write(&self, file: &str, content: &[u8], message: &str) -> String {
        std::fs::write(self.dir.join(file), content).unwrap();
        self.ok(&["add", "."]).await;
        self.ok(&["commit", "-q", "-m", message]).await;
        self.ok(&["rev-parse", "HEAD"]).await
    }
}

/// Bytes that no packing makes smaller.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(len).collect()
}

impl Harbour {
    async fn new() -> Self {
        Self::with(json!({"name": "demo"})).await
    }

    async fn with(repo: Value) -> Self {
        let mut lab = Lab::new().await;
        let address = lab.listen().await;
        let admin = lab.admin().await;
        admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
        admin.post("/v1/spaces/lab/repos", repo).await.expect(201);
        let home = tempfile::tempdir().unwrap();
        let config = "[user]\nname = Ada\nemail = ada@example.org\n[init]\ndefaultBranch = main\n[protocol]\nversion = 2\n";
        std::fs::write(home.path().join(".gitconfig"), config).unwrap();
        Self { lab, admin, address, home }
    }

    fn url(&self, user: &str, password: &str) -> String {
        format!("http://{user}:{password}@{}/git/lab/demo.git", self.address)
    }

    fn by_password(&self) -> String {
        self.url("admin", &self.lab.password)
    }

    fn work(&self, name: &str) -> Work {
        let dir = self.home.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        Work { dir, home: self.home.path().to_owned() }
    }

    /// A directory with one commit, and `origin` set.
    async fn begun(&self, name: &str) -> Work {
        let work = self.work(name);
        work.ok(&["init", "-q"]).await;
        work.ok(&["remote", "add", "origin", &self.by_password()]).await;
        work.write("readme", b"one\n", "one").await;
        work
    }

    async fn cloned(&self, name: &str) -> Work {
        let work = self.work(name);
        work.ok(&["clone", "-q", &self.by_password(), "."]).await;
        work
    }

    async fn repo(&self) -> Value {
        self.admin.get(REPO).await.expect(200)
    }

    async fn branches(&self) -> Vec<Value> {
        self.admin.get(&format!("{REPO}/branches")).await.expect(200)["items"].as_array().unwrap().clone()
    }

    async fn head(&self, branch: &str) -> Option<String> {
        let all = self.branches().await;
        all.iter().find(|b| b["name"] == branch).map(|b| b["commit"].as_str().unwrap().to_owned())
    }

    /// Where it lies.
    async fn dir(&self) -> PathBuf {
        let id = self.repo().await["id"].as_str().unwrap().to_owned();
        self.root().join("repos").join(format!("{id}.git"))
    }

    fn root(&self) -> PathBuf {
        self.lab.app.settings.git_dir()
    }

    /// Everything in it is whole, and nothing half made lies about.
    async fn sound(&self) {
        let dir = self.dir().await;
        // The collector may be at work: what it has in hand is its own.
        until(|| async { leftovers(&dir).is_empty() }).await;
        let out = client(self.home.path(), &dir)
            .args(["--git-dir", ".", "fsck", "--full", "--strict"])
            .output()
            .await
            .unwrap();
        assert!(out.status.success() && !said(&out).contains("missing"), "{}", said(&out));
    }

    /// What was pushed, as events tell it: ref, old, new.
    async fn pushed(&self) -> Vec<(String, String, String)> {
        let mut events = self.admin.events("/v1/spaces/lab/events?after=0-0").await;
        let mut all = Vec::new();
        // A change that comes after all others ends the list.
        let mark = format!("mark-{}", wharf_domain::RepoId::new());
        self.admin.post("/v1/spaces/lab/secrets", json!({"name": mark, "value": "v"})).await.expect(201);
        while let Some(event) = events.next().await {
            if event.event == "repo.pushed" {
                let data = &event.data["data"];
                let text = |k: &str| data[k].as_str().unwrap().to_owned();
                all.push((text("ref"), text("old"), text("new")));
            }
            if event.data["name"] == mark.as_str() {
                self.admin.delete(&format!("/v1/spaces/lab/secrets/{mark}")).await.expect(204);
                return all;
            }
        }
        panic!("the events ended");
    }
}

fn leftovers(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(at) = dirs.pop() {
        for entry in std::fs::read_dir(at).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.strip_suffix(".lock").is_some() || name.starts_with("tmp_") || name.contains("incoming") {
                found.push(entry.path());
            } else if entry.path().is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    found
}

/// Processes of git that work below a directory.
fn workers(root: &Path) -> Vec<u32> {
    let needle = root.display().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let read = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&read("environ")).into_owned();
        environment.contains(&format!("GIT_PROJECT_ROOT={needle}")) && !read("cmdline").is_empty()
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_can_be_cloned_and_is_told_once() {
    let harbour = Harbour::new().await;
    let made = harbour.repo().await;
    assert_eq!(made["default_branch"], "main");
    assert_eq!(made["protected"], json!(["main"]));
    assert!(made["clone_url"].as_str().unwrap().ends_with("/git/lab/demo.git"), "{made}");
    assert_eq!(made["pushed_at"], Value::Null);
    assert!(harbour.branches().await.is_empty());

    let ada = harbour.begun("ada").await;
    let first = ada.ok(&["rev-parse", "HEAD"]).await;
    ada.ok(&["push", "-q", "origin", "main"]).await;
    ada.ok(&["tag", "-a", "v1", "-m", "the first"]).await;
    ada.ok(&["push", "-q", "origin", "v1", "main:refs/heads/side/ünï"]).await;

    let bob = harbour.cloned("bob").await;
    assert_eq!(std::fs::read(bob.dir.join("readme")).unwrap(), b"one\n");
    assert_eq!(bob.ok(&["rev-parse", "HEAD"]).await, first);
    assert_eq!(bob.ok(&["tag"]).await, "v1");
    let second = bob.write("readme", b"two\n", "two").await;
    bob.ok(&["push", "-q"]).await;
    ada.ok(&["pull", "-q", "--ff-only", "origin", "main"]).await;
    assert_eq!(ada.ok(&["rev-parse", "HEAD"]).await, second);

    let branches = harbour.branches().await;
    assert_eq!(branches.len(), 2);
    assert_eq!((&branches[0]["name"], &branches[0]["commit"]), (&json!("main"), &json!(second)));
    assert_eq!((&branches[0]["default"], &branches[0]["protected"]), (&json!(true), &json!(true)));
    assert_eq!((&branches[0]["author"], &branches[0]["subject"]), (&json!("Ada"), &json!("two")));
    assert_eq!((&branches[1]["name"], &branches[1]["protected"]), (&json!("side/ünï"), &json!(false)));
    let page = harbour.admin.get(&format!("{REPO}/branches?limit=1")).await.expect(200);
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = harbour.admin.get(&format!("{REPO}/branches?limit=1&cursor={cursor}")).await.expect(200);
    assert_eq!((&rest["items"][0]["name"], &rest["next_cursor"]), (&json!("side/ünï"), &Value::Null));

    let zero = "0".repeat(40);
    let told = harbour.pushed().await;
    let refs: Vec<&str> = told.iter().map(|(r, ..)| r.as_str()).collect();
    assert_eq!(refs, ["refs/heads/main", "refs/tags/v1", "refs/heads/side/ünï", "refs/heads/main"]);
    assert_eq!((&told[0].1, &told[0].2), (&zero, &first));
    assert_eq!((&told[3].1, &told[3].2), (&first, &second));
    let audit = harbour.admin.get("/v1/audit?verb=push").await.expect(200);
    let entries = audit["items"].as_array().unwrap();
    assert_eq!(entries.len(), 3, "{audit}");
    assert!(entries.iter().all(|e| e["outcome"] == "allowed" && e["principal"] == "user/admin"), "{audit}");
    let now = harbour.repo().await;
    assert!(
        now["pushed_at"].is_string() && now["size_bytes"].as_u64() > made["size_bytes"].as_u64(),
        "{now}"
    );
    harbour.sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protected_branch_is_neither_rewound_nor_deleted_until_that_is_lifted() {
    let harbour = Harbour::with(json!({"name": "demo", "protected": ["main", "release/*"]})).await;
    let ada = harbour.begun("ada").await;
    let first = ada.ok(&["rev-parse", "HEAD"]).await;
    let second = ada.write("readme", b"two\n", "two").await;
    ada.ok(&["push", "-q", "origin", "main", "main:release/1", "main:topic"]).await;
    ada.ok(&["reset", "-q", "--hard", &first]).await;
    let other = ada.write("readme", b"three\n", "three").await;

    let wants = [
        "branch main is protected",
        "forced push",
        "wharf repo update demo --unprotect 'main'",
        "remote rejected",
    ];
    ada.refused(&["push", "--force", "origin", "main"], &wants).await;
    ada.refused(
        &["push", "origin", "+main:release/1"],
        &["branch release/1 is protected", "--unprotect 'release/*'"],
    )
    .await;
    ada.refused(&["push", "origin", ":release/1"], &["branch release/1 is protected and cannot be deleted"])
        .await;
    // All or nothing: what would be allowed goes no further than the rest.
    ada.refused(&["push", "--force", "origin", "main", "main:topic"], &["nothing of this push was taken"])
        .await;
    assert_eq!(harbour.head("main").await.as_deref(), Some(second.as_str()));
    assert_eq!(harbour.head("topic").await.as_deref(), Some(second.as_str()));
    assert_eq!(harbour.pushed().await.len(), 3);
    let denied = harbour.admin.get("/v1/audit?verb=push&outcome=denied").await.expect(200);
    assert_eq!(denied["items"].as_array().unwrap().len(), 4, "{denied}");

    ada.ok(&["push", "-q", "--force", "origin", "main:topic"]).await;
    ada.ok(&["push", "-q", "origin", ":topic"]).await;
    harbour.admin.patch(REPO, json!({"protected": []})).await.expect(200);
    ada.ok(&["push", "-q", "--force", "origin", "main"]).await;
    assert_eq!(harbour.head("main").await.as_deref(), Some(other.as_str()));
    ada.refused(&["push", "origin", ":main"], &["default branch", "--default-branch"]).await;
    // Another default, and a clone follows it.
    harbour.admin.patch(REPO, json!({"default_branch": "release/1"})).await.expect(200);
    let bob = harbour.cloned("bob").await;
    assert_eq!(bob.ok(&["branch", "--show-current"]).await, "release/1");
    ada.ok(&["push", "-q", "origin", ":main"]).await;
    harbour.sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tens_of_megabytes_come_and_go_and_a_shallow_clone_takes_few_of_them() {
    let harbour = Harbour::new().await;
    let ada = harbour.begun("ada").await;
    let big = noise(40 << 20, 7);
    ada.write("big", &big, "big").await;
    ada.write("big", b"small again\n", "small").await;
    ada.ok(&["push", "-q", "origin", "main"]).await;
    let size = harbour.repo().await["size_bytes"].as_u64().unwrap();
    assert!(size > 40 << 20, "{size}");
    let usage = harbour.admin.get("/v1/spaces/lab/usage").await.expect(200);
    assert_eq!(usage["git_bytes"]["used"], size);

    let shallow = harbour.work("shallow");
    shallow.ok(&["clone", "-q", "--depth", "1", &harbour.by_password(), "."]).await;
    assert_eq!(shallow.ok(&["rev-list", "--count", "HEAD"]).await, "1");
    let kept = std::fs::read_dir(shallow.dir.join(".git/objects/pack")).unwrap().flatten();
    let kept: u64 = kept.map(|e| e.metadata().unwrap().len()).sum();
    assert!(kept < 1 << 20, "{kept}");
    shallow.ok(&["fetch", "-q", "--unshallow"]).await;
    assert_eq!(shallow.ok(&["rev-list", "--count", "HEAD"]).await, "3");
    let out = client(harbour.home.path(), &shallow.dir).args(["show", "HEAD~1:big"]).output().await.unwrap();
    assert!(out.stdout == big);
    // Without the blobs until they are needed; and in the older protocol.
    let partial = harbour.work("partial");
    partial.ok(&["clone", "-q", "--filter=blob:none", &harbour.by_password(), "."]).await;
    assert_eq!(partial.ok(&["log", "--oneline"]).await.lines().count(), 3);
    let older = harbour.work("older");
    older.ok(&["-c", "protocol.version=0", "clone", "-q", &harbour.by_password(), "."]).await;
    harbour.sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_pushes_to_one_branch_at_the_same_time_one_wins_and_the_others_are_told() {
    let harbour = Harbour::new().await;
    let ada = harbour.begun("ada").await;
    ada.ok(&["push", "-q", "origin", "main"]).await;
    let mut crew = Vec::new();
    for n in 0..4 {
        let work = harbour.cloned(&format!("crew-{n}")).await;
        let commit = work.write("readme", format!("{n}\n").as_bytes(), &format!("by {n}")).await;
        crew.push((work, commit));
    }
    let line = ["push", "-q", "origin", "HEAD:main"];
    let outs = futures_util::future::join_all(crew.iter().map(|(work, _)| work.run(&line))).await;
    let won: Vec<usize> = (0..4).filter(|n| outs[*n].status.success()).collect();
    let all: Vec<String> = outs.iter().map(said).collect();
    assert_eq!(won.len(), 1, "{all:#?}");
    assert_eq!(harbour.head("main").await.as_deref(), Some(crew[won[0]].1.as_str()));
    for (n, text) in all.iter().enumerate().filter(|(n, _)| *n != won[0]) {
        assert!(
            text.contains("somebody else pushed meanwhile") || text.contains("fetch first"),
            "{n}: {text}"
        );
    }
    // To branches of their own all of them win.
    let lines: Vec<String> = (0..4).map(|n| format!("HEAD:topic-{n}")).collect();
    let own = futures_util::future::join_all(
        crew.iter()
            .zip(&lines)
            .map(|((work, _), refs)| async move { work.run(&["push", "-q", "origin", refs]).await }),
    );
    for out in own.await {
        assert!(out.status.success(), "{}", said(&out));
    }
    assert_eq!(harbour.pushed().await.len(), 6);
    harbour.sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_over_a_quota_is_refused_by_name_and_costs_nothing() {
    let harbour = Harbour::with(json!({"name": "demo", "max_bytes": 1 << 20})).await;
    let ada = harbour.begun("ada").await;
    let first = ada.ok(&["rev-parse", "HEAD"]).await;
    ada.ok(&["push", "-q", "origin", "main"]).await;
    let before = harbour.repo().await["size_bytes"].as_u64().unwrap();
    ada.write("big", &noise(3 << 20, 3), "big").await;
    let wants = [
        "repository demo may hold 1048576 bytes",
        "this push brings",
        "raise its max_bytes",
        "pre-receive hook declined",
    ];
    ada.refused(&["push", "origin", "main"], &wants).await;
    assert_eq!(harbour.head("main").await.as_deref(), Some(first.as_str()));
    assert_eq!(harbour.repo().await["size_bytes"], before);
    harbour.sound().await;

    harbour.admin.patch(REPO, json!({"max_bytes": null})).await.expect(200);
    harbour.admin.patch("/v1/spaces/lab", json!({"quotas": {"git_bytes": 2 << 20}})).await.expect(200);
    ada.refused(&["push", "origin", "main"], &["quota git_bytes is 2097152"]).await;
    assert_eq!(harbour.admin.get("/v1/spaces/lab/usage").await.expect(200)["git_bytes"]["used"], before);
    harbour.admin.patch("/v1/spaces/lab", json!({"quotas": {"git_bytes": null}})).await.expect(200);
    ada.ok(&["push", "-q", "origin", "main:big"]).await;
    let full = harbour.repo().await["size_bytes"].as_u64().unwrap();
    assert!(full > 3 << 20);
    // What a deleted branch held comes back, by itself.
    ada.ok(&["push", "-q", "origin", ":big"]).await;
    let harbour = &harbour;
    until(|| async move { harbour.repo().await["size_bytes"].as_u64().unwrap() < 1 << 20 }).await;
    let used = harbour.admin.get("/v1/spaces/lab/usage").await.expect(200)["git_bytes"]["used"].clone();
    assert_eq!(used, harbour.repo().await["size_bytes"]);
    harbour.sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_clone_and_who_may_push() {
    let harbour = Harbour::new().await;
    let ada = harbour.begun("ada").await;
    ada.ok(&["push", "-q", "origin", "main"]).await;
    let lab = &harbour.lab;
    let token = |caller: Caller| caller.token.unwrap();
    let viewer = token(lab.actor("vera", &[("viewer", Some("lab"))]).await);
    let developer = token(lab.actor("dora", &[("developer", Some("lab"))]).await);
    let agent = token(lab.actor("alan", &[("agent", Some("lab"))]).await);
    let stranger = token(lab.actor("sam", &[]).await);
    let plain = format!("http://{}/git/lab/demo.git", harbour.address);

    let work = harbour.work("who");
    let clone = |url: &str, to: &str| vec!["clone".to_owned(), "-q".into(), url.to_owned(), to.to_owned()];
    let try_clone = async |url: &str, to: &str| {
        let line = clone(url, to);
        work.run(&line.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    for (n, (url, wanted)) in [
        (harbour.url("whoever", &viewer), "ok"),
        (harbour.url("whoever", &developer), "ok"),
        (harbour.by_password(), "ok"),
        // Without .git, as many write it.
        (harbour.by_password().trim_end_matches(".git").to_owned(), "ok"),
        (harbour.url("whoever", &agent), "not found"),
        (harbour.url("whoever", &stranger), "not found"),
        (harbour.url("admin", "wrong"), "Authentication failed"),
        (harbour.url("whoever", "wharf_wrong"), "Authentication failed"),
        (harbour.url("nobody-there", "wrong"), "Authentication failed"),
        (plain.clone(), "could not read Username"),
        (harbour.by_password().replace("demo", "other"), "there is no repository other that you may see"),
        (harbour.by_password().replace("/lab/", "/other/"), "there is no space other that you may see"),
    ]
    .into_iter()
    .enumerate()
    {
        let out = try_clone(&url, &format!("c{n}")).await;
        let text = said(&out);
        if wanted == "ok" {
            assert!(out.status.success(), "{url}: {text}");
        } else {
            assert!(!out.status.success() && text.contains(wanted), "{url}: {text}");
        }
    }
    let bearer = format!("http.extraHeader=Authorization: Bearer {developer}");
    work.ok(&["-c", &bearer, "clone", "-q", &plain, "bearer"]).await;

    ada.write("readme", b"two\n", "two").await;
    ada.refused(&["push", &harbour.url("x", &viewer), "main"], &["you may not update repos demo", "403"])
        .await;
    ada.refused(&["push", &harbour.url("x", &stranger), "main"], &["not found"]).await;
    ada.ok(&["push", "-q", &harbour.url("x", &developer), "main"]).await;

    // As the protocol has it: who showed nothing is asked for it, once for each kind of service.
    let nobody = lab.nobody();
    for path in ["info/refs?service=git-upload-pack", "info/refs?service=git-receive-pack"] {
        let answer = nobody.get(&format!("/git/lab/demo.git/{path}")).await;
        assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"wharf\", charset=\"UTF-8\""));
        answer.refused(401, "unauthenticated");
    }
    for service in ["git-upload-pack", "git-receive-pack"] {
        nobody.post(&format!("/git/lab/demo.git/{service}"), json!({})).await.refused(401, "unauthenticated");
        let path = format!("/git/lab/demo.git/{service}");
        lab.with_token(&stranger).post(&path, json!({})).await.refused(404, "not_found");
    }
    let at = "/git/lab/demo.git/git-receive-pack";
    lab.with_token(&viewer).post(at, json!({})).await.refused(403, "forbidden");
    lab.with_token(&developer).post(at, json!({})).await.refused(415, "unsupported_media_type");
    lab.with_token(&viewer).get("/git/lab/demo.git/info/refs").await.refused(422, "invalid_field");
    // A right that is taken counts at once.
    harbour.admin.delete("/v1/service-accounts/dora").await.expect(204);
    ada.write("readme", b"three\n", "three").await;
    ada.refused(&["push", &harbour.url("x", &developer), "main"], &["Authentication failed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_with_one_password_are_no_guessing() {
    let harbour = Harbour::new().await;
    let ada = harbour.begun("ada").await;
    ada.ok(&["push", "-q", "origin", "main"]).await;
    let work = harbour.work("many");
    let url = harbour.by_password();
    let lines: Vec<_> = (0..12).map(|n| format!("c{n}")).collect();
    let all =
        futures_util::future::join_all(lines.iter().map(|to| work.run_owned(["clone", "-q", &url, to])));
    for out in all.await {
        assert!(out.status.success(), "{}", said(&out));
    }
    // A changed password counts at once, however fresh the old one is.
    harbour.admin.patch("/v1/users/admin", json!({"password": "another one entirely"})).await.expect(200);
    work.refused(&["ls-remote", &url], &["Authentication failed"]).await;
    work.ok(&["ls-remote", &harbour.url("admin", "another%20one%20entirely")]).await;
}

impl Work {
    async fn run_owned<const N: usize>(&self, line: [&str; N]) -> Output {
        self.run(&line).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_lead_elsewhere_lead_nowhere() {
    let harbour = Harbour::new().await;
    for (name, code) in [
        ("..%2f..%2fetc", "invalid_name"),
        ("..", "invalid_name"),
        ("Demo", "invalid_name"),
        ("d%C3%A9mo", "invalid_name"),
        ("demo.git.git", "invalid_name"),
        ("demo%00", "invalid_field"),
        (".git", "invalid_name"),
        ("-x", "invalid_name"),
    ] {
        let path = format!("/git/lab/{name}/info/refs?service=git-upload-pack");
        harbour.admin.get(&path).await.refused(422, code);
    }
    for path in [
        "/git/lab/demo.git/HEAD",
        "/git/lab/demo.git/objects/info/packs",
        "/git/lab/demo.git",
        "/git/../../x",
    ] {
        harbour.admin.get(path).await.refused(404, "not_found");
    }
    for (body, field) in [
        (json!({"name": "Demo"}), "name"),
        (json!({"name": "x", "default_branch": "a..b"}), "default_branch"),
        (json!({"name": "x", "default_branch": "-x"}), "default_branch"),
        (json!({"name": "x", "protected": ["main", "a b"]}), "protected[1]"),
        (json!({"name": "x", "protected": vec!["a"; 65]}), "protected"),
        (json!({"name": "x", "max_bytes": 1_u64 << 60}), "max_bytes"),
        (json!({"name": "x", "description": "x".repeat(1025)}), "description"),
    ] {
        let refused = harbour.admin.post("/v1/spaces/lab/repos", body.clone()).await.expect(422);
        assert_eq!(refused["field"], field, "{body}: {refused}");
    }
    harbour.admin.post("/v1/spaces/lab/repos", json!({"name": "demo"})).await.refused(409, "already_exists");
    assert_eq!(std::fs::read_dir(harbour.root().join("repos")).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_repository_is_gone_with_its_bytes_and_frees_its_name() {
    let harbour = Harbour::new().await;
    let ada = harbour.begun("ada").await;
    ada.ok(&["push", "-q", "origin", "main"]).await;
    let dir = harbour.dir().await;
    harbour.admin.delete("/v1/spaces/lab").await.refused(409, "in_use");
    harbour.admin.delete(REPO).await.expect(204);
    harbour.admin.get(REPO).await.refused(404, "not_found");
    ada.refused(&["fetch"], &["there is no repository demo"]).await;
    assert!(!dir.exists());
    let trash = harbour.root().join("trash");
    until(|| async { std::fs::read_dir(&trash).unwrap().count() == 0 }).await;
    assert_eq!(harbour.admin.get("/v1/spaces/lab/usage").await.expect(200)["git_bytes"]["used"], 0);
    harbour.admin.post("/v1/spaces/lab/repos", json!({"name": "demo"})).await.expect(201);
    assert!(harbour.branches().await.is_empty());
    ada.ok(&["push", "-q", "origin", "main"]).await;
    harbour.admin.delete(REPO).await.expect(204);
    harbour.admin.delete("/v1/spaces/lab").await.expect(204);
}

/// Replaces what a hook runs.
async fn hook(harbour: &Harbour, name: &str, script: &str) -> String {
    let path = harbour.root().join("hooks").join(name);
    let was = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut file =
        tokio::fs::OpenOptions::new().create_new(true).write(true).mode(0o500).open(&path).await.unwrap();
    file.write_all(script.as_bytes()).await.unwrap();
    file.flush().await.unwrap();
    was
}

#[tokio::test(flavor = "multi_thread")]
async fn a_git_killed_in_the_middle_of_a_push_leaves_a_sound_repository_that_takes_the_next() {
    let harbour = Harbour::new().await;
    let ada = harbour.begun("ada").await;
    ada.ok(&["push", "-q", "origin", "main"]).await;
    let before = harbour.repo().await["size_bytes"].clone();
    let commit = ada.write("big", &noise(8 << 20, 5), "big").await;
    // Before it is let in: with everything received and nothing taken.
    let asks = hook(&harbour, "pre-receive", "#!/bin/sh\nexec sleep 60\n").await;
    let push = tokio::spawn(client(&ada.home, &ada.dir).args(["push", "-q", "origin", "main"]).output());
    let root = harbour.root();
    let asleep = || async { sleeping(&workers(&root)) };
    until(asleep).await;
    for pid in workers(&harbour.root()) {
        kill(pid);
    }
    let out = push.await.unwrap().unwrap();
    assert!(!out.status.success(), "{}", said(&out));
    let (harbour_ref, dir) = (&harbour, harbour.dir().await);
    until(|| async { leftovers(&dir).is_empty() && workers(&harbour_ref.root()).is_empty() }).await;
    assert_ne!(harbour.head("main").await.as_deref(), Some(commit.as_str()));
    assert_eq!(harbour.repo().await["size_bytes"], before);
    harbour.sound().await;

    // After it is let in and the refs are moved: it counts, and is told once, although its client never heard of it.
    hook(&harbour, "pre-receive", &asks).await;
    let tells = hook(&harbour, "post-receive", "#!/bin/sh\nexec sleep 60\n").await;
    let push = tokio::spawn(client(&ada.home, &ada.dir).args(["push", "-q", "origin", "main"]).output());
    until(asleep).await;
    // As a crash between the two leaves it.
    std::fs::write(dir.join("refs/heads/side.lock"), "").unwrap();
    for pid in workers(&harbour.root()) {
        kill(pid);
    }
    push.await.unwrap().unwrap();
    until(|| async { leftovers(&dir).is_empty() && harbour_ref.pushed().await.len() == 2 }).await;
    assert_eq!(harbour.head("main").await.as_deref(), Some(commit.as_str()));
    assert!(harbour.repo().await["size_bytes"].as_u64() > Some(8 << 20));
    hook(&harbour, "post-receive", &tells).await;
    ada.write("readme", b"next\n", "next").await;
    ada.ok(&["push", "-q", "origin", "main", "main:side"]).await;
    assert_eq!(harbour.pushed().await.len(), 4);
    harbour.sound().await;
}

fn sleeping(pids: &[u32]) -> bool {
    pids.iter().any(|pid| std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == b"sleep\n"))
}

fn kill(pid: u32) {
    // SIGKILL, to a process that works in this test's own directory.
    let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).output();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_killed_finds_its_pushes_and_directories_again() {
    let harbour = Harbour::new().await;
    let ada = harbour.begun("ada").await;
    ada.ok(&["push", "-q", "origin", "main"]).await;
    harbour.admin.post("/v1/spaces/lab/repos", json!({"name": "empty"})).await.expect(201);
    let empty = harbour.admin.get("/v1/spaces/lab/repos/empty").await.expect(200);
    let at = |id: &str| harbour.root().join("repos").join(format!("{id}.git"));
    let dir = harbour.dir().await;
    let commit = ada.write("readme", b"two\n", "two").await;
    hook(&harbour, "post-receive", "#!/bin/sh\nexec sleep 60\n").await;
    let push = tokio::spawn(client(&ada.home, &ada.dir).args(["push", "-q", "origin", "main"]).output());
    let root = harbour.root();
    until(|| async { sleeping(&workers(&root)) }).await;
    assert_eq!(harbour.pushed().await.len(), 1, "moved, and not yet told");

    // What else crashes leave: a row without a directory, directories without a row, locks, a head that is not the row's.
    std::fs::remove_dir_all(at(empty["id"].as_str().unwrap())).unwrap();
    let copy = |to: PathBuf, from: &Path| {
        let out = std::process::Command::new("cp").arg("-r").arg(from).arg(&to).output().unwrap();
        assert!(out.status.success());
        to
    };
    let unknown = [wharf_domain::RepoId::new().to_string(), wharf_domain::RepoId::new().to_string()];
    let full = copy(at(&unknown[0]), &dir);
    let void = at(&unknown[1]);
    std::process::Command::new("git").args(["init", "-q", "--bare"]).arg(&void).output().unwrap();
    std::fs::write(dir.join("packed-refs.lock"), "").unwrap();
    std::fs::write(dir.join("HEAD"), "ref: refs/heads/elsewhere\n").unwrap();
    std::fs::create_dir(dir.join("objects/tmp_objdir-incoming-abc")).unwrap();
    for pid in workers(&harbour.root()) {
        kill(pid);
    }
    // Another server over the same database and disk; the one before never writes again.
    let app = &harbour.lab.app;
    let git = Git::new(&harbour.lab.store, &app.settings, hook_program());
    let next = App { git, ..app.clone() };
    let admin = Caller { router: wharf_server::router(next), token: harbour.admin.token.clone() };
    let branches = admin.get(&format!("{REPO}/branches")).await.expect(200);
    assert_eq!(branches["items"][0]["commit"], commit.as_str());
    assert_eq!(branches["items"][0]["default"], true);
    assert_eq!(std::fs::read_to_string(dir.join("HEAD")).unwrap(), "ref: refs/heads/main\n");
    assert!(at(empty["id"].as_str().unwrap()).join("HEAD").exists());
    assert!(
        !full.exists()
            && harbour.root().join("lost").join(format!("{}.git", unknown[0])).join("HEAD").exists()
    );
    assert!(!void.exists());
    push.await.unwrap().unwrap();
    let harbour = &harbour;
    until(|| async { harbour.pushed().await.len() == 2 }).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(harbour.pushed().await.len(), 2, "told twice");
    harbour.sound().await;
}

/// The commits that are built, in order.
async fn builds(admin: &Caller) -> Vec<String> {
    let all = admin.get("/v1/spaces/lab/builds").await.expect(200);
    let commit = |b: &Value| b["source"]["git"]["commit"].as_str().unwrap().to_owned();
    all["items"].as_array().unwrap().iter().map(commit).collect()
}

/// Another server over the same database and disk, as after a start.
async fn next_server(harbour: &Harbour) -> tokio::task::JoinHandle<()> {
    let app = &harbour.lab.app;
    let git = Git::new(&harbour.lab.store, &app.settings, hook_program());
    let app = App { git, ..app.clone() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stop = app.stop.clone();
    tokio::spawn(wharf_server::run(wharf_server::Serve { app, listener, metrics: None }, stop))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_whose_server_was_killed_is_built_by_the_next_one_and_once() {
    let harbour = Harbour::new().await;
    let admin = &harbour.admin;
    let ada = harbour.begun("ada").await;
    ada.ok(&["push", "-q", "origin", "main"]).await;
    let first = harbour.head("main").await.unwrap();
    admin.post("/v1/spaces/lab/agents", json!({"name": "keel"})).await.expect(201);
    let body = json!({"git": {"url": "/git/lab/demo.git"}});
    admin.post("/v1/spaces/lab/agents/keel/build", body).await.expect(202);

    // As far as a server gets that dies between the move of the refs and the word of it.
    let second = ada.write("readme", b"two\n", "two").await;
    hook(&harbour, "post-receive", "#!/bin/sh\nexec sleep 60\n").await;
    let push = tokio::spawn(client(&ada.home, &ada.dir).args(["push", "-q", "origin", "main"]).output());
    let root = harbour.root();
    until(|| async { sleeping(&workers(&root)) }).await;
    assert_eq!(builds(admin).await, [first.as_str()]);
    let next = next_server(&harbour).await;
    until(|| async { builds(admin).await == [first.as_str(), second.as_str()] }).await;
    let by = &admin.get("/v1/spaces/lab/builds").await.expect(200)["items"][1]["created_by"];
    assert_eq!(by, "admin", "as who pushed");
    // What it left is cleared away, and builds nothing twice.
    for pid in workers(&harbour.root()) {
        kill(pid);
    }
    push.await.unwrap().unwrap();
    next.abort();
    let again = next_server(&harbour).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(builds(admin).await, [first.as_str(), second.as_str()]);
    again.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_owed_to_a_token_that_is_gone_is_given_up_and_that_is_on_record() {
    let harbour = Harbour::new().await;
    let admin = &harbour.admin;
    let ada = harbour.begun("ada").await;
    ada.ok(&["push", "-q", "origin", "main"]).await;
    let first = harbour.head("main").await.unwrap();
    admin.post("/v1/spaces/lab/agents", json!({"name": "keel"})).await.expect(201);
    let body = json!({"git": {"url": "/git/lab/demo.git"}});
    admin.post("/v1/spaces/lab/agents/keel/build", body).await.expect(202);
    admin.post("/v1/service-accounts", json!({"name": "robot"})).await.expect(201);
    let binding = json!({"role": "developer", "principal": "service-account/robot", "space": "lab"});
    admin.post("/v1/role-bindings", binding).await.expect(201);
    let path = "/v1/service-accounts/robot/tokens";
    let token = admin.post(path, json!({"name": "push"})).await.expect(201);
    ada.write("readme", b"two\n", "two").await;
    hook(&harbour, "post-receive", "#!/bin/sh\nexec sleep 60\n").await;
    let url = harbour.url("x", token["token"].as_str().unwrap());
    let push = tokio::spawn(client(&ada.home, &ada.dir).args(["push", "-q", &url, "main"]).output());
    let root = harbour.root();
    until(|| async { sleeping(&workers(&root)) }).await;
    admin.delete(&format!("{path}/{}", token["id"].as_str().unwrap())).await.expect(204);
    let next = next_server(&harbour).await;
    let failed =
        async || admin.get("/v1/audit?verb=create&outcome=failed").await.expect(200)["items"].clone();
    until(|| async { !failed().await.as_array().unwrap().is_empty() }).await;
    let entry = failed().await[0].clone();
    assert!(entry["detail"]["reason"].as_str().unwrap().contains("token"), "{entry}");
    assert_eq!(builds(admin).await, [first.as_str()]);
    for pid in workers(&harbour.root()) {
        kill(pid);
    }
    push.await.unwrap().unwrap();
    next.abort();
}

/// A request by hand, for what no client does on purpose.
async fn raw(harbour: &Harbour, head: &str) -> TcpStream {
    use base64::Engine as _;
    let basic = format!("admin:{}", harbour.lab.password);
    let basic = base64::engine::general_purpose::STANDARD.encode(basic);
    let mut stream = TcpStream::connect(harbour.address).await.unwrap();
    let head = format!("{head}\r\nHost: wharf\r\nAuthorization: Basic {basic}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut text)).await.unwrap().unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_come_compressed_in_pieces_and_after_a_question() {
    let harbour = Harbour::new().await;
    let ada = harbour.begun("ada").await;
    ada.ok(&["push", "-q", "origin", "main"]).await;
    let asks = "POST /git/lab/demo.git/git-upload-pack HTTP/1.1\r\nContent-Type: application/x-git-upload-pack-request";
    let question = "0014command=ls-refs\n0001001bref-prefix refs/heads/\n0000";
    // Asked first whether it may send.
    let head = format!(
        "{asks}\r\nGit-Protocol: version=2\r\nExpect: 100-continue\r\nContent-Length: {}",
        question.len()
    );
    let mut stream = raw(&harbour, &head).await;
    let mut continues = [0; 25];
    tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut continues)).await.unwrap().unwrap();
    assert_eq!(&continues, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(question.as_bytes()).await.unwrap();
    let answer = rest(stream).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("refs/heads/main"), "{answer}");
    assert!(answer.contains("application/x-git-upload-pack-result"), "{answer}");

    // Compressed, in pieces.
    let gzip = std::process::Command::new("sh")
        .args(["-c", "printf %s \"$0\" | gzip -c", question])
        .output()
        .unwrap()
        .stdout;
    let head =
        format!("{asks}\r\nGit-Protocol: version=2\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked");
    let mut stream = raw(&harbour, &head).await;
    for piece in gzip.chunks(7) {
        stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await.unwrap();
        stream.write_all(piece).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let answer = rest(stream).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("refs/heads/main"), "{answer}");

    // Who may not is not asked to send.
    let head =
        format!("{asks}\r\nExpect: 100-continue\r\nContent-Length: 5").replace("/demo.git", "/none.git");
    let answer = rest(raw(&harbour, &head).await).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    let head = format!("{asks}\r\nContent-Encoding: br\r\nContent-Length: 0");
    assert!(rest(raw(&harbour, &head).await).await.starts_with("HTTP/1.1 415"));
    // What git cannot read is an answer of git's own, and no fault of the server.
    let head = asks.to_owned() + "\r\nContent-Length: 8";
    let mut stream = raw(&harbour, &head).await;
    stream.write_all(b"zzzzzzzz").await.unwrap();
    let answer = rest(stream).await;
    assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_takes_its_git_along() {
    let harbour = Harbour::new().await;
    let head = "POST /git/lab/demo.git/git-receive-pack HTTP/1.1\r\nContent-Type: application/x-git-receive-pack-request\r\n\
                Transfer-Encoding: chunked";
    let mut stream = raw(&harbour, head).await;
    stream.write_all(b"4\r\n00a5\r\n").await.unwrap();
    let root = harbour.root();
    until(|| async { !workers(&root).is_empty() }).await;
    drop(stream);
    until(|| async { workers(&root).is_empty() }).await;
    harbour.sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn git_and_its_hooks_see_nothing_of_the_server() {
    let harbour = Harbour::new().await;
    let ada = harbour.begun("ada").await;
    let seen = harbour.home.path().join("seen");
    hook(&harbour, "pre-receive", &format!("#!/bin/sh\nenv >'{}'\nexit 1\n", seen.display())).await;
    ada.refused(&["push", "origin", "main"], &["pre-receive hook declined"]).await;
    let environment = std::fs::read_to_string(seen).unwrap();
    let names: Vec<&str> = environment.lines().filter_map(|l| l.split('=').next()).collect();
    let known = |name: &&str| {
        name.starts_with("GIT_")
            || [
                "PATH",
                "HOME",
                "LC_ALL",
                "TZ",
                "PWD",
                "OLDPWD",
                "SHLVL",
                "_",
                "REMOTE_USER",
                "REMOTE_ADDR",
                "SERVER_PROTOCOL",
                "REQUEST_METHOD",
                "PATH_INFO",
                "QUERY_STRING",
                "CONTENT_TYPE",
                "CONTENT_LENGTH",
                "WHARF_GIT_SOCKET",
                "WHARF_GIT_PUSH",
            ]
            .contains(name)
    };
    let other: Vec<&&str> = names.iter().filter(|n| !known(n)).collect();
    assert!(other.is_empty(), "{other:?}");
    assert!(!environment.contains(&harbour.lab.password));
    // Nothing of the repository's own is run, whatever is put there.
    let own = harbour.dir().await.join("hooks");
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(own.join("post-update"), "#!/bin/sh\ntouch \"$0.ran\"\n").unwrap();
    std::fs::set_permissions(own.join("post-update"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    hook(&harbour, "pre-receive", "#!/bin/sh\nexit 1\n").await;
    ada.refused(&["push", "origin", "main"], &["declined"]).await;
    assert!(!own.join("post-update.ran").exists());
}

/// Images as the runtime would tell of them.
async fn images(lab: &Lab, names: &[&str]) {
    let mut owner = lab.db.owner().await;
    for name in names {
        sqlx::query(
            "insert into images (id, name, digest, runtime, size_bytes, created_at, seen_at)
             select gen_random_uuid(), $1, digest, runtime, size_bytes, created_at, seen_at from images limit 1",
        )
        .bind(name)
        .execute(&mut owner)
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_builds_all_who_follow_each_where_it_was_built_before_or_its_package_wants_it() {
    let harbour = Harbour::new().await;
    let admin = &harbour.admin;
    images(&harbour.lab, &["tools", "studio"]).await;
    let work = harbour.begun("w").await;
    work.ok(&["push", "-q", "origin", "main"]).await;
    let build = async |agent: &str, more: Value| {
        admin.post("/v1/spaces/lab/agents", json!({"name": agent})).await.expect(201);
        let mut body = json!({"git": {"url": "/git/lab/demo.git"}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        admin.post(&format!("/v1/spaces/lab/agents/{agent}/build"), body).await.expect(202)
    };
    for n in 0..24 {
        build(&format!("many-{n:02}"), json!({})).await;
    }
    build("special", json!({"image": "studio", "resources": {"memory_mib": 777}})).await;
    let last = async |agent: &str| {
        let builds = admin.get(&format!("/v1/spaces/lab/builds?agent={agent}")).await.expect(200);
        let session =
            builds["items"].as_array().unwrap().last().unwrap()["session"].as_str().unwrap().to_owned();
        let session = admin.get(&format!("/v1/spaces/lab/sessions/{session}")).await.expect(200);
        let (image, memory) = (&session["image"], &session["resources"]["memory_mib"]);
        (image["name"].as_str().or(image.as_str()).unwrap().to_owned(), memory.as_u64().unwrap())
    };
    let usual = last("many-00").await;
    assert_eq!((usual.0.as_str(), last("special").await), ("base", ("studio".to_owned(), 777)));

    work.write("readme", b"two\n", "two").await;
    let text = work.ok(&["push", "origin", "main"]).await;
    assert_eq!(text.matches("build of agent ").count(), 25, "{text}");
    assert_eq!(last("special").await, ("studio".to_owned(), 777), "as it was asked for before");
    assert_eq!(last("many-23").await, usual);

    let manifest =
        b"kind = \"command\"\nentry = \"./run\"\nimage = \"tools\"\n[build.resources]\nmemory_mib = 888\n";
    work.write("wharf.toml", manifest, "three").await;
    let text = work.ok(&["push", "origin", "main"]).await;
    assert_eq!(text.matches("build of agent ").count(), 25, "{text}");
    assert_eq!(last("many-23").await, ("tools".to_owned(), 888), "as the package wants it");
    assert_eq!(last("special").await, ("tools".to_owned(), 777), "what somebody named wins over its limits");

    // Another image than the package's is refused before anything is begun.
    let body = json!({"git": {"url": "/git/lab/demo.git"}, "image": "studio"});
    let problem = admin.post("/v1/spaces/lab/agents/special/build", body).await.refused(422, "invalid_field");
    assert!(
        problem["field"] == "image" && problem["detail"].as_str().unwrap().contains("image tools"),
        "{problem}"
    );
}
