#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::{Event, Parser};

fn all(pieces: &[&[u8]]) -> Vec<Event> {
    let (mut parser, mut out) = (Parser::default(), Vec::new());
    for piece in pieces {
        parser.push(piece, &mut out).unwrap();
    }
    out
}

fn event(name: &str, data: &str) -> Event {
    Event { name: name.into(), data: data.into() }
}

#[test]
fn events_are_read_however_their_lines_end() {
    for end in ["\n", "\r", "\r\n"] {
        let text = ["event: a", "data: one", "data:two", ": a comment", "id: 7", "retry", "", "data", "", ""]
            .join(end);
        assert_eq!(all(&[text.as_bytes()]), [event("a", "one\ntwo"), event("", "")], "{end:?}");
    }
}

#[test]
fn a_byte_order_mark_is_skipped_once() {
    assert_eq!(all(&[b"\xef\xbb\xbfdata: x\n\n"]), [event("", "x")]);
}

#[test]
fn an_event_the_stream_ends_within_is_not_given_out() {
    let (mut parser, mut out) = (Parser::default(), Vec::new());
    parser.push(b"data: whole\n\nevent: b\ndata: torn\n", &mut out).unwrap();
    assert_eq!(out, [event("", "whole")]);
    assert!(parser.is_torn());
}

#[test]
fn names_without_data_are_no_events() {
    assert_eq!(all(&[b"event: ping\n\ndata: x\n\n"]), [event("", "x")]);
}

proptest! {
    #[test]
    fn the_pieces_in_which_bytes_arrive_do_not_matter(
        events in prop::collection::vec(("[a-z]{0,6}", "[a-zäöü€😀 :]{0,20}(\n[a-zäöü€😀 :]{0,20}){0,2}"), 0..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        end in prop::sample::select(vec!["\n", "\r", "\r\n"]),
    ) {
        let mut text = String::new();
        for (name, data) in &events {
            text.extend(["event: ", name, end]);
            for line in data.split('\n') {
                text.extend(["data: ", line, end]);
            }
            text.push_str(end);
        }
        let bytes = text.as_bytes();
        let mut at: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
        let want: Vec<Event> = events.iter().map(|(n, d)| event(n, d)).collect();
        prop_assert_eq!(all(&pieces), want);
    }

    #[test]
    fn no_bytes_make_the_parser_fall(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..10)) {
        let (mut parser, mut out) = (Parser::default(), Vec::new());
        for piece in &pieces {
            parser.push(piece, &mut out).unwrap();
        }
    }
}
