//! The machine's own addresses, as its interfaces have them now.
//!
//! A public address of the machine leads to whatever listens on the machine, as a private one does. Asked again when what is
//! known has some age, since interfaces come and go; what cannot be asked again stays as it was.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wharf_domain::Error;
use wharf_domain::egress::address::inner;

/// Asks the system for the addresses of all interfaces.
pub type Interfaces = Arc<dyn Fn() -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// How old what is known may be when an address is judged.
const FRESH: Duration = Duration::from_secs(2);

pub struct Machine {
    interfaces: Interfaces,
    known: Mutex<(Instant, Arc<[IpAddr]>)>,
}

fn ask(interfaces: &Interfaces) -> io::Result<Arc<[IpAddr]>> {
    Ok(interfaces()?.into_iter().map(inner).collect())
}

impl Machine {
    /// Refuses to begin without knowing them.
    pub fn new(interfaces: Interfaces) -> Result<Self, Error> {
        let known = ask(&interfaces)
            .map_err(|e| Error::internal(format!("the addresses of this machine's interfaces: {e}")))?;
        Ok(Self { interfaces, known: Mutex::new((Instant::now(), known)) })
    }

    pub fn addresses(&self) -> Arc<[IpAddr]> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0.elapsed() >= FRESH {
            known.0 = Instant::now();
            match ask(&self.interfaces) {
                Ok(fresh) => known.1 = fresh,
                Err(error) => tracing::warn!(%error, "the machine's interfaces could not be looked at again"),
            }
        }
        known.1.clone()
    }
}
