#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn a_server_is_asked_for_the_key_it_is_known_by_and_never_for_one_of_sha_1() {
    let names = |known: &[HostKey]| wanted(known).iter().map(|a| a.as_str().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&[])[0], "ssh-ed25519");
    let known: HostKey = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBKkGkrzrfdXMRgVFHFaxNXQQ6krbj0Gl6c3Mnwc7bs1IyZh8NkD5dEIXKae0++G4aX4OCNRuCMaWLqR6qD2TW0I=".parse().unwrap();
    assert_eq!(names(&[known])[..2], ["ecdsa-sha2-nistp256", "ssh-ed25519"]);
    assert!(!names(&[]).contains(&"ssh-rsa".to_owned()));
    assert!(names(&[]).contains(&"rsa-sha2-512".to_owned()));
}
