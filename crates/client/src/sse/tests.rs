#![allow(clippy::unwrap_used)]
use super::*;

fn frames(chunks: &[&[u8]]) -> Vec<Frame> {
    let mut p = Parser::default();
    let mut out = Vec::new();
    for c in chunks {
        p.push(c);
        while let Some(f) = p.frame().unwrap() {
            out.push(f);
        }
    }
    out
}

fn frame(id: Option<&str>, event: &str, data: &str) -> Frame {
    Frame { id: id.map(str::to_owned), event: event.into(), data: data.into() }
}

#[test]
fn events_come_out_whole_however_the_bytes_are_cut() {
    let text =
        "id: 7\nevent: output\ndata: {\"t\":\"ä\"}\n\n: still here\n\nid: 8\r\ndata: a\r\ndata: b\r\n\r\n"
            .as_bytes();
    let want = vec![frame(Some("7"), "output", "{\"t\":\"ä\"}"), frame(Some("8"), "message", "a\nb")];
    for cut in 0..=text.len() {
        assert_eq!(frames(&[&text[..cut], &text[cut..]]), want, "cut at {cut}");
    }
    let single: Vec<&[u8]> = text.chunks(1).collect();
    assert_eq!(frames(&single), want);
}

#[test]
fn an_event_that_was_not_ended_does_not_come_out() {
    assert_eq!(frames(&[b"id: 1\ndata: half"]), vec![]);
    assert_eq!(frames(&[b"id: 1\ndata: half\n"]), vec![]);
}

#[test]
fn a_block_without_data_is_no_event_and_its_type_does_not_leak_into_the_next() {
    assert_eq!(frames(&[b"event: x\n\ndata: y\n\n"]), vec![frame(None, "message", "y")]);
}

#[test]
fn a_line_without_end_is_refused_before_memory_is_gone() {
    let mut p = Parser::default();
    let chunk = vec![b'x'; 1 << 20];
    let mut refused = false;
    for _ in 0..40 {
        p.push(&chunk);
        refused |= p.frame().is_err();
    }
    assert!(refused);
}

#[test]
fn a_position_without_an_event_is_kept() {
    let mut parser = Parser::default();
    parser.push(b"id: 7\n\n: alive\n\n");
    assert_eq!(parser.frame(), Ok(None));
    assert_eq!(parser.last_id(), Some("7"));
}
