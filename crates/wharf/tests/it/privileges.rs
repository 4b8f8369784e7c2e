//! Who is root on the machine: the keeper and the jailer, and where sessions run on Docker Engine the one process that
//! speaks to it. What is root in a session is nobody outside, or, on an engine without user namespaces, has next to no right.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use serde_json::json;

use crate::installation::{Installation, Part, Runtime, SPACE, possible_on};
use crate::on_every_runtime;

/// Chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw, sys_chroot, audit_write,
/// setfcap: nothing that reaches out of a container.
const INSIDE: u64 = 0xa004_25fb;

fn status(pid: u32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().find_map(|l| l.strip_prefix(field)).unwrap().trim().to_owned()
}

on_every_runtime!(nothing_is_root_that_need_not_be);

async fn nothing_is_root_that_need_not_be(runtime: Runtime) {
    if !possible_on(runtime) {
        return;
    }
    let wharf = Installation::start_on(runtime).await;
    let sessions = format!("/v1/spaces/{SPACE}/sessions");
    wharf.post(&format!("{sessions}?wait=ready"), json!({ "name": "one", "image": "tiny" })).await;
    // A process that is root inside, so that there is one to look at.
    let sleep = json!({ "argv": ["sleep", "60"], "user": "root", "background": true });
    wharf.post(&format!("{sessions}/one/exec"), sleep).await;
    let parts = wharf.parts();
    let docker = (runtime == Runtime::Docker).then_some(Part::Docker);
    for part in [Part::Keeper, Part::Jailer, Part::Control, Part::Postgres, Part::Host, Part::Inside]
        .into_iter()
        .chain(docker)
    {
        assert!(parts.iter().any(|(p, _)| *p == part), "no {part:?} runs: {parts:?}");
    }
    for (part, pid) in parts {
        let ids: Vec<u32> = status(pid, "Uid:").split_whitespace().map(|n| n.parse().unwrap()).collect();
        match part {
            Part::Keeper | Part::Jailer | Part::Docker => assert_eq!(ids, [0; 4], "{part:?}"),
            Part::Control | Part::Postgres => {
                assert!(ids.iter().all(|&id| id != 0), "{part:?} ({pid}) has ids {ids:?}");
                assert_eq!(status(pid, "CapEff:"), "0000000000000000", "{part:?} ({pid}) has capabilities");
                assert_eq!(
                    status(pid, "CapPrm:"),
                    "0000000000000000",
                    "{part:?} ({pid}) may get capabilities"
                );
            }
            Part::Host | Part::Inside if runtime == Runtime::Docker => {
                let bounds = u64::from_str_radix(&status(pid, "CapBnd:"), 16).unwrap();
                assert_eq!(bounds & !INSIDE, 0, "{part:?} ({pid}) may get {bounds:x}");
                assert_eq!(status(pid, "Seccomp:"), "2", "{part:?} ({pid}) may make every system call");
            }
            Part::Host | Part::Inside => {
                assert!(ids.iter().all(|&id| id >= 1_000_000_000), "{part:?} is {ids:?} outside");
            }
        }
    }
    if runtime == Runtime::Docker {
        // Whoever reaches the engine is root. The control plane does not.
        let control = wharf.parts().into_iter().find(|(part, _)| *part == Part::Control).unwrap().1;
        let id = |field| status(control, field).split_whitespace().next().unwrap().parse::<u32>().unwrap();
        assert!(!status(control, "Groups:").split(' ').any(|g| g == "0"), "the control plane is in group 0");
        let socket = wharf.engine().socket();
        let may =
            Command::new("test").arg("-w").arg(&socket).uid(id("Uid:")).gid(id("Gid:")).status().unwrap();
        assert!(!may.success(), "the control plane can write to {}", socket.display());
        assert!(Command::new("test").arg("-w").arg(&socket).status().unwrap().success(), "nor can root");
    }
    wharf.finish();
}
