//! What one host holds, and the few things every endpoint needs of it.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Semaphore;
use wharf_domain::Code;
use wharf_wire::host::Identity;

use crate::accounts::Power;
use crate::desktop::Desktop;
use crate::fault::{Fault, Result};
use crate::memory::Memory;
use crate::processes::Processes;
use crate::reaper::Reaper;
use crate::root::Root;
use crate::surroundings::Surroundings;
use crate::terminal::Terminals;
use crate::turn::agents::Agents;
use crate::turns::Turns;
use crate::{egress, limits};

pub struct Host {
    pub root: Root,
    pub power: Power,
    pub reaper: Arc<Reaper>,
    pub execs: Arc<Semaphore>,
    pub tars: Arc<Semaphore>,
    pub processes: Processes,
    pub desktop: Desktop,
    pub terminals: Terminals,
    pub turns: Turns,
    pub agents: Agents,
    pub memory: Memory,
    pub surroundings: Surroundings,
    pub incarnation: String,
    pub started: Instant,
    identity: Mutex<Option<Arc<Identity>>>,
}

impl Host {
    pub fn new(root: &Path) -> io::Result<Self> {
        Ok(Self {
            root: Root::open(root)?,
            power: Power::of_this_process(),
            reaper: Arc::default(),
            execs: Arc::new(Semaphore::new(limits::EXECS)),
            tars: Arc::new(Semaphore::new(limits::TARS)),
            processes: Processes::default(),
            desktop: Desktop::default(),
            terminals: Terminals::default(),
            turns: Turns::default(),
            agents: Agents::default(),
            memory: Memory::default(),
            surroundings: Surroundings::new(egress::expected()),
            incarnation: random_name()?,
            started: Instant::now(),
            identity: Mutex::new(None),
        })
    }

    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes an identity once. False when it is the one the host has already. Only the authority may be another one later: a
    /// space gets one when it first needs one.
    pub fn claim(&self, identity: Identity) -> Result<bool> {
        let mut held = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        match &*held {
            Some(known) if **known == identity => Ok(false),
            Some(known) if Identity { authority: known.authority.clone(), ..identity.clone() } == **known => {
                *held = Some(Arc::new(identity));
                Ok(false)
            }
            Some(known) => {
                Err(Fault::new(Code::InvalidState, format!("this jail belongs to session {}", known.session)))
            }
            None => {
                *held = Some(Arc::new(identity));
                Ok(true)
            }
        }
    }
}

pub fn random_name() -> io::Result<String> {
    let mut bytes = [0_u8; 16];
    let n = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if n != bytes.len() {
        return Err(io::Error::other("the kernel gave too little randomness"));
    }
    Ok(u128::from_ne_bytes(bytes).to_string())
}

/// Runs file work where it may block.
pub async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Fault::new(Code::Internal, format!("the host's own task broke: {e}"))))
}
