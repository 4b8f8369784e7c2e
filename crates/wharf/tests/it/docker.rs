//! Sessions on Docker Engine as their users meet them: a whole life of one, native ones beside it, and what the engine's or
//! Wharf's own death leaves.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::installation::{Installation, Outside, Part, Runtime, possible_on};

const SESSIONS: &str = "/v1/spaces/lab/sessions";

fn at(session: &str, what: &str) -> String {
    format!("{SESSIONS}/{session}/{what}")
}

/// What a script in a session says; it has to succeed.
async fn said(wharf: &Installation, session: &str, script: &str) -> String {
    let body = json!({ "argv": ["sh", "-c", format!("exec 2>&1\n{script}")] });
    let done = wharf.post(&at(session, "exec"), body).await;
    assert_eq!(done["exit_code"], 0, "{script}: {done}\n{}", wharf.log());
    done["stdout"].as_str().unwrap().trim_end().to_owned()
}

async fn create(wharf: &Installation, body: Value) -> Value {
    let made = wharf.post(&format!("{SESSIONS}?wait=ready"), body).await;
    assert_eq!(made["state"], "idle", "{made}\n{}", wharf.log());
    made
}

/// Why a request is refused.
async fn refused(wharf: &Installation, path: &str, body: Value) -> String {
    let (status, problem) = wharf.call(Method::POST, path, Some(&body), None).await.unwrap();
    assert!(status.is_client_error(), "{status}: {problem}");
    problem["detail"].as_str().unwrap_or_default().to_owned()
}

/// The engine's own program, asked directly.
fn docker(wharf: &Installation, args: &[&str]) -> String {
    let socket = format!("unix://{}", wharf.engine().socket().display());
    let out = Command::new("docker").args(["-H", &socket]).args(args).output().unwrap();
    assert!(out.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// Waits until something is so.
async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !so().await {
        assert!(since.elapsed() < Duration::from_secs(40), "never: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn sockets(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(sockets(&entry.path())),
            kind if kind.is_socket() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_on_docker_lives_as_any_other() {
    if !possible_on(Runtime::Docker) {
        return;
    }
    let wharf = Installation::start_on(Runtime::Docker).await;
    let image = wharf.get("/v1/spaces/lab/images/tiny").await;
    assert_eq!(image["runtime"], "docker", "{image}");
    let made = create(&wharf, json!({ "name": "one", "image": "tiny" })).await;
    assert_eq!((&made["runtime"], &made["image"]["digest"]), (&json!("docker"), &image["digest"]), "{made}");

    // Commands, messages, files, figures.
    assert_eq!(
        said(&wharf, "one", "id -u; hostname; cd; echo kept > note; cat note").await,
        "1000\none\nkept"
    );
    let answer = wharf.post(&at("one", "messages?wait=done"), json!({ "content": "echo from a turn" })).await;
    assert_eq!(answer["replies"][0]["content"][0]["text"], "from a turn\n", "{answer}");
    assert_eq!(wharf.bytes(&at("one", "files/home/agent/note")).await, b"kept\n");
    let stats = wharf.get(&at("one", "stats")).await;
    assert!(stats["memory_bytes"].as_u64().unwrap() > 0 && stats["pids"].as_u64().unwrap() > 0, "{stats}");
    // New limits count at once.
    let less = json!({ "resources": { "memory_mib": 96, "pids": 40 } });
    let (status, _) = wharf.call(Method::PATCH, &format!("{SESSIONS}/one"), Some(&less), None).await.unwrap();
    assert!(status.is_success());
    let name = docker(&wharf, &["ps", "--format", "{{.Names}}"]);
    let limits = ["inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}", &name];
    let wanted = format!("{} 40", 96 << 20);
    until("the new limits", async || docker(&wharf, &limits) == wanted).await;

    // Closed it costs a stopped container; a command brings it back with its files.
    wharf.post(&at("one", "close"), json!({})).await;
    until("closed", async || wharf.get(&format!("{SESSIONS}/one")).await["state"] == "closed").await;
    assert_eq!(docker(&wharf, &["ps", "-q"]), "");
    assert_eq!(wharf.bytes(&at("one", "files/home/agent/note")).await, b"kept\n");
    assert_eq!(said(&wharf, "one", "cat ~/note; ps | grep -c '[w]harf-host'").await, "kept\n1");

    // A snapshot stays as it was; forks go their own way.
    let snapshot = wharf.post(&at("one", "snapshots?wait=ready"), json!({ "name": "then" })).await;
    assert_eq!((&snapshot["state"], &snapshot["runtime"]), (&json!("ready"), &json!("docker")), "{snapshot}");
    said(&wharf, "one", "echo changed > ~/note").await;
    let fork = wharf.post(&at("one", "fork?wait=ready"), json!({ "name": "two" })).await;
    assert_eq!(
        (&fork["state"], &fork["runtime"]),
        (&json!("idle"), &json!("docker")),
        "{fork}\n{}",
        wharf.log()
    );
    create(&wharf, json!({ "name": "three", "from": { "snapshot": snapshot["id"] } })).await;
    said(&wharf, "two", "echo forked > ~/note").await;
    for (session, note) in [("one", "changed"), ("two", "forked"), ("three", "kept")] {
        assert_eq!(said(&wharf, session, "cat ~/note; hostname").await, format!("{note}\n{session}"));
    }
    // Each asks the gateway through a socket of its own.
    assert_eq!(sockets(&wharf.data().join("run/jails")).len(), 6);
    for session in ["one", "two", "three"] {
        let asked = said(&wharf, session, "wget -q -O - http://gateway/").await;
        assert!(asked.contains(&format!("\"{session}\"")), "{session}: {asked}");
    }

    // Without root inside there is no way to it, and the way out is the same.
    create(&wharf, json!({ "name": "tight", "image": "tiny", "allow_root": false })).await;
    let asked = said(&wharf, "tight", "grep NoNewPrivs /proc/1/status; wget -q -O - http://gateway/").await;
    assert!(asked.starts_with("NoNewPrivs:\t1") && asked.contains("\"tight\""), "{asked}");
    let root = json!({ "argv": ["id"], "user": "root" });
    assert!(!refused(&wharf, &at("tight", "exec"), root).await.is_empty());

    // An image in use stays; what is deleted leaves nothing.
    let (status, _) = wharf.call(Method::DELETE, "/v1/spaces/lab/images/tiny", None, None).await.unwrap();
    assert_eq!(status, 409);
    let snapshot = at("one", &format!("snapshots/{}", snapshot["id"].as_str().unwrap()));
    let sessions = ["one", "two", "three", "tight"].map(|name| format!("{SESSIONS}/{name}"));
    for path in [&snapshot].into_iter().chain(&sessions) {
        let (status, said) = wharf.call(Method::DELETE, path, None, None).await.unwrap();
        assert!(status.is_success(), "{path}: {status} {said}");
    }
    until("the containers are gone", async || docker(&wharf, &["ps", "-aq"]).is_empty()).await;
    until("the image is free", async || {
        let gone = wharf.call(Method::DELETE, "/v1/spaces/lab/images/tiny", None, None).await.unwrap();
        gone.0.is_success()
    })
    .await;
    until("the copies are gone", async || docker(&wharf, &["images", "-aq"]).is_empty()).await;
    assert_eq!(wharf.jail_dirs(), 0);
    wharf.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_choose_their_runtime_and_promises_that_cannot_be_kept_are_refused() {
    if !possible_on(Runtime::Docker) {
        return;
    }
    let outside = Outside {
        runtime: Runtime::Docker,
        above: "runtimes = { local = \"native\" }\n".to_owned(),
        ..Outside::default()
    };
    let mut wharf = Installation::start_with(&outside).await;
    let archive = wharf.dir().join("tiny.tar");
    wharf.import(&archive, "local").await;
    create(&wharf, json!({ "name": "there", "image": "tiny" })).await;
    let made = create(&wharf, json!({ "name": "here", "image": "local" })).await;
    assert_eq!(made["runtime"], "native");
    said(&wharf, "there", "echo docker > ~/note").await;
    said(&wharf, "here", "echo native > ~/note").await;
    let hosts = |wharf: &Installation| wharf.parts().iter().filter(|(p, _)| *p == Part::Host).count();
    assert_eq!((hosts(&wharf), docker(&wharf, &["ps", "-q"]).lines().count()), (2, 1));

    // Other settings: sessions stay where they are, new ones follow them.
    wharf.stop();
    let config = wharf.data().join("wharf.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("runtime = \"docker\"\n", "").replace("local = \"native\"", "local = \"docker\"");
    std::fs::write(&config, &text).unwrap();
    wharf.up().await;
    for (session, note) in [("there", "docker"), ("here", "native")] {
        assert_eq!(said(&wharf, session, "cat ~/note").await, note);
        assert_eq!(wharf.get(&format!("{SESSIONS}/{session}")).await["runtime"], note);
    }
    let why = refused(&wharf, SESSIONS, json!({ "image": "tiny" })).await;
    assert!(why.contains("runtime native") && why.contains("docker has one"), "{why}");
    // A fork stays with its parent's files, wherever new sessions would go.
    let fork = wharf.post(&at("here", "fork?wait=ready"), json!({ "name": "beside" })).await;
    assert_eq!((&fork["state"], &fork["runtime"]), (&json!("idle"), &json!("native")), "{fork}");
    assert_eq!(said(&wharf, "beside", "cat ~/note").await, "native");

    // This engine's storage keeps no disk limit: without leave to do without, that is said at once.
    wharf.stop();
    std::fs::write(&config, text.replace("waive_disk_limit = true", "")).unwrap();
    wharf.up().await;
    until("it is known what the engine can", async || {
        wharf.post(&at("here", "exec"), json!({ "argv": ["true"] })).await["exit_code"] == 0
            && wharf.data().join("run/docker.sock").exists()
    })
    .await;
    let why = refused(&wharf, SESSIONS, json!({ "image": "local", "resources": { "disk_mib": 77 } })).await;
    assert!(why.contains("77 MiB") && why.contains("docker.waive_disk_limit"), "{why}");
    let why = refused(&wharf, &at("there", "fork"), json!({})).await;
    assert!(why.contains("runtime docker"), "{why}");

    // And root inside is the machine's here: without leave for that, only sessions without root are taken.
    wharf.stop();
    std::fs::write(&config, text.replace("waive_user_namespaces = true", "")).unwrap();
    wharf.up().await;
    until("it is known what the engine can", async || {
        wharf.post(&at("here", "exec"), json!({ "argv": ["true"] })).await["exit_code"] == 0
            && wharf.data().join("run/docker.sock").exists()
    })
    .await;
    let why = refused(&wharf, SESSIONS, json!({ "image": "local" })).await;
    assert!(why.contains("root of the machine") && why.contains("docker.waive_user_namespaces"), "{why}");
    wharf.import(&wharf.dir().join("tiny.tar"), "local").await;
    let rootless = json!({ "name": "rootless", "image": "local", "allow_root": false });
    let made = wharf.post(&format!("{SESSIONS}?wait=ready"), rootless).await;
    assert_eq!((&made["state"], &made["runtime"]), (&json!("idle"), &json!("docker")), "{made}");
    wharf.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_deaths_leave_on_the_engine_is_put_right() {
    if !possible_on(Runtime::Docker) {
        return;
    }
    let mut wharf = Installation::start_on(Runtime::Docker).await;
    for name in ["one", "two", "three"] {
        create(&wharf, json!({ "name": name, "image": "tiny", "idle_timeout_seconds": 0 })).await;
        said(&wharf, name, &format!("echo {name} > ~/note")).await;
    }
    let mark = json!({ "argv": ["sleep", "1000"], "background": true });
    wharf.post(&at("one", "exec"), mark).await;
    let count = "cat ~/note; ps | grep -c '[s]leep 1000'";

    // Who speaks to the engine dies, then the control plane: the same computers go on.
    let before = docker(&wharf, &["ps", "-q"]);
    let broker = kill(&wharf, |part| part == Part::Docker);
    until("it is there again", async || {
        wharf.parts().iter().any(|(part, pid)| *part == Part::Docker && !broker.contains(&pid.to_string()))
    })
    .await;
    kill(&wharf, |part| part == Part::Control);
    tokio::time::sleep(Duration::from_millis(300)).await;
    wharf.ready().await;
    assert_eq!(said(&wharf, "one", count).await, "one\n1");
    assert_eq!(docker(&wharf, &["ps", "-q"]), before);

    // While nothing of Wharf is up, somebody removes a session's container, and there is one of a session nobody knows.
    kill(&wharf, |part| !matches!(part, Part::Host | Part::Inside));
    wharf.wait_gone().await;
    let three = docker(&wharf, &["ps", "--format", "{{.Names}}", "--filter", "label=wharf.session"]);
    let three = three.lines().next().unwrap().to_owned();
    docker(&wharf, &["rm", "-f", &three]);
    let installation = std::fs::read_to_string(wharf.data().join("docker/installation")).unwrap();
    let (volume, session) = ("0192d3a0-0000-7000-8000-00000000000a", "0192d3a0-0000-7000-8000-00000000000b");
    let image = docker(&wharf, &["images", "-q"]).lines().next().unwrap().to_owned();
    let labels = [("installation", installation.trim()), ("session", session), ("volume", volume)];
    let labels: Vec<String> =
        labels.iter().map(|(name, value)| format!("--label=wharf.{name}={value}")).collect();
    for (name, labels) in [(format!("wharf-{volume}"), &labels[..]), ("other".to_owned(), &[])] {
        let mut run = vec!["run", "-d", "--network", "none", "--name", &name];
        run.extend(labels.iter().map(String::as_str));
        run.extend([image.as_str(), "sleep", "1000"]);
        docker(&wharf, &run);
    }
    wharf.up().await;
    until("the stranger is gone", async || !docker(&wharf, &["ps", "-a"]).contains(volume)).await;
    assert!(
        docker(&wharf, &["ps", "--format", "{{.Names}}"]).contains("other"),
        "a container of others is gone"
    );
    docker(&wharf, &["rm", "-f", "other"]);
    // It does not come back empty as if nothing had been.
    let mut lost = Vec::new();
    for name in ["one", "two", "three"] {
        until("it settles", async || wharf.get(&format!("{SESSIONS}/{name}")).await["state"] != "init").await;
        let (path, exec) = (at(name, "exec"), json!({ "argv": ["cat", "/home/agent/note"] }));
        match wharf.call(Method::POST, &path, Some(&exec), None).await.unwrap() {
            (status, done) if status.is_success() => assert_eq!(done["stdout"], json!(format!("{name}\n"))),
            (_, problem) => lost.push((name, problem)),
        }
    }
    let [(name, problem)] = &lost[..] else { panic!("{lost:?}") };
    until("it says why", async || {
        let session = wharf.get(&format!("{SESSIONS}/{name}")).await;
        session["state"] == "error" && session["state_reason"].as_str().is_some_and(|r| r.contains("removed"))
    })
    .await;
    assert!(problem["detail"].is_string(), "{problem}");
    if *name != "one" {
        assert_eq!(said(&wharf, "one", count).await, "one\n1");
    }

    // The engine goes away under the sessions and comes back: so do they.
    let stays = if *name == "two" { "one" } else { "two" };
    wharf.engine().down();
    let (path, exec) = (at(stays, "exec"), json!({ "argv": ["cat", "/home/agent/note"] }));
    let (answered, ()) = tokio::join!(wharf.call(Method::POST, &path, Some(&exec), None), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        wharf.engine().up();
    });
    let (status, done) = answered.unwrap();
    assert!(status.is_success(), "{status}: {done}\n{}", wharf.log());
    assert_eq!(done["stdout"], json!(format!("{stays}\n")), "{done}");
    wharf.finish();
}

/// Kills processes of it; answers which.
fn kill(wharf: &Installation, which: impl Fn(Part) -> bool) -> Vec<String> {
    let parts = wharf.parts();
    let pids: Vec<String> =
        parts.iter().filter(|(part, _)| which(*part)).map(|(_, pid)| pid.to_string()).collect();
    // Some may be gone already: their parent went first, or they were about to end.
    let _ = Command::new("kill").arg("-9").args(&pids).stderr(std::process::Stdio::null()).status().unwrap();
    pids
}
