use std::time::Duration;

use wharf_chassis::host_client::TerminalReader;
use wharf_domain::Code;
use wharf_wire::host::exec::Exit;
use wharf_wire::host::frame::Frame;
use wharf_wire::host::terminal::TerminalRequest;

use crate::harness::{Host, code, until, until_dead};

fn wanted(argv: &[&str]) -> TerminalRequest {
    TerminalRequest {
        cols: 80,
        rows: 24,
        argv: Some(argv.iter().map(|a| (*a).to_owned()).collect()),
        ..TerminalRequest::default()
    }
}

/// Reads until the screen shows `text`; everything shown so far.
async fn shows(reader: &mut TerminalReader, text: &str) -> String {
    let mut seen = String::new();
    tokio::time::timeout(Duration::from_secs(10), async {
        while !seen.contains(text) {
            match reader.next().await.unwrap() {
                Some(Frame::Data(bytes)) => seen.push_str(&String::from_utf8_lossy(&bytes)),
                Some(_) => {}
                None => panic!("ended before {text:?}: {seen:?}"),
            }
        }
    })
    .await
    .unwrap_or_else(|_| panic!("the terminal never shows {text:?}"));
    seen
}

async fn exit_of(reader: &mut TerminalReader) -> Exit {
    loop {
        match reader.next().await.unwrap() {
            Some(Frame::Exit(exit)) => return exit,
            Some(_) => {}
            None => panic!("ended without an exit"),
        }
    }
}

#[tokio::test]
async fn two_viewers_see_one_terminal_and_one_comes_back() {
    let host = Host::start().await;
    let terminal = host.client.create_terminal(&wanted(&["sh"])).await.unwrap();
    let mut alice = host.client.attach_terminal(terminal.id, 0).await.unwrap();
    let mut bob = host.client.attach_terminal(terminal.id, 0).await.unwrap();
    assert_eq!(alice.reader.next().await.unwrap(), Some(Frame::Offset(0)));
    alice.writer.keys("tty; echo one$((1+1))\n").await.unwrap();
    let seen = shows(&mut alice.reader, "one2").await;
    assert!(seen.contains("/dev/pts/"), "{seen}");
    shows(&mut bob.reader, "one2").await;
    until("both are counted", || async { host.client.terminal(terminal.id).await.unwrap().viewers == 2 })
        .await;

    drop(alice);
    bob.writer.keys("echo three$((3+1))\n").await.unwrap();
    shows(&mut bob.reader, "three4").await;
    until("one is gone", || async { host.client.terminal(terminal.id).await.unwrap().viewers == 1 }).await;

    let mut back = host.client.attach_terminal(terminal.id, 0).await.unwrap();
    let scrollback = shows(&mut back.reader, "three4").await;
    assert!(scrollback.contains("one2"), "what happened meanwhile and before is there");

    let at = host.client.terminal(terminal.id).await.unwrap().output_bytes;
    let mut late = host.client.attach_terminal(terminal.id, at).await.unwrap();
    assert_eq!(late.reader.next().await.unwrap(), Some(Frame::Offset(at)));

    bob.writer.keys("exit 5\n").await.unwrap();
    let end = Exit { exit_code: Some(5), signal: None };
    assert_eq!(exit_of(&mut bob.reader).await, end);
    assert_eq!(exit_of(&mut back.reader).await, end);
    assert_eq!(exit_of(&mut late.reader).await, end);

    let mut after = host.client.attach_terminal(terminal.id, 0).await.unwrap();
    let seen = shows(&mut after.reader, "three4").await;
    assert!(seen.contains("one2"), "an ended terminal still shows its last screen");
    assert_eq!(exit_of(&mut after.reader).await, end);
}

#[tokio::test]
async fn a_terminal_has_a_size_that_all_see_change() {
    let host = Host::start().await;
    let terminal = host.client.create_terminal(&wanted(&["sh"])).await.unwrap();
    let mut alice = host.client.attach_terminal(terminal.id, 0).await.unwrap();
    let mut bob = host.client.attach_terminal(terminal.id, 0).await.unwrap();
    alice.writer.keys("stty size\n").await.unwrap();
    shows(&mut alice.reader, "24 80").await;
    alice.writer.resize(132, 50).await.unwrap();
    loop {
        match bob.reader.next().await.unwrap() {
            Some(Frame::Resize { cols: 132, rows: 50 }) => break,
            Some(_) => {}
            None => panic!("bob hears nothing of it"),
        }
    }
    alice.writer.keys("stty size\n").await.unwrap();
    shows(&mut alice.reader, "50 132").await;
    assert_eq!(host.client.terminal(terminal.id).await.unwrap().cols, 132);
}

#[tokio::test]
async fn the_interrupt_key_reaches_the_job_in_front() {
    let host = Host::start().await;
    let terminal = host.client.create_terminal(&wanted(&["bash", "--norc"])).await.unwrap();
    let mut view = host.client.attach_terminal(terminal.id, 0).await.unwrap();
    view.writer.keys("sleep 300; echo stopped-$?\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    view.writer.keys("\x03").await.unwrap();
    view.writer.keys("echo alive-$((40+2))\n").await.unwrap();
    shows(&mut view.reader, "alive-42").await;
}

#[tokio::test]
async fn a_deleted_terminal_takes_its_programs_along_and_says_so() {
    let host = Host::start().await;
    let terminal = host.client.create_terminal(&wanted(&["bash", "--norc", "-i"])).await.unwrap();
    let mut view = host.client.attach_terminal(terminal.id, 0).await.unwrap();
    view.writer.keys("sleep 301 & echo $! > pid\n").await.unwrap();
    let file = host.home().join("pid");
    until("the job's number is written", || async {
        std::fs::read_to_string(&file).is_ok_and(|t| t.ends_with('\n'))
    })
    .await;
    let pid = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    host.client.delete_terminal(terminal.id).await.unwrap();
    assert_eq!(exit_of(&mut view.reader).await.signal, Some(9));
    until_dead(pid).await;
    assert_eq!(code(host.client.terminal(terminal.id).await), Code::NotFound);
}

#[tokio::test]
async fn much_output_passes_a_terminal_whole() {
    let host = Host::start().await;
    let terminal = host.client.create_terminal(&wanted(&["seq", "1", "60000"])).await.unwrap();
    let mut view = host.client.attach_terminal(terminal.id, 0).await.unwrap();
    let seen = shows(&mut view.reader, "\n60000\r\n").await;
    let expected = crate::harness::numbers(60_000, "\r\n");
    assert!(seen == expected);
    assert_eq!(exit_of(&mut view.reader).await.exit_code, Some(0));
}

#[tokio::test]
async fn without_a_program_it_is_a_login_shell_and_sizes_have_bounds() {
    let host = Host::start().await;
    let plain = TerminalRequest { cols: 80, rows: 24, ..TerminalRequest::default() };
    let terminal = host.client.create_terminal(&plain).await.unwrap();
    assert!(terminal.argv[0].ends_with("sh") && terminal.argv[1] == "-l");
    let mut view = host.client.attach_terminal(terminal.id, 0).await.unwrap();
    view.writer.keys("echo $TERM $COLORTERM; pwd\n").await.unwrap();
    let seen = shows(&mut view.reader, "/home/agent").await;
    assert!(seen.contains("xterm-256color truecolor"), "{seen}");
    for (cols, rows) in [(0, 24), (80, 0), (u16::MAX, 24)] {
        let odd = TerminalRequest { cols, rows, ..TerminalRequest::default() };
        assert_eq!(code(host.client.create_terminal(&odd).await), Code::InvalidField);
    }
    assert_eq!(host.client.terminals().await.unwrap().len(), 1);
}
