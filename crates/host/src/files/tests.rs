#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::tar_in::pax;

#[test]
fn pax_records_are_read_by_their_length() {
    let records = pax(b"19 path=some/where\n21 comment=two\nlines\n").unwrap();
    assert_eq!(records[0], (b"path".to_vec(), b"some/where".to_vec()));
    assert_eq!(records[1].1, b"two\nlines");
    for bad in [&b"x"[..], b"99 a=b\n", b"5 a=b", b"0 a=b\n", b"2 \n", b"6 ab\n\n", b"-6 a=b\n"] {
        assert!(pax(bad).is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_pax_reader_fall(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = pax(&bytes);
    }

    #[test]
    fn what_a_packer_writes_is_read(key in "[a-z]{1,10}", value in "[^\0]{0,30}") {
        let body = format!(" {key}={value}\n");
        let mut length = body.len() + 1;
        while format!("{length}{body}").len() != length {
            length += 1;
        }
        let records = pax(format!("{length}{body}").as_bytes()).unwrap();
        prop_assert_eq!(records, vec![(key.into_bytes(), value.into_bytes())]);
    }
}
