use std::time::{Duration, Instant};

use wharf_domain::{Code, TurnId};
use wharf_wire::host::Env;
use wharf_wire::host::exec::ExecRequest;
use wharf_wire::host::turn::{Block, Outcome, Reason, Said, SetupRequest, TurnEvent, TurnRequest};

use crate::harness::{
    Host, all, code, done, lives, output, refused, reply, said, shell_turn, until, until_dead,
};

async fn run(host: &Host, turn: &TurnRequest) -> Vec<TurnEvent> {
    all(host.client.turn(turn, 0).await.unwrap()).await
}

#[tokio::test]
async fn a_script_is_answered_with_its_output() {
    let host = Host::start().await;
    let turn = shell_turn("echo hello; echo problem >&2; pwd");
    let events = run(&host, &turn).await;
    assert!(matches!(said(&events)[0], Said::Started { agent } if agent == "shell"));
    assert_eq!(events[0].n, 1);
    let text = format!("hello\nproblem\n{}\n", host.home().display());
    assert_eq!((output(&events), reply(&events)), (text.clone(), text));
    let done = done(&events);
    assert_eq!((done.outcome, done.exit_code, done.is_error), (Outcome::Done, Some(0), false));
    assert_eq!(host.client.health().await.unwrap().turn, None);
}

#[tokio::test]
async fn a_script_that_fails_is_done_with_an_error() {
    let host = Host::start().await;
    let events = run(&host, &shell_turn("echo almost; exit 3")).await;
    assert_eq!(reply(&events), "almost\n[exit code 3]");
    let end = done(&events);
    assert_eq!((end.outcome, end.exit_code, end.is_error), (Outcome::Done, Some(3), true));
    let events = run(&host, &shell_turn("true")).await;
    assert_eq!(reply(&events), "[exit code 0]", "silence is answered too");
    let events = run(&host, &shell_turn("kill -15 $$")).await;
    assert_eq!(reply(&events), "[ended by signal 15]");
}

#[tokio::test]
async fn output_is_seen_while_the_script_runs() {
    let host = Host::start().await;
    let mut events = host.client.turn(&shell_turn("echo first; sleep 1; echo second"), 0).await.unwrap();
    let begun = Instant::now();
    loop {
        let event = events.next().await.unwrap().unwrap();
        if let Said::Output { piece, offset, .. } = event.said {
            assert_eq!((piece.text.as_deref(), offset), (Some("first\n"), 0));
            break;
        }
    }
    assert!(begun.elapsed() < Duration::from_millis(800));
    assert_eq!(done(&all(events).await).outcome, Outcome::Done);
}

#[tokio::test]
async fn the_same_turn_again_is_told_not_run() {
    let host = Host::start().await;
    let turn = shell_turn("echo ran >> count; echo done");
    let first = run(&host, &turn).await;
    assert_eq!(run(&host, &turn).await, first);
    let tail = all(host.client.turn(&turn, 2).await.unwrap()).await;
    assert_eq!(tail, first[2..]);
    assert_eq!(all(host.client.turn_events(turn.turn, 0).await.unwrap()).await, first);
    assert_eq!(std::fs::read_to_string(host.home().join("count")).unwrap(), "ran\n");

    let info = host.client.turn_info(turn.turn).await.unwrap();
    assert_eq!((info.running, info.events, info.seq), (false, first.len() as u64, 7));
    assert_eq!(host.client.turns().await.unwrap().turns, vec![turn.turn.to_string()]);

    // After a restart of the host too, word for word.
    let host = Host::start_in(host.kill()).await;
    assert_eq!(run(&host, &turn).await, first);
    assert_eq!(host.client.turn_info(turn.turn).await.unwrap().done, Some(done(&first)));
}

#[tokio::test]
async fn one_id_stands_for_one_question() {
    let host = Host::start().await;
    let turn = shell_turn("echo x");
    run(&host, &turn).await;
    let mut other = turn.clone();
    other.message.seq = 8;
    assert_eq!(code(host.client.turn(&other, 0).await), Code::IdempotencyMismatch);
    let mut other = turn.clone();
    other.agent.name = "else".into();
    assert_eq!(code(host.client.turn(&other, 0).await), Code::IdempotencyMismatch);
    assert_eq!(code(host.client.turn_info(TurnId::new()).await), Code::NotFound);
    assert_eq!(code(host.client.cancel_turn(TurnId::new()).await), Code::NotFound);
}

#[tokio::test]
async fn a_reader_that_lost_the_stream_takes_it_up_in_the_middle() {
    let host = Host::start().await;
    let turn = shell_turn("for i in 1 2 3 4 5 6; do echo $i; sleep 0.1; done");
    let mut events = host.client.turn(&turn, 0).await.unwrap();
    let mut seen = vec![events.next().await.unwrap().unwrap(), events.next().await.unwrap().unwrap()];
    drop(events);
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(host.client.health().await.unwrap().turn, Some(turn.turn.to_string()), "it goes on alone");
    let after = seen.last().unwrap().n;
    seen.extend(all(host.client.turn(&turn, after).await.unwrap()).await);
    said(&seen);
    assert_eq!((output(&seen).as_str(), done(&seen).outcome), ("1\n2\n3\n4\n5\n6\n", Outcome::Done));
}

#[tokio::test]
async fn one_turn_at_a_time() {
    let host = Host::start().await;
    let slow = shell_turn("sleep 300");
    let _events = host.client.turn(&slow, 0).await.unwrap();
    let fault = refused(host.client.turn(&shell_turn("echo x"), 0).await);
    assert_eq!(fault.code, Code::InvalidState);
    assert!(fault.detail.contains(&slow.turn.to_string()));
    assert!(host.sh("echo besides").await.exit.success(), "commands run beside it");
}

#[tokio::test]
async fn a_cancelled_turn_keeps_what_it_said_and_kills_what_it_started() {
    let host = Host::start().await;
    let turn = shell_turn("echo so far; sleep 300 & echo $! > pid; wait");
    let events = host.client.turn(&turn, 0).await.unwrap();
    until("it says something", || async { host.home().join("pid").exists() }).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let pid: i32 = std::fs::read_to_string(host.home().join("pid")).unwrap().trim().parse().unwrap();
    assert!(lives(pid));
    assert!(host.client.cancel_turn(turn.turn).await.unwrap().was_running);
    let events = all(events).await;
    assert_eq!((done(&events).outcome, done(&events).reason), (Outcome::Cancelled, Some(Reason::Cancelled)));
    assert_eq!(reply(&events), "so far\n");
    until_dead(pid).await;
    assert!(!host.client.cancel_turn(turn.turn).await.unwrap().was_running);
    assert_eq!(run(&host, &turn).await, events);
    assert_eq!(reply(&run(&host, &shell_turn("echo next")).await), "next\n");
}

#[tokio::test]
async fn a_turn_has_a_time_limit() {
    let host = Host::start().await;
    let turn = TurnRequest { timeout_seconds: Some(1), ..shell_turn("echo begun; sleep 300") };
    let events = run(&host, &turn).await;
    assert_eq!((done(&events).outcome, done(&events).reason), (Outcome::Failed, Some(Reason::Timeout)));
    assert_eq!(reply(&events), "begun\n");
}

#[tokio::test]
async fn a_turn_whose_host_died_is_interrupted_and_never_run_again() {
    let host = Host::start().await;
    let turn = shell_turn("echo ran >> count; echo said; sleep 300");
    let mut events = host.client.turn(&turn, 0).await.unwrap();
    let mut seen = Vec::new();
    while output(&seen) != "said\n" {
        seen.push(events.next().await.unwrap().unwrap());
    }
    let host = Host::start_in(host.kill()).await;
    let told = run(&host, &turn).await;
    assert_eq!(told[..seen.len()], seen, "what was said stays");
    let end = done(&told);
    assert_eq!((end.outcome, end.reason), (Outcome::Failed, Some(Reason::Interrupted)));
    let rest = all(host.client.turn(&turn, seen.len() as u64).await.unwrap()).await;
    assert_eq!((rest.len(), rest[0].n), (1, seen.len() as u64 + 1));
    // Even a reader that knows more than the volume does gets an end.
    let beyond = all(host.client.turn_events(turn.turn, 1000).await.unwrap()).await;
    assert_eq!((beyond.len(), beyond[0].n), (1, 1001));
    assert_eq!(std::fs::read_to_string(host.home().join("count")).unwrap(), "ran\n", "run once");
    assert_eq!(reply(&run(&host, &shell_turn("echo next")).await), "next\n");
}

#[tokio::test]
async fn a_host_killed_at_any_moment_never_answers_twice() {
    let mut host = Host::start().await;
    for round in 0..12_u64 {
        let turn = shell_turn(&format!("echo {round} >> count; echo hello; sleep 0.02; echo bye"));
        let events = host.client.turn(&turn, 0).await;
        tokio::time::sleep(Duration::from_millis(round * 4)).await;
        drop(events);
        host = Host::start_in(host.kill()).await;
        let told = run(&host, &turn).await;
        assert!(matches!(done(&told).reason, None | Some(Reason::Interrupted)));
        assert_eq!(run(&host, &turn).await.len(), told.len());
    }
    let count = std::fs::read_to_string(host.home().join("count")).unwrap_or_default();
    let mut lines: Vec<&str> = count.lines().collect();
    let before = lines.len();
    lines.dedup();
    assert_eq!(lines.len(), before, "some script ran twice: {count}");
}

#[tokio::test]
async fn a_reply_is_bounded_and_says_what_it_left_out() {
    let host = Host::start().await;
    let events =
        run(&host, &shell_turn("echo begin; head -c 9000000 /dev/zero | tr '\\0' z; echo; echo end")).await;
    let text = reply(&events);
    assert!(text.starts_with("begin\nzzz") && text.ends_with("zzz\nend\n"), "{}", &text[text.len() - 30..]);
    assert!(text.len() < 257 * 1024 && text.contains("bytes left out]"));
    assert!(output(&events).len() <= 4 * 1024 * 1024);
    assert_eq!(events.iter().filter(|e| matches!(e.said, Said::OutputCut { .. })).count(), 1);
}

#[tokio::test]
async fn characters_are_never_torn_and_bytes_never_lost() {
    let host = Host::start().await;
    let events = run(
        &host,
        &shell_turn("printf 'caf\\303'; sleep 0.1; printf '\\251 \\342\\202'; sleep 0.1; printf '\\254'"),
    )
    .await;
    assert_eq!((output(&events).as_str(), reply(&events).as_str()), ("café €", "café €"));
    let events = run(&host, &shell_turn("printf 'a\\377b'")).await;
    let Some(Said::Output { piece, .. }) =
        said(&events).into_iter().find(|s| matches!(s, Said::Output { .. }))
    else {
        panic!("no output")
    };
    assert_eq!(piece.clone().into_bytes(), b"a\xffb");
}

#[tokio::test]
async fn what_a_turn_leaves_running_lives_on() {
    let host = Host::start().await;
    let begun = Instant::now();
    let events = run(&host, &shell_turn("(sleep 0.5; echo late; touch mark) & echo $!")).await;
    assert!(begun.elapsed() < Duration::from_millis(450));
    assert!(lives(reply(&events).trim().parse().unwrap()));
    until("it survives writing to a turn that is over", || async { host.home().join("mark").exists() }).await;
}

#[tokio::test]
async fn a_message_a_shell_cannot_read_fails_with_the_reason() {
    let host = Host::start().await;
    let mut turn = shell_turn("echo x");
    let image = serde_json::json!({"type": "image", "data": "aGk="});
    turn.message.content.push(serde_json::from_value::<Block>(image).unwrap());
    let end = done(&run(&host, &turn).await);
    assert_eq!(end.reason, Some(Reason::AgentError));
    assert!(end.detail.unwrap().contains("image"));
    let mut bad = shell_turn("echo x");
    bad.agent.cwd = Some("/none".into());
    assert_eq!(done(&run(&host, &bad).await).reason, Some(Reason::AgentStart));
    let mut bad = shell_turn("echo x");
    bad.agent.entry = vec!["x".into()];
    assert_eq!(refused(host.client.turn(&bad, 0).await).field.as_deref(), Some("agent.entry"));
}

#[tokio::test]
async fn the_setup_script_runs_once_in_the_life_of_a_volume() {
    let host = Host::start().await;
    let setup = SetupRequest {
        script: "echo set >> up; echo $KEY".into(),
        env: Env::from([("KEY", "v")]),
        user: None,
        timeout_seconds: None,
    };
    let first = all(host.client.setup(&setup, 0).await.unwrap()).await;
    assert_eq!((reply(&first).as_str(), done(&first).exit_code), ("v\n", Some(0)));
    assert_eq!(all(host.client.setup(&setup, 0).await.unwrap()).await, first);
    let host = Host::start_in(host.kill()).await;
    assert_eq!(all(host.client.setup(&setup, 0).await.unwrap()).await, first);
    assert_eq!(std::fs::read_to_string(host.home().join("up")).unwrap(), "set\n");
}

#[tokio::test]
async fn a_setup_cut_short_by_the_hosts_death_runs_anew() {
    let host = Host::start().await;
    let setup = SetupRequest {
        script: "echo set >> up; [ -e go ] || sleep 300".into(),
        env: Env::default(),
        user: None,
        timeout_seconds: None,
    };
    let events = host.client.setup(&setup, 0).await.unwrap();
    until("it began", || async { host.home().join("up").exists() }).await;
    drop(events);
    let host = Host::start_in(host.kill()).await;
    std::fs::write(host.home().join("go"), "").unwrap();
    assert_eq!(done(&all(host.client.setup(&setup, 0).await.unwrap()).await).outcome, Outcome::Done);
    assert_eq!(std::fs::read_to_string(host.home().join("up")).unwrap(), "set\nset\n");
}

#[tokio::test]
async fn nothing_secret_is_written_to_the_volume() {
    let host = Host::start().await;
    host.claim(Env::from([("TOKEN", "hunter2-session")])).await;
    let mut turn = shell_turn("test -n \"$TOKEN\" && test -n \"$MORE\" && echo fine");
    turn.agent.env = Env::from([("MORE", "hunter2-agent")]);
    assert_eq!(reply(&run(&host, &turn).await), "fine\n");
    let wanted = ExecRequest { env: Env::from([("LAST", "hunter2-exec")]), ..ExecRequest::argv(["true"]) };
    host.client.exec(&wanted).await.unwrap();
    let found =
        std::process::Command::new("grep").arg("-rl").arg("hunter2").arg(host.root()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(host.root().join("var/lib/wharf/turns")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn a_turn_that_cannot_be_kept_is_not_run() {
    let host = Host::start().await;
    std::fs::create_dir_all(host.root().join("var/lib/wharf")).unwrap();
    std::fs::write(host.root().join("var/lib/wharf/turns"), "in the way").unwrap();
    assert_eq!(code(host.client.turn(&shell_turn("touch ran"), 0).await), Code::Unavailable);
    assert!(!host.home().join("ran").exists());
    std::fs::remove_file(host.root().join("var/lib/wharf/turns")).unwrap();
    std::os::unix::fs::symlink("/home/agent", host.root().join("var/lib/wharf/turns")).unwrap();
    assert_eq!(
        code(host.client.turn(&shell_turn("touch ran"), 0).await),
        Code::Unavailable,
        "nor where a link leads"
    );
}
