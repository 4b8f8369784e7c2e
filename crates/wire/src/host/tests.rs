#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use proptest::prelude::*;

use super::agent::{FromAgent, parse_line};
use super::exec::{ExecEvent, ExecRequest, Exit, Stream};
use super::frame::{FRAME_BYTES, Frame, FrameError};
use super::path::{PathError, member, normalise, normalise_from};
use super::turn::{Block, Said, TurnEvent, TurnRequest};
use super::{B64, Env, Piece};

#[test]
fn a_path_is_made_plain_and_never_climbs_over_the_root() {
    for (raw, plain) in [
        ("/", "/"),
        ("//a///b/", "/a/b"),
        ("/a/./b/../c", "/a/c"),
        ("/../../etc/passwd", "/etc/passwd"),
        ("/a/..", "/"),
    ] {
        assert_eq!(normalise(raw).unwrap().as_str(), plain);
    }
    assert_eq!(normalise(""), Err(PathError::Empty));
    assert_eq!(normalise("a/b"), Err(PathError::Relative));
    assert_eq!(normalise("/a\0b"), Err(PathError::Nul));
    assert_eq!(normalise(&format!("/{}", "x".repeat(256))), Err(PathError::NameLong));
    assert_eq!(normalise(&"/x".repeat(3000)), Err(PathError::Long));
}

#[test]
fn a_relative_path_counts_from_its_base() {
    let home = normalise("/home/agent").unwrap();
    assert_eq!(normalise_from(&home, "work/../src").unwrap().as_str(), "/home/agent/src");
    assert_eq!(normalise_from(&home, "/etc").unwrap().as_str(), "/etc");
    assert!(home.contains(&normalise("/home/agent/x").unwrap()));
    assert!(!home.contains(&normalise("/home/agents").unwrap()));
}

#[test]
fn an_archive_member_that_could_leave_its_target_is_refused() {
    assert_eq!(member(b"./").unwrap(), None);
    assert_eq!(member(b"./a//b/").unwrap().as_deref(), Some("a/b"));
    assert_eq!(member(b"/etc/passwd"), Err(PathError::Absolute));
    assert_eq!(member(b"a/../../b"), Err(PathError::Parent));
    assert_eq!(member(b".."), Err(PathError::Parent));
    assert_eq!(member(b"a\0"), Err(PathError::Nul));
    assert_eq!(member(b"\xff"), Err(PathError::NotText));
}

#[test]
fn a_frame_that_announces_too_much_is_refused_before_it_arrives() {
    let mut buffer = BytesMut::from(&[0, 0xff, 0xff, 0xff, 0xff][..]);
    assert_eq!(Frame::decode(&mut buffer), Err(FrameError::Long(u32::MAX)));
    let mut buffer = BytesMut::from(&[9, 0, 0, 0, 0][..]);
    assert_eq!(Frame::decode(&mut buffer), Err(FrameError::Type(9)));
    let mut buffer = BytesMut::from(&[1, 0, 0, 0, 1, 7][..]);
    assert_eq!(Frame::decode(&mut buffer), Err(FrameError::Payload(1)));
}

#[test]
fn an_environment_is_never_shown_with_its_values() {
    let request = ExecRequest { env: Env::from([("TOKEN", "hunter2")]), ..ExecRequest::argv(["true"]) };
    let shown = format!("{request:?}");
    assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn an_environment_that_no_process_could_have_is_refused() {
    assert!(Env::from([("", "x")]).check().is_err());
    assert!(Env::from([("A=B", "x")]).check().is_err());
    assert!(Env::from([("A", "x\0")]).check().is_err());
    assert!(Env::from([("A", "x".repeat(1024 * 1024))]).check().is_err());
    assert!(Env::from([("A", "x")]).check().is_ok());
}

#[test]
fn a_request_with_a_field_nobody_knows_is_refused() {
    let e = serde_json::from_str::<ExecRequest>(r#"{"argv":["true"],"shell":true}"#).unwrap_err();
    assert!(e.to_string().contains("unknown field `shell`"), "{e}");
    let e = serde_json::from_str::<ExecRequest>(r#"{"argv":["true"],"timeout_seconds":1e99}"#).unwrap_err();
    assert!(e.to_string().contains("invalid type") || e.to_string().contains("invalid value"), "{e}");
}

#[test]
fn events_look_as_documented() {
    let event = ExecEvent::Output { stream: Stream::Stdout, offset: 3, piece: Piece::from(b"hi".to_vec()) };
    assert_eq!(
        serde_json::to_string(&event).unwrap(),
        r#"{"type":"output","stream":"stdout","offset":3,"text":"hi"}"#
    );
    let event = ExecEvent::Output { stream: Stream::Stderr, offset: 0, piece: Piece::from(vec![0xff]) };
    assert_eq!(
        serde_json::to_string(&event).unwrap(),
        r#"{"type":"output","stream":"stderr","offset":0,"b64":"/w=="}"#
    );
    let event =
        TurnEvent { n: 2, at_ms: 5, by: None, said: Said::Message { content: vec![Block::text("yes")] } };
    let text = serde_json::to_string(&event).unwrap();
    assert_eq!(text, r#"{"n":2,"at_ms":5,"type":"message","content":[{"text":"yes","type":"text"}]}"#);
    assert_eq!(serde_json::from_str::<TurnEvent>(&text).unwrap(), event);
}

#[test]
fn a_block_keeps_what_the_host_does_not_know() {
    let raw = r#"{"cache":{"ttl":5},"data":"aGk=","media_type":"image/png","type":"image"}"#;
    let block: Block = serde_json::from_str(raw).unwrap();
    assert_eq!((block.kind(), block.as_text()), ("image", None));
    assert_eq!(serde_json::to_string(&block).unwrap(), raw);
    assert!(serde_json::from_str::<Block>(r#"{"text":"x"}"#).is_err());
    assert!(serde_json::from_str::<Block>(r#"{"type":"text","text":5}"#).is_err());
    assert!(serde_json::from_str::<Block>("[]").is_err());
}

#[test]
fn an_agents_line_is_taken_at_its_word_or_not_at_all() {
    assert_eq!(parse_line(br#"{"type":"done"}"#).unwrap(), FromAgent::Done { usage: None, is_error: false });
    assert_eq!(parse_line(br#"{"type":"history"}"#).unwrap(), FromAgent::History {});
    for garbage in [
        "",
        "hello",
        "{}",
        r#"{"type":"think"}"#,
        r#"{"type":"text"}"#,
        r#"{"type":"text","text":"a","x":1}"#,
    ] {
        assert!(parse_line(garbage.as_bytes()).is_err(), "{garbage}");
    }
    let why = parse_line(b"Traceback (most recent call last):").unwrap_err();
    assert!(why.contains("Traceback"), "{why}");
}

proptest! {
    #[test]
    fn normalising_twice_changes_nothing(raw in "/[a-c./]{0,40}") {
        let once = normalise(&raw).unwrap();
        prop_assert_eq!(&normalise(once.as_str()).unwrap(), &once);
        prop_assert!(!once.as_str().split('/').any(|p| p == ".." || p == "."));
        prop_assert!(once.as_str() == "/" || !once.as_str().ends_with('/'));
    }

    #[test]
    fn any_string_is_normalised_or_refused(raw in any::<String>()) {
        let _ = normalise(&raw);
        if let Ok(Some(path)) = member(raw.as_bytes()) {
            prop_assert!(!path.starts_with('/') && path.split('/').all(|p| !p.is_empty() && p != ".." && p != "."));
        }
    }

    #[test]
    fn frames_survive_any_cut_of_the_stream(frames in prop::collection::vec(frame(), 0..8), cut in 1_usize..64) {
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.encode(&mut bytes);
        }
        let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
        for chunk in bytes.chunks(cut) {
            buffer.extend_from_slice(chunk);
            while let Some(frame) = Frame::decode(&mut buffer).unwrap() {
                seen.push(frame);
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(seen, frames);
    }

    #[test]
    fn no_bytes_make_the_frame_decoder_fall(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(frame)) = Frame::decode(&mut buffer) {
            let Frame::Data(data) = frame else { continue };
            prop_assert!(data.len() <= FRAME_BYTES);
        }
    }

    #[test]
    fn bytes_survive_as_pieces_and_base64(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let json = serde_json::to_string(&Piece::from(bytes.clone())).unwrap();
        prop_assert_eq!(serde_json::from_str::<Piece>(&json).unwrap().into_bytes(), bytes.clone());
        let json = serde_json::to_string(&B64(bytes.clone())).unwrap();
        prop_assert_eq!(serde_json::from_str::<B64>(&json).unwrap().0, bytes);
    }

    #[test]
    fn no_line_makes_the_parsers_fall(line in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = parse_line(&line);
        let _ = serde_json::from_slice::<TurnRequest>(&line);
    }
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 1..300).prop_map(Frame::Data),
        any::<(u16, u16)>().prop_map(|(cols, rows)| Frame::Resize { cols, rows }),
        any::<u64>().prop_map(Frame::Offset),
        prop_oneof![
            any::<i32>().prop_map(|c| Exit { exit_code: Some(c), signal: None }),
            any::<i32>().prop_map(|s| Exit { exit_code: None, signal: Some(s) }),
            Just(Exit::default()),
        ]
        .prop_map(Frame::Exit),
    ]
}
