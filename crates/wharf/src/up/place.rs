//! The unprivileged user and the directories, made before any child starts; and what cannot work, said at once.

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::unistd::{Gid, Uid, User, chown};
use wharf_chassis::Settings;

/// Where the first password is kept when nobody watched the first start.
pub const PASSWORD_FILE: &str = "initial-admin-password";

/// Who the control plane runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    /// The account named in the settings, made as a system account when the machine has none of that name.
    pub fn find_or_make(settings: &Settings) -> Result<Self> {
        if let Some(account) = Self::find(&settings.user)? {
            return Ok(account);
        }
        let made = Command::new("useradd")
            .args([
                "--system",
                "--user-group",
                "--no-create-home",
                "--shell",
                "/usr/sbin/nologin",
                "--home-dir",
            ])
            .arg(&settings.data_dir)
            .arg(&settings.user)
            .output()
            .context(
                "cannot run useradd; install it (Debian: passwd) or name an existing user with `user`",
            )?;
        match Self::find(&settings.user)? {
            Some(account) => Ok(account),
            None => bail!(
                "cannot make the user {}: {}; make it yourself or name another with `user`",
                settings.user,
                String::from_utf8_lossy(&made.stderr).trim()
            ),
        }
    }

    pub fn find(name: &str) -> Result<Option<Self>> {
        let user = User::from_name(name).with_context(|| format!("cannot look up the user {name}"))?;
        let Some(user) = user else { return Ok(None) };
        if user.uid.is_root() {
            bail!("the user {name} is root by another name; name an unprivileged one with `user`");
        }
        Ok(Some(Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }
}

pub fn user_name() -> String {
    User::from_uid(Uid::current())
        .ok()
        .flatten()
        .map_or_else(|| format!("uid {}", Uid::current()), |u| u.name)
}

/// What is missing so fundamentally that starting children would only blur the message.
pub fn check_machine(settings: &Settings) -> Result<()> {
    if settings.database_url.is_none() && wharf_store::cluster::find_programs().is_err() {
        bail!(
            "PostgreSQL's server programs were not found: install them (Debian: apt install postgresql) or set database_url"
        );
    }
    Ok(())
}

/// Makes what is missing, and puts right owner and mode of what is there. `control` is who the control plane runs as,
/// when that is not this process's own user.
pub fn make_directories(settings: &Settings, control: Option<&Account>) -> Result<()> {
    // Others pass through to their own parts, and list nothing.
    make(&settings.data_dir, 0o711, None)?;
    make(&settings.run_dir(), 0o711, None)?;
    let root = crate::is_root();
    if root {
        make(&settings.jail_dir(), 0o700, None)?;
    }
    if control.is_some() || !root {
        for dir in [
            settings.postgres_dir(),
            settings.keys_dir(),
            settings.spool_dir(),
            settings.git_dir(),
            settings.control_run_dir(),
        ] {
            make(&dir, 0o700, control)?;
        }
        reachable(&settings.data_dir, control)?;
    }
    Ok(())
}

fn make(path: &Path, mode: u32, owner: Option<&Account>) -> Result<()> {
    let say = || format!("cannot make {}", path.display());
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).with_context(say)?;
    let found = std::fs::symlink_metadata(path).with_context(say)?;
    if !found.is_dir() {
        bail!("{} is in the way: it is not a directory", path.display());
    }
    let (uid, gid) = owner.map_or((Uid::current().as_raw(), Gid::current().as_raw()), |a| (a.uid, a.gid));
    if found.uid() != uid || found.gid() != gid {
        chown(path, Some(uid.into()), Some(gid.into()))
            .with_context(|| format!("{} belongs to another user", path.display()))?;
    }
    if found.mode() & 0o7777 != mode {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).with_context(say)?;
    }
    Ok(())
}

/// The control plane's user must be able to walk down to the data directory; a home of mode 0700 above it stops it.
fn reachable(data_dir: &Path, control: Option<&Account>) -> Result<()> {
    let Some(account) = control else { return Ok(()) };
    for dir in data_dir.ancestors().skip(1) {
        let Ok(found) = std::fs::metadata(dir) else { continue };
        let may = if found.uid() == account.uid {
            found.mode() & 0o100
        } else if found.gid() == account.gid {
            found.mode() & 0o010
        } else {
            found.mode() & 0o001
        };
        if may == 0 {
            bail!(
                "the user {} cannot pass through {} to {}: give another --data-dir, or run `chmod o+x {}`",
                account.name,
                dir.display(),
                data_dir.display(),
                dir.display()
            );
        }
    }
    Ok(())
}
