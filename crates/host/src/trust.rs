//! The space's own authority in the session's trust store, so that programs accept the gateway where it speaks for a host.
//!
//! One authority at a time: a volume that came from another space forgets that one's. Two files say it all: the certificate where
//! `update-ca-certificates` looks for additions, and the bundle that is its work. Nothing is written when both are right,
//! and nothing here keeps a session from starting.

use std::fs::File;
use std::io::{self, Read as _, Write as _};

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use wharf_wire::host::path::normalise;

use crate::accounts::Power;
use crate::fault::{Fault, Result};
use crate::root::Root;

/// Certificates in PEM take 1 to 2 KiB each.
const AUTHORITY_BYTES: usize = 32 * 1024;
/// Debian's bundle has 220 KiB.
const BUNDLE_BYTES: u64 = 8 * 1024 * 1024;
const BEGIN: &str = "# wharf: the authority of this session's space\n";
const END: &str = "# wharf: end\n";

const SYSTEM_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
const SYSTEM: Files = Files {
    directory: "/usr/local/share/ca-certificates",
    own: "wharf-space.crt",
    bundle_directory: "/etc/ssl/certs",
    bundle: "ca-certificates.crt",
};
/// Where root is not allowed, the session's user has a bundle of its own.
const HOME: Files = Files {
    directory: "/home/agent/.local/state/wharf",
    own: "wharf-space.crt",
    bundle_directory: "/home/agent/.local/state/wharf",
    bundle: "ca-certificates.crt",
};

struct Files {
    directory: &'static str,
    own: &'static str,
    bundle_directory: &'static str,
    bundle: &'static str,
}

/// Where programs find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted {
    pub bundle: String,
    /// The authority alone.
    pub own: String,
    /// Whether anything had to be written.
    pub changed: bool,
}

/// Refuses what is not one or more certificates in PEM.
pub fn check(authority: &str) -> Result<()> {
    let refuse = |why: &str| Err(Fault::invalid("authority", why));
    if authority.len() > AUTHORITY_BYTES {
        return refuse("the certificate is too long");
    }
    if !authority.is_ascii()
        || !authority.trim_start().starts_with("-----BEGIN CERTIFICATE-----")
        || !authority.trim_end().ends_with("-----END CERTIFICATE-----")
        || authority.contains("PRIVATE KEY")
    {
        return refuse("it is not a certificate in PEM");
    }
    Ok(())
}

/// Makes the session trust `authority` and no other that a space brought along.
pub fn install(root: &Root, power: Power, authority: Option<&str>) -> io::Result<Option<Trusted>> {
    let files = if power == Power::Jail { SYSTEM } else { HOME };
    let authority = authority.map(|pem| format!("{}\n", pem.trim()));
    let own = format!("{}/{}", files.directory, files.own);
    let before = read(root, &own, AUTHORITY_BYTES as u64);
    if authority.is_none() && before.is_none() {
        return Ok(None);
    }
    let bundle = format!("{}/{}", files.bundle_directory, files.bundle);
    let old = read(root, &bundle, BUNDLE_BYTES);
    let base = if power == Power::Jail { old.clone() } else { read(root, SYSTEM_BUNDLE, BUNDLE_BYTES) };
    let whole = with(base.unwrap_or_default(), before.as_deref(), authority.as_deref());
    let mut changed = false;
    if old.as_deref() != Some(&whole) {
        // A new file even where a line at the end would do: appending makes the overlay copy the image's file up, and that waits
        // for the disk.
        replace(root, files.bundle_directory, files.bundle, &whole)?;
        changed = true;
    }
    if before != authority {
        match &authority {
            Some(pem) => replace(root, files.directory, files.own, pem)?,
            None => remove(root, files.directory, files.own)?,
        }
        changed = true;
    }
    Ok(authority.map(|_| Trusted { bundle: outside(root, &bundle), own: outside(root, &own), changed }))
}

/// A bundle without the authority before and with the one that is.
fn with(mut bundle: String, before: Option<&str>, now: Option<&str>) -> String {
    let block = now.map(|pem| format!("{BEGIN}{pem}{END}"));
    if let Some(block) = &block
        && bundle.matches(BEGIN).count() == 1
        && bundle.contains(block)
        && (before.is_none() || before == now)
    {
        return bundle;
    }
    while let Some(begin) = bundle.find(BEGIN) {
        let end = bundle[begin..].find(END).map_or(bundle.len(), |at| begin + at + END.len());
        bundle.replace_range(begin..end, "");
    }
    // `update-ca-certificates` puts additions in without marks.
    if let Some(before) = before {
        bundle = bundle.replace(before, "");
    }
    if let Some(block) = block {
        if !bundle.is_empty() && !bundle.ends_with('\n') {
            bundle.push('\n');
        }
        bundle.push_str(&block);
    }
    bundle
}

fn outside(root: &Root, path: &str) -> String {
    normalise(path).map_or_else(|_| path.to_owned(), |p| root.outside(&p).to_string_lossy().into_owned())
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

fn read(root: &Root, path: &str, most: u64) -> Option<String> {
    let file = root.open_file(&normalise(path).ok()?).ok()?;
    let mut text = String::new();
    file.take(most).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The old or the new content, whenever the host dies.
fn replace(root: &Root, directory: &str, name: &str, text: &str) -> io::Result<()> {
    let path = normalise(directory).map_err(|_| invalid())?;
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let dir = root.make_directories(&path, 0o755, owner)?;
    let fresh = format!(".{name}.wharf");
    let _ = unlinkat(&dir, fresh.as_str(), AtFlags::empty());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(&dir, fresh.as_str(), flags, Mode::from_raw_mode(0o644))?);
    file.write_all(text.as_bytes())?;
    Ok(renameat(&dir, fresh.as_str(), &dir, name)?)
}

fn remove(root: &Root, directory: &str, name: &str) -> io::Result<()> {
    let path = normalise(directory).map_err(|_| invalid())?;
    Ok(unlinkat(root.directory(&path)?, name, AtFlags::empty())?)
}

/// Enters the authority into the store that Chromium reads, or takes it out. For `sh`, as the agent.
pub fn browser_script(trusted: Option<&Trusted>) -> String {
    let begin = "command -v certutil >/dev/null || exit 0\ndb=$HOME/.pki/nssdb\n";
    let forget = "certutil -d sql:$db -D -n wharf-space >/dev/null 2>&1\n";
    match trusted {
        None => format!("{begin}[ -e $db/cert9.db ] || exit 0\n{forget}exit 0"),
        Some(trusted) => format!(
            "{begin}umask 077; mkdir -p $db\n[ -e $db/cert9.db ] || certutil -d sql:$db -N --empty-password\n{forget}\
             exec certutil -d sql:$db -A -t C,, -n wharf-space -i {}",
            trusted.own
        ),
    }
}

#[cfg(test)]
mod tests;
