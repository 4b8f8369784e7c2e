//! Loop devices: finds the one our pool file is attached to, or attaches it.
//!
//! One file must never hang on two devices at once (two journals would write it), so an existing attachment is always
//! reused, whoever left it. Autoclear makes the kernel detach at the last close, so a killed jailer leaks nothing.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::ioctl;
use crate::step::{At, Step};

/// Other programs may take the free device between the question and the attach.
const ATTEMPTS: u32 = 64;

/// An attached device; keep it open until the file system is mounted, or autoclear takes it back.
pub(super) struct Attached {
    pub device: File,
    pub path: PathBuf,
}

/// Attaches `file`, or finds it attached.
pub(super) fn attach(file: &File) -> Result<Attached, Step> {
    if let Some(found) = find(file).at("look for the pool's loop device")? {
        return Ok(found);
    }
    let control = open("/dev/loop-control".as_ref()).at("open /dev/loop-control")?;
    let mut last = io::Error::from_raw_os_error(libc::EBUSY);
    for _ in 0..ATTEMPTS {
        let number = ioctl::free_loop(&control).at("ask for a free loop device")?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path).at_with(|| format!("open {}", path.display()))?;
        // Direct I/O keeps the pool out of the page cache a second time; not every file system below can.
        match ioctl::configure_loop(&device, file, true) {
            Ok(()) => return Ok(Attached { device, path }),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => last = error,
            Err(_) => match ioctl::configure_loop(&device, file, false) {
                Ok(()) => return Ok(Attached { device, path }),
                Err(error) => last = error,
            },
        }
    }
    Err(Step::failed("attach the pool file to a loop device", last))
}

/// The device `file` is attached to.
fn find(file: &File) -> io::Result<Option<Attached>> {
    let wanted = file.metadata()?;
    for entry in std::fs::read_dir("/sys/block")? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with("loop")) else { continue };
        if !entry.path().join("loop/backing_file").exists() {
            continue;
        }
        let path = Path::new("/dev").join(name);
        // Gone meanwhile, or never attached: not ours either way.
        let Ok(device) = open(&path) else { continue };
        let Ok(info) = ioctl::loop_status(device.as_fd()) else { continue };
        // `huge_encode_dev` here is what `stat` shows.
        if info.device == wanted.st_dev() && info.inode == wanted.st_ino() {
            return Ok(Some(Attached { device, path }));
        }
    }
    Ok(None)
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}
