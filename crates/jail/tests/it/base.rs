//! What people do on a computer, on the image they do it on.
//!
//! Runs where `wharf image build base` has left its archive; its absence is said, and a failure only where
//! WHARF_TEST_REQUIRE names `base-image`.

use std::path::PathBuf;

use wharf_ports::SandboxRuntime;

use wharf_testkit::contract::Machine as _;

use crate::harness::{ok, run};
use crate::machine;

fn archive() -> Option<PathBuf> {
    let images = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/images");
    let named = |path: &PathBuf| {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with("base-") && name.contains(".tar")
    };
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(images).into_iter().flatten().flatten().map(|e| e.path()).filter(named).collect();
    // An older recipe's archive may lie beside the present one's.
    all.sort_by_key(|path| path.metadata().and_then(|m| m.modified()).ok());
    let found = all.pop();
    if found.is_none() {
        let required = std::env::var("WHARF_TEST_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|r| r.trim() == "base-image"), "the base image is required here");
        println!("skipped: no base image in target/images");
    }
    found
}

#[tokio::test]
async fn packages_users_and_languages_work_inside() {
    let Some(archive) = archive() else { return };
    let machine = machine!();
    let archive = std::fs::File::open(archive).unwrap();
    let image = machine.runtime.import_image(&"base".parse().unwrap(), archive).await.unwrap().image;
    let mut spec = machine.spec();
    spec.volume.image = image;
    (spec.volume.disk_mib, spec.resources.disk_mib) = (1024, 1024);
    (spec.resources.memory_mib, spec.resources.pids) = (512, 200);
    let running = machine.launch(&spec).await;

    assert_eq!(ok(&running, 1000, "sudo -n id -u; sudo -n sh -c 'wc -l < /etc/shadow' | grep -c ."), "0\n1");
    assert!(
        ok(&running, 0, "useradd -m bob && su bob -c 'id -un; touch ~/f; stat -c %U ~/f'")
            .ends_with("bob\nbob")
    );
    let package = "cd /tmp && mkdir -p p/DEBIAN p/opt && echo hi > p/opt/f && \
        printf 'Package: x\\nVersion: 1\\nArchitecture: all\\nMaintainer: a <a@b>\\nDescription: x\\n' > p/DEBIAN/control && \
        dpkg-deb -b p >/dev/null && dpkg -i p.deb >/dev/null && cat /opt/f && dpkg -r x >/dev/null && test ! -e /opt/f";
    assert_eq!(ok(&running, 0, package), "hi");
    // As OpenJDK's packages do; it fails where the directory of the manual pages is missing.
    let manual = "mkdir -p /opt/j && touch /opt/j/j /opt/j/j.1 && \
        update-alternatives --quiet --install /usr/bin/j j /opt/j/j 1 --slave /usr/share/man/man1/j.1 j.1 /opt/j/j.1 && readlink -e /usr/share/man/man1/j.1";
    assert_eq!(ok(&running, 0, manual), "/opt/j/j.1");
    let archived =
        ok(&running, 0, "tar -C / -cpf - etc | tar -C /tmp -xpf - && stat -c '%U %G %a' /tmp/etc/shadow");
    assert_eq!(archived, "root shadow 640");
    let python = "python3 -c 'import multiprocessing, socket; print(multiprocessing.Pool(2).map(abs, [-1]), socket.gethostbyname(socket.gethostname()))'";
    assert_eq!(ok(&running, 1000, python), "[1] 127.0.1.1");
    assert_eq!(ok(&running, 1000, "python3 -m venv /tmp/v && /tmp/v/bin/python -c 'print(42)'"), "42");
    assert_eq!(ok(&running, 1000, "node -e 'console.log(6 * 7)'"), "42");
    assert_eq!(
        ok(
            &running,
            1000,
            "cd /tmp && git init -q r && cd r && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x && git log --oneline | wc -l"
        ),
        "1"
    );
    // A user namespace may be made, and is good for nothing.
    assert_eq!(ok(&running, 1000, "unshare -Ur id -u"), "0");
    for refused in [
        "unshare -Urm true",
        "unshare -n true",
        "nsenter -t 1 -m true",
        "mount -t tmpfs x /mnt",
        "dmesg",
        "ip link add d type dummy",
    ] {
        assert_ne!(run(&running, 0, refused).0, 0, "{refused}");
    }
    machine.stop(&spec).await;
    assert_eq!(machine.leftovers(), "");
}
