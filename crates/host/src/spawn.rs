//! Starts a program as a user of the session, in a session and process group of its own.
//!
//! It refuses what `execve` would fail on less clearly. It runs the child with the identity's environment and nothing of
//! the host's own.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use wharf_domain::Code;
use wharf_wire::host::Env;
use wharf_wire::host::exec::ExecRequest;
use wharf_wire::host::path::{normalise, normalise_from};

use crate::accounts::{self, Account, Power};
use crate::fault::{Fault, Result};
use crate::guardian::{self, Guard};
use crate::host::Host;
use crate::limits;
use crate::reaper::{ExitWatch, Reaper};
use crate::root::Root;

/// Debian's own default for root and users together: `sudo`-less calls of administrators' tools work too.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A tenth of the session's memory: more than the host itself takes, less than browsers give their own children.
const OOM_SCORE: &[u8] = b"100";

/// Where a child's three standard streams go.
pub enum Streams {
    /// Standard input, standard output, standard error.
    Pipes {
        stdin: bool,
    },
    /// One pipe for both outputs, so their order is kept.
    Merged,
    Terminal(OwnedFd),
    /// Standard input and output are a socket; errors go nowhere.
    Socket(OwnedFd),
    /// Nothing is read and nothing is kept.
    Null,
}

pub struct Launch {
    pub argv: Vec<String>,
    /// Becomes descriptor 3 of the child: a script, or a socket to listen on.
    pub script: Option<OwnedFd>,
    pub env: BTreeMap<String, String>,
    /// As the session calls it.
    pub cwd: String,
    cwd_outside: CString,
    pub account: Account,
    /// A guardian stays above it; the process that is known is the guardian then.
    guard: Option<Guard>,
}

pub struct Spawned {
    pub pid: i32,
    pub exit: ExitWatch,
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// The parts of a request that say what runs, where and as whom.
pub struct Wanted<'a> {
    pub argv: Option<&'a [String]>,
    pub command: Option<&'a str>,
    pub cwd: Option<&'a str>,
    pub env: &'a Env,
    pub user: Option<&'a str>,
}

impl<'a> From<&'a ExecRequest> for Wanted<'a> {
    fn from(r: &'a ExecRequest) -> Self {
        Self {
            argv: r.argv.as_deref(),
            command: r.command.as_deref(),
            cwd: r.cwd.as_deref(),
            env: &r.env,
            user: r.user.as_deref(),
        }
    }
}

/// Checks what is wanted and resolves names. Nothing is started.
pub fn prepare(host: &Host, wanted: &Wanted<'_>) -> Result<Launch> {
    let (root, power, identity) = (&host.root, host.power, host.identity());
    let account = accounts::find(root, power, wanted.user)?;
    wanted.env.check().map_err(|e| Fault::invalid("env", e))?;
    let home = normalise(&account.home).map_err(|e| Fault::path("home", e))?;
    let (cwd, named) = match wanted.cwd {
        Some(cwd) => (normalise_from(&home, cwd).map_err(|e| Fault::path("cwd", e))?, true),
        None => (home.clone(), false),
    };
    let cwd = match root.directory(&cwd) {
        Ok(_) => cwd,
        // A user without a home starts at the root, as `su` does.
        Err(_) if !named => normalise("/").map_err(|e| Fault::path("cwd", e))?,
        Err(e) => {
            let fault = Fault::io("starting in", cwd.as_str(), &e);
            return Err(Fault::invalid("cwd", fault.0.detail.clone()));
        }
    };
    let shell = if account.shell.is_empty() { shell(root).to_owned() } else { account.shell.clone() };

    let mut env = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOME".to_owned(), root.outside(&home).to_string_lossy().into_owned()),
        ("USER".to_owned(), account.name.clone()),
        ("LOGNAME".to_owned(), account.name.clone()),
        ("SHELL".to_owned(), shell.clone()),
        ("TERM".to_owned(), "xterm-256color".to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ]);
    env.extend(host.surroundings.variables(identity.as_ref().map(|i| i.hostname.as_str())));
    if let Some(identity) = identity {
        env.insert("HOSTNAME".to_owned(), identity.hostname.clone());
        env.extend(identity.env.0.clone());
    }
    env.extend(wanted.env.0.clone());
    if let Some(display) = host.desktop.name() {
        env.entry("DISPLAY".to_owned()).or_insert(display);
    }

    let mut script = None;
    let argv = match (wanted.argv, wanted.command) {
        (Some(argv), None) => argv.to_vec(),
        (None, Some(command)) => {
            let bash = self::shell(root).to_owned();
            if command.contains('\0') {
                return Err(Fault::invalid("command", "the script holds a NUL byte"));
            }
            if command.len() <= limits::ARG_BYTES {
                vec![bash, "-lc".into(), command.to_owned()]
            } else {
                script = Some(
                    memory_file(command.as_bytes()).map_err(|e| Fault::io("keeping", "the script", &e))?,
                );
                vec![bash, "-l".into(), "/proc/self/fd/3".into()]
            }
        }
        (Some(_), Some(_)) => return Err(Fault::invalid("command", "give argv or command, not both")),
        (None, None) => return Err(Fault::invalid("argv", "give argv or command")),
    };
    check_argv(&argv)?;
    let cwd_outside = CString::new(root.outside(&cwd).into_os_string().into_encoded_bytes())
        .map_err(|_| Fault::invalid("cwd", "the path holds a NUL byte"))?;
    Ok(Launch { argv, script, env, cwd: cwd.to_string(), cwd_outside, account, guard: None })
}

/// `/bin/bash` where the session has it.
pub fn shell(root: &Root) -> &'static str {
    let has = normalise("/bin/bash").is_ok_and(|p| root.outside(&p).exists());
    // A test root has no programs of its own; those of the machine run there.
    if has || std::path::Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" }
}

pub fn check_argv(argv: &[String]) -> Result<()> {
    if argv.first().is_none_or(String::is_empty) {
        return Err(Fault::invalid("argv", "the program has no name"));
    }
    if argv.len() > limits::ARGS {
        return Err(Fault::invalid(
            "argv",
            format!("there are {} arguments; at most {}", argv.len(), limits::ARGS),
        ));
    }
    for arg in argv {
        if arg.contains('\0') {
            return Err(Fault::invalid("argv", "an argument holds a NUL byte"));
        }
        if arg.len() > limits::ARG_BYTES {
            return Err(Fault::invalid(
                "argv",
                format!("an argument of {} bytes is over the limit of {}", arg.len(), limits::ARG_BYTES),
            ));
        }
    }
    Ok(())
}

/// A script too long for an argument.
pub fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};
    let fd = memfd_create("script", MemfdFlags::CLOEXEC)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let n = rustix::io::write(&fd, rest)?;
        rest = &rest[n..];
    }
    seek(&fd, SeekFrom::Start(0))?;
    Ok(fd)
}

impl Launch {
    pub fn under(self, guard: Guard) -> Self {
        Self { guard: Some(guard), ..self }
    }

    /// Starts it.
    pub fn start(self, reaper: &Reaper, power: Power, streams: Streams) -> Result<Spawned> {
        let failed = |e: &io::Error| {
            let program = &self.argv[0];
            match e.raw_os_error() {
                Some(libc::ENOENT) => Fault::invalid("argv", format!("there is no program {program:?}")),
                Some(libc::EACCES) => Fault::invalid(
                    "argv",
                    format!("{} may not run {program:?} in {}", self.account.name, self.cwd),
                ),
                Some(libc::ENOEXEC) => Fault::invalid("argv", format!("{program:?} is not a program")),
                Some(libc::E2BIG) => {
                    Fault::invalid("argv", "arguments and environment together are over the kernel's limit")
                }
                Some(libc::EAGAIN) => {
                    Fault::new(Code::QuotaExceeded, "the session has as many processes as its limit allows")
                }
                Some(libc::ENOMEM) => Fault::new(Code::QuotaExceeded, "the session is out of memory"),
                _ => Fault::new(Code::Internal, format!("{program:?} did not start: {e}")),
            }
        };
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).env_clear().envs(&self.env);
        let mut merged = None;
        let mut is_terminal = false;
        match streams {
            Streams::Pipes { stdin } => {
                command.stdin(if stdin { Stdio::piped() } else { Stdio::null() });
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
            }
            Streams::Merged => {
                let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                    .map_err(|e| failed(&io::Error::from(e)))?;
                let second = write.try_clone().map_err(|e| failed(&e))?;
                command.stdin(Stdio::null()).stdout(write).stderr(second);
                merged = Some(read);
            }
            Streams::Socket(socket) => {
                let second = socket.try_clone().map_err(|e| failed(&e))?;
                command.stdin(socket).stdout(second).stderr(Stdio::null());
            }
            Streams::Null => {
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            }
            Streams::Terminal(slave) => {
                let second = slave.try_clone().map_err(|e| failed(&e))?;
                let third = slave.try_clone().map_err(|e| failed(&e))?;
                command.stdin(slave).stdout(second).stderr(third);
                is_terminal = true;
            }
        }
        let child = Child {
            terminal: is_terminal,
            uid: self.account.uid,
            gid: self.account.gid,
            groups: self.account.groups.clone(),
            cwd: self.cwd_outside.clone(),
            script: self.script.as_ref().map(std::os::fd::AsRawFd::as_raw_fd),
            power,
            guard: self.guard,
        };
        // SAFETY: the closure runs between fork and exec; `Child::become_it` makes only direct system calls on data
        // prepared above and allocates nothing.
        unsafe {
            command.pre_exec(move || child.become_it());
        }
        let (mut child, exit) = reaper.spawn(&mut command, self.guard.is_some()).map_err(|e| failed(&e))?;
        Ok(Spawned {
            pid: child.id() as i32,
            exit,
            stdin: child.stdin.take().map(OwnedFd::from),
            stdout: merged.or_else(|| child.stdout.take().map(OwnedFd::from)),
            stderr: child.stderr.take().map(OwnedFd::from),
        })
    }
}

/// What the child does to itself before it is another program.
struct Child {
    terminal: bool,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    cwd: CString,
    script: Option<i32>,
    power: Power,
    guard: Option<Guard>,
}

impl Child {
    fn become_it(&self) -> io::Result<()> {
        let check = |r: libc::c_long| if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        if let Some(guard) = self.guard {
            // SAFETY: this is between fork and exec, in a process of one thread.
            unsafe { guardian::stay_above(guard, self.power == Power::Jail)? };
        }
        // SAFETY: direct system calls with numbers and with pointers to memory that outlives them. The raw calls are
        // deliberate: glibc's wrappers of set*id would talk to threads that do not exist after fork.
        unsafe {
            check(libc::c_long::from(libc::setsid()))?;
            if self.terminal {
                check(libc::c_long::from(libc::ioctl(0, libc::TIOCSCTTY, 0)))?;
            }
            libc::umask(0o022);
            if self.power == Power::Jail {
                // When memory runs out the kernel shall take anybody before the first process. Best effort.
                let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                if fd >= 0 {
                    libc::write(fd, OOM_SCORE.as_ptr().cast(), OOM_SCORE.len());
                    libc::close(fd);
                }
                check(libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr()))?;
                check(libc::syscall(libc::SYS_setresgid, self.gid, self.gid, self.gid))?;
                check(libc::syscall(libc::SYS_setresuid, self.uid, self.uid, self.uid))?;
            }
            if self.guard.is_some() || self.power != Power::Jail {
                // Outside of a jail nothing else ends the children of a host that is killed. A guardian ends what is below it;
                // one that is killed itself takes the agent along. After the change of user, which clears it.
                check(libc::c_long::from(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)))?;
            }
            check(libc::c_long::from(libc::chdir(self.cwd.as_ptr())))?;
            if let Some(fd) = self.script {
                if fd == 3 {
                    check(libc::c_long::from(libc::fcntl(3, libc::F_SETFD, 0)))?;
                } else {
                    check(libc::c_long::from(libc::dup2(fd, 3)))?;
                }
            }
        }
        Ok(())
    }
}
