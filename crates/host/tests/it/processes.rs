use std::time::Duration;

use wharf_domain::Code;
use wharf_wire::host::exec::{ExecEvent, ExecRequest, SignalName, SignalRequest, StdinRequest, Stream};

use crate::harness::{Host, all, code, output_of, until, until_dead};

fn sh(script: &str) -> ExecRequest {
    ExecRequest::argv(["sh", "-c", script])
}

#[tokio::test]
async fn a_process_outlives_its_caller_and_is_read_later() {
    let host = Host::start().await;
    let process =
        host.client.start_process(&sh("echo one; echo two; sleep 0.2; echo three; exit 4")).await.unwrap();
    assert!(process.running && process.id == 1);
    let events = all(host.client.follow_process(process.id, 0, 0).await.unwrap()).await;
    assert_eq!(output_of(&events, Stream::Stdout), b"one\ntwo\nthree\n");
    let info = host.client.process(process.id).await.unwrap();
    assert_eq!((info.running, info.exit.exit_code, info.stdout_bytes), (false, Some(4), 14));

    let part = host.client.process_output(process.id, Stream::Stdout, 4).await.unwrap();
    assert_eq!(
        (part.piece.text.as_deref(), part.offset, part.next, part.end),
        (Some("two\nthree\n"), 4, 14, true)
    );
    let rest = host.client.process_output(process.id, Stream::Stdout, 999).await.unwrap();
    assert_eq!((rest.offset, rest.lost, rest.end), (14, 0, true));

    host.client.delete_process(process.id).await.unwrap();
    assert_eq!(code(host.client.process(process.id).await), Code::NotFound);
}

#[tokio::test]
async fn a_reader_resumes_where_it_stopped() {
    let host = Host::start().await;
    let process = host.client.start_process(&sh("seq 1 5; sleep 0.3; seq 6 10")).await.unwrap();
    let mut events = host.client.follow_process(process.id, 0, 0).await.unwrap();
    let Some(Ok(ExecEvent::Output { piece, offset: 0, .. })) = events.next().await else {
        panic!("no output")
    };
    let seen = piece.into_bytes();
    drop(events);
    let events = all(host.client.follow_process(process.id, seen.len() as u64, 0).await.unwrap()).await;
    let mut all = seen;
    for event in &events {
        if let ExecEvent::Output { offset, piece, .. } = event {
            assert_eq!(*offset, all.len() as u64);
            all.extend(piece.clone().into_bytes());
        }
    }
    assert_eq!(all, b"1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n");
}

#[tokio::test]
async fn bytes_the_ring_overran_are_told_as_lost() {
    let host = Host::start().await;
    let wanted =
        ExecRequest { max_output_bytes: Some(1000), ..sh("head -c 5000 /dev/zero | tr '\\0' x; echo end") };
    let process = host.client.start_process(&wanted).await.unwrap();
    until("it ends", || async { !host.client.process(process.id).await.unwrap().running }).await;
    let part = host.client.process_output(process.id, Stream::Stdout, 0).await.unwrap();
    assert_eq!((part.offset, part.lost, part.next), (4004, 4004, 5004));
    assert!(part.piece.into_bytes().ends_with(b"xend\n"));
    let events = all(host.client.follow_process(process.id, 100, 0).await.unwrap()).await;
    assert_eq!(events[0], ExecEvent::Lost { stream: Stream::Stdout, offset: 100, bytes: 3904 });
}

#[tokio::test]
async fn a_process_is_talked_to_until_its_input_is_closed() {
    let host = Host::start().await;
    let wanted =
        ExecRequest { stdin: Some("first\n".into()), stdin_open: true, ..ExecRequest::argv(["cat"]) };
    let process = host.client.start_process(&wanted).await.unwrap();
    assert!(process.stdin_open);
    let say = |text: &str, close| StdinRequest { text: Some(text.into()), b64: None, close };
    host.client.write_process(process.id, &say("second\n", false)).await.unwrap();
    host.client.write_process(process.id, &say("third\n", true)).await.unwrap();
    let events = all(host.client.follow_process(process.id, 0, 0).await.unwrap()).await;
    assert_eq!(output_of(&events, Stream::Stdout), b"first\nsecond\nthird\n");
    assert_eq!(code(host.client.write_process(process.id, &say("x", false)).await), Code::InvalidState);
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group() {
    let host = Host::start().await;
    let process = host.client.start_process(&sh("sleep 300 & echo $!; wait")).await.unwrap();
    let mut events = host.client.follow_process(process.id, 0, 0).await.unwrap();
    let Some(Ok(ExecEvent::Output { piece, .. })) = events.next().await else { panic!("no output") };
    let child: i32 = piece.text.unwrap().trim().parse().unwrap();
    assert_eq!(code(host.client.delete_process(process.id).await), Code::InvalidState, "it runs");
    let term = |name: &str| SignalRequest { signal: SignalName::Name(name.into()), only_leader: false };
    assert_eq!(code(host.client.signal_process(process.id, &term("NONSENSE")).await), Code::InvalidField);
    host.client.signal_process(process.id, &term("SIGTERM")).await.unwrap();
    until_dead(child).await;
    until_dead(process.pid).await;
    until("the exit is known", || async {
        host.client.process(process.id).await.unwrap().exit.signal == Some(15)
    })
    .await;
    assert_eq!(code(host.client.signal_process(process.id, &term("TERM")).await), Code::InvalidState);
}

#[tokio::test]
async fn a_process_with_a_limit_is_ended_at_it() {
    let host = Host::start().await;
    let wanted = ExecRequest { timeout_seconds: Some(1), ..ExecRequest::argv(["sleep", "300"]) };
    let process = host.client.start_process(&wanted).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), until_dead(process.pid)).await.unwrap();
    until("the exit is known", || async { host.client.process(process.id).await.unwrap().timed_out }).await;
}

#[tokio::test]
async fn old_ends_are_forgotten_and_numbers_never_come_back() {
    let host = Host::start().await;
    for _ in 0..70 {
        let p = host.client.start_process(&ExecRequest::argv(["true"])).await.unwrap();
        until("it ends", || async { !host.client.process(p.id).await.unwrap().running }).await;
    }
    let list = host.client.processes().await.unwrap();
    assert!(list.len() <= 65, "{}", list.len());
    assert_eq!(list.last().unwrap().id, 70);
    assert_eq!(code(host.client.process(1).await), Code::NotFound);
}
