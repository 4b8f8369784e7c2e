//! The native runtime as the rest of Wharf sees it: the runtime port, spoken to the jailer over its unix socket.
//!
//! Requests are idempotent by the port's contract, so a connection that broke in the middle is replaced and the
//! request said again, once. What is still not answered then is [`Fault::Away`].

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use wharf_domain::image::ImageRef;
use wharf_domain::quota::Resources;
use wharf_domain::{Name, SessionId, SnapshotId, VolumeId};
use wharf_ports::runtime::{
    Capabilities, Fault, ImageInfo, Inventory, JailSpec, Result, Running, SandboxRuntime, SnapshotInfo,
    Stats, VolumeSpec,
};
use wharf_wire::jailer::{self as wire, HEADER, MAX_REPLY, MAX_REQUEST, PROTOCOL, Reply, Request};

use crate::convert;

/// Requests under way at once; the jailer does them one after the other, but stops and imports wait there.
const CONNECTIONS: usize = 32;
/// A request the jailer does in place takes milliseconds; a queue of hundreds of them seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// Unpacking a root filesystem of gigabytes on a slow disk.
const IMPORT_PATIENCE: Duration = Duration::from_secs(3600);
/// Removing one, or bringing a volume to disk.
const SLOW_PATIENCE: Duration = Duration::from_secs(600);

pub struct NativeRuntime {
    name: &'static str,
    socket: PathBuf,
    idle: Mutex<Vec<UnixStream>>,
    permits: Semaphore,
}

/// Why one attempt did not come to a reply.
enum Broken {
    /// The connection failed; another one may do.
    Connection(std::io::Error),
    /// Trying again would change nothing.
    Final(Fault),
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Self::Connection(error)
    }
}

impl NativeRuntime {
    /// `socket` is [`crate::JailerSettings::socket`]. Connects when first asked.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self::called("native", socket)
    }

    /// Another runtime behind the same protocol: whoever listens on `socket` answers as the jailer would.
    pub fn called(name: &'static str, socket: impl Into<PathBuf>) -> Self {
        let (idle, permits) = (Mutex::new(Vec::new()), Semaphore::new(CONNECTIONS));
        Self { name, socket: socket.into(), idle, permits }
    }

    /// Who is asked, for people.
    fn whom(&self) -> String {
        let who = if self.name == "native" { "jailer" } else { self.name };
        format!("{who} at {}", self.socket.display())
    }

    async fn ask(&self, request: Request, patience: Duration) -> Result<Reply> {
        self.ask_with(request, None, patience).await
    }

    async fn ask_with(&self, request: Request, file: Option<OwnedFd>, patience: Duration) -> Result<Reply> {
        let away = |why: String| Fault::Away(format!("{}: {why}", self.whom()));
        let frame = wire::encode(&request, MAX_REQUEST).map_err(|e| Fault::Refused(e.to_string()))?;
        // The other side reads on from here, and shares the position with us.
        let begin = file.as_ref().and_then(|file| rustix::fs::tell(file).ok());
        let work = async {
            let _permit = self.permits.acquire().await.map_err(|e| away(e.to_string()))?;
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            if let Some(stream) = kept {
                match self.once(stream, &frame, file.as_ref()).await {
                    Err(Broken::Connection(_)) => {} // the jailer was restarted since; all kept ones are as dead
                    Err(Broken::Final(fault)) => return Err(fault),
                    Ok(reply) => return Ok(reply),
                }
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
                if let Some(file) = &file {
                    let begin = begin.ok_or_else(|| away("it left while it read a stream".to_owned()))?;
                    rustix::fs::seek(file, rustix::fs::SeekFrom::Start(begin))
                        .map_err(|e| away(e.to_string()))?;
                }
            }
            let stream = self.connect().await?;
            self.once(stream, &frame, file.as_ref()).await.map_err(|broken| match broken {
                Broken::Connection(error) => away(error.to_string()),
                Broken::Final(fault) => fault,
            })
        };
        match tokio::time::timeout(patience, work).await {
            Ok(Ok(Reply::Fault(fault))) => Err(convert::fault_from_wire(fault)),
            Ok(result) => result,
            Err(_) => Err(away(format!("no answer in {} s", patience.as_secs()))),
        }
    }

    /// A fresh connection whose other side speaks our protocol.
    async fn connect(&self) -> Result<UnixStream> {
        let away = |why: String| Fault::Away(format!("{}: {why}", self.whom()));
        let mut stream = UnixStream::connect(&self.socket).await.map_err(|e| away(e.to_string()))?;
        let hello = wire::encode(&Request::Hello { protocol: PROTOCOL }, MAX_REQUEST)
            .map_err(|e| away(e.to_string()))?;
        let greeted = async {
            stream.write_all(&hello).await?;
            read_reply(&mut stream).await
        };
        match greeted.await {
            Ok(Reply::Capabilities(_)) => Ok(stream),
            Ok(Reply::Fault(fault)) => Err(convert::fault_from_wire(fault)),
            Ok(other) => Err(unexpected(&other)),
            Err(Broken::Connection(error)) => Err(away(error.to_string())),
            Err(Broken::Final(fault)) => Err(fault),
        }
    }

    async fn once(
        &self,
        mut stream: UnixStream,
        frame: &[u8],
        file: Option<&OwnedFd>,
    ) -> std::result::Result<Reply, Broken> {
        let sent = match file {
            Some(file) => send_with_file(&stream, frame, file).await?,
            None => 0,
        };
        stream.write_all(&frame[sent..]).await?;
        let reply = read_reply(&mut stream).await?;
        // Only a connection whose last request was answered whole is used again; a cancelled caller drops its own.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        Ok(reply)
    }
}

async fn read_reply(stream: &mut UnixStream) -> std::result::Result<Reply, Broken> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        match wire::decode::<Reply>(&bytes, MAX_REPLY) {
            Ok(Some((reply, used))) if used == bytes.len() => return Ok(reply),
            Ok(Some(_)) => return Err(Broken::Final(garbled("more than one reply came"))),
            Ok(None) => {}
            Err(malformed) => return Err(Broken::Final(garbled(&malformed.to_string()))),
        }
        if let Some(header) = bytes.first_chunk::<HEADER>() {
            bytes.reserve((HEADER + u32::from_be_bytes(*header) as usize).saturating_sub(bytes.len()));
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(Broken::Connection(std::io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// The first bytes of the frame carry the descriptor. Answers how many went.
async fn send_with_file(stream: &UnixStream, frame: &[u8], file: &OwnedFd) -> std::io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = [file.as_fd()];
            control.push(SendAncillaryMessage::ScmRights(&fds));
            let data = [std::io::IoSlice::new(frame)];
            Ok(rustix::net::sendmsg(stream, &data, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
        })
        .await
}

fn garbled(why: &str) -> Fault {
    Fault::Failed { step: "read the jailer's reply".to_owned(), cause: why.to_owned() }
}

fn unexpected(reply: &Reply) -> Fault {
    garbled(&format!("it answers another question: {reply:?}"))
}

/// The one reply a request has besides a fault.
macro_rules! expect {
    ($reply:expr, $pattern:pat => $value:expr) => {
        match $reply {
            $pattern => Ok($value),
            other => Err(unexpected(&other)),
        }
    };
}

#[async_trait]
impl SandboxRuntime for NativeRuntime {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn capabilities(&self) -> Result<Capabilities> {
        let reply = self.ask(Request::Hello { protocol: PROTOCOL }, PATIENCE).await?;
        expect!(reply, Reply::Capabilities(c) => Capabilities {
            runtime: self.name().to_owned(),
            cgroups: c.cgroups,
            volumes: c.volumes,
            cpu_limit: c.cpu_limit,
            memory_limit: c.memory_limit,
            pids_limit: c.pids_limit,
            disk_limit: c.disk_limit,
            resizes_running: c.resizes_running,
            waives_disk_limit: c.waives_disk_limit,
            root_is_nobody: c.root_is_nobody,
            waives_user_namespaces: c.waives_user_namespaces,
            cheap_snapshots: c.cheap_snapshots,
            freeze: c.freeze,
        })
    }

    async fn inventory(&self) -> Result<Inventory> {
        let reply = self.ask(Request::Inventory {}, PATIENCE).await?;
        expect!(reply, Reply::Inventory(i) => convert::inventory_from_wire(i))
    }

    async fn prepare_volume(&self, spec: &VolumeSpec) -> Result<()> {
        let reply =
            self.ask(Request::PrepareVolume { spec: convert::volume_to_wire(spec) }, SLOW_PATIENCE).await?;
        expect!(reply, Reply::Done {} => ())
    }

    async fn launch(&self, spec: &JailSpec) -> Result<Running> {
        let reply = self.ask(Request::Launch { spec: convert::jail_to_wire(spec) }, PATIENCE).await?;
        expect!(reply, Reply::Running(r) => convert::running_from_wire(r))
    }

    async fn observe(&self, session: SessionId) -> Result<Option<Running>> {
        match self.ask(Request::Observe { session }, PATIENCE).await? {
            Reply::Running(r) => Ok(Some(convert::running_from_wire(r))),
            Reply::NotRunning {} => Ok(None),
            other => Err(unexpected(&other)),
        }
    }

    async fn stop(&self, session: SessionId, grace: Duration) -> Result<()> {
        let request = Request::Stop { session, grace_ms: grace.as_millis().try_into().unwrap_or(u64::MAX) };
        expect!(self.ask(request, grace.saturating_add(PATIENCE)).await?, Reply::Done {} => ())
    }

    async fn set_limits(&self, session: SessionId, volume: VolumeId, resources: &Resources) -> Result<()> {
        let request = Request::SetLimits { session, volume, resources: *resources };
        expect!(self.ask(request, PATIENCE).await?, Reply::Done {} => ())
    }

    async fn stats(&self, session: SessionId, volume: VolumeId) -> Result<Stats> {
        let reply = self.ask(Request::Stats { session, volume }, PATIENCE).await?;
        expect!(reply, Reply::Stats(s) => convert::stats_from_wire(s))
    }

    async fn snapshot(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<SnapshotInfo> {
        let reply = self.ask(Request::Snapshot { volume, snapshot }, SLOW_PATIENCE).await?;
        expect!(reply, Reply::Snapshot(s) => SnapshotInfo {
            snapshot: s.snapshot,
            bytes: s.bytes,
            stall_micros: s.stall_micros,
        })
    }

    async fn delete_snapshot(&self, snapshot: SnapshotId) -> Result<()> {
        expect!(self.ask(Request::DeleteSnapshot { snapshot }, SLOW_PATIENCE).await?, Reply::Done {} => ())
    }

    async fn delete_volume(&self, volume: VolumeId) -> Result<()> {
        expect!(self.ask(Request::DeleteVolume { volume }, SLOW_PATIENCE).await?, Reply::Done {} => ())
    }

    async fn keep_warm(&self, image: &Name, count: u32) -> Result<()> {
        let request = Request::KeepWarm { image: image.clone(), count };
        expect!(self.ask(request, PATIENCE).await?, Reply::Done {} => ())
    }

    async fn import_image(&self, name: &Name, archive: std::fs::File) -> Result<ImageInfo> {
        let request = Request::ImportImage { name: name.clone() };
        let reply = self.ask_with(request, Some(archive.into()), IMPORT_PATIENCE).await?;
        expect!(reply, Reply::Image(i) => convert::image_from_wire(i))
    }

    async fn delete_image(&self, image: &ImageRef) -> Result<()> {
        let request = Request::DeleteImage { image: image.clone() };
        expect!(self.ask(request, SLOW_PATIENCE).await?, Reply::Done {} => ())
    }
}
