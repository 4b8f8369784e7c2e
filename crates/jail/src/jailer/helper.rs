//! Slow work beside the loop: a forked copy does it and hands back one answer.
//!
//! The copy ends with the jailer, and what it was doing is found and finished or undone by the next start, as after
//! a crash. It changes files only; what the jailer holds in memory is changed by the jailer when the answer is in.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};
use wharf_wire::jailer::{Fault, ImageInfo};

use crate::step::{At, Step};
use crate::sys::{self, Forked};

#[derive(Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    Image(ImageInfo),
    Fault(Fault),
}

pub(super) struct Helper {
    pub answer: std::fs::File,
    pidfd: OwnedFd,
    text: Vec<u8>,
}

impl Helper {
    pub fn start(work: impl FnOnce() -> Result<Answer, Step>) -> Result<Self, Step> {
        let (read, write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).at("make a helper's pipe")?;
        let jailer = rustix::process::getpid();
        // SAFETY: the jailer is single-threaded and the child ends in exit below.
        match unsafe { sys::fork(0, None) }.at("fork a helper")? {
            Forked::Child => {
                drop(read);
                let _ = sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0);
                if rustix::process::getppid() != Some(jailer) {
                    sys::exit(1); // it died before we asked to be told
                }
                sys::default_signals();
                let _ = rustix::process::setpriority_process(None, 10);
                let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
                    .unwrap_or_else(|_| Err(Step::failed("helper", "a bug: it panicked")))
                    .unwrap_or_else(|step| Answer::Fault(step.into()));
                let text = serde_json::to_vec(&answer).unwrap_or_default();
                let ok = std::fs::File::from(write).write_all(&text).is_ok();
                sys::exit(i32::from(!ok))
            }
            Forked::Parent { pidfd, .. } => {
                rustix::io::ioctl_fionbio(&read, true).at("make a helper's pipe")?;
                Ok(Self { answer: read.into(), pidfd, text: Vec::new() })
            }
        }
    }

    /// The answer once the helper closed its end.
    pub fn poll(&mut self) -> Option<Answer> {
        loop {
            let mut buffer = [0u8; 4096];
            match self.answer.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => self.text.extend(&buffer[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return None,
                Err(_) => break,
            }
        }
        sys::reap(self.pidfd.as_fd());
        let lost = || {
            Answer::Fault(Fault::Failed {
                step: "helper".to_owned(),
                cause: "it ended without an answer".to_owned(),
            })
        };
        Some(serde_json::from_slice(&self.text).unwrap_or_else(|_| lost()))
    }
}
