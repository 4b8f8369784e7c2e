//! A session uses credentials all day and holds none: they are looked for in the memory and environment of all its
//! processes, its files, its snapshot, the archives it exports, and the pool that holds all of it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use reqwest::Method;
use serde_json::{Value, json};

use crate::beyond::{Beyond, Session};
use crate::installation::{Installation, Outside, Part, Runtime, SPACE, image_archive, possible_on};
use crate::on_every_runtime;

/// Uses every way a credential goes out, keeps what came back, and stays.
const HOLDER: &str = r#"
import json, subprocess, sys, time, urllib.request as u
plain, secure = sys.argv[1:3]
kept = ["CONTROL-" + str(6 * 7) + "-held"]
def ask(url, body=None):
    request = u.Request(url, data=body, headers={"Content-Type": "application/json"})
    with u.urlopen(request, timeout=30) as answer:
        kept.append(dict(answer.headers))
        return answer.read().decode()
found = {"http": ask(f"http://files.test:{plain}/digest"), "https": ask(f"https://files.test:{secure}/digest")}
said = json.loads(ask("http://gateway/vendor/v1/chat/completions", b'{"model": "m", "messages": [{"role": "user", "content": "Who asks?"}]}'))
found["model"] = said["choices"][0]["message"]["content"]
subprocess.run(["git", "clone", "-q", f"https://files.test:{secure}/git/private.git", "/home/agent/private"], check=True)
found["git"] = open("/home/agent/private/berths").read().strip()
kept.append(found)
for place in ["/home/agent/seen", "/tmp/seen"]:
    open(place, "w").write(kept[0])
print(json.dumps(found), flush=True)
time.sleep(600)
"#;

/// Where these words are in these processes.
pub fn look(pids: &[u32], words: &[&str]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/planted/look.py");
    let mut child =
        Command::new("python3").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let asked = json!({ "pids": pids, "words": words, "below": ["/run", "/tmp", "/dev/shm"] });
    child.stdin.take().unwrap().write_all(asked.to_string().as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    serde_json::from_slice(&out.stdout).unwrap()
}

fn holds(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|at| at == word.as_bytes())
}

fn sha256(text: &str) -> String {
    let script = "import hashlib, sys; print(hashlib.sha256(sys.argv[1].encode()).hexdigest())";
    let out = Command::new("python3").args(["-c", script, text]).output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

on_every_runtime!(what_a_session_uses_it_does_not_hold);

async fn what_a_session_uses_it_does_not_hold(runtime: Runtime) {
    let (true, Some(archive)) = (possible_on(runtime), image_archive("base")) else { return };
    // Put together here, so that nothing else on the machine holds them as one word.
    let planted = ["key", "git", "api"].map(|of| ["PLANTED", "9e41", of, "c0ffee"].join("-"));
    let [key, git, api] = &planted;
    let beyond = Beyond::knowing(git);
    let mut outside = Outside { runtime, ..beyond.outside() };
    writeln!(outside.settings, "ca_file = \"{}\"", beyond.authority().display()).unwrap();
    let mut wharf = Installation::start_with(&outside).await;
    wharf.import(&archive, "base").await;
    let space = format!("/v1/spaces/{SPACE}");
    for (name, value) in [("key", key), ("git", git), ("api", api)] {
        wharf.post(&format!("{space}/secrets"), json!({ "name": name, "value": value })).await;
    }
    let (plain, secure) = (beyond.plain, beyond.secure);
    let provider = json!({ "name": "vendor", "protocol": "openai", "secret": "key",
        "base_url": format!("http://files.test:{plain}/model") });
    wharf.post(&format!("{space}/providers"), provider).await;
    for (name, port, path, inject) in [
        ("git", secure, "/git/private.git", json!({ "basic": "robot", "secret": "git" })),
        (
            "api",
            secure,
            "/digest",
            json!({ "header": "authorization", "prefix": "Bearer ", "secret": "api" }),
        ),
        (
            "clear",
            plain,
            "/digest",
            json!({ "header": "authorization", "prefix": "Bearer ", "secret": "api" }),
        ),
    ] {
        let rule = json!({ "host": format!("files.test:{port}"), "path_prefix": path });
        let body = json!({ "name": name, "match": rule, "inject": inject });
        wharf.post(&format!("{space}/connections"), body).await;
    }

    let session = Session::create(&wharf, "one", "base", beyond.network(1)).await;
    session.ok(&format!("cat > holder.py <<'END'{HOLDER}END")).await;
    session.ok(&format!("setsid python3 holder.py {plain} {secure} > found 2> trouble < /dev/null &")).await;
    let found = session
        .ok("for i in $(seq 300); do test -s found && break; sleep 0.1; done; cat trouble found")
        .await;
    let found: Value =
        serde_json::from_str(&found).unwrap_or_else(|e| panic!("{e}: {found}\n{}", wharf.log()));
    let bearer = sha256(&format!("Bearer {api}"));
    assert_eq!(found["http"], bearer, "the upstream got something else");
    assert_eq!(found["https"], bearer, "the upstream got something else");
    assert_eq!(found["model"], sha256(&format!("Bearer {key}")), "the model got something else");
    assert_eq!(found["git"], "7");

    let control = "CONTROL-42-held";
    let inside: Vec<u32> = wharf
        .parts()
        .into_iter()
        .filter(|(part, _)| matches!(part, Part::Host | Part::Inside))
        .map(|(_, pid)| pid)
        .collect();
    // Neither as it is, nor as basic authentication writes it.
    let output =
        Command::new("sh").args(["-c", &format!("printf %s 'robot:{git}' | base64")]).output().unwrap();
    let basic = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let words: Vec<&str> = planted.iter().map(String::as_str).chain([basic.as_str()]).collect();
    let found = look(&inside, &[words.as_slice(), &[control]].concat());
    let seen = found[control].to_string();
    assert!(seen.contains("memory of") && seen.contains("/tmp/seen"), "nothing is really looked at: {found}");
    for word in &words {
        assert_eq!(found[word], json!([]), "{word} is in the session");
    }

    let snapshot = wharf.post(&format!("{space}/sessions/one/snapshots?wait=ready"), json!({})).await;
    let fork = json!({ "name": "two", "from": { "snapshot": snapshot["id"] } });
    wharf.post(&format!("{space}/sessions?wait=ready"), fork).await;
    for name in ["one", "two"] {
        for path in ["home/agent", "tmp", "etc", "root", "var/log"] {
            let archive = wharf.bytes(&format!("{space}/sessions/{name}/files/{path}?tar")).await;
            assert!(path != "home/agent" || holds(&archive, control), "the archive is not all there");
            for word in &words {
                assert!(!holds(&archive, word), "{word} is in /{path} of {name}");
            }
        }
    }
    for path in ["sessions/one/egress", "sessions/one/messages", "connections", "providers", "usage"] {
        let shown = wharf.get(&format!("{space}/{path}")).await.to_string();
        assert!(words.iter().all(|w| !shown.contains(w)), "{path} shows it: {shown}");
    }
    wharf.call(Method::DELETE, &format!("{space}/sessions/two"), None, None).await.unwrap();

    // Stopped, so that all of the pool and the database is on the disk.
    wharf.stop();
    let grep = |words: &[&str]| {
        let words = words.iter().flat_map(|word| ["-e", word]);
        let found = Command::new("grep").arg("-rlaF").args(words).arg(wharf.dir()).output().unwrap();
        String::from_utf8_lossy(&found.stdout).into_owned()
    };
    assert!(grep(&[control]).contains(runtime.files()), "what the session wrote is not found");
    // At once: what a session stands on is large.
    assert_eq!(grep(&words), "", "files that hold one of {words:?}");
    wharf.finish();
}
