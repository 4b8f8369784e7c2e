#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::{ByteRange, Part};

fn part(header: &str, length: u64) -> Part {
    ByteRange::parse(header).map_or(Part::Whole, |range| range.of(length))
}

#[test]
fn the_examples_of_the_standard() {
    let bytes = |first, last| Part::Bytes { first, last };
    assert_eq!(part("bytes=0-499", 10_000), bytes(0, 499));
    assert_eq!(part("bytes=500-999", 10_000), bytes(500, 999));
    assert_eq!(part("bytes=-500", 10_000), bytes(9500, 9999));
    assert_eq!(part("bytes=9500-", 10_000), bytes(9500, 9999));
    assert_eq!(part("Bytes = 0-0 ", 10_000), bytes(0, 0));
    assert_eq!(part("bytes=-1", 10_000), bytes(9999, 9999));
    assert_eq!(part("bytes=-20000", 10_000), bytes(0, 9999));
    assert_eq!(part("bytes=9999-20000", 10_000), bytes(9999, 9999));
}

#[test]
fn what_lies_outside_is_said_and_what_is_not_understood_is_ignored() {
    for outside in ["bytes=10000-", "bytes=10000-10001", "bytes=-0", "bytes=99999999999999999999999-"] {
        assert_eq!(part(outside, 10_000), Part::Outside, "{outside}");
    }
    for header in ["bytes=0-0", "bytes=-1", "bytes=0-"] {
        assert_eq!(part(header, 0), Part::Outside, "{header} of nothing");
    }
    for ignored in [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=1-0",
        "bytes=0-1,3-4",
        "bytes=--1",
        "bytes=+1-2",
        "bytes=0x1-2",
        "bytes=1 2-3",
        "items=0-1",
        "bytes=٠-١",
    ] {
        assert_eq!(part(ignored, 10_000), Part::Whole, "{ignored}");
    }
}

proptest! {
    #[test]
    fn whatever_is_asked_for_lies_within_the_content(header in ".{0,40}", length in any::<u64>()) {
        if let Part::Bytes { first, last } = part(&header, length) {
            prop_assert!(first <= last && last < length);
        }
    }

    #[test]
    fn a_range_is_the_bytes_it_names(first in 0..2000_u64, more in 0..2000_u64, length in 0..2000_u64) {
        let content: Vec<u64> = (0..length).collect();
        let wanted: Vec<u64> = content.iter().copied().filter(|n| (first..=first + more).contains(n)).collect();
        let got = match part(&format!("bytes={first}-{}", first + more), length) {
            Part::Bytes { first, last } => content[first as usize..=last as usize].to_vec(),
            Part::Outside => Vec::new(),
            Part::Whole => return Err(TestCaseError::fail("a well-formed range was ignored")),
        };
        prop_assert_eq!(got, wanted);
    }

    #[test]
    fn the_last_bytes_are_the_end(count in 0..3000_u64, length in 0..2000_u64) {
        let wanted = count.min(length);
        let got = match part(&format!("bytes=-{count}"), length) {
            Part::Bytes { first, last } => {
                prop_assert_eq!(last, length - 1);
                last - first + 1
            }
            Part::Outside => 0,
            Part::Whole => return Err(TestCaseError::fail("a well-formed range was ignored")),
        };
        prop_assert_eq!(got, wanted);
    }
}
