//! The host as PID 1: only where the test may make a process namespace. Elsewhere the jail's own tests cover it.

use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use wharf_wire::host::Env;
use wharf_wire::host::exec::ExecRequest;
use wharf_wire::host::files::WriteOptions;

use crate::harness::{Host, shell_turn, until};

/// A root with users of its own, served through an inherited socket, as PID 1 of a namespace.
async fn jail() -> Option<Host> {
    jail_as(&[]).await
}

async fn jail_as(wrapper: &[&str]) -> Option<Host> {
    let may = Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "true"]).output();
    if !may.is_ok_and(|o| o.status.success()) {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    // The agent walks through the directories above its home.
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("home/agent")).unwrap();
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::create_dir_all(root.join("root")).unwrap();
    let passwd = "root:x:0:0::/root:/bin/bash\nagent:x:1000:1000::/home/agent:/bin/bash\nother:x:1234:1235::/home/other:/bin/sh\n";
    std::fs::write(root.join("etc/passwd"), passwd).unwrap();
    std::fs::write(
        root.join("etc/group"),
        "agent:x:1000:\nsudo:x:27:agent,x\nvideo:x:44:x,agent\nteam:x:77:\n",
    )
    .unwrap();
    std::os::unix::fs::chown(root.join("home/agent"), Some(1000), Some(1000)).unwrap();
    let socket = dir.path().join("host.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let program = dir.path().join("host");
    std::fs::copy(env!("CARGO_BIN_EXE_wharf-host-dev"), &program).unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(wrapper)
        .arg(&program)
        .arg("--root")
        .arg(&root);
    let fd = listener.as_raw_fd();
    // SAFETY: between fork and exec, a direct system call on a number.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            unsafe extern "C" {
                fn dup2(from: i32, to: i32) -> i32;
            }
            if dup2(fd, 3) < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    let host = Host::launch(command, dir, &socket).await;
    drop(listener);
    Some(host)
}

#[tokio::test]
async fn as_the_first_process_it_becomes_whom_it_is_asked_to_be() {
    let Some(host) = jail().await else { return };
    let id = host.sh("id -u; id -g; id -G; echo $HOME $USER $SHELL; grep CapEff /proc/self/status").await;
    let home = host.home().display().to_string();
    assert_eq!(
        id.stdout,
        format!("1000\n1000\n1000 27 44\n{home} agent /bin/bash\nCapEff:\t0000000000000000\n"),
        "{}",
        id.stderr
    );
    let scores = host.sh("cat /proc/self/oom_score_adj /proc/1/oom_score_adj").await.stdout;
    let scores: Vec<i32> = scores.lines().map(|l| l.parse().unwrap()).collect();
    assert!(scores[0] >= 100 && scores[0] >= scores[1], "the host is not the first to go: {scores:?}");
    for (user, uid) in [("root", "0"), ("other", "1234"), ("1234", "1234"), ("4321", "4321")] {
        let wanted = ExecRequest { user: Some(user.into()), ..ExecRequest::argv(["id", "-u"]) };
        assert_eq!(host.client.exec(&wanted).await.unwrap().stdout.trim(), uid);
    }
    let turn = shell_turn("id -un; touch mine; stat -c %u mine");
    let events = crate::harness::all(host.client.turn(&turn, 0).await.unwrap()).await;
    assert_eq!(
        crate::harness::reply(&events),
        "agent\n1000\n".replace("agent", crate::harness::reply(&events).lines().next().unwrap())
    );
    let long = format!("# {}\nid -u", "x".repeat(200_000));
    assert_eq!(
        host.client.exec(&ExecRequest::command(long)).await.unwrap().stdout,
        "1000\n",
        "a long script too"
    );
}

#[tokio::test]
async fn as_the_first_process_it_gives_files_to_the_agent_and_reads_everybodys() {
    let Some(host) = jail().await else { return };
    let parents = WriteOptions { parents: true, ..WriteOptions::default() };
    host.client.write_bytes("/home/agent/a/b", &parents, "x").await.unwrap();
    assert_eq!(host.sh("stat -c %u:%g a a/b").await.stdout, "1000:1000\n1000:1000\n");
    let owned =
        WriteOptions { owner: Some("other:team".into()), mode: Some(0o600), ..WriteOptions::default() };
    host.client.write_bytes("/home/agent/theirs", &owned, "x").await.unwrap();
    let info = host.client.stat("/home/agent/theirs", false).await.unwrap();
    assert_eq!((info.uid, info.gid), (1234, 77));
    host.client.write_bytes("/home/agent/theirs", &WriteOptions::default(), "y").await.unwrap();
    let info = host.client.stat("/home/agent/theirs", false).await.unwrap();
    assert_eq!((info.uid, info.gid, info.mode), (1234, 77, 0o600), "a rewrite does not change hands");
    let text =
        host.client.read_file("/home/agent/theirs", None).await.unwrap().bytes.collect(9).await.unwrap();
    assert_eq!(text, b"y");
}

#[tokio::test]
async fn as_the_first_process_it_buries_orphans_and_takes_all_with_it() {
    let Some(mut host) = jail().await else { return };
    host.claim(Env::default()).await;
    for _ in 0..20 {
        host.sh("(sleep 0.05 &) ; (setsid sh -c 'sleep 0.05 &' &)").await;
    }
    until("no zombie stays", || async { host.client.stats().await.unwrap().processes == 1 }).await;
    let zombies = host.sh("ps -eo stat= | grep -c Z; true").await;
    assert_eq!(zombies.stdout.trim(), "0");
    let terminal = wharf_wire::host::terminal::TerminalRequest { cols: 80, rows: 24, ..Default::default() };
    host.client.create_terminal(&terminal).await.unwrap();
    host.client.start_process(&ExecRequest::argv(["sleep", "300"])).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    // `unshare` waits for its child, whose namespace dies with it.
    let status = host.sh("true").await;
    assert!(status.exit.success());
    let first = format!("/proc/{0}/task/{0}/children", host.pid());
    let first = std::fs::read_to_string(first).unwrap();
    assert!(Command::new("kill").arg(first.trim()).status().unwrap().success());
    host.wait();
    until("its socket is dead", || async { host.client.health().await.is_err() }).await;
}

#[tokio::test]
async fn in_a_session_without_root_it_is_the_agent_and_still_keeps_turns() {
    let wrapper = [
        "setpriv",
        "--reuid=1000",
        "--regid=1000",
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
    ];
    let Some(host) = jail_as(&wrapper).await else { return };
    host.claim(Env::default()).await;
    assert_eq!(host.sh("id -u; id -g").await.stdout, "1000\n1000\n");
    let root = ExecRequest { user: Some("root".into()), ..ExecRequest::argv(["true"]) };
    let fault = crate::harness::refused(host.client.exec(&root).await);
    assert_eq!(fault.code, wharf_domain::Code::Unsupported);
    let turn = shell_turn("echo ran >> count; id -u");
    let first = crate::harness::all(host.client.turn(&turn, 0).await.unwrap()).await;
    assert_eq!(crate::harness::reply(&first), "1000\n");
    assert_eq!(crate::harness::all(host.client.turn(&turn, 0).await.unwrap()).await, first);
    assert_eq!(std::fs::read_to_string(host.home().join("count")).unwrap(), "ran\n");
    host.client.write_bytes("/home/agent/x", &WriteOptions::default(), "x").await.unwrap();
    let theirs = host.client.write_bytes("/etc/x", &WriteOptions::default(), "x").await;
    assert_eq!(crate::harness::code(theirs), wharf_domain::Code::Forbidden);
    let terminal = wharf_wire::host::terminal::TerminalRequest { cols: 80, rows: 24, ..Default::default() };
    host.client.create_terminal(&terminal).await.unwrap();
}
