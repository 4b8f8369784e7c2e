//! Agents of one's own, from a repository or an upload to their answers: the real command line, real jails, git and package managers
//! that reach servers on this machine through the gateway.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::beyond::Beyond;
use crate::cli::User;
use crate::debian;
use crate::installation::{Installation, Outside, Runtime, image_archive, possible, possible_on};
use crate::on_every_runtime;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/agents").join(name)
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").arg(from.join(".")).arg(to).status().unwrap();
    assert!(copied.success());
}

fn write(dir: &Path, files: Files) {
    for (name, text) in files {
        std::fs::write(dir.join(name), text).unwrap();
    }
}

/// A build that succeeds, and its log.
#[track_caller]
fn built(admin: &User, line: &[&str]) -> String {
    let line: Vec<&str> = ["agent", "build"].into_iter().chain(line.iter().copied()).collect();
    let out = admin.run(&line, b"");
    let said = [out.stdout, out.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(out.status.success(), "{line:?}: {}\n{said}", out.status);
    said
}

/// A build that fails, and all it says.
#[track_caller]
fn fails(admin: &User, line: &[&str]) -> String {
    let line: Vec<&str> = ["agent", "build"].into_iter().chain(line.iter().copied()).collect();
    let out = admin.run(&line, b"");
    let said = [out.stdout, out.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(out.status.code(), Some(1), "{line:?}: {said}");
    said
}

#[track_caller]
fn answers(admin: &User, session: &str, text: &str) -> String {
    let out = admin.run(&["session", "send", session, text], b"");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    said
}

fn login(wharf: &Installation) -> User {
    let admin = User::new(wharf, "admin");
    let password = wharf.dir().join("data/initial-admin-password");
    let url = format!("http://{}", wharf.address);
    admin.ok(&["login", &url, "--username", "admin", "--password-file", password.to_str().unwrap()], b"");
    admin.ok(&["space", "create", "yard", "--use", "--default-image", "base"], b"");
    admin
}

/// The installation with the world around it, and the credential's way to the world's certificates.
async fn start(beyond: &Beyond, archive: &Path, runtime: Runtime) -> Installation {
    let outside = beyond.outside();
    let settings = format!("{}ca_file = \"{}\"\n", outside.settings, beyond.authority().display());
    let wharf = Installation::start_with(&Outside { settings, runtime, room_mib: 4096, ..outside }).await;
    wharf.import(archive, "base").await;
    wharf
}

on_every_runtime!(the_samples_are_built_in_sessions_and_conversed_with);

async fn the_samples_are_built_in_sessions_and_conversed_with(runtime: Runtime) {
    let (true, Some(archive)) = (possible_on(runtime), image_archive("base")) else { return };
    // What Debian's own packages are installed from is on this machine; nothing else of the image differs.
    let beyond = Beyond::with_registries();
    let trees = tempfile::tempdir().unwrap();
    let image = trees.path().join("base.tar");
    let wharf = if runtime == Runtime::Native {
        beyond.shelve("rust", &debian::repository(&archive, "cargo"));
        debian::installs_from(&archive, "deb [trusted=yes] http://deb.debian.org/rust ./", &image);
        start(&beyond, &image, runtime).await
    } else {
        start(&beyond, &archive, runtime).await
    };
    let admin = login(&wharf);
    let tree = |name: &str| {
        let dir = trees.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        copy(&example(name), &dir);
        dir
    };

    // Python, from a repository everybody may read.
    beyond.commit("triage", &tree("triage"));
    let url = format!("http://files.test:{}/git/triage.git", beyond.plain);
    let log = built(&admin, &["triage", "--git", &format!("{url}#main")]);
    for word in ["fetching main of http://files.test", "at commit ", "$ python3 -m compileall", "packed "] {
        assert!(log.contains(word), "{word}: {log}");
    }
    admin.ok(&["session", "create", "one", "--agent", "triage", "--wait"], b"");
    let said = answers(&admin, "one", "The tanker asks for a place");
    assert!(said.contains("The tanker goes to berth 5."), "{said}");

    // Node, from one that wants a credential: it is added outside of the build's computer.
    beyond.commit("private", &tree("clerk"));
    let url = format!("https://files.test:{}/git/private.git", beyond.secure);
    let log = fails(&admin, &["clerk", "--git", &url]);
    assert!(log.contains("failed: "), "{log}");
    admin.ok(&["secret", "set", "robot", "--file", "-"], b"let-me-in");
    let host = format!("files.test:{}", beyond.secure);
    admin.ok(
        &["connection", "create", "forge", "--host", &host, "--basic", "robot", "--key-secret", "robot"],
        b"",
    );
    let log = built(&admin, &["clerk", "--git", &url, "--ref", "main"]);
    assert!(!log.contains("let-me-in"), "{log}");
    admin.ok(&["session", "create", "two", "--agent", "clerk", "--wait"], b"");
    assert!(answers(&admin, "two", "rope rope anchor").contains("rope (2), anchor (1)"));

    // The Agent Client Protocol, from a directory.
    built(&admin, &["notes", "--path", example("notes").to_str().unwrap()]);
    admin.ok(&["session", "create", "three", "--agent", "notes", "--wait"], b"");
    assert!(answers(&admin, "three", "buy rope").contains("Noted."));
    assert!(answers(&admin, "three", "notes").contains("- buy rope"));

    // Rust, by its Cargo.toml alone: what compiles it is installed, through the gateway, where it is compiled. One runtime shows
    // that; on the other the machine's own compiler did it before.
    if runtime == Runtime::Native {
        let log = built(&admin, &["abacus", "--path", example("abacus").to_str().unwrap()]);
        for word in ["an agent of kind command, by its Cargo.toml", "Compiling abacus", "Installed package"] {
            assert!(log.contains(word), "{word}: {log}");
        }
    } else {
        let abacus = tree("abacus");
        write(
            &abacus,
            &[("wharf.toml", "kind = \"command\"\nentry = \"./abacus\"\n[build]\ncommands = []\n")],
        );
        let source = abacus.join("src/main.rs");
        let compiled = Command::new("rustc")
            .args(["--edition", "2021", "-o"])
            .args([abacus.join("abacus"), source])
            .status()
            .unwrap();
        assert!(compiled.success());
        built(&admin, &["abacus", "--path", abacus.to_str().unwrap()]);
    }
    admin.ok(&["session", "create", "four", "--agent", "abacus", "--wait"], b"");
    assert!(answers(&admin, "four", "12 crates and 30 barrels").contains("The sum is 42."));

    // Several in one session, each addressed; and what they had outlives a close.
    let others = br#"[{"package": "clerk"}, {"package": "abacus", "name": "sums"}]"#;
    admin.ok(&["session", "create", "all", "--agent", "triage", "--agents", "-", "--wait"], others);
    let said = admin.says(&["session", "send", "all", "--to", "sums", "40 and 2"]);
    assert!(said.contains("The sum is 42."), "{said}");
    assert!(answers(&admin, "all", "a ferry").contains("berth 1"));
    admin.ok(&["session", "close", "two"], b"");
    assert!(answers(&admin, "two", "rope").contains("rope"));

    // Builds leave no computer behind.
    let sessions = admin.json(&["session", "list"]);
    let names: Vec<&str> = sessions.as_array().unwrap().iter().filter_map(|s| s["name"].as_str()).collect();
    assert_eq!(names.len(), 5, "{names:?}");
    drop(admin);
    wharf.finish();
}

/// Names and texts.
type Files<'a> = &'a [(&'a str, &'a str)];

/// Makes wheels of its project with nothing from outside.
const BACKEND: &str = r#"
import zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "quay-1-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as wheel:
        wheel.writestr("quay-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: quay\nVersion: 1\nRequires-Dist: harbour\n")
        wheel.writestr("quay-1.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("quay-1.dist-info/RECORD", "quay-1.dist-info/METADATA,,\nquay-1.dist-info/WHEEL,,\nquay-1.dist-info/RECORD,,\n")
    return name
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packages_without_a_manifest_are_recognised_and_installed_from_where_everybody_does() {
    let (true, Some(archive)) = (possible(), image_archive("base")) else { return };
    let beyond = Beyond::with_registries();
    let wharf = start(&beyond, &archive, Runtime::Native).await;
    let admin = login(&wharf);
    // The registries' own certificates are the gateway's business, as with any that wants a credential.
    admin.ok(&["secret", "set", "robot", "--file", "-"], b"let-me-in");
    for host in ["pypi.org", "registry.npmjs.org"] {
        let name = host.replace('.', "-");
        admin.ok(
            &["connection", "create", &name, "--host", host, "--basic", "robot", "--key-secret", "robot"],
            b"",
        );
    }
    let trees = tempfile::tempdir().unwrap();
    let agent = "import harbour\ndef answer(message, context):\n    return f'{harbour.BERTHS} berths'\n";
    let project = "[project]\nname = \"quay\"\nversion = \"1\"\ndependencies = [\"harbour\"]\n\
        [build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n";
    let package =
        r#"{"name": "bell", "type": "module", "main": "index.js", "dependencies": {"harbour": "^1.0.0"}}"#;
    let script = "import harbour from 'harbour';\nexport default () => `${harbour} berths`;\n";
    let cases: [(&str, &str, Files); 3] = [
        (
            "pier",
            "kind python, by its requirements.txt",
            &[("requirements.txt", "harbour\n"), ("agent.py", agent)],
        ),
        (
            "quay",
            "kind python, by its pyproject.toml",
            &[("pyproject.toml", project), ("backend.py", BACKEND), ("main.py", agent)],
        ),
        ("bell", "kind node, by its package.json", &[("package.json", package), ("index.js", script)]),
    ];
    for (name, seen, files) in cases {
        let tree = trees.path().join(name);
        std::fs::create_dir(&tree).unwrap();
        write(&tree, files);
        let log = built(&admin, &[name, "--path", tree.to_str().unwrap()]);
        assert!(log.contains(seen), "{log}");
        admin.ok(&["session", "create", name, "--agent", name, "--wait"], b"");
        assert!(answers(&admin, name, "how many?").contains("7 berths"), "{log}");
    }
    drop(admin);
    wharf.finish();
}

on_every_runtime!(builds_install_through_the_gateway_keep_their_cache_and_fail_loudly);

async fn builds_install_through_the_gateway_keep_their_cache_and_fail_loudly(runtime: Runtime) {
    let (true, Some(archive)) = (possible_on(runtime), image_archive("base")) else { return };
    let beyond = Beyond::start();
    let wharf = start(&beyond, &archive, runtime).await;
    let admin = login(&wharf);
    let trees = tempfile::tempdir().unwrap();
    let plain = beyond.plain;
    let tree = trees.path().join("berths");
    std::fs::create_dir(&tree).unwrap();
    let manifest = |egress: &str, mark: &str| {
        format!(
            "kind = \"python\"\nentry = \"berths:answer\"\nenv = {{ MARK = {mark:?} }}\n[build]\ncommands = [\n\
             \"python3 -m venv .venv\",\n\
             \".venv/bin/pip install -q --disable-pip-version-check --retries 0 --index-url http://files.test:{plain}/simple --trusted-host files.test -r requirements.txt\",\n\
             \"cat $XDG_CACHE_HOME/mark 2>/dev/null || echo cold; echo warm > $XDG_CACHE_HOME/mark\",\n]\negress = {egress}\n"
        )
    };
    let allowed = format!("[\"files.test:{plain}\"]");
    let agent = "import os, harbour\nasync def answer(message, context):\n    return f\"{harbour.BERTHS} berths, {os.environ['MARK']}\"\n";
    write(
        &tree,
        &[
            ("wharf.toml", &manifest(&allowed, "first")),
            ("requirements.txt", "harbour\n"),
            ("berths.py", agent),
        ],
    );
    beyond.commit("berths", &tree);
    let url = format!("http://files.test:{plain}/git/berths.git");
    let log = built(&admin, &["berths", "--git", &url]);
    assert!(log.contains("\ncold\n") && log.contains("kept a cache of "), "{log}");
    admin.ok(&["session", "create", "one", "--agent", "berths", "--wait"], b"");
    assert!(answers(&admin, "one", "how many?").contains("7 berths, first"));

    // The same lockfile: what was fetched is there. Another: better than nothing.
    write(&tree, &[("wharf.toml", &manifest(&allowed, "second"))]);
    beyond.commit("berths", &tree);
    let log = built(&admin, &["berths", "--git", &url]);
    assert!(log.contains("the cache of a build with these lockfiles is there"), "{log}");
    assert!(log.contains("\nwarm\n") && !log.contains("kept a cache"), "{log}");
    write(&tree, &[("requirements.txt", "harbour==1.0\n")]);
    beyond.commit("berths", &tree);
    let log = built(&admin, &["berths", "--git", &url]);
    assert!(log.contains("the cache of a build with other lockfiles is there"), "{log}");
    assert!(log.contains("kept a cache of "), "{log}");

    // Another agent sees nothing of it.
    let log = built(&admin, &["pier", "--git", &url]);
    assert!(log.contains("\ncold\n"), "{log}");

    // Sessions get the newest; those that run keep theirs; one can go back, by one or to a number.
    admin.ok(&["session", "create", "two", "--agent", "berths", "--wait"], b"");
    assert!(answers(&admin, "two", "how many?").contains("second"));
    assert!(answers(&admin, "one", "how many?").contains("first"));
    admin.ok(&["agent", "rollback", "berths"], b"");
    assert_eq!(admin.json(&["agent", "get", "berths"])["active_version"], 2);
    admin.ok(&["agent", "rollback", "berths", "1"], b"");
    admin.ok(&["session", "create", "three", "--agent", "berths", "--wait"], b"");
    assert!(answers(&admin, "three", "how many?").contains("first"));
    admin.ok(&["session", "create", "four", "--agent", "berths@3", "--wait"], b"");
    assert!(answers(&admin, "four", "how many?").contains("second"));

    // What goes wrong is said, and changes nothing.
    for (line, said) in [
        (vec!["berths", "--git", &url, "--ref", "nowhere"], "couldn't find remote ref nowhere"),
        (
            vec!["berths", "--git", &format!("http://files.test:{plain}/git/missing.git")],
            "failed: `git fetch` ended",
        ),
        (vec!["berths", "--git", "https://denied.test:1/x.git"], "failed: `git fetch` ended"),
    ] {
        let log = fails(&admin, &line);
        assert!(log.contains(said), "{line:?}: {log}");
    }
    write(&tree, &[("wharf.toml", &manifest("\"none\"", "third"))]);
    beyond.commit("berths", &tree);
    let log = fails(&admin, &["berths", "--git", &url]);
    assert!(log.contains("ended with exit code 1") && log.contains("No matching distribution"), "{log}");
    let agent = admin.json(&["agent", "get", "berths"]);
    assert_eq!(agent["active_version"], 1, "{agent}");

    // A commit of the past, by its number and by the beginning of it.
    let commit = Command::new("git").arg("-C").arg(&tree).args(["rev-parse", "HEAD~3"]).output().unwrap();
    let commit = String::from_utf8(commit.stdout).unwrap();
    for named in [commit.trim(), &commit[..10]] {
        let log = built(&admin, &["berths", "--git", &format!("{url}#{named}")]);
        assert!(log.contains(&format!("at commit {}", commit.trim())), "{log}");
    }
    let builds = admin.json(&["agent", "builds", "berths"]);
    let last = builds.as_array().unwrap().last().unwrap();
    assert_eq!(last["source"]["git"]["commit"], commit.trim(), "{last}");
    drop(admin);
    wharf.finish();
}

on_every_runtime!(a_push_to_a_repository_of_wharfs_own_builds_the_agents_that_follow_it);

async fn a_push_to_a_repository_of_wharfs_own_builds_the_agents_that_follow_it(runtime: Runtime) {
    let (true, Some(archive)) = (possible_on(runtime), image_archive("base")) else { return };
    let wharf = Installation::start_on(runtime).await;
    wharf.import(&archive, "base").await;
    let admin = login(&wharf);
    wharf.post("/v1/spaces/yard/repos", json!({ "name": "harbour" })).await;
    let url = format!("http://{}/git/yard/harbour.git", wharf.address);
    let tree = tempfile::tempdir().unwrap();
    copy(&example("triage"), tree.path());
    let header = format!("http.extraHeader=Authorization: Bearer {}", wharf.bearer().await);
    let git = |args: &[&str]| {
        let out = Command::new("git")
            .args(["-c", "user.name=a", "-c", "user.email=a@b.test", "-c", &header, "-C"])
            .arg(tree.path())
            .args(args)
            .output()
            .unwrap();
        let said = [out.stdout, out.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(out.status.success(), "git {args:?}: {said}\n{}", wharf.log());
        said
    };
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "first"]);
    let said = git(&["push", &url, "main"]);
    assert!(!said.contains("build of agent"), "nobody follows it yet: {said}");

    // Nothing of the build's computer reaches the repository: the files are brought to it.
    built(&admin, &["triage", "--git", &url]);
    admin.ok(&["session", "create", "one", "--agent", "triage", "--wait"], b"");
    assert!(answers(&admin, "one", "a tanker").contains("berth 5"));

    let push = |branch: &str| {
        git(&["commit", "-qam", "more"]);
        let said = git(&["push", &url, &format!("HEAD:{branch}")]);
        let at = said.find("`wharf agent log ").map(|at| &said[at + 17..]);
        at.and_then(|rest| rest.split('`').next()).map(str::to_owned)
    };
    let path = tree.path().join("triage.py");
    let source = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, source.replace("\"tanker\": 5", "\"tanker\": 6")).unwrap();
    let build = push("main").expect("a push to the branch it follows builds it");
    let log = admin.says(&["agent", "log", &build]);
    assert!(log.contains("packed ") && log.contains("succeeded"), "{log}");
    admin.ok(&["session", "create", "two", "--agent", "triage", "--wait"], b"");
    assert!(answers(&admin, "two", "a tanker").contains("berth 6"));
    assert!(answers(&admin, "one", "a tanker").contains("berth 5"), "it keeps what it has");

    // Another branch is nobody's; a push that does not build is a push all the same, and changes no version.
    std::fs::write(tree.path().join("wharf.toml"), "kind = \"pyton\"\n").unwrap();
    assert_eq!(push("trial"), None);
    std::fs::write(tree.path().join("wharf.toml"), "kind = \"pythn\"\n").unwrap();
    let build = push("main").expect("it is tried");
    let out = admin.run(&["agent", "log", &build], b"");
    assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stdout));
    assert_eq!(admin.json(&["agent", "get", "triage"])["active_version"], 2);

    // Another image and other limits, as the package comes to want them.
    let manifest = "kind = \"command\"\nentry = [\"./run\"]\n[build]\nimage = \"tiny\"\n\
        commands = [\"busybox | head -n 1; printf '#!/bin/sh' > run; chmod +x run\"]\n[build.resources]\nmemory_mib = 300\n";
    std::fs::write(tree.path().join("wharf.toml"), manifest).unwrap();
    let build = push("main").expect("it is built");
    let log = admin.says(&["agent", "log", &build]);
    assert!(log.contains("BusyBox") && log.contains("succeeded"), "{log}");

    // What is not there is said before anything is begun.
    for (url, said) in [
        (format!("{url}#nowhere"), "has no branch, tag or commit nowhere"),
        (format!("http://{}/git/lab/harbour.git", wharf.address), "own space"),
        (format!("http://{}/git/yard/missing.git", wharf.address), "missing"),
    ] {
        let out = admin.run(&["agent", "build", "triage", "--git", &url], b"");
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && text.contains(said), "{url}: {text}");
    }
    drop(admin);
    wharf.finish();
}
