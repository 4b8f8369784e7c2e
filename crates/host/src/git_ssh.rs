//! `wharf-host git-ssh`: what git starts in a session in place of `ssh`.
//!
//! It holds no key and dials nobody: it says to the gateway which service of git, at which server, of which path, and carries bytes.
//! The gateway logs in with the key of a connection, outside. Refuses whatever is not one of git's three services; a program of
//! its own, started by git, so it waits by threads and for as long as git does.

#[cfg(test)]
mod tests;

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use wharf_domain::ssh::read_command;
use wharf_wire::ssh::{Ask, HEAD, HEADER, Kind, PATH, PIECE, PROTOCOL};

use crate::egress::{DIRECTORY, SOCKET};

/// How ssh itself ends when it is not the command that failed.
const FAILED: u8 = 255;
/// How long the gateway's process may be away: longer than its keeper takes to start it again.
const PATIENCE: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of the head of the gateway's answer, of one that says no, and of what is sent at once.
const ANSWER: u64 = 16 * 1024;
const REFUSAL: u64 = 64 * 1024;
const SENT: usize = 32 * 1024;
/// Names another gateway's socket; for tests.
const GATEWAY_SOCKET: &str = "WHARF_GATEWAY_SOCKET";

const HELP: &str = "\
wharf-host git-ssh [-p PORT] [USER@]HOST COMMAND

What git starts in place of ssh in a session. The session's gateway logs in, with the key of a connection of the space.
";

/// The subcommand, with what comes behind it.
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let args: Vec<String> = args.collect();
    if let [only] = args.as_slice()
        && matches!(only.as_str(), "--help" | "-h")
    {
        return put(rustix::stdio::stdout(), HELP.as_bytes())
            .map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let socket =
        std::env::var_os(GATEWAY_SOCKET).map_or_else(|| Path::new(DIRECTORY).join(SOCKET), PathBuf::from);
    let wanted = std::env::var("GIT_PROTOCOL").ok();
    match read(args, wanted).and_then(|ask| run(&socket, &ask)) {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            eprintln!("wharf: {why}");
            ExitCode::from(FAILED)
        }
    }
}

/// Reads ssh's command line, as far as git writes it.
fn read(args: impl IntoIterator<Item = String>, wanted: Option<String>) -> Result<Ask, String> {
    let mut args = args.into_iter();
    let (mut port, mut protocol) = (None, None);
    let login = loop {
        let arg = args.next().ok_or("git-ssh is started by git, with a host and a command")?;
        match arg.as_str() {
            "-p" => {
                let text = args.next().unwrap_or_default();
                let number = text.parse().ok().filter(|n| *n != 0);
                port = Some(number.ok_or_else(|| format!("{text:?} is no port"))?);
            }
            "-o" if args.next().as_deref() == Some("SendEnv=GIT_PROTOCOL") => protocol.clone_from(&wanted),
            // Which of a name's addresses is dialled is the gateway's.
            "-4" | "-6" => {}
            option if option.starts_with('-') => {
                return Err(format!(
                    "ssh's option {option} has no meaning here: the space's gateway logs in, with the key and the host keys of a \
                     connection"
                ));
            }
            _ => break arg,
        }
    };
    let (user, host) = match login.rsplit_once('@') {
        Some((user, host)) => (Some(user.to_owned()), host.to_owned()),
        None => (None, login),
    };
    let (Some(command), None) = (args.next(), args.next()) else {
        return Err("over ssh a session reaches repositories of git, and no shell".into());
    };
    let (service, path) = read_command(&command).map_err(|e| e.public)?;
    Ok(Ask { service, host, port, user, path, protocol })
}

/// Answers how git at the server ended.
fn run(socket: &Path, ask: &Ask) -> Result<u8, String> {
    let broke = |e: io::Error| format!("the gateway broke the connection: {e}");
    let stream = connect(socket).map_err(|e| format!("the session's gateway does not answer: {e}"))?;
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n{HEADER}: {}\r\n\
         Content-Length: 0\r\n\r\n",
        ask.to_header()
    );
    (&stream).write_all(head.as_bytes()).map_err(broke)?;
    let mut from = BufReader::with_capacity(PIECE, &stream);
    answered(&mut from)?;
    let to = stream.try_clone().map_err(broke)?;
    // It ends with the process: git may leave its end of the pipe open for good.
    std::thread::spawn(move || send(&to));
    receive(&mut from)
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let until = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(e) => {
                let passing = matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
                if !passing || Instant::now() > until {
                    return Err(e);
                }
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// Reads the gateway's answer up to where the pieces begin; what it says where it says no.
fn answered(from: &mut BufReader<&UnixStream>) -> Result<(), String> {
    let broke = |e: io::Error| format!("the gateway broke the connection: {e}");
    let mut head = from.take(ANSWER);
    let (mut first, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if head.read_line(&mut line).map_err(broke)? == 0 {
            return Err("the gateway broke the connection off".into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        match line.split_once(':') {
            _ if first.is_empty() => line.clone_into(&mut first),
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().unwrap_or(0);
            }
            _ => {}
        }
    }
    if first.split(' ').nth(1) == Some("101") {
        return Ok(());
    }
    let mut body = Vec::new();
    from.take(REFUSAL.min(length)).read_to_end(&mut body).map_err(broke)?;
    let problem: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let detail = problem.as_ref().and_then(|p| p["detail"].as_str());
    Err(detail.map_or_else(|| format!("the gateway answers {first}"), str::to_owned))
}

/// Standard input to the gateway. An error on either side tears the connection, so that half a pack is not taken for one.
fn send(to: &UnixStream) {
    let mut buffer = vec![0; HEAD + SENT];
    loop {
        let read =
            rustix::io::retry_on_intr(|| rustix::io::read(rustix::stdio::stdin(), &mut buffer[HEAD..]));
        let (kind, length) = match read {
            Ok(0) => (Kind::End, 0),
            Ok(n) => (Kind::Data, n),
            Err(_) => {
                let _ = to.shutdown(std::net::Shutdown::Both);
                return;
            }
        };
        buffer[..HEAD].copy_from_slice(&kind.head(length));
        let mut to = to;
        if to.write_all(&buffer[..HEAD + length]).is_err() || kind == Kind::End {
            return;
        }
    }
}

/// The gateway's pieces to standard output and error, until the one that says how it ended.
fn receive(from: &mut impl Read) -> Result<u8, String> {
    let torn = |_| "the connection to the repository was broken off".to_owned();
    let mut piece = vec![0; PIECE];
    loop {
        let mut head = [0; HEAD];
        from.read_exact(&mut head).map_err(torn)?;
        let (kind, length) = Kind::of(head).ok_or("the gateway does not keep its protocol")?;
        let piece = &mut piece[..length];
        from.read_exact(piece).map_err(torn)?;
        match (kind, &*piece) {
            (Kind::Data, bytes) => {
                put(rustix::stdio::stdout(), bytes).map_err(|e| format!("git reads no more: {e}"))?;
            }
            // What nobody reads is no reason to end.
            (Kind::Errors, bytes) => drop(put(rustix::stdio::stderr(), bytes)),
            (Kind::End, _) => finish(),
            (Kind::Exit, code) => {
                let code = code.try_into().map_or(u32::from(FAILED), u32::from_be_bytes);
                return Ok(u8::try_from(code).unwrap_or(FAILED));
            }
        }
    }
}

fn put(to: BorrowedFd<'_>, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let n = rustix::io::retry_on_intr(|| rustix::io::write(to, bytes))?;
        bytes = &bytes[n..];
    }
    Ok(())
}

/// Ends standard output, so that git sees its end although errors may still come.
fn finish() {
    if let Ok(nothing) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&nothing);
    }
}
