//! A jail's network: itself, and the one door to the gateway.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use wharf_ports::SandboxRuntime;
use wharf_ports::runtime::Running;
use wharf_testkit::contract::Machine as _;

use crate::harness::{ok, run};
use crate::machine;

const EPERM: &str = "1";
const DOOR: &str = "/run/wharf/gateway/gateway.sock";

fn answers(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

fn gateway_of(jail: &Running) -> PathBuf {
    jail.host_socket.parent().unwrap().join("gateway")
}

/// Says one word to everybody who comes.
fn open_door(directory: &Path, word: &'static str) -> PathBuf {
    let socket = directory.join("gateway.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(word.as_bytes());
        }
    });
    socket
}

#[tokio::test]
async fn connections_are_led_to_the_host_and_nothing_else_leaves() {
    let machine = machine!();
    let (_, running) = machine.session().await;
    for (uid, raw) in [(0, EPERM), (1000, EPERM)] {
        let text = ok(&running, uid, "breakout network");
        let answers = answers(&text);
        for (name, expected) in [
            ("udp_here", "done"),
            ("udp_own", "done"),
            ("own_heard", "true"),
            ("udp_out", EPERM),
            ("udp_metadata", EPERM),
            ("udp_range", EPERM),
            ("udp_multicast", EPERM),
            ("udp_broadcast", EPERM),
            ("out_heard", "false"),
            ("own_address", "198.18.0.1"),
            ("raw", raw),
            ("netfilter", EPERM),
            ("packet", EPERM),
            ("link_down", EPERM),
            ("address_away", EPERM),
            ("route_away", EPERM),
            ("route_new", EPERM),
        ] {
            assert_eq!(answers.get(name), Some(&expected), "{name} as {uid}:\n{text}");
        }
        // Without version 6 in the kernel there is no such socket.
        assert_ne!(answers["udp6_out"], "done", "{text}");
    }

    // Without a host behind it, a led connection is refused at once.
    assert_ne!(run(&running, 1000, "nc -w 2 93.184.216.34 80 </dev/null").0, 0);
    // With one, it gets every TCP connection to elsewhere, and none to here.
    // Who calls before the listener is up is refused, and calls again.
    let call = "rm -f /tmp/hold; mkfifo /tmp/hold; exec 9<>/tmp/hold; call() { for i in $(seq 100); do echo $1 | nc -w 2 $2 $3 2>/dev/null && return; sleep 0.05; done; }";
    let led =
        format!("{call}\ntimeout 20 nc -l -p 15001 <&9 > /tmp/led & call to-$1 $1 $2; wait; cat /tmp/led");
    for (to, port) in [("93.184.216.34", 443), ("198.18.0.9", 22), ("10.0.0.1", 53)] {
        assert_eq!(ok(&running, 1000, &format!("set -- {to} {port}\n{led}")), format!("to-{to}"));
    }
    if Path::new("/proc/sys/net/ipv6").exists() {
        assert_eq!(ok(&running, 1000, &format!("set -- 2001:db8::7 443\n{led}")), "to-2001:db8::7");
    }
    for own in ["127.0.0.1", "127.0.1.1", "198.18.0.1"] {
        let here = format!(
            "{call}\ntimeout 20 nc -l -p 8080 <&9 > /tmp/here & call direct $1 8080; wait; cat /tmp/here"
        );
        assert_eq!(ok(&running, 1000, &format!("set -- {own}\n{here}")), "direct", "{own}");
    }
    // Any user of the session may serve on any port.
    assert_eq!(
        ok(
            &running,
            1000,
            &format!(
                "{call}\ntimeout 20 nc -l -p 80 <&9 > /tmp/low & call low 127.0.0.1 80; wait; cat /tmp/low"
            )
        ),
        "low"
    );
}

#[tokio::test]
async fn the_gateways_door_is_read_only_reopened_when_it_was_shut_and_nobody_elses() {
    let machine = machine!();
    machine.runtime.keep_warm(&machine.image.name, 1).await.unwrap();
    machine.wait_for_warm(1);
    let (_, warm) = machine.session().await;
    assert!(warm.warm);
    let mut rootless = machine.spec();
    rootless.allow_root = false;
    let rootless = machine.launch(&rootless).await;
    for jail in [&warm, &rootless] {
        assert_eq!(ok(jail, 1000, &format!("breakout unix {DOOR}")), "connect=2", "no gateway yet");
        open_door(&gateway_of(jail), "first");
        for uid in [0, 1000] {
            assert_eq!(ok(jail, uid, &format!("breakout unix {DOOR}")), "first");
        }
        // The gateway was started again.
        open_door(&gateway_of(jail), "second");
        assert_eq!(ok(jail, 1000, &format!("breakout unix {DOOR}")), "second");
        for attempt in [
            "touch /run/wharf/gateway/x",
            "rm /run/wharf/gateway/gateway.sock",
            "mv /run/wharf/gateway/gateway.sock /run/wharf/gateway/other",
            "chmod 777 /run/wharf/gateway",
            "chown 0 /run/wharf/gateway",
            "ls /run/wharf/gateway",
            "rmdir /run/wharf/gateway",
            "mount -o remount,rw /run/wharf/gateway",
            "umount /run/wharf/gateway",
        ] {
            let (code, text) = run(jail, 0, attempt);
            assert_ne!(code, 0, "{attempt}: {text}");
        }
        let mounts = ok(jail, 0, "grep ' /run/wharf/gateway ' /proc/self/mountinfo");
        let flags: Vec<&str> = mounts.split(' ').nth(5).unwrap().split(',').collect();
        assert!(["ro", "nosuid", "nodev", "noexec"].iter().all(|f| flags.contains(f)), "{mounts}");
    }
    // Each session has its own door, and the way to it is closed to the machine's other users.
    open_door(&gateway_of(&rootless), "another");
    assert_eq!(ok(&warm, 1000, &format!("breakout unix {DOOR}")), "second");
    assert_eq!(ok(&warm, 0, "find / -xdev -name gateway.sock | wc -l"), "0");
    let stranger = |what: &Path| {
        let mut look = Command::new("stat");
        !look.arg(what).uid(12345).gid(12345).output().unwrap().status.success()
    };
    let door = gateway_of(&warm);
    let jail = door.parent().unwrap();
    assert!(stranger(&door.join("gateway.sock")) && stranger(&door) && stranger(jail));
    let modes = [jail.parent().unwrap(), jail, &door].map(|d| d.metadata().unwrap().mode() & 0o777);
    assert_eq!(modes, [0o750, 0o710, 0o711]);
}
