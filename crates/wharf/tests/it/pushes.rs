//! A push that is in the repository is built, although the control plane is killed over it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::installation::{Installation, Part, possible};

const SPACE: &str = "/v1/spaces/yard";
const ROUNDS: usize = 4;

fn git(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=a", "-c", "user.email=a@b.test", "-C"]).arg(dir).args(args);
    command.stdin(Stdio::null()).env("GIT_TERMINAL_PROMPT", "0");
    command
}

fn run(dir: &Path, args: &[&str]) -> String {
    let out = git(dir, args).output().unwrap();
    assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// The commits that are built, in order.
async fn built(wharf: &Installation) -> Vec<String> {
    let builds = wharf.get(&format!("{SPACE}/builds?limit=100")).await;
    let commit = |b: &Value| b["source"]["git"]["commit"].as_str().unwrap().to_owned();
    builds["items"].as_array().unwrap().iter().map(commit).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_is_built_once_although_the_control_plane_is_killed_over_it() {
    if !possible() {
        return;
    }
    let mut wharf = Installation::start().await;
    let space = json!({ "name": "yard", "defaults": { "image": "tiny" } });
    wharf.post("/v1/spaces", space).await;
    let repo = wharf.post(&format!("{SPACE}/repos"), json!({ "name": "hull" })).await;
    wharf.post(&format!("{SPACE}/agents"), json!({ "name": "keel" })).await;
    let tree = tempfile::tempdir().unwrap();
    let tree = tree.path();
    run(tree, &["init", "-q", "-b", "main"]);
    let commit = |text: &str| {
        std::fs::write(tree.join("wharf.toml"), "kind = \"command\"\nentry = [\"cat\"]\n").unwrap();
        std::fs::write(tree.join("file"), text).unwrap();
        run(tree, &["add", "-A"]);
        run(tree, &["commit", "-q", "-m", text]);
        run(tree, &["rev-parse", "HEAD"])
    };
    let url = format!("http://{}/git/yard/hull.git", wharf.address);
    let header = format!("http.extraHeader=Authorization: Bearer {}", wharf.bearer().await);
    let push = ["-c", &header, "push", "-q", &url, "main"];
    let mut wanted = vec![commit("first")];
    run(tree, &push);
    let source = json!({ "git": { "url": "/git/yard/hull.git" } });
    wharf.post(&format!("{SPACE}/agents/keel/build"), source).await;

    let id = repo["id"].as_str().unwrap();
    let main = wharf.data().join(format!("git/repos/{id}.git/refs/heads/main"));
    for round in 0..ROUNDS {
        let new = commit(&format!("round {round}"));
        let control =
            wharf.parts().into_iter().find(|(part, _)| *part == Part::Control).unwrap().1.to_string();
        // Whether it hears that it went well is not what this is about.
        let mut pushing = git(tree, &push).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let since = Instant::now();
        while std::fs::read_to_string(&main).unwrap_or_default().trim() != new {
            assert!(since.elapsed() < Duration::from_secs(30), "the push does not arrive");
            std::thread::sleep(Duration::from_micros(200));
        }
        // A little later each time: the refs have moved, and the server is about to hear of it, hears of it, and begins the build.
        std::thread::sleep(Duration::from_millis(8 * round as u64));
        let killed = Command::new("kill").args(["-9", &control]).status().unwrap();
        assert!(killed.success());
        pushing.wait().unwrap();
        wharf.ready().await;
        wanted.push(new);
        let since = Instant::now();
        while built(&wharf).await != wanted {
            let built = built(&wharf).await;
            assert!(since.elapsed() < Duration::from_secs(40), "built are {built:?}, not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(built(&wharf).await, wanted, "a push was built twice");
    wharf.finish();
}
