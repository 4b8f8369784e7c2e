//! The looks themselves, each at the real thing.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use wharf_chassis::Settings;
use wharf_chassis::settings::{Loaded, Role};
use wharf_ports::Clock as _;

use super::Finding;
use crate::up::Account;

pub fn all(loaded: &Loaded) -> Vec<Finding> {
    let s = &loaded.settings;
    let mut found = vec![settings(loaded), user(s)];
    if s.has_role(Role::Jailer) {
        found.extend(machine(s));
        found.push(host_binary(&s.host_binary()));
        found.push(images(s));
        if s.uses_docker() {
            found.extend(docker(s));
        }
    }
    found.push(database(s));
    if s.has_role(Role::Server) {
        found.push(server(s.listen));
        found.push(git(wharf_git::find()));
    }
    found.push(clock());
    found.extend(disk(&s.data_dir));
    found.push(first_password(&s.data_dir.join(crate::up::PASSWORD_FILE)));
    found
}

fn settings(loaded: &Loaded) -> Finding {
    let file = loaded.file.as_ref().map_or_else(|| "no wharf.toml".to_owned(), |p| p.display().to_string());
    Finding::ok("settings", format!("{file}; data in {}", loaded.settings.data_dir.display()))
}

fn user(s: &Settings) -> Finding {
    if !crate::is_root() {
        return Finding::warn(
            "user",
            "not root: no jailer can be started from here, and so no sessions",
            "run `sudo wharf doctor` to see what root sees, and `sudo wharf up` for sessions",
        );
    }
    match Account::find(&s.user) {
        Ok(Some(account)) => Finding::ok("user", format!("{} (uid {})", account.name, account.uid)),
        Ok(None) if !on_path("useradd") => Finding::fail(
            "user",
            format!("there is no user {} and no useradd to make it", s.user),
            "apt install passwd, or name an existing user with the setting `user`",
        ),
        Ok(None) => Finding::ok("user", format!("{} will be made at the first start", s.user)),
        Err(error) => {
            Finding::fail("user", format!("{error:#}"), "name an unprivileged user with the setting `user`")
        }
    }
}

/// What the jailer needs of the kernel, asked of the jailer's own probe.
fn machine(s: &Settings) -> Vec<Finding> {
    wharf_jail::probe::run(&s.data_dir)
        .into_iter()
        .map(|p| match (p.ok, p.required) {
            (true, _) => Finding::ok(p.area, p.seen),
            (false, true) => Finding::fail(p.area, p.seen, p.remedy),
            (false, false) => Finding::warn(p.area, p.seen, p.remedy),
        })
        .collect()
}

fn host_binary(path: &Path) -> Finding {
    const AREA: &str = "wharf-host";
    let Ok(bytes) = std::fs::read(path) else {
        return Finding::fail(
            AREA,
            format!("{} is not there", path.display()),
            "build it with `cargo xtask host --release`, or set host_binary",
        );
    };
    match interpreter(&bytes) {
        None => Finding::fail(
            AREA,
            format!("{} is not a program", path.display()),
            "build it with `cargo xtask host --release`",
        ),
        Some(true) => Finding::fail(
            AREA,
            format!("{} is not statically linked: it would not start in other images", path.display()),
            "build it with `cargo xtask host --release`",
        ),
        Some(false) => Finding::ok(AREA, format!("{} ({} KiB, static)", path.display(), bytes.len() / 1024)),
    }
}

/// Whether a 64-bit little-endian ELF program asks for a dynamic loader (`PT_INTERP`, System V ABI ch. 5).
pub fn interpreter(elf: &[u8]) -> Option<bool> {
    let word = |at: usize| elf.get(at..at + 8).map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default()));
    let half = |at: usize| elf.get(at..at + 2).map(|b| u16::from_le_bytes(b.try_into().unwrap_or_default()));
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count) =
        (usize::try_from(word(0x20)?).ok()?, usize::from(half(0x36)?), usize::from(half(0x38)?));
    Some((0..count).any(|n| elf.get(table + n * size..table + n * size + 4) == Some(&[3, 0, 0, 0])))
}

/// The engine's own words on what it can keep.
fn docker(s: &Settings) -> Vec<Finding> {
    const AREA: &str = "docker";
    let socket = s.docker_host();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let can = runtime
        .map_err(|e| e.to_string())
        .and_then(|r| r.block_on(wharf_runtime_docker::probe(&socket)).map_err(|fault| fault.to_string()));
    let can = match can {
        Ok(can) => can,
        Err(why) => {
            return vec![Finding::fail(
                AREA,
                why,
                "apt install docker.io and start it, or set docker.host to the engine's socket",
            )];
        }
    };
    let mut found = vec![Finding::ok(AREA, format!("Docker Engine {} at {}", can.server, socket.display()))];
    for (has, what) in [(can.cpu, "CPU"), (can.memory, "memory"), (can.pids, "process")] {
        if !has {
            found.push(Finding::fail(
                AREA,
                format!("the engine has no {what} limit, so it is given no sessions"),
                "enable the cgroup controller",
            ));
        }
    }
    if !can.disk && !s.docker.waive_disk_limit {
        found.push(Finding::fail(
            AREA,
            format!("its storage driver ({}) limits no disk, so sessions on it are refused", can.storage),
            "keep its data on xfs with project quotas, or set docker.waive_disk_limit",
        ));
    }
    if !can.swap_free {
        found.push(Finding::fail(
            AREA,
            "the machine has swap that its kernel does not count for containers, so sessions on the engine are refused",
            "boot with swapaccount=1, or turn swap off",
        ));
    }
    if !can.user_namespaces {
        found.push(if s.docker.waive_user_namespaces {
            Finding::warn(
                AREA,
                "root in a session is root of the machine, held by capabilities and system calls alone \
                 (docker.waive_user_namespaces)",
                "set userns-remap in /etc/docker/daemon.json, or keep sessions on the native runtime",
            )
        } else {
            Finding::fail(
                AREA,
                "the engine has no user namespaces, so sessions on it that may become root are refused",
                "set userns-remap in /etc/docker/daemon.json, or set docker.waive_user_namespaces",
            )
        });
    }
    found
}

fn images(s: &Settings) -> Finding {
    const AREA: &str = "images";
    let builder = if on_path("mmdebstrap") {
        ""
    } else {
        "; mmdebstrap is missing, so none can be built here (apt install mmdebstrap)"
    };
    match crate::image::local_images(s) {
        Ok(images) if images.is_empty() => {
            Finding::warn(AREA, format!("none yet{builder}"), "make one: `wharf image build base`")
        }
        Ok(images) => {
            let missing = !images.iter().any(|i| i.image.name == s.sessions.default_image);
            let names: Vec<_> = images.iter().map(|i| i.image.name.to_string()).collect();
            if missing {
                Finding::warn(
                    AREA,
                    format!("{}, but not the default one, {}", names.join(", "), s.sessions.default_image),
                    "import it, or set sessions.default_image",
                )
            } else {
                Finding::ok(AREA, format!("{}{builder}", names.join(", ")))
            }
        }
        Err(_) if UnixStream::connect(s.jailer_socket()).is_err() => {
            Finding::ok(AREA, format!("the jailer is not running, so not asked{builder}"))
        }
        Err(error) => Finding::warn(AREA, format!("{error:#}"), "ask again as root"),
    }
}

fn database(s: &Settings) -> Finding {
    const AREA: &str = "postgresql";
    if let Some(url) = &s.database_url {
        let Some(address) = host_and_port(url.expose()) else {
            return Finding::ok(AREA, "your own, reached through a unix socket");
        };
        return match resolve(&address) {
            Some(at) if TcpStream::connect_timeout(&at, Duration::from_secs(2)).is_ok() => {
                Finding::ok(AREA, format!("your own at {address} takes connections"))
            }
            _ => Finding::fail(
                AREA,
                format!("{address} takes no connection"),
                "start it, or correct database_url",
            ),
        };
    }
    match wharf_store::cluster::find_programs() {
        Ok(dir) => Finding::ok(AREA, format!("private, with the programs in {}", dir.display())),
        Err(error) => Finding::fail(
            AREA,
            error.to_string(),
            "apt install postgresql, or set database_url to a server of your own",
        ),
    }
}

/// `host:port` of a database URL; never the part with the password.
pub fn host_and_port(url: &str) -> Option<String> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
    if host.is_empty() || host.starts_with('%') {
        return None;
    }
    let has_port = host.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok());
    Some(if has_port { host.to_owned() } else { format!("{host}:5432") })
}

fn resolve(address: &str) -> Option<SocketAddr> {
    std::net::ToSocketAddrs::to_socket_addrs(address).ok()?.next()
}

fn server(listen: SocketAddr) -> Finding {
    const AREA: &str = "port";
    if TcpListener::bind(listen).is_ok() {
        return Finding::ok(AREA, format!("{listen} is free"));
    }
    match readyz(listen) {
        Some(status) if status.contains("200") => {
            Finding::ok(AREA, format!("wharf answers at {listen} and is ready"))
        }
        Some(status) => Finding::fail(
            AREA,
            format!("what answers at {listen} is not ready ({status})"),
            format!("see `curl http://{listen}/readyz` and the server's log"),
        ),
        None => Finding::fail(
            AREA,
            format!("{listen} cannot be bound"),
            "something else has it: stop that, or give --listen another port",
        ),
    }
}

/// Repositories need git and the lock of util-linux; all else works without.
pub fn git(found: Result<wharf_git::Programs, wharf_git::GitError>) -> Finding {
    const AREA: &str = "git";
    let programs = match found {
        Ok(programs) => programs,
        Err(error) => {
            return Finding::warn(
                AREA,
                format!("{error}: there can be no git repositories here"),
                "apt install git util-linux, and start wharf anew",
            );
        }
    };
    let said = std::process::Command::new(&programs.git).arg("--version").output();
    match said {
        Ok(out) if out.status.success() => {
            let version = String::from_utf8_lossy(&out.stdout).trim().to_owned();
            Finding::ok(AREA, format!("{version} ({})", programs.git.display()))
        }
        _ => Finding::warn(
            AREA,
            format!("{} does not run: there can be no git repositories here", programs.git.display()),
            "apt install --reinstall git",
        ),
    }
}

fn readyz(at: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n").ok()?;
    let mut head = [0u8; 64];
    let n = stream.read(&mut head).ok()?;
    let line = String::from_utf8_lossy(&head[..n]).lines().next()?.to_owned();
    line.strip_prefix("HTTP/1.1 ").map(str::to_owned)
}

/// Tokens and leases stand on the clock; one that was never set shows as a year long gone.
fn clock() -> Finding {
    let now = wharf_ports::clock::SystemClock.now();
    let year: u32 = now.to_string()[..4].parse().unwrap_or_default();
    if year < 2025 {
        return Finding::fail(
            "clock",
            format!("says {now}"),
            "set it: apt install systemd-timesyncd, or `date -s`",
        );
    }
    Finding::ok("clock", now.to_string())
}

fn disk(data_dir: &Path) -> Vec<Finding> {
    const AREA: &str = "disk";
    let Some(existing) = data_dir.ancestors().find(|p| p.exists()) else { return Vec::new() };
    let Ok(fs) = rustix::fs::statvfs(existing) else {
        return vec![Finding::warn(AREA, format!("cannot look at {}", existing.display()), "look as root")];
    };
    let free_mib = fs.f_bavail * fs.f_frsize / (1024 * 1024);
    let seen = format!("{free_mib} MiB free below {}", existing.display());
    let space = match free_mib {
        0..512 => Finding::fail(AREA, seen, "free some space, or move data_dir to a larger disk"),
        512..4096 => {
            Finding::warn(AREA, seen, "sessions and snapshots need room: free some, or move data_dir")
        }
        _ => Finding::ok(AREA, seen),
    };
    let mut found = vec![space];
    if fs.f_files > 0 && fs.f_favail * 20 < fs.f_files {
        found.push(Finding::warn(
            AREA,
            format!("{} inodes left", fs.f_favail),
            "delete files, or move data_dir",
        ));
    }
    found
}

fn first_password(file: &Path) -> Finding {
    if file.exists() {
        Finding::warn(
            "password",
            format!("the first administrator's password still lies in {}", file.display()),
            "change it (`wharf user passwd admin`), then delete the file",
        )
    } else {
        Finding::ok("password", "none lies about")
    }
}

fn on_path(name: &str) -> bool {
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(Into::into);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(usual).any(|dir| dir.join(name).is_file())
}
