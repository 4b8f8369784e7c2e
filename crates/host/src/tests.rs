//! The pure parts: parsers, rings, cuts.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use wharf_domain::Code;

use crate::Options;
use crate::accounts::{parse_groups, parse_passwd};
use crate::request::{Query, Range, parse};
use crate::ring::Ring;
use crate::stats::parse_listener;
use crate::text::{Chunker, HeadTail, unfinished};
use crate::tree::{Process, below, parse_stat};

#[test]
fn a_command_line_says_where_to_listen_or_what_is_wrong() {
    let parse = |args: &[&str]| Options::parse(args.iter().map(|a| (*a).to_owned()));
    assert_eq!(parse(&[]).unwrap(), Options { listen: None, door: None, root: "/".into() });
    let both = parse(&["--root", "/r", "--listen", "/s"]).unwrap();
    assert_eq!(both, Options { listen: Some("/s".into()), door: None, root: "/r".into() });
    assert_eq!(parse(&["--listen"]).unwrap_err().1, 2);
    assert!(parse(&["--lisen", "x"]).unwrap_err().0.contains("--lisen"));
    assert_eq!(parse(&["--help"]).unwrap_err().1, 0);
}

#[test]
fn users_are_read_as_the_system_reads_them() {
    let passwd = "root:x:0:0:root:/root:/bin/bash\n# note\nbroken\nbad:x:-1:0::/:\nagent:x:1000:1001:A,,,:/home/agent:\nodd:x:7:7::relative:/bin/sh\n";
    let users: Vec<_> = parse_passwd(passwd).collect();
    let names: Vec<&str> = users.iter().map(|u| u.name.as_str()).collect();
    assert_eq!(names, ["root", "agent", "odd"]);
    assert_eq!(
        (users[1].uid, users[1].gid, users[1].home.as_str(), users[1].shell.as_str()),
        (1000, 1001, "/home/agent", "")
    );
    assert_eq!(users[2].home, "/", "a home that is no path is none");
    let groups =
        "sudo:x:27:agent,root\nvideo:x:44:root\nagents:x:50:agents\nbad:x:y:agent\nlast:x:99:x,agent\n";
    assert_eq!(parse_groups(groups, "agent"), [27, 99]);
}

#[test]
fn a_process_is_read_whatever_its_name_holds() {
    let line = "42 (a) R 1 (b\n) S 7 40 39 34816 42 4194304 100 0 0 0 5 6 0 0 20 0 3 0 100 2000000 321 18446744073709551615 1 1";
    let expected = Process {
        pid: 42,
        zombie: false,
        parent: 7,
        group: 40,
        session: 39,
        ticks: 11,
        threads: 3,
        rss_pages: 321,
        start: 100,
    };
    assert_eq!(parse_stat(line), Some(expected));
    assert_eq!(parse_stat("42 (x"), None);
    assert_eq!(parse_stat(""), None);
}

#[test]
fn descendants_are_found_in_any_order() {
    let process = |pid, parent| Process {
        pid,
        zombie: false,
        parent,
        group: 0,
        session: 0,
        ticks: 0,
        threads: 1,
        rss_pages: 0,
        start: 0,
    };
    let all = [process(5, 4), process(4, 2), process(9, 1), process(2, 1), process(3, 2)];
    let found: Vec<i32> = below(&all, 2).iter().map(|p| p.pid).collect();
    assert_eq!(found, [5, 4, 2, 3]);
}

#[test]
fn listening_sockets_are_read_and_others_are_not() {
    let four =
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 20 1";
    let port = parse_listener(four).unwrap();
    assert_eq!((port.port, port.address.to_string(), port.uid), (8080, "127.0.0.1".into(), 1000));
    let six = "   1: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 9";
    let port = parse_listener(six).unwrap();
    assert_eq!((port.port, port.address.to_string()), (22, "::1".into()));
    assert_eq!(parse_listener(&four.replace(" 0A ", " 01 ")), None);
    for odd in ["", "a b c d", "0: 0100007F 0 0A 0 0 0 0", "0: 01:1F90 0 0A 0 0 0 0"] {
        assert_eq!(parse_listener(odd), None);
    }
}

#[test]
fn a_range_is_one_of_bytes_and_lies_in_the_file() {
    assert_eq!(Range::parse("bytes=0-0").unwrap().within(1).unwrap(), (0, 1));
    assert_eq!(Range::parse("bytes=2-").unwrap().within(5).unwrap(), (2, 3));
    assert_eq!(Range::parse("bytes=-9").unwrap().within(5).unwrap(), (0, 5));
    assert_eq!(Range::parse(&format!("bytes=1-{}", u64::MAX)).unwrap().within(5).unwrap(), (1, 4));
    for bad in [
        "",
        "bytes=",
        "bytes=-",
        "bytes=5-3",
        "bytes=a-b",
        "items=0-1",
        "bytes=0-1,3-4",
        "bytes=+1-2",
        "bytes=-18446744073709551616",
    ] {
        assert!(Range::parse(bad).is_err(), "{bad}");
    }
    for (range, size) in [("bytes=5-", 5), ("bytes=0-", 0), ("bytes=-0", 5), ("bytes=-5", 0)] {
        let fault = Range::parse(range).unwrap().within(size).unwrap_err();
        assert_eq!(fault.0.code, Code::RangeNotSatisfiable, "{range} of {size}");
    }
}

#[test]
fn a_query_is_taken_to_the_last_word() {
    let mut query = Query::parse("a=1%2B1&flag=true&mode=0755").unwrap();
    assert_eq!(query.take("a").as_deref(), Some("1+1"));
    assert!(query.flag("flag").unwrap());
    assert!(!query.flag("flag").unwrap(), "taken is gone");
    let left = query.finish().unwrap_err();
    assert_eq!((left.0.code, left.0.field.as_deref()), (Code::UnknownField, Some("mode")));
    assert_eq!(Query::parse("m=0755").unwrap().mode("m").unwrap(), Some(0o755));
    for bad in ["m=8", "m=10000", "m=-1", "m=rwx"] {
        assert!(Query::parse(bad).unwrap().mode("m").is_err());
    }
    assert!(Query::parse("a=1&a=2").is_err());
    assert!(Query::parse("a=%ff").is_err());
}

#[test]
fn json_faults_say_what_kind_they_are() {
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        #[allow(dead_code)]
        n: u32,
    }
    for (text, code) in [
        ("", Code::BadRequest),
        ("{\"n\":1", Code::BadRequest),
        ("{\"n\":1} x", Code::BadRequest),
        ("{\"n\":\"1\"}", Code::InvalidField),
        ("{\"n\":4294967296}", Code::InvalidField),
        ("{}", Code::InvalidField),
        ("{\"n\":1,\"m\":2}", Code::UnknownField),
    ] {
        assert_eq!(parse::<Wanted>(text.as_bytes()).unwrap_err().0.code, code, "{text}");
    }
}

#[tokio::test]
async fn a_ring_keeps_the_last_bytes_at_their_offsets() {
    let ring = Ring::new(8);
    ring.push(b"abcdef");
    let slice = ring.read(2, 3);
    assert_eq!((slice.offset, slice.lost, slice.bytes.as_slice(), slice.end), (2, 0, &b"cde"[..], false));
    ring.push(b"ghijkl");
    let slice = ring.read(2, 100);
    assert_eq!((slice.offset, slice.lost, slice.bytes.as_slice()), (4, 2, &b"efghijkl"[..]));
    ring.push(b"0123456789");
    assert_eq!((ring.read(0, 100).bytes.as_slice(), ring.end()), (&b"23456789"[..], 22));
    ring.close();
    ring.wait(22).await;
    assert!(ring.read(22, 1).end && ring.read(u64::MAX, 1).end && !ring.read(14, 1).end);
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_the_reader_that_holds() {
    let ring = Arc::new(Ring::new(4));
    ring.hold(Some(0));
    assert_eq!(ring.room(100).await, 4);
    ring.push(b"abcd");
    let stuck = tokio::time::timeout(Duration::from_secs(1), ring.room(100)).await;
    assert!(stuck.is_err(), "there is no room");
    ring.hold(Some(3));
    assert_eq!(ring.room(100).await, 3);
    ring.hold(None);
    assert_eq!(ring.room(100).await, 100);
}

#[test]
fn an_unfinished_character_is_known_by_its_beginning() {
    for (bytes, held) in [
        (&b"abc"[..], 0),
        (b"ab\xc3", 1),
        (b"\xe2\x82", 2),
        (b"\xf0\x9f\x98", 3),
        (b"\xc3\xa9", 0),
        (b"\xff", 0),
        (b"\x82", 0),
        (b"\xc3\xff", 0),
        (b"\xe2\x28", 0),
    ] {
        assert_eq!(unfinished(bytes), held, "{bytes:?}");
    }
}

proptest! {
    #[test]
    fn a_chunker_loses_nothing_and_tears_no_character(text in "\\PC{0,40}", cut in 1_usize..5) {
        let mut chunker = Chunker::default();
        let mut all = Vec::new();
        for chunk in text.as_bytes().chunks(cut) {
            let piece = chunker.push(chunk);
            prop_assert!(std::str::from_utf8(&piece).is_ok());
            all.extend(piece);
        }
        all.extend(chunker.finish());
        prop_assert_eq!(all, text.into_bytes());
    }

    #[test]
    fn a_chunker_passes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64), cut in 1_usize..5) {
        let mut chunker = Chunker::default();
        let mut all: Vec<u8> = bytes.chunks(cut).flat_map(|c| chunker.push(c)).collect();
        prop_assert!(chunker.held() <= 3);
        all.extend(chunker.finish());
        prop_assert_eq!(all, bytes);
    }

    #[test]
    fn head_and_tail_are_bounded_and_whole_when_they_fit(text in "[a-zé€😀\n]{0,80}", cut in 1_usize..7, bound in 8_usize..64) {
        let mut kept = HeadTail::new(bound);
        text.as_bytes().chunks(cut).for_each(|c| kept.push(c));
        let shown = kept.text();
        if text.len() <= bound / 2 * 2 {
            prop_assert_eq!(shown, text);
        } else {
            prop_assert!(shown.contains("bytes left out]"));
            prop_assert!(!shown.contains('\u{fffd}'), "{}", shown);
            prop_assert!(shown.len() <= bound + 40);
        }
    }

    #[test]
    fn a_ring_is_the_tail_of_what_was_written(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..10), cap in 1_u64..16, from in 0_u64..200) {
        let ring = Ring::new(cap);
        for chunk in &chunks {
            ring.push(chunk);
        }
        let all: Vec<u8> = chunks.concat();
        let start = (all.len() as u64).saturating_sub(cap);
        let slice = ring.read(from, usize::MAX);
        let at = from.clamp(start, all.len() as u64);
        prop_assert_eq!(slice.offset, at);
        prop_assert_eq!(slice.lost, start.saturating_sub(from));
        prop_assert_eq!(&slice.bytes[..], &all[at as usize..]);
    }

    #[test]
    fn no_line_of_proc_makes_a_parser_fall(line in "\\PC{0,80}") {
        let _ = parse_stat(&line);
        let _ = parse_listener(&line);
        let _ = parse_passwd(&line).count();
        let _ = parse_groups(&line, "agent");
        let _ = Query::parse(&line).map(|mut q| q.number::<u64>("a").is_ok());
        let _ = Range::parse(&line).map(|r| r.within(10).is_ok());
    }
}
