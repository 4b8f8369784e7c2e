//! The cluster's files: made once, configured anew at every start.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use super::binaries::{Binaries, made_by};
use super::{ClusterConfig, ClusterError, OWNER, PORT, failed};

/// The log starts anew beyond this.
const LOG_BYTES: u64 = 8 * 1024 * 1024;
/// `sun_path` without its end.
const SOCKET_PATH: usize = 107;

pub(super) fn prepare(config: &ClusterConfig) -> Result<Binaries, ClusterError> {
    let socket = config.run().join(format!(".s.PGSQL.{PORT}"));
    if socket.as_os_str().len() > SOCKET_PATH {
        return Err(failed(
            format!("place the socket at {}", socket.display()),
            "the path is too long for a unix socket; use a shorter data directory",
        ));
    }
    private_dir(config, &config.dir)?;
    private_dir(config, &config.run())?;
    let binaries = Binaries::find(made_by(&config.data())?)?;
    if !config.data().join("PG_VERSION").exists() {
        initdb(config, &binaries)?;
    }
    write(config, "postgresql.conf", &settings(config)?)?;
    write(config, "pg_hba.conf", "local all all peer map=wharf\n")?;
    write(config, "pg_ident.conf", &identities(config)?)?;
    rotate_log(config)?;
    Ok(binaries)
}

fn private_dir(config: &ClusterConfig, dir: &Path) -> Result<(), ClusterError> {
    let step = || format!("make {}", dir.display());
    fs::create_dir_all(dir).map_err(|e| failed(step(), e))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(|e| failed(step(), e))?;
    hand_over(config, dir)
}

fn hand_over(config: &ClusterConfig, path: &Path) -> Result<(), ClusterError> {
    if let Some(as_) = config.run_as {
        chown(path, Some(as_.uid), Some(as_.gid))
            .map_err(|e| failed(format!("chown {}", path.display()), e))?;
    }
    Ok(())
}

/// Into a directory beside, renamed when whole: a crash in between leaves nothing that looks like a cluster.
fn initdb(config: &ClusterConfig, binaries: &Binaries) -> Result<(), ClusterError> {
    let part = config.dir.join("data.new");
    let _ = fs::remove_dir_all(&part);
    let _ = fs::remove_file(config.dir.join("made"));
    let mut command = super::supervise::as_user(config, None);
    command.push(binaries.path("initdb").display().to_string());
    let fixed =
        ["--username", OWNER, "--auth-local=peer", "--auth-host=reject", "--encoding=UTF8", "--locale=C"];
    command.extend(fixed.map(str::to_owned));
    if config.durable {
        command.push("--data-checksums".to_owned());
    } else {
        command.push("--no-sync".to_owned());
    }
    command.extend(["--pgdata".to_owned(), part.display().to_string()]);
    let out = std::process::Command::new(&command[0])
        .args(&command[1..])
        .current_dir(&config.dir)
        .env_clear()
        .env("LC_ALL", "C")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .map_err(|e| failed(format!("run {}", command[0]), e))?;
    if !out.status.success() {
        return Err(failed("initdb", String::from_utf8_lossy(&out.stderr).trim()));
    }
    fs::rename(&part, config.data()).map_err(|e| failed("put the new cluster in place", e))
}

fn write(config: &ClusterConfig, name: &str, text: &str) -> Result<(), ClusterError> {
    let path = config.data().join(name);
    let step = || format!("write {}", path.display());
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let part = config.data().join(format!("{name}.new"));
    fs::write(&part, text).map_err(|e| failed(step(), e))?;
    fs::set_permissions(&part, fs::Permissions::from_mode(0o600)).map_err(|e| failed(step(), e))?;
    hand_over(config, &part)?;
    fs::rename(&part, &path).map_err(|e| failed(step(), e))
}

/// Which users of the machine may be whom: the one PostgreSQL runs as and this process, nobody else.
fn identities(config: &ClusterConfig) -> Result<String, ClusterError> {
    let mut users = vec![user_name(rustix::process::geteuid().as_raw())?];
    if let Some(as_) = config.run_as {
        users.push(user_name(as_.uid)?);
    }
    users.dedup();
    let mut text = String::new();
    for user in users {
        let _ = writeln!(text, "wharf \"{user}\" {OWNER}\nwharf \"{user}\" {}", super::APP);
    }
    Ok(text)
}

fn user_name(uid: u32) -> Result<String, ClusterError> {
    let out = std::process::Command::new("id")
        .args(["-un", "--", &uid.to_string()])
        .output()
        .map_err(|e| failed("run id", e))?;
    let name = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    if !out.status.success() || name.is_empty() || name.contains('"') {
        return Err(failed(
            "name the user",
            format!("uid {uid} has no name; PostgreSQL needs one in /etc/passwd"),
        ));
    }
    Ok(name)
}

fn memory_mib() -> u64 {
    let total = |text: &str| -> Option<u64> {
        let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(total).map_or(1024, |kib| kib / 1024)
}

fn settings(config: &ClusterConfig) -> Result<String, ClusterError> {
    let run = config.run();
    let run = run.to_str().filter(|r| !r.contains(['\'', '\\', ',', '"', '\n'])).ok_or_else(|| {
        failed("place the socket", "the data directory's path holds a quote, comma or backslash; use another")
    })?;
    let memory = config.memory_mib.unwrap_or_else(memory_mib);
    // The machine's memory is for sessions; what is hot here is small, and the rest is in the kernel's cache. Every
    // buffer also costs a descriptor and a hash entry that are touched at start, whether it is ever used or not.
    let shared = (memory / 128).clamp(32, 512);
    let cache = (memory / 4).max(64);
    let on = if config.durable { "on" } else { "off" };
    let connections = config.max_connections;
    Ok(format!(
        "# Written at every start; changes here are lost.\n\
         listen_addresses = ''\n\
         port = {PORT}\n\
         unix_socket_directories = '{run}'\n\
         unix_socket_permissions = 0700\n\
         max_connections = {connections}\n\
         superuser_reserved_connections = 3\n\
         shared_buffers = {shared}MB\n\
         wal_buffers = 4MB\n\
         effective_cache_size = {cache}MB\n\
         work_mem = 8MB\n\
         maintenance_work_mem = 64MB\n\
         huge_pages = try\n\
         jit = off\n\
         max_parallel_workers_per_gather = 0\n\
         random_page_cost = 1.1\n\
         fsync = {on}\n\
         synchronous_commit = {on}\n\
         full_page_writes = {on}\n\
         wal_compression = on\n\
         min_wal_size = 128MB\n\
         max_wal_size = 1GB\n\
         checkpoint_timeout = 10min\n\
         autovacuum_naptime = 60s\n\
         autovacuum_vacuum_scale_factor = 0.05\n\
         timezone = 'UTC'\n\
         log_timezone = 'UTC'\n\
         datestyle = 'iso, ymd'\n\
         lc_messages = 'C'\n\
         # Statements and rows may hold what belongs to tenants: neither goes to the log.\n\
         log_destination = 'stderr'\n\
         logging_collector = off\n\
         log_min_messages = warning\n\
         log_min_error_statement = panic\n\
         log_error_verbosity = terse\n\
         log_parameter_max_length = 0\n\
         log_parameter_max_length_on_error = 0\n\
         log_checkpoints = off\n\
         log_line_prefix = '%m [%p] '\n"
    ))
}

fn rotate_log(config: &ClusterConfig) -> Result<(), ClusterError> {
    let log = config.log();
    if fs::metadata(&log).is_ok_and(|m| m.len() > LOG_BYTES) {
        fs::rename(&log, log.with_extension("log.old")).map_err(|e| failed("rotate the log", e))?;
    }
    Ok(())
}

/// The last lines, for an error message.
pub(super) fn log_tail(log: &Path) -> String {
    let Ok(mut file) = fs::File::open(log) else { return String::new() };
    let length = file.metadata().map_or(0, |m| m.len());
    let _ = file.seek(SeekFrom::Start(length.saturating_sub(4096)));
    let mut bytes = Vec::new();
    let _ = file.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
