//! Process 1 of the computers of the integration tests: runs shell scripts sent to descriptor 3, or, with `--door PATH`,
//! to the socket it fetches there.
//!
//! One script a connection: a line with the uid it runs as, then the script until the sender is done; back come a
//! line with the exit code and all it wrote. Deliberately less than a real host, so that what the tests see is the
//! jail and nothing else.
#![allow(unsafe_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

extern "C" fn leave(_: libc::c_int) {
    // SAFETY: async-signal-safe.
    unsafe { libc::_exit(0) }
}

fn main() {
    // SAFETY: a handler that only exits.
    unsafe { libc::signal(libc::SIGTERM, leave as *const () as libc::sighandler_t) };
    let mut args = std::env::args().skip(1);
    let listener = match (args.next().as_deref(), args.next()) {
        (Some("--door"), Some(path)) => wharf_host::door::fetch(path.as_ref()).expect("a door"),
        // SAFETY: descriptor 3 is the listener the launcher promises and nobody else's.
        _ => unsafe { UnixListener::from_raw_fd(3) },
    };
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || serve(&stream));
    }
}

fn serve(stream: &UnixStream) {
    let mut reader = BufReader::new(stream);
    let (mut uid, mut script) = (String::new(), String::new());
    let read = reader.read_line(&mut uid).and_then(|_| reader.read_to_string(&mut script));
    let uid: u32 = uid.trim().parse().unwrap_or(1000);
    if read.is_err() {
        return;
    }
    let mut shell = Command::new("/bin/sh");
    shell
        .arg("-c")
        .arg(format!("exec 2>&1\n{script}"))
        .stdin(Stdio::null())
        .env("HOME", "/tmp")
        .current_dir("/");
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } == 0 {
        shell.uid(uid).gid(uid);
    }
    let reply = match shell.output() {
        Ok(done) => {
            let code = done.status.code().unwrap_or_else(|| 128 + done.status.signal().unwrap_or(0));
            [format!("{code}\n").into_bytes(), done.stdout].concat()
        }
        Err(error) => format!("-1\n{error}").into_bytes(),
    };
    let mut stream = stream;
    let _ = stream.write_all(&reply);
}
