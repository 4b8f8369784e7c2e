#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use wharf_wire::host::exec::Stream;
use wharf_wire::host::turn::{Outcome, Reason, Said};

use super::Turn;
use super::journal::{Head, Journal, SETUP, parse};
use crate::limits;
use crate::root::Root;

fn head(turn: &str) -> Head {
    Head { turn: turn.into(), seq: 3, agent: "shell".into() }
}

fn finished() -> wharf_wire::host::turn::Done {
    wharf_wire::host::turn::Done {
        outcome: Outcome::Done,
        reason: None,
        detail: None,
        exit_code: Some(0),
        is_error: false,
        usage: None,
    }
}

/// A journal as a turn writes it.
fn written() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&Root::open(dir.path()).unwrap()).unwrap();
    let turn = Turn::new(head("t"), journal.begin(&head("t")).unwrap());
    turn.say(Said::Started { agent: "shell".into() }).unwrap();
    turn.output(Stream::Output, "grüße\n".as_bytes());
    turn.output(Stream::Output, b"\xff");
    assert!(turn.end(finished()));
    std::fs::read(dir.path().join("var/lib/wharf/turns/t.running")).unwrap()
}

#[test]
fn a_journal_cut_anywhere_reads_as_interrupted_and_whole_as_done() {
    let whole = written();
    let past = parse("t", &whole);
    assert!(!past.interrupted && past.head == head("t") && past.lines.len() == 4);
    assert_eq!(past.done(), Some(finished()));
    for cut in 0..whole.len() {
        let past = parse("t", &whole[..cut]);
        assert!(past.interrupted, "cut at {cut}");
        assert_eq!(past.done().unwrap().reason, Some(Reason::Interrupted));
        assert_eq!(past.events(0).len(), past.lines.len() + 1);
    }
}

#[test]
fn old_turns_make_way_for_new_ones_but_never_the_setup() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&Root::open(dir.path()).unwrap()).unwrap();
    journal.begin(&head(SETUP)).unwrap();
    journal.finish(SETUP).unwrap();
    for i in 0..limits::TURNS_KEPT + 10 {
        journal.begin(&head(&format!("{i:06}"))).unwrap();
        journal.finish(&format!("{i:06}")).unwrap();
    }
    let last = format!("{:06}", limits::TURNS_KEPT + 9);
    journal.prune(&last).unwrap();
    let keys = journal.keys().unwrap();
    assert_eq!(keys.len(), limits::TURNS_KEPT + 1);
    assert!(keys.contains(&SETUP.to_owned()) && keys.contains(&last) && !keys.contains(&"000000".to_owned()));
    assert!(journal.begin(&head(&last)).is_ok(), "only a finished one of that name is there");
    assert!(journal.begin(&head(&last)).is_err(), "a turn begins once");
}

#[test]
fn output_past_its_limit_is_cut_once_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&Root::open(dir.path()).unwrap()).unwrap();
    let turn = Turn::new(head("t"), journal.begin(&head("t")).unwrap());
    for _ in 0..200 {
        turn.output(Stream::Output, "x".repeat(60_000).as_bytes());
    }
    turn.output(Stream::Stderr, b"another stream is not cut");
    let (lines, _) = turn.events(0);
    let cuts = lines.iter().filter(|l| String::from_utf8_lossy(l).contains("output.cut")).count();
    assert_eq!(cuts, 1);
    assert!(String::from_utf8_lossy(lines.last().unwrap()).contains("another stream"));
    let bytes: usize = lines.iter().map(bytes::Bytes::len).sum();
    assert!((bytes as u64) < limits::TURN_OUTPUT_BYTES + 100_000);
    assert!(turn.say(Said::Text { text: "y".repeat(limits::TURN_SAID_BYTES) }).is_err());
    assert!(turn.say(Said::Text { text: "y".into() }).is_ok());
}

proptest! {
    #[test]
    fn no_bytes_make_the_journal_reader_fall(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(parse("t", &bytes).interrupted);
    }

    #[test]
    fn a_damaged_journal_never_shows_an_event_out_of_order(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = written();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let past = parse("t", &bytes);
        for (i, line) in past.lines.iter().enumerate() {
            let event: wharf_wire::host::turn::TurnEvent = serde_json::from_slice(line).unwrap();
            prop_assert_eq!(event.n, i as u64 + 1);
        }
    }
}
