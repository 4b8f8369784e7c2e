#![allow(clippy::unwrap_used)]

use super::*;
use std::os::unix::fs::PermissionsExt as _;

fn ring(dir: &tempfile::TempDir) -> Keyring {
    Keyring::load_or_create(&dir.path().join("key")).unwrap()
}

#[test]
fn a_value_comes_back_only_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let ring = ring(&dir);
    let sealed = ring.seal(&Plain::new("hunter2"), "secret/a/db").unwrap();
    assert_eq!(ring.open(&sealed, "secret/a/db").unwrap().expose(), b"hunter2");
    assert!(matches!(ring.open(&sealed, "secret/b/db"), Err(SealError::Broken)));
}

#[test]
fn one_flipped_bit_anywhere_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let ring = ring(&dir);
    let sealed = ring.seal(&Plain::new("hunter2"), "x").unwrap();
    for i in 0..sealed.payload.len() {
        let mut bad = sealed.clone();
        bad.payload[i] ^= 1;
        assert!(ring.open(&bad, "x").is_err(), "payload byte {i}");
    }
    for i in 0..sealed.wrapped.len() {
        let mut bad = sealed.clone();
        bad.wrapped[i] ^= 1;
        assert!(ring.open(&bad, "x").is_err(), "wrapped byte {i}");
    }
}

#[test]
fn equal_values_look_different_at_rest() {
    let dir = tempfile::tempdir().unwrap();
    let ring = ring(&dir);
    let (a, b) = (ring.seal(&Plain::new("same"), "x").unwrap(), ring.seal(&Plain::new("same"), "x").unwrap());
    assert_ne!(a.payload, b.payload);
    assert_ne!(a.wrapped, b.wrapped);
}

#[test]
fn rotation_rewraps_and_leaves_the_payload_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let ring = ring(&dir);
    let old = ring.seal(&Plain::new("v"), "x").unwrap();
    assert!(ring.rewrap(&old, "x").unwrap().is_none(), "nothing to do before a rotation");

    let id = KeyFile::rotate(&path).unwrap();
    let new = ring.rewrap(&old, "x").unwrap().unwrap();
    assert_eq!(new.key_id, id);
    assert_eq!(new.payload, old.payload);
    assert_ne!(new.wrapped, old.wrapped);

    KeyFile::retire(&path).unwrap();
    let ring = Keyring::load_or_create(&path).unwrap();
    assert_eq!(ring.open(&new, "x").unwrap().expose(), b"v");
    assert!(matches!(ring.open(&old, "x"), Err(SealError::UnknownKey(_))));
}

#[test]
fn a_key_file_others_may_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    drop(ring(&dir));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = Keyring::load_or_create(&path).err().unwrap().to_string();
    assert!(error.contains("chmod 600"), "{error}");
}

#[test]
fn a_damaged_key_file_says_which_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    drop(ring(&dir));
    std::fs::write(&path, "abc not-a-key\n").unwrap();
    let error = Keyring::load_or_create(&path).err().unwrap().to_string();
    assert!(error.contains("line 1"), "{error}");
}
