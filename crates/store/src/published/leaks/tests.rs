#![allow(clippy::unwrap_used)]

use super::*;

fn leaks() -> Leaks {
    let secret = |name: &str, value: &str| (name.parse().unwrap(), Plain::new(value));
    Leaks::of([
        secret("key", "correct horse battery staple\n"),
        secret("pin", "1234"),
        secret("old", "12345678"),
    ])
}

fn verdict(pieces: &[&[u8]]) -> Result<(), String> {
    let (leaks, mut scan) = (leaks(), Scan::default());
    pieces.iter().try_for_each(|piece| leaks.look(&mut scan, piece, "/f")).map_err(|e| e.public)
}

#[test]
fn a_value_is_found_wherever_it_is_cut() {
    let text = b"before correct horse battery staple after";
    for at in 0..text.len() {
        let refused = verdict(&[&text[..at], &text[at..]]).unwrap_err();
        assert!(refused.contains("secret key") && refused.contains("/f"), "{refused}");
        assert!(!refused.contains("horse"), "{refused}");
    }
    let one_by_one: Vec<&[u8]> = text.chunks(1).collect();
    assert!(verdict(&one_by_one).is_err());
    assert!(verdict(&[b"x12345678"]).unwrap_err().contains("secret old"));
}

#[test]
fn short_values_and_what_is_nearly_one_are_let_through() {
    assert_eq!(leaks().len(), 2);
    for harmless in
        [&b"1234 and 1234567"[..], b"correct horse battery stapl", b"", b"correct  horse battery staple"]
    {
        assert_eq!(verdict(&[harmless, harmless]), Ok(()));
    }
    assert!(Leaks::of([]).is_empty());
}
