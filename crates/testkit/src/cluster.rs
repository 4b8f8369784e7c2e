//! One private PostgreSQL for all test processes of a machine's user, gone when the last of them is.
//!
//! Every test runs in a process of its own, so the server belongs to none of them: the first one starts a small
//! keeper (a shell in a session of its own) that runs the server and looks every few seconds whether anyone still
//! holds the `users` lock. Nobody does: it ends the server and removes the files. Nothing is left behind, whichever
//! test crashed.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use wharf_store::cluster::{ClusterConfig, RunAs, prepare, ready};

/// `nobody` on every Linux system: PostgreSQL refuses to be root.
pub const NOBODY: u32 = 65_534;

/// The keeper's script: `$0` is the directory, the arguments are the server's command.
const KEEPER: &str = r#"
dir="$0"
cd "$dir" || exit 1
"$@" >>"$dir/postgres.log" 2>&1 </dev/null &
pg=$!
echo "$pg" >"$dir/keeper.pg"
trap 'kill -QUIT "$pg"; wait "$pg"; exit 0' TERM INT HUP
while kill -0 "$pg" 2>/dev/null; do
    sleep 3 &
    wait $!
    exec 9>>"$dir.users"
    if flock -n -x 9; then
        kill -QUIT "$pg" 2>/dev/null
        wait "$pg"
        rm -rf "$dir"
        exit 0
    fi
    exec 9>&-
done
"#;

/// Held by a test process for as long as it uses the cluster.
pub(crate) struct Shared {
    pub(crate) config: ClusterConfig,
    /// Shared lock: the keeper looks whether anyone holds one.
    _users: File,
}

/// Whom PostgreSQL runs as under a test that is root.
pub fn run_as() -> Option<RunAs> {
    rustix::process::geteuid().is_root().then_some(RunAs { uid: NOBODY, gid: NOBODY })
}

fn dir() -> PathBuf {
    // Short, because socket paths are; one for each user, because files have owners.
    std::env::temp_dir().join(format!("wharf-test-pg-{}", rustix::process::geteuid().as_raw()))
}

fn open(path: &Path) -> Result<File> {
    File::options().create(true).append(true).open(path).with_context(|| format!("open {}", path.display()))
}

/// Joins the running cluster or starts it.
pub(crate) async fn join() -> Result<Shared> {
    let dir = dir();
    let users = open(&PathBuf::from(format!("{}.users", dir.display())))?;
    // While the keeper ends the server it holds this exclusively, so what is found afterwards is whole or gone.
    users.lock_shared().context("lock the users file")?;
    let start = open(&PathBuf::from(format!("{}.start", dir.display())))?;
    start.lock().context("lock the start file")?;
    let mut config = ClusterConfig::new(&dir);
    config.run_as = run_as();
    config.durable = false;
    config.max_connections = 400;
    config.memory_mib = Some(4096);
    if !alive(&dir) {
        launch(&dir, &config).await?;
    }
    Ok(Shared { config, _users: users })
}

fn alive(dir: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(dir.join("keeper.pg")) else { return false };
    let exe = std::fs::read_link(format!("/proc/{}/exe", text.trim()));
    exe.is_ok_and(|e| e.ends_with("postgres")) && dir.join("whole").exists()
}

async fn launch(dir: &Path, config: &ClusterConfig) -> Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).context("remove what a crashed machine left")?;
    }
    let command = prepare(config)?;
    // Without the parent-death signal: the keeper outlives the process that starts it.
    let command: Vec<String> = without_death_signal(command);
    let keeper = Command::new("setsid")
        .args(["--fork", "sh", "-c", KEEPER])
        .arg(dir)
        .args(command)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .status()
        .context("start the keeper")?;
    if !keeper.success() {
        bail!("the keeper of the test cluster did not start: {keeper}");
    }
    let begun = Instant::now();
    let limit = Duration::from_secs(30);
    ready(config, || (begun.elapsed() > limit).then(|| "it takes too long".to_owned())).await?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    std::fs::write(dir.join("whole"), "")?;
    Ok(())
}

fn without_death_signal(command: Vec<String>) -> Vec<String> {
    let mut kept = Vec::with_capacity(command.len());
    let mut words = command.into_iter();
    while let Some(word) = words.next() {
        if word == "--pdeathsig" {
            words.next();
        } else {
            kept.push(word);
        }
    }
    kept
}
