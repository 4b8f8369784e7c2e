//! What every runtime must do, on the native one.

use std::fs::File;
use std::path::Path;

use wharf_domain::image::ImageRef;
use wharf_ports::SandboxRuntime;
use wharf_ports::runtime::Running;
use wharf_testkit::contract::{self, Promises};
use wharf_testkit::runtime_contract;

use crate::harness::{Machine, missing};

impl contract::Machine for Machine {
    fn runtime(&self) -> &dyn SandboxRuntime {
        &self.runtime
    }

    fn image(&self) -> &ImageRef {
        &self.image
    }

    fn promises(&self) -> Promises {
        Promises {
            disk_limit: true,
            root_is_nobody: true,
            hides_paths: true,
            new_jail_each_start: true,
            writes_etc: true,
        }
    }

    fn dir(&self) -> &Path {
        &self.dir
    }

    fn log(&self) -> String {
        Self::log(self)
    }

    fn leftovers(&self) -> String {
        Self::leftovers(self)
    }

    fn image_with(&self, script: &str) -> File {
        Self::image_with(self, script)
    }

    fn first_process(&self, running: &Running) -> i32 {
        let state = running.host_socket.with_file_name("state.json");
        let record = std::fs::read_to_string(state).unwrap();
        record.split(r#""pid":"#).nth(1).unwrap().split(',').next().unwrap().parse().unwrap()
    }
}

async fn start() -> Option<Machine> {
    if missing().is_some() { None } else { Some(Machine::start().await) }
}

runtime_contract!(start);
