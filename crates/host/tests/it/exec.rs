use std::time::{Duration, Instant};

use wharf_domain::Code;
use wharf_wire::host::exec::{ExecEvent, ExecRequest, Stream};
use wharf_wire::host::{B64, Env};

use crate::harness::{Host, all, code, identity, lives, output_of, refused, until, until_dead};

#[tokio::test]
async fn a_command_tells_its_output_and_exit_code() {
    let host = Host::start().await;
    let done = host.sh("echo out; echo err >&2; exit 3").await;
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!((done.exit.exit_code, done.exit.signal), (Some(3), None));
    assert!(!done.timed_out && !done.stdout_truncated);

    let done = host.sh("kill -9 $$").await;
    assert_eq!((done.exit.exit_code, done.exit.signal), (None, Some(9)));
}

#[tokio::test]
async fn a_script_runs_in_a_login_shell_at_home() {
    let host = Host::start().await;
    let done = host
        .client
        .exec(&ExecRequest::command("pwd; echo $HOME; shopt -q login_shell && echo login"))
        .await
        .unwrap();
    let home = host.home().display().to_string();
    assert_eq!(done.stdout, format!("{home}\n{home}\nlogin\n"));
}

#[tokio::test]
async fn a_script_longer_than_an_argument_may_be_still_runs() {
    let host = Host::start().await;
    let script = format!("# {}\necho ran \"$#\"", "x".repeat(300_000));
    let done = host.client.exec(&ExecRequest::command(script)).await.unwrap();
    assert_eq!(done.stdout, "ran 0\n", "{}", done.stderr);
}

#[tokio::test]
async fn input_arrives_and_ends() {
    let host = Host::start().await;
    let done = host
        .client
        .exec(&ExecRequest { stdin: Some("a\nb\n".into()), ..ExecRequest::argv(["cat"]) })
        .await
        .unwrap();
    assert_eq!(done.stdout, "a\nb\n");
    let bytes: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    let wanted = ExecRequest {
        stdin_b64: Some(B64(bytes.clone())),
        max_output_bytes: Some(4 * 1024 * 1024),
        ..ExecRequest::argv(["cat"])
    };
    let done = host.client.exec(&wanted).await.unwrap();
    assert!(done.stdout() == bytes, "binary input comes back as it was");
    // Without input there is none to wait for.
    assert_eq!(host.sh("cat; echo end").await.stdout, "end\n");
}

#[tokio::test]
async fn a_command_that_does_not_read_its_input_still_ends() {
    let host = Host::start().await;
    let wanted = ExecRequest { stdin: Some("x".repeat(2_000_000)), ..ExecRequest::argv(["true"]) };
    assert!(host.client.exec(&wanted).await.unwrap().exit.success());
}

#[tokio::test]
async fn output_that_is_no_text_survives() {
    let host = Host::start().await;
    let done = host.sh(r"printf '\377\000ok'").await;
    assert_eq!(done.stdout(), b"\xff\0ok");
    assert!(done.stdout.ends_with("\0ok"));
}

#[tokio::test]
async fn the_end_of_a_long_output_is_kept_and_the_rest_counted() {
    let host = Host::start().await;
    let wanted = ExecRequest {
        max_output_bytes: Some(1000),
        ..ExecRequest::argv(["sh", "-c", "for i in $(seq 1 5000); do echo line $i; done"])
    };
    let done = host.client.exec(&wanted).await.unwrap();
    assert!(done.stdout_truncated && done.stdout.ends_with("line 5000\n"));
    assert_eq!(done.stdout.len(), 1000);
    assert_eq!(done.stdout_bytes, (1..=5000).map(|i| format!("line {i}\n").len() as u64).sum::<u64>());
}

#[tokio::test]
async fn a_timeout_kills_grandchildren_and_those_who_left_the_group() {
    let host = Host::start().await;
    let script = "sleep 300 & echo $! > a; setsid sleep 300 & sleep 0.2; pgrep -P $$ sleep >> a; (setsid sh -c 'sleep 300 & echo $! >> a; wait' &); sleep 300";
    let wanted = ExecRequest { timeout_seconds: Some(1), ..ExecRequest::argv(["sh", "-c", script]) };
    let begun = Instant::now();
    let done = host.client.exec(&wanted).await.unwrap();
    assert!(done.timed_out && done.exit.signal == Some(9));
    assert!(begun.elapsed() < Duration::from_secs(5));
    let pids = std::fs::read_to_string(host.home().join("a")).unwrap();
    let pids: Vec<i32> = pids.split_whitespace().map(|p| p.parse().unwrap()).collect();
    assert!(pids.len() >= 4, "{pids:?}");
    // The last was orphaned and in a session of its own: a daemon by every definition but its parent's session.
    for pid in &pids[..pids.len() - 1] {
        until_dead(*pid).await;
    }
}

#[tokio::test]
async fn what_a_command_leaves_running_does_not_keep_its_caller() {
    let host = Host::start().await;
    let begun = Instant::now();
    let done = host.sh("sleep 20 & echo $!").await;
    assert!(begun.elapsed() < Duration::from_secs(5), "waited for a daemon");
    assert!(lives(done.stdout.trim().parse().unwrap()), "and the daemon lives on");
}

#[tokio::test]
async fn a_daemon_may_go_on_writing_where_nobody_reads() {
    let host = Host::start().await;
    let done = host.sh("(sleep 0.4; echo late; echo still here > mark) & ").await;
    assert!(done.exit.success());
    until("the daemon writes its mark", || async { host.home().join("mark").exists() }).await;
}

#[tokio::test]
async fn a_command_dies_with_its_caller() {
    let host = Host::start().await;
    let client = host.client.clone();
    let call = tokio::spawn(async move {
        client.exec(&ExecRequest::argv(["sh", "-c", "echo $$ > pid; exec sleep 300"])).await
    });
    until("the command writes its number", || async { host.home().join("pid").exists() }).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let pid = std::fs::read_to_string(host.home().join("pid")).unwrap().trim().parse().unwrap();
    call.abort();
    until_dead(pid).await;
}

#[tokio::test]
async fn a_streamed_command_tells_everything_in_order_however_slow_its_reader() {
    let host = Host::start().await;
    let script = "seq 1 200000; echo oops >&2; printf 'h\\303'; sleep 0.05; printf '\\251'";
    let wanted = ExecRequest { max_output_bytes: Some(4096), ..ExecRequest::argv(["sh", "-c", script]) };
    let mut events = host.client.exec_stream(&wanted).await.unwrap();
    let first = events.next().await.unwrap().unwrap();
    assert!(matches!(first, ExecEvent::Started { .. }));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let events = all(events).await;
    let mut expected = crate::harness::numbers(200_000, "\n");
    expected.push('h');
    expected.push('é');
    assert!(output_of(&events, Stream::Stdout) == expected.as_bytes());
    assert_eq!(output_of(&events, Stream::Stderr), b"oops\n");
    assert!(matches!(events.last(), Some(ExecEvent::Exit { exit, stdout_bytes, .. })
        if exit.success() && *stdout_bytes == expected.len() as u64));
    assert!(
        !events.iter().any(|e| matches!(e, ExecEvent::Output { piece, .. } if piece.b64.is_some())),
        "no torn é"
    );
}

#[tokio::test]
async fn a_streamed_command_dies_with_its_reader() {
    let host = Host::start().await;
    let mut events = host.client.exec_stream(&ExecRequest::argv(["sleep", "300"])).await.unwrap();
    let Some(Ok(ExecEvent::Started { pid })) = events.next().await else { panic!("no start") };
    assert!(lives(pid));
    drop(events);
    until_dead(pid).await;
}

#[tokio::test]
async fn the_sessions_environment_reaches_commands_and_theirs_wins() {
    let host = Host::start().await;
    host.claim(Env::from([("COLOUR", "blue"), ("SHAPE", "round")])).await;
    let wanted = ExecRequest {
        env: Env::from([("COLOUR", "red")]),
        ..ExecRequest::argv(["sh", "-c", "echo $COLOUR $SHAPE $HOSTNAME $USER $LANG"])
    };
    assert_eq!(host.client.exec(&wanted).await.unwrap().stdout, "red round harbour agent C.UTF-8\n");
    let names = host.sh("env -0 | tr '\\0' '\\n' | cut -d= -f1 | sort | tr '\\n' ' '").await.stdout;
    assert_eq!(
        names, "COLOUR HOME HOSTNAME LANG LOGNAME PATH PWD SHAPE SHELL TERM USER ",
        "nothing of the host's own"
    );
}

#[tokio::test]
async fn a_jail_is_claimed_once() {
    let host = Host::start().await;
    assert_eq!(host.client.health().await.unwrap().session, None);
    let session = host.claim(Env::from([("A", "1")])).await;
    assert_eq!(host.client.health().await.unwrap().session, Some(session));
    let again = host.client.claim(&identity(session, Env::from([("A", "1")]))).await.unwrap();
    assert!(!again.first);
    assert_eq!(
        code(host.client.claim(&identity(session, Env::from([("A", "2")]))).await),
        Code::InvalidState
    );
    let other = wharf_domain::SessionId::new();
    assert_eq!(code(host.client.claim(&identity(other, Env::default())).await), Code::InvalidState);
}

#[tokio::test]
async fn what_cannot_run_says_why() {
    let host = Host::start().await;
    let none = refused(host.client.exec(&ExecRequest::argv(["no-such-program"])).await);
    assert_eq!((none.code, none.field.as_deref()), (Code::InvalidField, Some("argv")));
    assert!(none.detail.contains("no-such-program"));
    let away = ExecRequest { cwd: Some("/nowhere".into()), ..ExecRequest::argv(["true"]) };
    let away = refused(host.client.exec(&away).await);
    assert_eq!(away.field.as_deref(), Some("cwd"));
    for (field, wanted) in [
        ("argv", ExecRequest::default()),
        ("argv", ExecRequest::argv([""])),
        ("argv", ExecRequest::argv(["a\0b"])),
        ("command", ExecRequest { command: Some("x".into()), ..ExecRequest::argv(["y"]) }),
        ("env", ExecRequest { env: Env::from([("A=B", "x")]), ..ExecRequest::argv(["y"]) }),
        ("timeout_seconds", ExecRequest { timeout_seconds: Some(0), ..ExecRequest::argv(["y"]) }),
        ("max_output_bytes", ExecRequest { max_output_bytes: Some(u64::MAX), ..ExecRequest::argv(["y"]) }),
        (
            "stdin_b64",
            ExecRequest {
                stdin: Some(String::new()),
                stdin_b64: Some(B64(vec![])),
                ..ExecRequest::argv(["y"])
            },
        ),
        ("user", ExecRequest { user: Some("nobody-of-that-name".into()), ..ExecRequest::argv(["y"]) }),
    ] {
        let fault = refused(host.client.exec(&wanted).await);
        assert_eq!(fault.field.as_deref(), Some(field), "{}", fault.detail);
    }
    let other = ExecRequest { user: Some("54321".into()), ..ExecRequest::argv(["true"]) };
    assert_eq!(
        code(host.client.exec(&other).await),
        Code::Unsupported,
        "outside of a jail nobody changes who they are"
    );
}

#[tokio::test]
async fn many_commands_at_once_each_get_their_own_answer() {
    let host = Host::start().await;
    let runs = (0..100).map(|i| {
        let client = host.client.clone();
        tokio::spawn(async move {
            (i, client.exec(&ExecRequest::argv(["sh", "-c", &format!("echo {i}; exit {i}")])).await)
        })
    });
    for run in futures_util::future::join_all(runs).await {
        let (i, done) = run.unwrap();
        let done = done.unwrap();
        assert_eq!((done.exit.exit_code, done.stdout), (Some(i), format!("{i}\n")));
    }
    assert_eq!(host.client.stats().await.unwrap().processes, 1, "no zombie, no stray");
}

#[tokio::test]
async fn a_host_told_to_end_ends_everything() {
    let mut host = Host::start().await;
    let pid = host.sh("setsid sleep 300 > /dev/null 2>&1 & echo $!").await.stdout.trim().parse().unwrap();
    let process = host.client.start_process(&ExecRequest::argv(["sleep", "300"])).await.unwrap();
    assert!(host.terminate().success());
    until_dead(pid).await;
    until_dead(process.pid).await;
}

#[tokio::test]
async fn the_host_is_small_and_says_what_it_takes() {
    let host = Host::start().await;
    let stats = host.client.stats().await.unwrap();
    assert_eq!(stats.processes, 1);
    assert!(stats.host_rss_bytes > 100_000 && stats.host_fds > 3);
    let process = host.client.start_process(&ExecRequest::argv(["sleep", "300"])).await.unwrap();
    // It is given its memory piece by piece.
    until("it takes something", async || {
        let more = host.client.stats().await.unwrap();
        assert_eq!(more.processes, 2);
        more.rss_bytes > more.host_rss_bytes
    })
    .await;
    assert!(lives(process.pid));
    host.client.sync().await.unwrap();
}
