//! The session test suite: everything a session does for its user, told once and run on every runtime, over the API of a whole
//! installation.
//!
//! The stories of the modules below share one installation for each runtime, a few of them at a time; each has sessions of its
//! own and fails by its own name (`WHARF_TEST_STORY=word` runs those with the word in their name). Stories that need an
//! installation of their own stand beside this directory and are made a test on every runtime by `on_every_runtime!`. What has
//! no meaning on a runtime is in [`NATIVE_ALONE`], with the reason.

mod commands;
mod copies;
mod files;
mod life;
mod limits;
mod network;
mod turns;
mod walls;

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _, stream};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::installation::{Installation, Outside, Part, Runtime, SPACE, possible_on};
use crate::on_every_runtime;

/// Tests that run on the native runtime alone, and why. Tests of one runtime's own inside are in its crate.
const NATIVE_ALONE: &[(&str, &str)] = &[
    ("schemathesis.rs", "looks at the API's words, which no runtime changes"),
    ("crates/testkit/src/contract/limits.rs: a_full_disk_is_the_sessions_own", DISK),
    ("crates/testkit/src/contract/limits.rs: endless_small_files_end_at_the_limit_too", DISK),
    (
        "crates/testkit/src/contract/breakout.rs: root_inside_is_nobody_outside",
        "on an engine without userns-remap it is root held by capabilities and the list of system calls: privileges.rs",
    ),
    ("crates/jail/tests/it/volumes.rs", "is about btrfs, its quotas and the loop file"),
    (
        "crates/jail/tests/it/warm.rs",
        "no computers stand ready on Docker; asking for them is refused: runtime-docker",
    ),
    (
        "crates/jail/tests/it/adopt.rs",
        "is about the jailer's death; that of the process that speaks to the engine is in docker.rs",
    ),
    (
        "crates/jail/tests/it/network.rs",
        "is about the jail's packet filter, which containers get by the same code",
    ),
];
const DISK: &str =
    "Debian's engine keeps no disk limit; a create is refused at admission unless that is waived: docker.rs";

/// Sessions that are in the making or at work at once.
const AT_ONCE: usize = 3;
/// Longer than anything takes on a busy machine.
const SOON: Duration = Duration::from_secs(60);

type Told = Pin<Box<dyn Future<Output = ()>>>;

macro_rules! stories {
    ($($part:ident: $($story:ident)+;)+) => {
        /// All of them, the long ones first.
        fn stories() -> Vec<(&'static str, fn(Place) -> Told)> {
            vec![$($(
                (concat!(stringify!($part), "::", stringify!($story)), |place| Box::pin($part::$story(place))),
            )+)+]
        }
    };
}

stories! {
    life: it_closes_by_itself_when_nobody_uses_it_and_wakes_when_somebody_does
        it_closes_and_comes_back_as_it_was
        setup_runs_once_and_the_environment_is_everywhere
        a_setup_that_fails_fails_the_session
        what_was_changed_while_it_was_closed_counts_when_it_is_back
        a_computer_that_died_is_replaced_under_the_command;
    limits: memory_ends_inside_only
        processes_are_counted
        the_cpu_is_shared_as_was_said
        what_the_space_has_no_room_for_is_refused;
    copies: a_fork_of_a_running_session_has_its_files_and_goes_its_own_way
        a_snapshot_outlives_its_session_and_becomes_others
        a_fork_takes_along_what_was_asked_for;
    turns: messages_are_answered_in_their_order_and_numbered_without_a_gap
        a_running_turn_is_cancelled_with_all_it_started
        a_turn_has_a_time_limit_of_its_own
        programs_answer_too_and_are_addressed_by_name
        a_message_wakes_a_closed_session_and_runs_once_under_its_key;
    commands: a_command_answers_with_what_it_wrote_and_how_it_ended
        output_streams_and_a_caller_who_goes_away_ends_the_command
        a_process_in_the_background_is_read_fed_and_ended
        a_terminal_is_shared_resized_and_come_back_to;
    files: files_are_written_read_in_parts_listed_moved_and_deleted
        a_closed_sessions_files_are_there_and_it_stays_closed
        a_tree_travels_as_an_archive_with_all_that_is_in_it;
    network: the_way_out_is_the_gateways_to_open
        a_model_answers_programs_inside
        a_port_is_reached_by_path_and_by_host_name_and_wakes_its_session
        published_files_outlive_their_session
        an_image_without_a_desktop_is_named;
    walls: nothing_leads_out
        neighbours_are_strangers
        who_may_not_be_root_is_not;
}

on_every_runtime!(the_session_suite);

async fn the_session_suite(runtime: Runtime) {
    if !possible_on(runtime) {
        return;
    }
    let beyond = beyond().await;
    let outside = Outside {
        runtime,
        room_mib: 0,
        above: "port_hosts = \"http://*.ports.test\"\n".to_owned(),
        settings: format!("\n[gateway]\nallow_private = [\"127.0.0.1:{beyond}\"]\n"),
        hosts: "127.0.0.1 localhost files.test denied.test\n".to_owned(),
    };
    let wharf = Arc::new(Installation::start_with(&outside).await);
    let only = std::env::var("WHARF_TEST_STORY").unwrap_or_default();
    let chosen = stories().into_iter().filter(|(name, _)| name.contains(&only));
    let told = stream::iter(chosen).map(|(name, story)| {
        let place = Place { wharf: Arc::clone(&wharf), runtime, beyond };
        async move {
            let since = Instant::now();
            let ended = AssertUnwindSafe(story(place)).catch_unwind().await;
            let how = if ended.is_ok() { "fine" } else { "FAILED" };
            println!("{name}: {how} after {:.1} s", since.elapsed().as_secs_f32());
            ended.is_err().then_some(name)
        }
    });
    let failed: Vec<_> = told.buffer_unordered(AT_ONCE).filter_map(async |failed| failed).collect().await;
    assert!(failed.is_empty(), "on {runtime:?} these failed: {failed:#?}");
    let Ok(wharf) = Arc::try_unwrap(wharf) else { panic!("a story goes on after its end") };
    nothing_is_left(&wharf, runtime).await;
    wharf.finish();
}

/// What was deleted is gone from the machine.
async fn nothing_is_left(wharf: &Installation, runtime: Runtime) {
    let sessions = format!("/v1/spaces/{SPACE}/sessions");
    for kind in ["sessions", "snapshots"] {
        let listed = wharf.get(&format!("/v1/spaces/{SPACE}/{kind}?limit=200")).await;
        for item in listed["items"].as_array().unwrap() {
            let path = match kind {
                "sessions" => format!("{sessions}/{}", item["id"].as_str().unwrap()),
                _ => format!(
                    "{sessions}/{}/snapshots/{}",
                    item["session"].as_str().unwrap(),
                    item["id"].as_str().unwrap()
                ),
            };
            let (status, said) = wharf.call(Method::DELETE, &path, None, None).await.unwrap();
            assert!(status.is_success(), "{path}: {status} {said}");
        }
    }
    // One stands ready on the native runtime.
    let ready = usize::from(runtime == Runtime::Native);
    let left = || {
        let hosts = wharf.parts().iter().filter(|(part, _)| *part == Part::Host).count();
        let containers = if runtime == Runtime::Docker { containers(wharf) } else { String::new() };
        (hosts, wharf.jail_dirs(), containers)
    };
    until(&format!("nothing is left: {:?}", left()), async || {
        let (hosts, dirs, containers) = left();
        hosts <= ready && dirs <= ready && containers.is_empty()
    })
    .await;
}

fn containers(wharf: &Installation) -> String {
    let socket = format!("unix://{}", wharf.engine().socket().display());
    let out = Command::new("docker").args(["-H", &socket, "ps", "-aq"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

#[test]
fn what_is_said_to_run_on_one_runtime_alone_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for (test, why) in NATIVE_ALONE {
        assert!(!why.is_empty());
        let (file, story) = test.split_once(": ").unwrap_or((test, ""));
        let path =
            if file.contains('/') { root.join("../..").join(file) } else { root.join("tests/it").join(file) };
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(text.contains(story), "{test}");
    }
}

/// Says `ahoy` to whoever asks, on a port of the machine's loopback.
async fn beyond() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut head, mut piece) = (Vec::new(), [0; 1024]);
                while !head.windows(4).any(|w| w == b"\r\n\r\n") {
                    match stream.read(&mut piece).await {
                        Ok(n) if n > 0 => head.extend_from_slice(&piece[..n]),
                        _ => return,
                    }
                }
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nahoy\n";
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    port
}

/// Looks again until it is so.
async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !so().await {
        assert!(since.elapsed() < SOON, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Where a story happens.
#[derive(Clone)]
struct Place {
    wharf: Arc<Installation>,
    runtime: Runtime,
    /// A server of the machine's that sessions may reach, at `files.test`.
    beyond: u16,
}

impl Place {
    /// A session that is up.
    async fn session(&self, name: &str) -> Computer {
        self.session_with(name, json!({})).await
    }

    async fn session_with(&self, name: &str, more: Value) -> Computer {
        let (computer, made) = self.try_session(name, more).await;
        assert_eq!(
            (&made["state"], &made["runtime"]),
            (&json!("idle"), &json!(self.runtime.name())),
            "{made}"
        );
        computer
    }

    /// A session, whatever becomes of it.
    async fn try_session(&self, name: &str, more: Value) -> (Computer, Value) {
        let mut body = json!({
            "name": name, "image": "tiny", "idle_timeout_seconds": 0,
            "resources": { "cpu_millis": 1000, "memory_mib": 256, "pids": 128, "disk_mib": 128 },
        });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        let made = self.wharf.post(&format!("/v1/spaces/{SPACE}/sessions?wait=ready"), body).await;
        (self.named(name), made)
    }

    fn named(&self, name: &str) -> Computer {
        Computer { wharf: Arc::clone(&self.wharf), name: name.to_owned() }
    }
}

/// A session of a story.
#[derive(Clone)]
struct Computer {
    wharf: Arc<Installation>,
    name: String,
}

impl Computer {
    fn path(&self) -> String {
        format!("/v1/spaces/{SPACE}/sessions/{}", self.name)
    }

    fn at(&self, what: &str) -> String {
        format!("{}/{what}", self.path())
    }

    async fn row(&self) -> Value {
        self.wharf.get(&self.path()).await
    }

    async fn get(&self, what: &str) -> Value {
        self.wharf.get(&self.at(what)).await
    }

    async fn post(&self, what: &str, body: Value) -> Value {
        self.wharf.post(&self.at(what), body).await
    }

    async fn call(&self, method: Method, what: &str, body: Value) -> (StatusCode, Value) {
        self.wharf.call(method, &self.at(what), Some(&body), None).await.unwrap()
    }

    async fn patch(&self, body: Value) -> (StatusCode, Value) {
        self.wharf.call(Method::PATCH, &self.path(), Some(&body), None).await.unwrap()
    }

    async fn delete(&self) {
        let (status, said) = self.wharf.call(Method::DELETE, &self.path(), None, None).await.unwrap();
        assert!(status.is_success(), "{status}: {said}");
    }

    /// How a script ends, and all it writes.
    async fn sh(&self, user: &str, script: &str) -> (i64, String) {
        let body = json!({ "argv": ["sh", "-c", format!("exec 2>&1\n{script}")], "user": user });
        let done = self.post("exec", body).await;
        let text = done["stdout"].as_str().unwrap().trim_end().to_owned();
        // As the shell says it of a program that was killed.
        let code = done["exit_code"].as_i64().or_else(|| Some(128 + done["signal"].as_i64()?));
        (code.unwrap_or_else(|| panic!("{script}: {done}")), text)
    }

    /// What a script says that has to succeed.
    async fn ok(&self, script: &str) -> String {
        let (code, text) = self.sh("agent", script).await;
        assert_eq!(code, 0, "{}: {script}\n{text}", self.name);
        text
    }

    async fn as_root(&self, script: &str) -> String {
        let (code, text) = self.sh("root", script).await;
        assert_eq!(code, 0, "{}: {script}\n{text}", self.name);
        text
    }

    /// A message and what came of it.
    async fn say(&self, text: &str) -> Value {
        self.post("messages?wait=done", json!({ "content": text })).await
    }

    /// What is answered to a message that has to succeed.
    async fn answer(&self, text: &str) -> String {
        let said = self.say(text).await;
        assert_eq!(said["state"], "done", "{said}");
        reply(&said)
    }

    async fn state(&self) -> String {
        self.row().await["state"].as_str().unwrap().to_owned()
    }

    async fn is(&self, state: &str) {
        until(&format!("{} is {state}", self.name), async || self.state().await == state).await;
    }

    async fn close(&self) {
        self.post("close", json!({})).await;
        self.is("closed").await;
    }

    async fn restore(&self) {
        let restored = self.post("restore?wait=ready", json!({})).await;
        assert_eq!(restored["state"], "idle", "{restored}");
    }

    async fn put(&self, path: &str, bytes: impl Into<reqwest::Body>) -> (StatusCode, Value) {
        let request = self.wharf.request(Method::PUT, &self.at(&format!("files{path}"))).await;
        let answer = request.body(bytes).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn read(&self, path: &str) -> Vec<u8> {
        self.wharf.bytes(&self.at(&format!("files{path}"))).await
    }
}

/// All that a turn replied with.
fn reply(said: &Value) -> String {
    let mut text = String::new();
    for message in said["replies"].as_array().into_iter().flatten() {
        for block in message["content"].as_array().into_iter().flatten() {
            text.push_str(block["text"].as_str().unwrap_or_default());
        }
    }
    text
}

/// Files of every sort, some of them root's, and one of the image's that is gone.
const PLANT: &str = r#"
set -e
mkdir -p /opt/tree/empty "/opt/tree/a b"
echo text > "/opt/tree/a b/ü"
head -c 300000 /dev/urandom > /opt/tree/bytes
chown 1234:4321 /opt/tree/bytes
ln /opt/tree/bytes /opt/tree/again
ln -s bytes /opt/tree/link
ln -s /nowhere /opt/tree/dangling
mkfifo -m 600 /opt/tree/pipe
dd of=/opt/tree/sparse bs=1 count=0 seek=1000000 2>/dev/null
cp /bin/busybox /opt/tree/setuid
chmod 4755 /opt/tree/setuid
mkdir -m 1777 /opt/tree/sticky
touch -d '2001-02-03 04:05:06' "/opt/tree/a b/ü"
printf '#!/bin/sh\necho installed\n' > /usr/bin/mine
chmod 755 /usr/bin/mine
echo 'export EXTRA=1' >> /etc/profile
rm /usr/bin/yes
"#;

/// Says everything about what [`PLANT`] made.
const TREE: &str = r#"
cd /opt/tree
find . | sort | while read -r f; do
    stat -c '%n %a %u:%g %F' "$f"
    if [ -L "$f" ]; then readlink "$f"; elif [ -f "$f" ]; then stat -c '%h %s %Y' "$f"; sha256sum < "$f"; fi
done
[ -e /usr/bin/yes ] && echo 'yes is back'
mine
sha256sum < /etc/profile
"#;
