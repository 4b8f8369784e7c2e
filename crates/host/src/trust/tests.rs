#![allow(clippy::unwrap_used)]

use super::*;

const ONE: &str = "-----BEGIN CERTIFICATE-----\nMQ==\n-----END CERTIFICATE-----";
const TWO: &str = "-----BEGIN CERTIFICATE-----\nMg==\n-----END CERTIFICATE-----";
const SYSTEMS: &str = "-----BEGIN CERTIFICATE-----\nc3lz\n-----END CERTIFICATE-----\n";

fn lab() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("etc/ssl/certs")).unwrap();
    std::fs::write(dir.path().join("etc/ssl/certs/ca-certificates.crt"), SYSTEMS).unwrap();
    let root = Root::open(dir.path()).unwrap();
    (dir, root)
}

#[test]
fn an_authority_is_added_once_and_replaced_by_another() {
    for power in [Power::Jail, Power::Own { uid: 0, gid: 0 }] {
        let (_dir, root) = lab();
        assert_eq!(install(&root, power, None).unwrap(), None);
        let first = install(&root, power, Some(ONE)).unwrap().unwrap();
        assert!(first.changed);
        let read = || {
            (std::fs::read_to_string(&first.bundle).unwrap(), std::fs::read_to_string(&first.own).unwrap())
        };
        let (bundle, own) = read();
        assert_eq!(own, format!("{ONE}\n"));
        assert_eq!(bundle, format!("{SYSTEMS}{BEGIN}{ONE}\n{END}"));
        assert!(!install(&root, power, Some(&format!("{ONE}\n"))).unwrap().unwrap().changed);
        // The same volume in another space.
        assert!(install(&root, power, Some(TWO)).unwrap().unwrap().changed);
        assert_eq!(read(), (format!("{SYSTEMS}{BEGIN}{TWO}\n{END}"), format!("{TWO}\n")));
        // And in one that has none.
        assert_eq!(install(&root, power, None).unwrap(), None);
        assert_eq!(std::fs::read_to_string(&first.bundle).unwrap(), SYSTEMS);
        assert!(!std::path::Path::new(&first.own).exists());
    }
}

#[test]
fn what_update_ca_certificates_made_of_it_is_forgotten_too() {
    let (_dir, root) = lab();
    let first = install(&root, Power::Jail, Some(ONE)).unwrap().unwrap();
    std::fs::write(&first.bundle, format!("{ONE}\n{SYSTEMS}")).unwrap();
    install(&root, Power::Jail, Some(TWO)).unwrap();
    assert_eq!(std::fs::read_to_string(&first.bundle).unwrap(), format!("{SYSTEMS}{BEGIN}{TWO}\n{END}"));
    // A host killed between the two files.
    std::fs::write(&first.own, format!("{ONE}\n")).unwrap();
    install(&root, Power::Jail, Some(TWO)).unwrap();
    let bundle = std::fs::read_to_string(&first.bundle).unwrap();
    assert_eq!(bundle.matches("Mg==").count(), 1, "{bundle}");
}

#[test]
fn only_certificates_are_taken() {
    assert!(check(ONE).is_ok() && check(&format!("\n{ONE}\n{TWO}\n")).is_ok());
    for bad in ["", "x", "-----BEGIN CERTIFICATE-----", "-----BEGIN PRIVATE KEY-----\n"] {
        assert!(check(bad).is_err(), "{bad}");
    }
    assert!(check(&format!("{ONE}\n{}", " ".repeat(AUTHORITY_BYTES))).is_err());
}
