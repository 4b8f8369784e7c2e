//! The few files of a root that say who the machine is: host name and resolver.
//!
//! Used twice: by a jail on its own root before anything runs, and by the jailer on a warm jail that gets its name.
//! Either way the content may be anybody's, so no symbolic link is followed and no file read beyond a bound.

use std::io::{Read, Write};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::step::{At, Step};

/// A hosts file beyond that is not one; it is replaced.
const BOUND: u64 = 256 * 1024;
const OURS: &str = "# wharf: this session";

/// Makes `/etc/hostname` and `/etc/hosts` of `root` know the name (sudo looks it up). Lines of others stay.
pub fn write_names<Fd: AsFd>(root: Fd, hostname: &str) -> Result<(), Step> {
    let etc = open_etc(root)?;
    let old = read(&etc, "hosts");
    let line = format!("127.0.1.1\t{hostname} {OURS}");
    if !old.as_deref().is_some_and(|text| text.lines().any(|l| l == line)) {
        let fresh = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
        let mut text: String = match old {
            Some(text) if text.contains("localhost") => {
                text.lines().filter(|l| !l.ends_with(OURS)).flat_map(|l| [l, "\n"]).collect()
            }
            _ => fresh,
        };
        text.push_str(&line);
        text.push('\n');
        replace(&etc, "hosts", &text)?;
    }
    let name = format!("{hostname}\n");
    if read(&etc, "hostname").as_deref() == Some(name.as_str()) {
        Ok(())
    } else {
        replace(&etc, "hostname", &name)
    }
}

/// The only resolver a jail can ever reach is on its own loopback.
pub(super) fn write_resolver<Fd: AsFd>(root: Fd) -> Result<(), Step> {
    let etc = open_etc(root)?;
    let text = "nameserver 127.0.0.1\noptions timeout:2 attempts:1\n";
    if read(&etc, "resolv.conf").as_deref() == Some(text) {
        Ok(())
    } else {
        replace(&etc, "resolv.conf", text)
    }
}

fn open_etc<Fd: AsFd>(root: Fd) -> Result<rustix::fd::OwnedFd, Step> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(root, "etc", flags, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH)
        .at("open /etc of the jail")
}

/// Nothing where there is no regular file of sensible size and text.
fn read<Fd: AsFd>(etc: Fd, name: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(etc, name, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&fd).ok()?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() || stat.st_size as u64 > BOUND {
        return None;
    }
    let mut text = String::new();
    std::fs::File::from(fd).take(BOUND).read_to_string(&mut text).ok()?;
    Some(text)
}

/// A new file in place of whatever is there, a link included.
fn replace<Fd: AsFd>(etc: Fd, name: &str, text: &str) -> Result<(), Step> {
    let step = || format!("write /etc/{name} of the jail");
    match rustix::fs::unlinkat(&etc, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        // Somebody's directory is kept, but it does not keep the session from starting.
        Err(Errno::ISDIR) => {
            let aside = format!("{name}.was-{}", since_epoch());
            rustix::fs::renameat(&etc, name, &etc, aside).at_with(step)?;
        }
        Err(e) => return Err(Step::failed(step(), e)),
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&etc, name, flags, Mode::from_raw_mode(0o644)).at_with(step)?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o644)).at_with(step)?;
    std::fs::File::from(fd).write_all(text.as_bytes()).at_with(step)
}

/// For names that do not repeat.
fn since_epoch() -> u128 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_millis())
}
