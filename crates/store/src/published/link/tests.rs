#![allow(clippy::unwrap_used)]

use super::*;

const SLUG: &str = "AAAAAAAAAAAAAAAAAAAAAA";

#[test]
fn a_link_is_read_whole_or_not_at_all() {
    let key = SigningKey::from_bytes(&[7; 32]);
    let signature = key.sign(message(SLUG, 4000).as_bytes());
    let text = format!("{SLUG}.4000.{}", B64.encode(signature.to_bytes()));
    let link = read(&text).unwrap();
    assert_eq!(link, Link { slug: SLUG, signed: Some((4000, signature)) });
    let public = key.verifying_key().to_bytes();
    assert!(signed_by(&public, SLUG, 4000, &signature));
    assert!(!signed_by(&public, SLUG, 4001, &signature), "of another time");
    assert!(!signed_by(&public, "BAAAAAAAAAAAAAAAAAAAAA", 4000, &signature), "of another copy");
    let other = SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes();
    assert!(!signed_by(&other, SLUG, 4000, &signature), "of another key");
    assert!(!signed_by(&public[1..], SLUG, 4000, &signature));
    assert_eq!(read(SLUG).unwrap(), Link { slug: SLUG, signed: None });
    for wrong in [
        String::new(),
        "short".to_owned(),
        format!("{SLUG}."),
        format!("{SLUG}.4000"),
        format!("{SLUG}.04000.{}", B64.encode(signature.to_bytes())),
        format!("{SLUG}.-4000.{}", B64.encode(signature.to_bytes())),
        format!("{SLUG}.99999999999999999999.{}", B64.encode(signature.to_bytes())),
        format!("{text}.x"),
        format!("{text}x"),
        format!("{SLUG}.4000.{}", "A".repeat(400)),
        "../../../../etc/passwd".to_owned(),
    ] {
        assert_eq!(read(&wrong), None, "{wrong}");
    }
}
