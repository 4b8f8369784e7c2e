//! Answers the jailer's protocol for Docker Engine, so that whoever asks never comes near the engine's socket.
//!
//! The same closed set of requests as the jailer's, over a unix socket of its own that root and the control plane's user may
//! use. Nothing in a request names a path, an image of others or an option of the engine.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use wharf_jail::convert;
use wharf_ports::SandboxRuntime as _;
use wharf_ports::runtime::{Fault as PortFault, Result};
use wharf_wire::jailer::{
    Fault, HEADER, MAX_REPLY, MAX_REQUEST, PROTOCOL, Reply, Request, SnapshotInfo, decode, encode,
};

use crate::place::local;
use crate::runtime::DockerRuntime;
use crate::settings::{Settings, broker_socket};

/// More callers than a control plane keeps connections; one over it waits.
const CONNECTIONS: usize = 64;
/// What computers get between SIGTERM and SIGKILL when Wharf is stopped.
const FAREWELL: Duration = Duration::from_secs(3);

/// Serves until `stop`, then ends all computers. `ready` is called once requests are answered.
pub async fn run(settings: Settings, ready: impl FnOnce(), stop: impl Future<Output = ()>) -> Result<()> {
    let socket = broker_socket(&settings.run_dir);
    let (uid, gid) = (settings.control_uid, settings.control_gid);
    let runtime = Arc::new(DockerRuntime::open(settings)?);
    let listener = listen(&socket, uid, gid).map_err(|e| local("listen for the control plane", e))?;
    match runtime.ready().await {
        Ok(()) => tracing::info!(socket = %socket.display(), "docker runtime ready"),
        // Nothing is lost: whoever asks is told, and it is tried again then.
        Err(fault) => tracing::warn!(%fault, "sessions on Docker wait for the engine"),
    }
    ready();
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let serve = async {
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let caller = stream.peer_cred().map(|c| c.uid()).ok();
            if caller != Some(0) && caller != Some(uid) {
                tracing::warn!(uid = ?caller, "turned a caller away");
                continue;
            }
            let runtime = runtime.clone();
            tokio::spawn(async move {
                let _slot = slot;
                attend(stream, &runtime).await;
            });
        }
    };
    tokio::select! {
        () = serve => {}
        () = stop => {}
    }
    let _ = std::fs::remove_file(&socket);
    match runtime.stop_all(FAREWELL).await {
        // An engine that is away has ended them itself, or ends them when it is back: they are not known to run then.
        Err(PortFault::Away(why)) => {
            tracing::warn!(why, "the engine is away: sessions on it were not stopped");
            Ok(())
        }
        other => other,
    }
}

/// What lies at the path is of an earlier life and goes.
fn listen(path: &Path, uid: u32, gid: u32) -> std::io::Result<UnixListener> {
    let _ = std::fs::remove_file(path);
    // The mode is right from the first moment: an umask, since a later chmod would leave a gap.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    chown(path, Some(uid), Some(gid))?;
    Ok(listener)
}

/// One request after the other until the caller hangs up or is not understood.
async fn attend(mut stream: UnixStream, runtime: &DockerRuntime) {
    let mut input = Vec::new();
    let mut files: VecDeque<OwnedFd> = VecDeque::new();
    loop {
        let (reply, last) = match decode::<Request>(&input, MAX_REQUEST) {
            Ok(Some((request, used))) => {
                input.drain(..used);
                let file = files.pop_front();
                files.clear();
                (answer(runtime, request, file).await, false)
            }
            Ok(None) => match fill(&stream, &mut input, &mut files).await {
                Ok(true) => continue,
                Ok(false) | Err(_) => return,
            },
            Err(malformed) => (Reply::Fault(Fault::Malformed(malformed.to_string())), true),
        };
        let frame = encode(&reply, MAX_REPLY).or_else(|error| {
            let fault = Fault::Failed { step: "answer".to_owned(), cause: error.to_string() };
            encode(&Reply::Fault(fault), MAX_REPLY)
        });
        let Ok(frame) = frame else { return };
        if stream.write_all(&frame).await.is_err() || last {
            return;
        }
    }
}

/// More of what the caller says; false when it has hung up. At most one descriptor is kept.
async fn fill(
    stream: &UnixStream,
    input: &mut Vec<u8>,
    files: &mut VecDeque<OwnedFd>,
) -> std::io::Result<bool> {
    stream
        .async_io(Interest::READABLE, || {
            let mut chunk = [0_u8; 8192];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let got = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut chunk)], &mut control, flags)?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    *files = fds.last().into_iter().collect();
                }
            }
            if input.len() > HEADER + MAX_REQUEST {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
            input.extend(&chunk[..got.bytes]);
            Ok(got.bytes > 0)
        })
        .await
}

async fn answer(runtime: &DockerRuntime, request: Request, file: Option<OwnedFd>) -> Reply {
    act(runtime, request, file).await.unwrap_or_else(|fault| Reply::Fault(convert::fault_to_wire(fault)))
}

/// An exhaustive match: there is no other way to ask for anything.
async fn act(runtime: &DockerRuntime, request: Request, file: Option<OwnedFd>) -> Result<Reply> {
    let done = |()| Reply::Done {};
    Ok(match request {
        Request::Hello { protocol } if protocol != PROTOCOL => {
            let why = format!("the caller speaks protocol {protocol}, this runtime {PROTOCOL}");
            return Err(PortFault::Refused(why));
        }
        Request::Hello { .. } => {
            Reply::Capabilities(convert::capabilities_to_wire(runtime.capabilities().await?))
        }
        Request::Inventory {} => Reply::Inventory(convert::inventory_to_wire(runtime.inventory().await?)),
        Request::PrepareVolume { spec } => {
            done(runtime.prepare_volume(&convert::volume_from_wire(spec)).await?)
        }
        Request::Launch { spec } => {
            Reply::Running(convert::running_to_wire(runtime.launch(&convert::jail_from_wire(spec)).await?))
        }
        Request::Observe { session } => match runtime.observe(session).await? {
            Some(running) => Reply::Running(convert::running_to_wire(running)),
            None => Reply::NotRunning {},
        },
        Request::Stop { session, grace_ms } => {
            done(runtime.stop(session, Duration::from_millis(grace_ms)).await?)
        }
        Request::SetLimits { session, volume, resources } => {
            done(runtime.set_limits(session, volume, &resources).await?)
        }
        Request::Stats { session, volume } => {
            Reply::Stats(convert::stats_to_wire(runtime.stats(session, volume).await?))
        }
        Request::Snapshot { volume, snapshot } => {
            let taken = runtime.snapshot(volume, snapshot).await?;
            Reply::Snapshot(SnapshotInfo {
                snapshot: taken.snapshot,
                bytes: taken.bytes,
                stall_micros: taken.stall_micros,
            })
        }
        Request::DeleteSnapshot { snapshot } => done(runtime.delete_snapshot(snapshot).await?),
        Request::DeleteVolume { volume } => done(runtime.delete_volume(volume).await?),
        Request::KeepWarm { image, count } => done(runtime.keep_warm(&image, count).await?),
        Request::ImportImage { name } => {
            let file =
                file.ok_or_else(|| PortFault::Refused("no archive came with the request".to_owned()))?;
            Reply::Image(convert::image_to_wire(runtime.import_image(&name, file.into()).await?))
        }
        Request::DeleteImage { image } => done(runtime.delete_image(&image).await?),
    })
}
