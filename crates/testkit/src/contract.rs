//! What every runtime must do, and what nobody may be able to do in any of them: the stories both runtimes' tests tell.
//!
//! A runtime's test executable implements [`Machine`] for a machine of its own and names them all with
//! [`runtime_contract!`](crate::runtime_contract). What a runtime cannot promise is in its [`Promises`]; the stories then
//! check that it is refused instead.
#![allow(clippy::unwrap_used)]

pub mod breakout;
mod image;
pub mod launch;
pub mod limits;
pub mod snapshots;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use wharf_domain::image::ImageRef;
use wharf_domain::quota::Resources;
use wharf_domain::{SessionId, SnapshotId, VolumeId};
use wharf_ports::SandboxRuntime;
use wharf_ports::runtime::{JailSpec, Running, Source, VolumeSpec};

pub use image::tiny_image;

/// Where one runtime promises less than another, in words a test can ask for.
#[derive(Clone, Copy, Debug)]
pub struct Promises {
    pub disk_limit: bool,
    /// Root inside is an id of no account outside.
    pub root_is_nobody: bool,
    /// The mount table inside names no path of the machine.
    pub hides_paths: bool,
    /// Every start is a new jail.
    pub new_jail_each_start: bool,
    /// The start follows no link the session planted in `/etc`, and keeps what is in its way.
    pub writes_etc: bool,
}

/// A machine with one runtime on it.
#[async_trait]
pub trait Machine: Send + Sync {
    fn runtime(&self) -> &dyn SandboxRuntime;
    fn image(&self) -> &ImageRef;
    fn promises(&self) -> Promises;
    /// Everything of this machine is below it.
    fn dir(&self) -> &Path;
    /// What the runtime wrote, for a failure's message.
    fn log(&self) -> String;
    /// Everything that should not be there once its computers are stopped.
    fn leftovers(&self) -> String;
    /// The tests' image after some rearranging by a script in its root.
    fn image_with(&self, script: &str) -> File;
    /// Process 1 of a computer, as the machine numbers it.
    fn first_process(&self, running: &Running) -> i32;

    fn spec(&self) -> JailSpec {
        JailSpec {
            session: SessionId::new(),
            incarnation: 1,
            volume: VolumeSpec {
                volume: VolumeId::new(),
                image: self.image().clone(),
                disk_mib: 128,
                source: Source::Empty,
            },
            resources: Resources { cpu_millis: 1000, memory_mib: 256, disk_mib: 128, pids: 128 },
            hostname: "lab".parse().unwrap(),
            allow_root: true,
        }
    }

    fn fork_spec(&self, snapshot: SnapshotId) -> JailSpec {
        let mut spec = self.spec();
        spec.volume.source = Source::Snapshot(snapshot);
        spec
    }

    async fn launch(&self, spec: &JailSpec) -> Running {
        match self.runtime().launch(spec).await {
            Ok(running) => running,
            Err(fault) => panic!("{fault}\n{}", self.log()),
        }
    }

    /// A running session and what started it.
    async fn session(&self) -> (JailSpec, Running) {
        let spec = self.spec();
        let running = self.launch(&spec).await;
        (spec, running)
    }

    async fn stop(&self, spec: &JailSpec) {
        self.runtime().stop(spec.session, Duration::from_secs(2)).await.unwrap();
    }
}

/// Runs a script in a computer as a user of it; its exit code and everything it wrote. The computer's process 1 is the
/// tests' own, `session_init`, so that what is seen is the runtime and nothing else.
pub fn run(jail: &Running, uid: u32, script: &str) -> (i32, String) {
    let mut stream = UnixStream::connect(&jail.host_socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "{uid}\n{script}").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    let reply = String::from_utf8_lossy(&reply).into_owned();
    let (code, text) = reply.split_once('\n').unwrap_or((&reply, ""));
    (code.parse().unwrap_or(-2), text.trim_end().to_owned())
}

/// As [`run`], for a script that has to succeed.
#[track_caller]
pub fn ok(jail: &Running, uid: u32, script: &str) -> String {
    let (code, text) = run(jail, uid, script);
    assert_eq!(code, 0, "{script}\n{text}");
    text
}

/// Makes a test of every story. `$start` is an async function that answers a machine, or `None` where there can be none;
/// the machine's drop looks for what is left.
#[macro_export]
macro_rules! runtime_contract {
    ($start:path) => {
        $crate::runtime_contract! { $start;
            launch: a_session_gets_a_computer_that_keeps_its_files_and_leaves_nothing_else
            launch: the_same_launch_twice_is_one_computer_and_a_newer_one_replaces_it
            launch: stop_asks_first_and_kills_what_does_not_listen
            launch: a_computer_that_ends_by_itself_is_cleared_away
            launch: a_session_that_may_not_become_root_has_no_way_to
            launch: refusals_name_their_reason
            launch: many_at_once_all_start_and_all_go
            limits: a_memory_bomb_ends_inside_only
            limits: memory_files_count_too
            limits: a_fork_bomb_is_bounded_and_can_be_stopped
            limits: a_busy_session_gets_its_share_of_the_cpu_and_no_more
            limits: a_full_disk_is_the_sessions_own
            limits: endless_small_files_end_at_the_limit_too
            limits: a_limit_below_what_is_used_is_refused_and_the_old_ones_stay
            limits: numbers_that_are_no_limits_are_refused_before_anything_is_made
            snapshots: a_fork_of_a_running_session_has_its_files_and_goes_its_own_way
            snapshots: a_closed_session_is_copied_without_anything_standing_still
            snapshots: what_is_not_there_is_said_to_be_missing
            breakout: the_kernel_refuses_everything_that_leads_out
            breakout: a_browsers_own_sandbox_can_be_built
            breakout: root_inside_is_nobody_outside
            breakout: proc_and_sys_tell_little_and_change_nothing
            breakout: the_agent_has_no_hold_on_process_one
            breakout: nothing_of_the_machine_or_of_a_neighbour_is_in_sight
            breakout: climbing_out_of_a_chroot_ends_at_the_jails_root
            breakout: a_volume_rearranged_by_its_root_does_not_lead_the_next_start_astray
            breakout: a_setuid_program_of_a_session_is_out_of_reach_for_the_machines_users
            breakout: setuid_root_works_inside_where_root_is_allowed
        }
    };
    ($start:path; $($part:ident: $story:ident)*) => {$(
        #[tokio::test]
        async fn $story() {
            let Some(machine) = $start().await else { return };
            $crate::contract::$part::$story(&machine).await;
        }
    )*};
}
