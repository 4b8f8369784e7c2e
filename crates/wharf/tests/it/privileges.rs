//! Only the jailer (its keeper and itself) is root on the machine; what is root in a session is nobody outside.

use serde_json::json;

use crate::installation::{Installation, Part, SPACE, possible};

fn status(pid: u32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().find_map(|l| l.strip_prefix(field)).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_but_the_jailer_is_root() {
    if !possible() {
        return;
    }
    let wharf = Installation::start().await;
    let sessions = format!("/v1/spaces/{SPACE}/sessions");
    wharf.post(&format!("{sessions}?wait=ready"), json!({ "name": "one", "image": "tiny" })).await;
    // A process that is root inside, so that there is one to look at.
    let sleep = json!({ "argv": ["sleep", "60"], "user": "root", "background": true });
    wharf.post(&format!("{sessions}/one/exec"), sleep).await;
    let parts = wharf.parts();
    for part in [Part::Keeper, Part::Jailer, Part::Control, Part::Postgres, Part::Host, Part::Inside] {
        assert!(parts.iter().any(|(p, _)| *p == part), "no {part:?} runs: {parts:?}");
    }
    for (part, pid) in parts {
        let ids: Vec<u32> = status(pid, "Uid:").split_whitespace().map(|n| n.parse().unwrap()).collect();
        match part {
            Part::Keeper | Part::Jailer => assert_eq!(ids, [0; 4], "{part:?}"),
            Part::Control | Part::Postgres => {
                assert!(ids.iter().all(|&id| id != 0), "{part:?} ({pid}) has ids {ids:?}");
                assert_eq!(status(pid, "CapEff:"), "0000000000000000", "{part:?} ({pid}) has capabilities");
                assert_eq!(
                    status(pid, "CapPrm:"),
                    "0000000000000000",
                    "{part:?} ({pid}) may get capabilities"
                );
            }
            Part::Host | Part::Inside => {
                assert!(ids.iter().all(|&id| id >= 1_000_000_000), "{part:?} is {ids:?} outside");
            }
        }
    }
    wharf.finish();
}
