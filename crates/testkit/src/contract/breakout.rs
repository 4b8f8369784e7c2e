//! Attempts to get out of a jail, or to see past its walls, as its root and as its agent.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::Path;

use wharf_ports::runtime::Fault;

use super::{Machine, ok, run};

const EPERM: &str = "1";
const ENOSYS: &str = "38";
/// What has another answer than "not permitted", and why that is as good.
const OTHERWISE: [(&str, &str); 8] = [
    ("netlink_route", "done"), // ip(8), in a network of its own
    ("clone3", ENOSYS),        // its flags cannot be filtered; programs fall back to clone
    ("future_call", ENOSYS),   // programs fall back
    ("nfsservctl", EPERM),     //
    ("ptrace_outside", "3"),   // ESRCH: there is no such process in here
    ("unshare_user", "done"),  // Chromium's sandbox; good for nothing else, as the next lines show
    ("setns", EPERM),
    ("raise_nofile", EPERM),
];

fn answers(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

pub async fn the_kernel_refuses_everything_that_leads_out(machine: &dyn Machine) {
    let (_, running) = machine.session().await;
    for uid in [0, 1000] {
        let text = ok(&running, uid, "breakout");
        let answers = answers(&text);
        assert!(answers.len() > 55, "{text}");
        for (name, answer) in answers {
            let expected = OTHERWISE.iter().find(|(n, _)| *n == name).map_or(EPERM, |(_, errno)| errno);
            assert_eq!(answer, expected, "{name} as {uid}");
        }
    }
    let mut rootless = machine.spec();
    rootless.allow_root = false;
    let rootless = machine.launch(&rootless).await;
    for (name, answer) in answers(&ok(&rootless, 0, "breakout")) {
        let expected = OTHERWISE.iter().find(|(n, _)| *n == name).map_or(EPERM, |(_, errno)| errno);
        assert_eq!(answer, expected, "{name} without root");
    }
}

pub async fn a_browsers_own_sandbox_can_be_built(machine: &dyn Machine) {
    let (_, running) = machine.session().await;
    let text = ok(&running, 1000, "breakout idle-clone");
    let answers = answers(&text);
    assert_eq!(answers["clone_user_pid_net"], "done");
    for refused in ["clone_mount", "clone_cgroup", "clone_uts", "clone_ipc"] {
        assert_eq!(answers[refused], EPERM, "{refused}");
    }
}

pub async fn root_inside_is_nobody_outside(machine: &dyn Machine) {
    let (_, running) = machine.session().await;
    let status = ok(&running, 0, "cat /proc/1/status");
    let bounding = status.lines().find(|l| l.starts_with("CapBnd")).unwrap();
    assert!(bounding.ends_with("00000000a00425fb"), "{bounding}");
    assert!(status.contains("Seccomp:\t2"), "{status}");
    // Root may do what root does to its own.
    ok(&running, 0, "touch /f && chown 1000:1000 /f && chmod 4755 /f && mkdir /srv && chroot / /bin/true");
    if !machine.promises().root_is_nobody {
        return;
    }
    let map: Vec<u32> =
        ok(&running, 0, "cat /proc/self/uid_map").split_whitespace().map(|n| n.parse().unwrap()).collect();
    assert_eq!((map[0], map[2]), (0, 65536));
    assert!(map[1] > 65536, "not among the machine's own: {map:?}");
    // It runs under those ids, seen from the machine.
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", machine.first_process(&running))).unwrap();
    assert!(status.contains(&format!("Uid:\t{}", map[1])), "{status}");
}

pub async fn proc_and_sys_tell_little_and_change_nothing(machine: &dyn Machine) {
    let (_, running) = machine.session().await;
    for masked in [
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/sched_debug",
        "/proc/kmsg",
        "/proc/interrupts",
    ] {
        let text = ok(&running, 0, &format!("[ ! -e {masked} ] || head -c 100 {masked} | wc -c"));
        assert!(text.is_empty() || text == "0", "{masked}: {text}");
    }
    for empty in ["/sys/firmware", "/proc/acpi", "/proc/scsi", "/sys/fs/cgroup", "/proc/asound"] {
        assert_eq!(ok(&running, 0, &format!("ls -A {empty} 2>/dev/null | wc -l")), "0", "{empty}");
    }
    for write in [
        "echo x > /proc/sys/kernel/hostname",
        "echo 1 > /proc/sys/vm/drop_caches",
        "echo '|/bin/sh' > /proc/sys/kernel/core_pattern",
        "echo 0 > /proc/sys/net/ipv4/ip_forward",
        "echo b > /proc/sysrq-trigger",
        "echo 1 > /proc/irq/default_smp_affinity",
        "echo -500 > /proc/self/oom_score_adj",
        "echo '0 0 1' > /proc/self/uid_map",
        "mkdir /sys/fs/cgroup/x",
        "echo x > /sys/kernel/mm/ksm/run",
        "echo x > /run/wharf/wharf-host",
        "rm /run/wharf/wharf-host",
        "mount -t tmpfs x /mnt",
        "mount -o remount,rw /proc/sys",
        "umount -l /proc/sys",
        "umount /run/wharf/wharf-host",
        "ifconfig lo down",
        "cat /dev/mem",
        "mknod /tmp/sda b 8 0",
    ] {
        let (code, text) = run(&running, 0, write);
        assert_ne!(code, 0, "{write}: {text}");
    }
    let mine = ok(&running, 0, "ls /proc | grep -E '^[0-9]+$' | sort -n | tail -1");
    assert!(mine.parse::<u32>().unwrap() < 300, "only processes of its own: {mine}");
    assert_eq!(ok(&running, 0, "ls /sys/class/net; grep -c : /proc/net/dev"), "lo\n1");
    assert_eq!(
        ok(&running, 0, "ls /dev | tr '\\n' ' '").trim(),
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
    assert_eq!(ok(&running, 0, "cat /proc/self/cgroup | grep -vE ':/$' | grep -v devices | wc -l"), "0");
}

pub async fn the_agent_has_no_hold_on_process_one(machine: &dyn Machine) {
    let (_, running) = machine.session().await;
    for attempt in [
        "cat /proc/1/environ",
        "ls /proc/1/fd",
        "ls /proc/1/root/",
        "cat /proc/1/mem",
        "kill -KILL 1",
        "kill -TERM 1",
        "echo x > /etc/passwd",
        "cat /root/x",
    ] {
        let (code, text) = run(&running, 1000, attempt);
        assert_ne!(code, 0, "{attempt}: {text}");
    }
    // Not even root inside kills process 1 behind its back: the namespace shields it.
    ok(&running, 0, "kill -KILL 1; kill -STOP 1; true");
    assert_eq!(ok(&running, 0, "echo alive"), "alive");
}

pub async fn nothing_of_the_machine_or_of_a_neighbour_is_in_sight(machine: &dyn Machine) {
    let (_, running) = machine.session().await;
    let (_, neighbour) = machine.session().await;
    ok(&neighbour, 0, "echo secret > /root/neighbours-file");
    let found = ok(
        &running,
        0,
        "find / -xdev \\( -name host.sock -o -name jailer.sock -o -name neighbours-file -o -name state.json -o -name runtime.json \\) | wc -l",
    );
    assert_eq!(found, "0");
    assert_eq!(
        ok(&running, 0, "ls /proc/1/root/root; ls /.. | tr '\\n' ' '"),
        ok(&running, 0, "ls / | tr '\\n' ' '")
    );
    let mounts = ok(&running, 0, "cat /proc/self/mountinfo");
    let hides = machine.promises().hides_paths;
    // But for where the gateway's directory comes from, which the kernel tells: nobody can go there.
    let gateway = mounts.lines().filter(|l| l.contains(machine.dir().to_str().unwrap()));
    assert!(!hides || gateway.clone().all(|l| l.contains("/gateway /run/wharf/gateway ro,")), "{mounts}");
    assert!(!hides || gateway.count() == 1, "{mounts}");
    let points: Vec<&str> = mounts.lines().map(|l| l.split(' ').nth(4).unwrap()).collect();
    let mut known = vec!["/", "/proc", "/sys", "/dev", "/run/wharf"];
    if !hides {
        known.extend(["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]);
    }
    assert!(
        points.iter().all(|p| known.iter().any(|k| p == k || (*k != "/" && p.starts_with(&format!("{k}/"))))),
        "{points:?}"
    );

    // An abstract unix socket of the machine belongs to its network namespace.
    use std::os::linux::net::SocketAddrExt;
    let name = format!("wharf-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    assert_eq!(ok(&running, 0, &format!("breakout abstract {name}")), "connect=111");
    // Loopback is its own, and there is nothing else.
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    assert_ne!(run(&running, 0, &format!("nc -w 1 127.0.0.1 {port} </dev/null")).0, 0);
    assert_ne!(run(&running, 0, "ping -c 1 -W 1 10.0.0.1").0, 0);
    assert_ne!(run(&running, 0, "nc -w 1 169.254.169.254 80 </dev/null").0, 0);
}

pub async fn climbing_out_of_a_chroot_ends_at_the_jails_root(machine: &dyn Machine) {
    let (_, running) = machine.session().await;
    let reached = ok(&running, 0, "breakout chroot");
    assert_eq!(reached, ok(&running, 0, "ls -A / | sort | tr '\\n' ' '").trim());
    assert!(!reached.contains("boot"), "{reached}");
}

pub async fn a_volume_rearranged_by_its_root_does_not_lead_the_next_start_astray(machine: &dyn Machine) {
    let (mut spec, running) = machine.session().await;
    if machine.promises().writes_etc {
        // Files the launcher writes: links to somewhere else are replaced, not followed.
        ok(
            &running,
            0,
            "echo untouched > /root/victim; for f in hosts hostname resolv.conf; do rm -f /etc/$f; ln -s /root/victim /etc/$f; done",
        );
        machine.stop(&spec).await;
        spec.incarnation += 1;
        let running = machine.launch(&spec).await;
        assert_eq!(ok(&running, 0, "cat /root/victim; cat /etc/hostname"), "untouched\nlab");

        ok(&running, 0, "rm /etc/hosts && mkdir -p /etc/hosts/deep");
        machine.stop(&spec).await;
        spec.incarnation += 1;
        let running = machine.launch(&spec).await;
        assert_eq!(ok(&running, 0, "grep -c lab /etc/hosts; ls -d /etc/hosts.was-*/deep | wc -l"), "1\n1");
        machine.stop(&spec).await;
    } else {
        machine.stop(&spec).await;
        spec.incarnation += 1;
    }

    // Places the launcher mounts on: a link there is refused by name.
    for name in ["proc", "sys", "dev", "run", "etc"] {
        let archive = machine.image_with(&format!("rm -rf {name}; ln -s /tmp {name}"));
        let image = format!("planted-{name}").parse().unwrap();
        match machine.runtime().import_image(&image, archive).await {
            // The import may see through it already.
            Err(Fault::Refused(why)) => assert!(why.contains(name), "{why}"),
            Err(other) => panic!("{other}"),
            Ok(info) => {
                let mut planted = machine.spec();
                planted.volume.image = info.image;
                match machine.runtime().launch(&planted).await {
                    Err(Fault::Refused(why)) => {
                        assert!(why.contains(&format!("/{name} of the volume is not a directory")), "{why}");
                    }
                    // A runtime that follows the link must do so inside.
                    Ok(running) if !machine.promises().writes_etc => {
                        assert!(run(&running, 0, "echo up").1.contains("up"));
                        assert!(!Path::new("/tmp/self/mountinfo").exists(), "/{name} led out");
                        machine.stop(&planted).await;
                    }
                    Err(Fault::Failed { .. }) if !machine.promises().writes_etc => {}
                    other => panic!("with /{name} planted: {other:?}"),
                }
                assert_eq!(machine.leftovers(), "");
            }
        }
    }
}

pub async fn a_setuid_program_of_a_session_is_out_of_reach_for_the_machines_users(machine: &dyn Machine) {
    use std::os::unix::process::CommandExt;
    let (_, running) = machine.session().await;
    ok(&running, 0, "cp /bin/busybox /tmp/su && chmod 4755 /tmp/su && sync");
    let data = machine.dir().join("data");
    let listing = std::process::Command::new("ls").arg(&data).uid(12345).gid(12345).output().unwrap();
    assert!(!listing.status.success());
    // Through /proc: the jail's root is closed to strangers as well.
    let pid = machine.first_process(&running);
    let through = std::process::Command::new("ls")
        .arg(format!("/proc/{pid}/root/tmp/su"))
        .uid(12345)
        .gid(12345)
        .output()
        .unwrap();
    assert!(!through.status.success());
}

pub async fn setuid_root_works_inside_where_root_is_allowed(machine: &dyn Machine) {
    let (_, running) = machine.session().await;
    ok(&running, 0, "cp /bin/breakout /home/setuid && chmod 4755 /home/setuid");
    assert_eq!(ok(&running, 1000, "grep NoNewPrivs /proc/self/status"), "NoNewPrivs:\t0");
    assert_eq!(ok(&running, 1000, "/bin/breakout euid; /home/setuid euid"), "1000\n0");
    // And what it gains is what root inside has: nothing outside.
    let text = ok(&running, 1000, "/home/setuid");
    assert_eq!((answers(&text)["mount"], answers(&text)["mknod"]), (EPERM, EPERM));
}
