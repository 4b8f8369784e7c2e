//! The newest incarnation seen of each session, so that a caller who slept through a takeover cannot start or
//! replace a computer. Kept beside the volumes: it lasts as long as they do. Every runtime of the machine has its own.

use std::collections::HashMap;
use std::path::PathBuf;

use wharf_domain::{SessionId, VolumeId};

use crate::step::{At, Step};
use crate::sys::replace;

#[derive(Clone, Copy)]
struct Fence {
    incarnation: u64,
    volume: VolumeId,
}

pub struct Fences {
    directory: PathBuf,
    known: HashMap<SessionId, Fence>,
}

impl Fences {
    pub fn open(directory: PathBuf) -> Result<Self, Step> {
        std::fs::create_dir_all(&directory).at("make the fences' directory")?;
        let mut known = HashMap::new();
        for entry in std::fs::read_dir(&directory).at("read the fences")?.flatten() {
            let Some(session) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
            let text = std::fs::read_to_string(entry.path()).at("read a fence")?;
            let mut words = text.split_ascii_whitespace();
            let fence = (|| {
                Some(Fence { incarnation: words.next()?.parse().ok()?, volume: words.next()?.parse().ok()? })
            })();
            let fence = fence.ok_or_else(|| Step::failed("read a fence", format!("{text:?} is not one")))?;
            known.insert(session, fence);
        }
        Ok(Self { directory, known })
    }

    /// The newest incarnation seen.
    pub fn newest(&self, session: SessionId) -> Option<u64> {
        self.known.get(&session).map(|f| f.incarnation)
    }

    /// On disk before anything of that incarnation happens.
    pub fn raise(&mut self, session: SessionId, incarnation: u64, volume: VolumeId) -> Result<(), Step> {
        if self.known.get(&session).is_some_and(|f| f.incarnation == incarnation && f.volume == volume) {
            return Ok(());
        }
        replace(&self.directory.join(session.to_string()), format!("{incarnation} {volume}\n").as_bytes())?;
        self.known.insert(session, Fence { incarnation, volume });
        Ok(())
    }

    /// A session whose volume is gone starts no more.
    pub fn forget(&mut self, volume: VolumeId) {
        let directory = &self.directory;
        self.known.retain(|session, fence| {
            let stays = fence.volume != volume;
            if !stays {
                let _ = std::fs::remove_file(directory.join(session.to_string()));
            }
            stays
        });
    }
}
