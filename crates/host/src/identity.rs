//! Who this jail is: nobody until the operator hands over a session's identity, then that session for good.

use std::sync::Arc;

use wharf_wire::host::{Claimed, Env, Health, Identity};

use crate::accounts::Power;
use crate::desktop::Desktop;
use crate::fault::{Fault, Result};
use crate::host::Host;
use crate::limits;
use crate::reply::{self, Reply};
use crate::request::{self, Incomes, Query};
use crate::spawn::{Streams, Wanted, prepare};
use crate::trust;

pub fn health(host: &Host) -> Result<Reply> {
    reply::json(&Health {
        incarnation: host.incarnation.clone(),
        session: host.identity().map(|i| i.session),
        uptime_ms: host.started.elapsed().as_millis() as u64,
        turn: host.turns.running(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

pub async fn claim(host: Arc<Host>, mut request: Incomes) -> Result<Reply> {
    Query::of(&request)?.finish()?;
    let identity: Identity = request::json(&mut request, limits::BODY_BYTES).await?;
    check_hostname(&identity.hostname)?;
    identity.env.check().map_err(|e| Fault::invalid("env", e))?;
    for (field, seconds) in [
        ("limits.exec_timeout_seconds", identity.limits.exec_timeout_seconds),
        ("limits.turn_timeout_seconds", identity.limits.turn_timeout_seconds),
    ] {
        crate::exec::check_timeout(seconds).map_err(|f| f.field(field))?;
    }
    if let Some(authority) = &identity.authority {
        trust::check(authority)?;
    }
    let (hostname, authority) = (identity.hostname.clone(), identity.authority.clone());
    let first = host.claim(identity)?;
    trust_in(&host, authority.as_deref());
    if first && let Some(identity) = host.identity() {
        Desktop::open(&host, &identity);
    }
    let hostname_set = set_hostname(&host, &hostname);
    reply::json(&Claimed { first, hostname_set })
}

/// Files of a session that its own root has made unwritable do not keep it from starting.
fn trust_in(host: &Arc<Host>, authority: Option<&str>) {
    let had = host.surroundings.trusts();
    match trust::install(&host.root, host.power, authority) {
        Ok(trusted) => {
            let changed = trusted.as_ref().map_or(had, |t| t.changed);
            host.surroundings.trust(trusted.clone());
            if changed {
                let host = Arc::clone(host);
                tokio::spawn(async move { tell_browsers(&host, trusted.as_ref()).await });
            }
        }
        Err(error) => eprintln!("wharf-host: the space's authority could not be put in place: {error}"),
    }
}

/// Browsers keep a store of their own. Nothing waits for it, and an image without one loses nothing.
async fn tell_browsers(host: &Host, trusted: Option<&trust::Trusted>) {
    let certutil = wharf_wire::host::path::normalise("/usr/bin/certutil").ok();
    if certutil.is_none_or(|path| host.root.open_file(&path).is_err()) {
        return;
    }
    let script = trust::browser_script(trusted);
    let argv = ["/bin/sh".to_owned(), "-c".to_owned(), script];
    let wanted = Wanted { argv: Some(&argv), command: None, cwd: None, env: &Env::default(), user: None };
    let started = prepare(host, &wanted)
        .and_then(|launch| launch.start(&host.reaper, host.power, Streams::Pipes { stdin: false }));
    match started {
        Ok(spawned) => drop(crate::reaper::ended(&spawned.exit).await),
        Err(fault) => eprintln!("wharf-host: certutil: {fault}"),
    }
}

/// The jailer may have set it already. Outside of a jail the name is the machine's and stays.
fn set_hostname(host: &Host, name: &str) -> bool {
    rustix::system::uname().nodename().to_bytes() == name.as_bytes()
        || (host.power == Power::Jail && rustix::system::sethostname(name.as_bytes()).is_ok())
}

/// What the kernel and DNS both take (RFC 1123, 2.1).
fn check_hostname(name: &str) -> Result<()> {
    let is_label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if name.len() <= 64 && name.split('.').all(is_label) {
        return Ok(());
    }
    Err(Fault::invalid("hostname", format!("{name:?} is not a host name")))
}
