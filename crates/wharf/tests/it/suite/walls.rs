//! What a session's programs try, root's among them, with the session's own host as their parent. What a runtime does about each is
//! told in `crates/testkit/src/contract/breakout.rs`; here it is all of it together.

use std::process::Command;

use serde_json::json;

use super::Place;

pub async fn nothing_leads_out(place: Place) {
    let one = place.session("prisoner").await;
    let attempts = [
        "mkdir -p /tmp/m; mount -t tmpfs none /tmp/m",
        "mount -t proc none /tmp",
        "mount -o remount,rw /proc/sys",
        "mount -o bind /proc /tmp",
        "umount /proc",
        "umount -l /run/wharf/gateway",
        "umount -l /run/wharf/wharf-host",
        "mknod /tmp/disk b 8 0",
        "mknod /tmp/mem c 1 1",
        "cat /dev/mem",
        "cat /dev/kmsg",
        "dmesg",
        "[ $(head -c 1 /proc/kcore | wc -c) != 0 ]",
        "[ -n \"$(cat /proc/keys /proc/timer_list 2>/dev/null)\" ]",
        "echo 1 > /proc/sys/kernel/panic",
        "echo /tmp/x > /proc/sys/kernel/core_pattern",
        "echo h > /proc/sysrq-trigger",
        "mkdir /sys/fs/cgroup/out || mkdir /sys/fs/cgroup/memory/out",
        "echo 1 > /sys/kernel/uevent_helper",
        "unshare -m true",
        "unshare -p -f true",
        "unshare -n true",
        "nsenter -t 1 -m true",
        "nsenter -t 1 -n true",
        "hostname other",
        "ip link set lo down",
        "ip addr add 10.0.0.1/8 dev lo",
        "ip route add 10.0.0.0/8 dev lo",
        "renice -n -5 -p $$",
        "echo -1000 > /proc/self/oom_score_adj",
        "ulimit -Hn 10000000",
        "touch /run/wharf/gateway/x",
        "echo x > /run/wharf/wharf-host",
        "rm -f /run/wharf/gateway/gateway.sock",
        "rm -rf /run/wharf/gateway || rmdir /run/wharf/gateway",
        "kill -9 1; sleep 0.3; [ ! -d /proc/1 ]",
    ];
    let mut open = Vec::new();
    for user in ["agent", "root"] {
        for attempt in attempts {
            if one.sh(user, attempt).await.0 == 0 {
                open.push((user, attempt));
            }
        }
    }
    assert!(open.is_empty(), "these led somewhere: {open:#?}");
    // What belongs to process 1 is not the agent's, and there is no socket of the machine but the way out.
    for attempt in [
        "cat /proc/1/environ",
        "cat /proc/1/maps",
        "ls -l /proc/1/fd",
        "ls -A /run/wharf/gateway",
        "echo > /proc/1/comm",
    ] {
        assert_ne!(one.sh("agent", attempt).await.0, 0, "{attempt}");
    }
    let sockets =
        one.as_root("find / -xdev -type s 2>/dev/null; find /run /dev -type s 2>/dev/null; true").await;
    assert!(sockets.lines().all(|s| s == "/run/wharf/gateway/gateway.sock"), "{sockets}");
    // It is as it was after all this.
    assert_eq!(
        one.answer("hostname; wget -q -O - http://gateway/ | grep -c '\"prisoner\"'").await,
        "prisoner\n1\n"
    );
}

pub async fn neighbours_are_strangers(place: Place) {
    let (one, other) = (place.session("here").await, place.session("there").await);
    one.as_root("echo mine > /opt/mine 2>/dev/null || { mkdir -p /opt; echo mine > /opt/mine; }; chmod 777 /opt /opt/mine").await;
    one.post("exec", json!({ "argv": ["sleep", "7401"], "background": true })).await;
    one.post("exec", json!({ "command": "exec nc -l -p 7402", "background": true })).await;
    for user in ["agent", "root"] {
        let (code, text) = other.sh(user, "ps; ls /opt/mine; cat /proc/[0-9]*/cmdline | tr '\\0' ' '").await;
        assert!(
            !text.contains("7401") && !text.contains("postgres") && !text.contains("dockerd"),
            "{code}: {text}"
        );
        assert_ne!(other.sh(user, "cat /opt/mine").await.0, 0);
        assert_ne!(other.sh(user, "nc -w 1 127.0.0.1 7402 < /dev/null").await.0, 0);
    }
    // Their loopback is not the machine's either.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_ne!(one.sh("root", &format!("nc -w 1 127.0.0.1 {port} < /dev/null")).await.0, 0);
    // Nor can the machine's users look in.
    let jails = place.wharf.data().join("run/jails");
    let looked = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "ls"])
        .arg(&jails)
        .output()
        .unwrap();
    assert!(!looked.status.success(), "{}", String::from_utf8_lossy(&looked.stdout));
}

pub async fn who_may_not_be_root_is_not(place: Place) {
    let one = place.session_with("humble", json!({ "allow_root": false })).await;
    let status =
        one.ok("grep -E '^(NoNewPrivs|CapEff|CapPrm|CapBnd):' /proc/self/status | tr -s '\\t\\n' ' '").await;
    assert_eq!(
        status.trim(),
        "CapPrm: 0000000000000000 CapEff: 0000000000000000 CapBnd: 0000000000000000 NoNewPrivs: 1"
    );
    let root = json!({ "argv": ["id"], "user": "root" });
    let (status, problem) = one.call(reqwest::Method::POST, "exec", root).await;
    assert!(status.is_client_error(), "{problem}");
    for attempt in ["su root -c true", "echo x > /etc/passwd", "kill -9 1; sleep 0.3; [ ! -d /proc/1 ]"] {
        assert_ne!(one.sh("agent", attempt).await.0, 0, "{attempt}");
    }
    assert_eq!(one.ok("id -u; hostname").await, "1000\nhumble");
    assert_eq!(
        one.answer("echo kept > note; wget -q -O - http://gateway/ | grep -c '\"humble\"'").await,
        "1\n"
    );
    one.close().await;
    assert_eq!(one.ok("cat note").await, "kept");
}
