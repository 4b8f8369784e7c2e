//! Callers that are not our client.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use wharf_ports::SandboxRuntime;

use wharf_testkit::contract::Machine as _;

use crate::harness::{Machine, ok};
use crate::machine;

/// What comes back for these bytes until the jailer hangs up or falls silent.
fn say(machine: &Machine, bytes: &[u8]) -> (String, bool) {
    let mut stream = UnixStream::connect(machine.socket()).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    stream.write_all(bytes).unwrap();
    let (mut reply, mut closed) = (Vec::new(), false);
    let mut chunk = [0u8; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => {
                closed = true;
                break;
            }
            Ok(n) => reply.extend(&chunk[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {
                closed = true;
                break;
            }
            Err(_) => break,
        }
    }
    (String::from_utf8_lossy(&reply).into_owned(), closed)
}

fn frame(body: &str) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes()[..], body.as_bytes()].concat()
}

#[tokio::test]
async fn a_malformed_frame_is_answered_and_the_connection_ended() {
    let machine = machine!();
    let (_, running) = machine.session().await;
    for (body, reason) in [
        ("{", "EOF"),
        (r#"{"run":{"command":"id"}}"#, "unknown variant"),
        (r#"{"inventory":{"extra":1}}"#, "unknown field"),
        (r#"{"keep_warm":{"image":"../../etc","count":1}}"#, "is not a name"),
        (r#"{"observe":{"session":"../../etc"}}"#, "UUID"),
    ] {
        let (reply, closed) = say(&machine, &frame(body));
        assert!(reply.contains("malformed") && reply.contains(reason) && closed, "{body}: {reply} {closed}");
    }
    let (reply, closed) = say(&machine, &u32::MAX.to_be_bytes());
    assert!(reply.contains("the limit is") && closed, "{reply}");
    // Half a frame is waited for, not guessed.
    assert_eq!(say(&machine, &frame(r#"{"inventory":{}}"#)[..9]), (String::new(), false));
    assert_eq!(ok(&running, 0, "echo fine"), "fine");
}

#[tokio::test]
async fn two_requests_in_one_write_are_answered_in_order() {
    let machine = machine!();
    let both = [
        frame(&format!(r#"{{"hello":{{"protocol":{}}}}}"#, wharf_wire::jailer::PROTOCOL)),
        frame(r#"{"inventory":{}}"#),
    ]
    .concat();
    let (reply, closed) = say(&machine, &both);
    let (hello, inventory) = (reply.find("capabilities").unwrap(), reply.find("inventory").unwrap());
    assert!(hello < inventory && !closed);
    let (reply, _) = say(&machine, &frame(r#"{"hello":{"protocol":99}}"#));
    assert!(reply.contains("refused") && reply.contains("99"), "{reply}");
    let (reply, _) = say(&machine, &frame(r#"{"import_image":{"name":"x"}}"#));
    assert!(reply.contains("no archive came"), "{reply}");
}

#[tokio::test]
async fn strangers_are_turned_away() {
    let machine = machine!();
    let socket = machine.socket();
    // The path is open to be walked, the socket not to be used: neither by its mode nor, opened up, by the jailer.
    let try_as = |uid: u32| {
        let socket = socket.clone();
        // Ids are a thread's own as far as the kernel is concerned.
        let stranger = std::thread::spawn(move || {
            let uid = rustix::thread::Uid::from_raw(uid);
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            let mut said = String::new();
            UnixStream::connect(&socket).and_then(|mut stream| stream.read_to_string(&mut said)).map(|_| said)
        });
        stranger.join().unwrap()
    };
    let refused = try_as(12345).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let said = try_as(12345).unwrap();
    assert!(said.contains("may not talk to the jailer"), "{said}");
    assert!(machine.runtime.capabilities().await.is_ok());
}

#[tokio::test]
async fn too_many_callers_are_turned_away_and_a_slow_one_stops_nobody() {
    let machine = machine!();
    let mut slow = UnixStream::connect(machine.socket()).unwrap();
    slow.write_all(&frame(r#"{"inventory":{}}"#)[..3]).unwrap();
    let crowd: Vec<_> = (0..80).map(|_| UnixStream::connect(machine.socket()).unwrap()).collect();
    let mut last = crowd.last().unwrap();
    let mut said = Vec::new();
    last.read_to_end(&mut said).unwrap();
    assert!(String::from_utf8_lossy(&said).contains("connections"));
    drop(crowd);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while machine.runtime.inventory().await.is_err() {
        assert!(std::time::Instant::now() < deadline);
    }
}

#[tokio::test]
async fn the_machine_says_what_it_can_promise() {
    let machine = machine!();
    let can = machine.runtime.capabilities().await.unwrap();
    assert_eq!((can.runtime.as_str(), can.volumes.as_str()), ("native", "btrfs"));
    assert!(
        can.cpu_limit
            && can.memory_limit
            && can.pids_limit
            && can.disk_limit
            && can.freeze
            && can.cheap_snapshots
    );
}
