#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn the_profile_has_the_jails_list_and_its_conditions() {
    let profile: Value = serde_json::from_str(&seccomp()).unwrap();
    let rules = profile["syscalls"].as_array().unwrap();
    let of = |name: &str| -> Vec<&Value> {
        rules.iter().filter(|r| r["names"].as_array().unwrap().contains(&json!(name))).collect()
    };
    assert!(of("openat")[0].get("args").is_none());
    for never in ["mount", "setns", "bpf", "keyctl", "add_key", "io_uring_setup", "pivot_root", "userfaultfd"]
    {
        assert!(of(never).is_empty(), "{never}");
    }
    assert_eq!(of("clone3")[0]["errnoRet"], ENOSYS);
    assert_eq!(of("clone")[0]["args"][0]["value"], 0x0E02_0000);
    assert_eq!(of("unshare").len(), 1);
    // Unix and internet sockets, and netlink only with the protocols listed.
    let socket = of("socket");
    assert!(socket.iter().all(|r| r["args"][0]["value"] != 16 || r["args"][1]["index"] == 2), "{socket:?}");
    assert!(!socket.iter().any(|r| r["args"][0]["value"] == 40), "no vsock");
}
