//! The runtimes of an installation, and which of them a session gets.
//!
//! A session keeps the runtime it was created with, by name; only a new one is given what the settings say for its image. A
//! runtime that is named but not here is [`Fault::Away`]: what it holds is not lost because a setting was taken out.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wharf_domain::Name;

use crate::runtime::{Capabilities, Fault, Result, SandboxRuntime};

/// What a runtime can promise changes with a restart of it at most.
const KNOWN_FOR: Duration = Duration::from_mins(1);

struct Inner {
    all: Vec<Arc<dyn SandboxRuntime>>,
    usual: String,
    by_image: BTreeMap<Name, String>,
    known: Mutex<BTreeMap<String, (Instant, Capabilities)>>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Runtimes(Arc<Inner>);

impl fmt::Debug for Runtimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.all.iter().map(|r| r.name())).finish()
    }
}

/// One runtime for everything.
impl From<Arc<dyn SandboxRuntime>> for Runtimes {
    fn from(runtime: Arc<dyn SandboxRuntime>) -> Self {
        let usual = runtime.name().to_owned();
        Self::new(vec![runtime], usual, BTreeMap::new())
    }
}

impl<R: SandboxRuntime> From<Arc<R>> for Runtimes {
    fn from(runtime: Arc<R>) -> Self {
        let runtime: Arc<dyn SandboxRuntime> = runtime;
        Self::from(runtime)
    }
}

impl Runtimes {
    /// `usual` is for images that `by_image` does not name.
    pub fn new(all: Vec<Arc<dyn SandboxRuntime>>, usual: String, by_image: BTreeMap<Name, String>) -> Self {
        Self(Arc::new(Inner { all, usual, by_image, known: Mutex::default() }))
    }

    pub fn all(&self) -> &[Arc<dyn SandboxRuntime>] {
        &self.0.all
    }

    /// The name of the runtime new sessions of an image get.
    pub fn name_for(&self, image: &Name) -> &str {
        self.0.by_image.get(image).unwrap_or(&self.0.usual)
    }

    /// By the name a session or an image has on its row.
    pub fn get(&self, name: &str) -> Result<&Arc<dyn SandboxRuntime>> {
        self.0.all.iter().find(|r| r.name() == name).ok_or_else(|| {
            Fault::Away(format!("there is no runtime {name} here; name it in `runtime` or `runtimes`"))
        })
    }

    /// What it can promise, as it said within the last minute.
    pub async fn capabilities(&self, name: &str) -> Result<Capabilities> {
        let fresh = |known: &BTreeMap<String, (Instant, Capabilities)>| {
            known.get(name).filter(|(at, _)| at.elapsed() < KNOWN_FOR).map(|(_, c)| c.clone())
        };
        let held = || self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = fresh(&held()) {
            return Ok(known);
        }
        let said = self.get(name)?.capabilities().await?;
        held().insert(name.to_owned(), (Instant::now(), said.clone()));
        Ok(said)
    }
}
