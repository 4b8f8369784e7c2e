#![allow(clippy::unwrap_used)]

use std::io::Write as _;

use wharf_domain::{SessionId, TurnId};

use super::{End, Entry, Journal, parse};
use crate::block::{Part, ToolResult};

fn written(dir: &std::path::Path) -> Vec<u8> {
    let path = dir.join("agent.jsonl");
    let mut journal = Journal::open(&path).unwrap();
    journal.append(Entry::Head { session: Some(SessionId::new()) }).unwrap();
    journal.append(Entry::Turn { turn: TurnId::new(), seq: 4, content: vec![Part::text("grüße")] }).unwrap();
    journal.append(Entry::Started { id: "a".into() }).unwrap();
    journal
        .append(Entry::Finished(ToolResult {
            id: "a".into(),
            content: vec![Part::text("x")],
            is_error: false,
        }))
        .unwrap();
    journal.append(Entry::Ended(End::Done)).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn a_journal_torn_anywhere_keeps_every_whole_line_and_is_written_on() {
    let dir = tempfile::tempdir().unwrap();
    let whole = written(dir.path());
    let lines = whole.split_inclusive(|b| *b == b'\n').count();
    let path = dir.path().join("torn.jsonl");
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        let kept = whole[..cut].split(|b| *b == b'\n').count() - 1;
        assert_eq!(journal.entries.len(), kept);
        journal.append(Entry::Resumed).unwrap();
        drop(journal);
        let again = Journal::open(&path).unwrap();
        assert_eq!(again.entries.len(), kept + 1, "cut at {cut}");
        assert_eq!(again.entries.last().unwrap().1, Entry::Resumed);
    }
    assert_eq!(parse(&whole).0.len(), lines);
}

#[test]
fn a_line_that_cannot_be_read_costs_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let whole = written(dir.path());
    let mut lines: Vec<&[u8]> = whole.split_inclusive(|b| *b == b'\n').collect();
    lines[2] = b"{\"n\":2,\"entry\":\"unheard of\"}\n";
    let (entries, good) = parse(&lines.concat());
    assert_eq!(entries.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 1, 3, 4]);
    assert_eq!(good, lines.concat().len() as u64);
}

#[test]
fn two_processes_never_write_one_conversation() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.jsonl");
    let first = Journal::open(&path).unwrap();
    let second = std::thread::spawn({
        let path = path.clone();
        move || Journal::open(&path).map(|j| j.entries.len())
    });
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(!second.is_finished(), "the second waits for the first");
    drop(first);
    assert_eq!(second.join().unwrap().unwrap(), 0);
}

#[test]
fn a_summary_frees_memory_but_not_the_turn_in_hand() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(&dir.path().join("agent.jsonl")).unwrap();
    let turn = |text: &str| Entry::Turn { turn: TurnId::new(), seq: 1, content: vec![Part::text(text)] };
    journal.append(Entry::Head { session: None }).unwrap();
    journal.append(turn("old")).unwrap();
    journal.append(Entry::Ended(End::Done)).unwrap();
    journal.append(turn("new")).unwrap();
    journal.append(Entry::Started { id: "a".into() }).unwrap();
    let upto = journal.append(Entry::Note { text: "here".into() }).unwrap();
    journal.append(Entry::Summary { upto, text: "short".into() }).unwrap();
    journal.forget_summarised().unwrap();
    let kept: Vec<u64> = journal.entries.iter().map(|(n, _)| *n).collect();
    assert_eq!(kept, [0, 3, 4, 5, 6]);
    let n = journal.append(Entry::Resumed).unwrap();
    assert_eq!(n, 7, "numbers go on");
}

#[test]
fn what_others_wrote_into_the_file_does_not_make_it_fall() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.jsonl");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(b"\xff\xfe\n{}\nnull\n[1]\n{\"n\":0,\"entry\":\"resumed\"}\n").unwrap();
    drop(file);
    assert_eq!(Journal::open(&path).unwrap().entries, [(0, Entry::Resumed)]);
}
