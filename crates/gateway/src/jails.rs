//! One socket for each jail: bound when its directory appears, closed with everything on it when the directory goes.
//!
//! The kernel tells of changes (inotify); a slow look is the net below. A directory that is being made is looked at again
//! soon. Sockets are bound beside their place and renamed into it, so there is never one that does not accept.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, inotify};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use wharf_chassis::Stop;
use wharf_domain::{Error, JailId};

use crate::door::Door;
use crate::gateway::Gateway;
use crate::meter::Meter;

/// The directory of a jail its socket is in, and the socket.
const DIRECTORY: &str = "gateway";
const SOCKET: &str = "gateway.sock";
const FRESH: &str = ".gateway.sock.new";

/// Between two looks when nothing was heard.
const NET: Duration = Duration::from_secs(10);
/// First and longest pause until a jail that is half made is looked at again, and how often.
const SOON: Duration = Duration::from_millis(1);
const SOON_MOST: Duration = Duration::from_millis(500);
const TRIES: u32 = 16;
/// The longest pause while the jails' directory cannot be listened at.
const ABSENT_MOST: Duration = Duration::from_secs(1);

/// Serves until told to drain.
pub(crate) async fn serve(gateway: &Gateway, jails: &Path, stop: &Stop) -> Result<(), Error> {
    let mut doors =
        Doors { gateway: gateway.clone(), jails: jails.to_owned(), stop: stop.clone(), open: HashMap::new() };
    let mut ear: Option<Ear> = None;
    let (mut pause, mut tries) = (SOON, 0);
    let mut absent = SOON;
    let mut told = false;
    loop {
        // The directory may come later than this process, and be another one after the jailer's restart.
        if ear.as_ref().is_none_or(|e| !e.fits(jails)) {
            ear = Ear::open(jails).unwrap_or_else(|error| {
                if !told && error.kind() != std::io::ErrorKind::NotFound {
                    told = true;
                    tracing::warn!(%error, directory = %jails.display(), "jails are found by looking only");
                }
                None
            });
        }
        let half_made = doors.look();
        let wait = if ear.is_none() {
            absent = (absent * 2).min(ABSENT_MOST);
            absent
        } else if half_made && tries < TRIES {
            tries += 1;
            pause = (pause * 2).min(SOON_MOST);
            pause
        } else {
            NET
        };
        let heard = async {
            match &ear {
                Some(ear) => ear.heard().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.draining() => break,
            () = heard => (pause, tries) = (SOON, 0),
            () = tokio::time::sleep(wait) => {}
        }
    }
    // Doors close to new connections by the same signal; what runs is the gateway's to wait for.
    doors.unlink();
    Ok(())
}

struct Doors {
    gateway: Gateway,
    jails: PathBuf,
    stop: Stop,
    open: HashMap<JailId, CancellationToken>,
}

impl Doors {
    /// Opens and closes doors so that they are those of the jails there are. Answers whether one is half made.
    fn look(&mut self) -> bool {
        let mut there = Vec::new();
        let mut half_made = false;
        for entry in std::fs::read_dir(&self.jails).into_iter().flatten().flatten() {
            let Some(jail) = entry.file_name().to_str().and_then(|n| n.parse::<JailId>().ok()) else {
                continue;
            };
            there.push(jail);
            let directory = entry.path().join(DIRECTORY);
            if self.open.contains_key(&jail) && directory.join(SOCKET).exists() {
                continue;
            }
            match bind(&directory) {
                Ok(Some(listener)) => {
                    let closed = CancellationToken::new();
                    let door = Door {
                        gateway: self.gateway.clone(),
                        jail,
                        meter: Arc::new(Meter::new(&self.gateway.settings)),
                        closed: closed.clone(),
                        stop: self.stop.clone(),
                    };
                    self.gateway.tasks.spawn(door.serve(listener));
                    if let Some(before) = self.open.insert(jail, closed) {
                        before.cancel();
                    }
                }
                Ok(None) => half_made = true,
                Err(error) => {
                    tracing::warn!(%jail, %error, "a jail has no way out: its socket could not be bound");
                    half_made = true;
                }
            }
        }
        self.open.retain(|jail, closed| {
            let stays = there.contains(jail);
            if !stays {
                closed.cancel();
            }
            stays
        });
        half_made
    }

    fn unlink(&self) {
        for jail in self.open.keys() {
            let _ = std::fs::remove_file(self.jails.join(jail.to_string()).join(DIRECTORY).join(SOCKET));
        }
    }
}

/// Binds the socket of a directory; `None` where the directory is not there yet.
fn bind(directory: &Path) -> std::io::Result<Option<UnixListener>> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::PATH | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(directory, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // By way of the descriptor: socket paths hold 107 bytes, and those of jails are long.
    let at = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    let fresh = at.join(FRESH);
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    // Everybody in the jail may connect; nobody outside can reach the directory.
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o666))?;
    std::fs::rename(&fresh, at.join(SOCKET))?;
    Ok(Some(listener))
}

/// Hears of changes in one directory.
struct Ear {
    fd: AsyncFd<OwnedFd>,
    /// Device and inode of what is watched.
    identity: (u64, u64),
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

impl Ear {
    /// `None` where the directory went away meanwhile.
    fn open(directory: &Path) -> std::io::Result<Option<Self>> {
        let Some(identity) = identity(directory) else { return Ok(None) };
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        let what = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::ATTRIB
            | inotify::WatchFlags::DELETE_SELF
            | inotify::WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, directory, what)?;
        // Its successor is unsafe for types that may give up their descriptor; an owned one does not.
        #[allow(deprecated)]
        let fd = AsyncFd::new(fd)?;
        Ok(Some(Self { fd, identity }))
    }

    fn fits(&self, directory: &Path) -> bool {
        identity(directory) == Some(self.identity)
    }

    /// Returns after something changed, with everything heard so far taken off the queue. An overflow is a change.
    async fn heard(&self) {
        loop {
            let Ok(mut ready) = self.fd.readable().await else { return };
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut any = false;
            loop {
                match rustix::io::read(self.fd.get_ref(), &mut buffer[..]) {
                    Ok(([], _)) | Err(_) => break,
                    Ok(_) => any = true,
                }
            }
            ready.clear_ready();
            if any {
                return;
            }
        }
    }
}
