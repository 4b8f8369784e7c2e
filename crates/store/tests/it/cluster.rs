//! The private cluster: its life, its deaths, and what it leaves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use wharf_chassis::seal::Keyring;
use wharf_domain::Code;
use wharf_ports::clock::SystemClock;
use wharf_store::cluster::ClusterError;
use wharf_store::{Actor, Cluster, ClusterConfig, Store, StoreConfig};

struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("wpg").tempdir_in("/tmp").unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn config(&self) -> ClusterConfig {
        let mut config = ClusterConfig::new(self.dir.path().join("pg"));
        config.run_as = wharf_testkit::run_as();
        config
    }

    async fn start(&self) -> Cluster {
        Cluster::start(self.config()).await.unwrap()
    }

    async fn store(&self, cluster: &Cluster) -> Store {
        let keyring = Keyring::load_or_create(&self.dir.path().join("key")).unwrap();
        let mut config = StoreConfig::new(cluster.database());
        config.acquire_timeout = Duration::from_secs(2);
        Store::connect(config, keyring, Arc::new(SystemClock), Arc::new(wharf_bus::Local::new()))
            .await
            .unwrap()
    }

    /// Processes whose working directory is in here.
    fn processes(&self) -> Vec<i32> {
        let pids =
            std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &i32| {
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(self.dir.path()))
        })
        .collect()
    }

    fn gone(&self) -> bool {
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if self.processes().is_empty() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_made_once_starts_fast_again_and_stops_cleanly() {
    let home = Home::new();
    let cluster = home.start().await;
    let store = home.store(&cluster).await;
    let first = store.system(Actor::Setup).bootstrap().await.unwrap();
    assert!(first.is_some());
    store.close().await;
    cluster.stop().await.unwrap();
    assert!(home.gone(), "no process is left");

    let begun = Instant::now();
    let cluster = home.start().await;
    let took = begun.elapsed();
    println!("start on an existing directory: {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let store = home.store(&cluster).await;
    assert!(store.system(Actor::Setup).bootstrap().await.unwrap().is_none(), "the admin is still there");
    store.close().await;
    cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_listens_on_no_network_and_only_its_user_reaches_the_socket() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    let cluster = home.start().await;
    let pid = cluster.pid().unwrap();
    let sockets = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|e| {
        let link = std::fs::read_link(e.ok()?.path()).ok()?;
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned)
    });
    let sockets: Vec<_> = sockets.collect();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        // Column 10 is the inode, column 4 the state: 0A is listening.
        let listening = text.lines().skip(1).filter_map(|l| {
            let words: Vec<_> = l.split_whitespace().collect();
            (words[3] == "0A").then(|| words[9].to_owned())
        });
        assert!(listening.into_iter().all(|inode| !sockets.contains(&inode)), "{table}");
    }
    let run = std::fs::metadata(home.config().dir.join("run")).unwrap().permissions().mode() & 0o777;
    assert_eq!(run, 0o700);
    cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_it_comes_back_and_nothing_committed_is_lost() {
    let home = Home::new();
    let cluster = home.start().await;
    let store = home.store(&cluster).await;
    store.system(Actor::Setup).bootstrap().await.unwrap();
    let system = store.system(Actor::Setup);
    let (mut committed, mut away) = (Vec::new(), 0);
    let first = cluster.pid().unwrap();
    for n in 0..60 {
        if n == 20 {
            kill(first);
        }
        let named: wharf_domain::Name = format!("s-{n}").parse().unwrap();
        let begun = Instant::now();
        loop {
            match make_space(&system, &named).await {
                Ok(()) => break committed.push(named.to_string()),
                // The commit's answer may have been lost with the connection.
                Err(e) if e.code == Code::AlreadyExists => break committed.push(named.to_string()),
                Err(e) => {
                    assert_eq!(e.code, Code::Unavailable, "{e}");
                    assert!(e.retry_after.is_some());
                    away += 1;
                    assert!(begun.elapsed() < Duration::from_secs(30), "it does not come back: {e}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }
    assert!(away > 0, "the kill was felt");
    assert_ne!(cluster.pid(), Some(first));
    let mut scope = system.global().await.unwrap();
    let request = wharf_store::PageRequest::new(Some(500), None, None).unwrap();
    let there: Vec<_> =
        scope.spaces().list(&request).await.unwrap().items.into_iter().map(|s| s.name.to_string()).collect();
    drop(scope);
    assert_eq!(there, committed);
    store.close().await;
    cluster.stop().await.unwrap();
}

async fn make_space(
    system: &wharf_store::System,
    named: &wharf_domain::Name,
) -> Result<(), wharf_domain::Error> {
    let mut scope = system.global().await?;
    let permit = scope.spaces().allow(wharf_domain::rbac::Verb::Create, named).await?;
    let new = wharf_store::NewSpace {
        name: named.clone(),
        labels: Default::default(),
        quotas: Default::default(),
        defaults: serde_json::json!({}),
    };
    scope.spaces().create(&permit, new).await?;
    scope.commit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_installations_do_not_share_a_directory() {
    let home = Home::new();
    let cluster = home.start().await;
    let second = Cluster::start(home.config()).await;
    assert!(matches!(second.err().unwrap(), ClusterError::Taken(_)));
    home.store(&cluster).await.ping().await.unwrap();
    cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_without_a_word_it_takes_its_processes_along() {
    let home = Home::new();
    let cluster = home.start().await;
    assert!(!home.processes().is_empty());
    drop(cluster);
    assert!(home.gone());
    home.start().await.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leftover_server_and_a_stale_pid_file_do_not_stop_the_start() {
    let home = Home::new();
    home.start().await.stop().await.unwrap();
    // A server that outlived its parent: started by hand, as nobody's child.
    let command = wharf_store::cluster::prepare(&home.config()).unwrap();
    let at = command.iter().position(|w| w == "--pdeathsig").unwrap();
    let mut words = command.clone();
    words.drain(at..at + 2);
    let mut left = std::process::Command::new(&words[0]).args(&words[1..]).spawn().unwrap();
    wharf_store::cluster::ready(&home.config(), || None).await.unwrap();
    let reaper = std::thread::spawn(move || left.wait());
    let cluster = home.start().await;
    home.store(&cluster).await.ping().await.unwrap();
    reaper.join().unwrap().unwrap();
    cluster.stop().await.unwrap();

    // Pid files that name a living process of the same user which is no PostgreSQL: pids come round again.
    let mut other = std::process::Command::new("sleep");
    if let Some(user) = home.config().run_as {
        std::os::unix::process::CommandExt::uid(&mut other, user.uid);
    }
    let mut other = other.arg("600").spawn().unwrap();
    let dir = home.config().dir;
    let stale = format!("{}\n{}\n", other.id(), dir.join("data").display());
    for file in ["data/postmaster.pid", "run/.s.PGSQL.5432.lock"] {
        std::fs::write(dir.join(file), &stale).unwrap();
    }
    let cluster = home.start().await;
    home.store(&cluster).await.ping().await.unwrap();
    cluster.stop().await.unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_cannot_work_says_why() {
    let home = Home::new();
    home.start().await.stop().await.unwrap();
    std::fs::remove_dir_all(home.config().dir.join("data/global")).unwrap();
    let error = Cluster::start(home.config()).await.err().unwrap().to_string();
    assert!(error.contains("global") || error.contains("pg_control"), "{error}");
    assert!(home.gone());
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_starters_migrate_once_and_a_newer_schema_is_refused() {
    let home = Home::new();
    let cluster = home.start().await;
    let config = StoreConfig::new(cluster.database());
    let now = wharf_domain::Time::from_millis(1_800_000_000_000);
    let (a, b, c) = tokio::join!(
        Store::migrate(&config, now),
        Store::migrate(&config, now),
        Store::migrate(&config, now)
    );
    a.unwrap();
    b.unwrap();
    c.unwrap();
    let store = home.store(&cluster).await;
    store.ping().await.unwrap();
    store.close().await;

    use sqlx::Connection as _;
    let wharf_store::Database::Socket { dir, port, name, owner, .. } = cluster.database() else { panic!() };
    let options = sqlx::postgres::PgConnectOptions::new_without_pgpass()
        .socket(dir)
        .port(port)
        .username(&owner)
        .database(&name);
    let mut conn = sqlx::PgConnection::connect_with(&options).await.unwrap();
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'of a later release', true, ''::bytea, 0)",
    )
    .execute(&mut conn)
    .await
    .unwrap();
    let refused = Store::migrate(&config, now).await.err().unwrap();
    assert_eq!(refused.code, Code::Unsupported);
    assert!(refused.public.contains("9999") && refused.public.contains("newer"), "{}", refused.public);
    conn.close().await.unwrap();
    cluster.stop().await.unwrap();
}
