//! Text files of the session, read and written by processes of the session's user: the host itself may be root in there, and
//! what its agent may not read it shall not read for it.

use std::sync::Arc;
use std::time::Duration;

use wharf_wire::host::Env;
use wharf_wire::host::path::{normalise, normalise_from};

use super::rpc::Fault;
use crate::accounts;
use crate::host::Host;
use crate::limits;
use crate::pump::Pipe;
use crate::reaper::ended;
use crate::spawn::{Streams, Wanted, prepare};

/// A disk that takes longer than this for a text file is stuck.
const TIME: Duration = Duration::from_secs(30);

/// The absolute path of the agent's working directory, as its processes see it.
pub fn directory(host: &Host, cwd: Option<&str>) -> Result<String, String> {
    let account = accounts::find(&host.root, host.power, None).map_err(|fault| fault.0.detail)?;
    let home = normalise(&account.home).map_err(|e| e.to_string())?;
    let path = match cwd {
        Some(cwd) => normalise_from(&home, cwd).map_err(|e| e.to_string())?,
        None => home,
    };
    Ok(host.root.outside(&path).to_string_lossy().into_owned())
}

pub async fn read(host: &Arc<Host>, path: &str) -> Result<String, Fault> {
    let most = limits::ACP_FILE_BYTES + 1;
    let script =
        format!("test -e \"$1\" || exit 44; test ! -d \"$1\" || exit 45; exec head -c {most} -- \"$1\"");
    let bytes = run(host, &script, path, &[]).await?;
    if bytes.len() >= most {
        return Err(Fault::new(
            Fault::INTERNAL,
            format!("{path} is larger than the {} bytes that are read at once", limits::ACP_FILE_BYTES),
        ));
    }
    String::from_utf8(bytes).map_err(|_| Fault::new(Fault::INTERNAL, format!("{path} is no text")))
}

pub async fn write(host: &Arc<Host>, path: &str, content: &[u8]) -> Result<(), Fault> {
    if content.len() > limits::ACP_FILE_BYTES {
        return Err(Fault::params(format!(
            "the content takes {} bytes; at most {} are written at once",
            content.len(),
            limits::ACP_FILE_BYTES
        )));
    }
    let script = "mkdir -p -- \"$(dirname -- \"$1\")\" && exec cat > \"$1\"";
    run(host, script, path, content).await.map(drop)
}

async fn run(host: &Arc<Host>, script: &str, path: &str, input: &[u8]) -> Result<Vec<u8>, Fault> {
    if !path.starts_with('/') || path.contains('\0') {
        return Err(Fault::params(format!("{path:?} is no absolute path")));
    }
    let argv: Vec<String> = ["/bin/sh", "-c", script, "sh", path].map(str::to_owned).to_vec();
    let wanted = Wanted { argv: Some(&argv), command: None, cwd: None, env: &Env::default(), user: None };
    let internal = |why: String| Fault::new(Fault::INTERNAL, why);
    let spawned = prepare(host, &wanted)
        .and_then(|launch| launch.start(&host.reaper, host.power, Streams::Pipes { stdin: true }))
        .map_err(|fault| internal(fault.0.detail))?;
    let pipes = || {
        let (i, o, e) = (spawned.stdin?, spawned.stdout?, spawned.stderr?);
        Some((Pipe::new(i).ok()?, Pipe::new(o).ok()?, Pipe::new(e).ok()?))
    };
    let Some((stdin, stdout, stderr)) = pipes() else {
        host.reaper.kill(spawned.pid);
        return Err(internal("no descriptors for a file".into()));
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let work = async {
        let write = async {
            let _ = stdin.write_all(input).await;
            drop(stdin);
        };
        let read = async { while let Ok(1..) = stdout.read(&mut out, limits::PIECE_BYTES).await {} };
        let complain = async {
            while let Ok(1..) = stderr.read(&mut err, limits::PIECE_BYTES).await {
                err.truncate(limits::PIECE_BYTES);
            }
        };
        tokio::join!(write, read, complain);
        ended(&spawned.exit).await
    };
    let exit = tokio::time::timeout(TIME, work).await;
    let Ok(exit) = exit else {
        host.reaper.kill(spawned.pid);
        return Err(internal(format!("{path} takes longer than {} s", TIME.as_secs())));
    };
    match exit.exit_code {
        Some(0) => Ok(out),
        Some(44) => Err(Fault::new(Fault::NOT_FOUND, format!("there is no file {path}"))),
        Some(45) => Err(internal(format!("{path} is a directory"))),
        _ => {
            let why = String::from_utf8_lossy(&err).trim().to_owned();
            Err(internal(if why.is_empty() { format!("{path} could not be used") } else { why }))
        }
    }
}
