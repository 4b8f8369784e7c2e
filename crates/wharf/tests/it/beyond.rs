//! The world beyond a session, on loopback, under names that only the installation's resolver knows.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::installation::{Installation, Outside, SPACE};

/// Servers on loopback; they end with the test.
pub struct Beyond {
    child: Child,
    dir: tempfile::TempDir,
    pub plain: u16,
    pub secure: u16,
    /// Where it is the public registries.
    registries: Option<String>,
}

/// Whose names it answers to where it is the public registries.
const REGISTRIES: &str = "pypi.org files.pythonhosted.org registry.npmjs.org deb.debian.org";

impl Beyond {
    pub fn start() -> Self {
        Self::knowing("let-me-in")
    }

    /// With this password of robot's, the only one who may clone `private.git`.
    pub fn knowing(password: &str) -> Self {
        Self::serving(password, None)
    }

    /// Also under the names, and on the ports, of the registries that package managers ask when they are told nothing.
    pub fn with_registries() -> Self {
        let number = std::process::id();
        Self::serving("let-me-in", Some(format!("127.88.{}.{}", number >> 8 & 255, number & 255)))
    }

    fn serving(password: &str, registries: Option<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let (certificate, key) = (at("certificate.pem"), at("key.pem"));
        certify(dir.path());
        std::fs::create_dir(dir.path().join("shelf")).unwrap();
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/beyond");
        let mut child = Command::new("python3")
            .arg(scripts.join("beyond.py"))
            .args([at("shelf").as_str(), &certificate, &key, password])
            .args(&registries)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut ports = line.split_whitespace().map(|p| p.parse().unwrap());
        let (plain, secure) = (ports.next().unwrap(), ports.next().unwrap());
        let base = format!("http://files.test:{plain}");
        let filled = Command::new("python3")
            .arg(scripts.join("shelf.py"))
            .args([&at("shelf"), &base])
            .env("HOME", dir.path())
            .status()
            .unwrap();
        assert!(filled.success());
        Self { child, dir, plain, secure, registries }
    }

    /// A directory of the machine, below `/{name}/`.
    pub fn shelve(&self, name: &str, directory: &Path) {
        std::os::unix::fs::symlink(directory, self.dir.path().join("shelf").join(name)).unwrap();
    }

    /// Its authority's certificate, where every process of the machine may read it.
    pub fn authority(&self) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.dir.path().join("authority.pem");
        for (path, mode) in [(self.dir.path(), 0o711), (path.as_path(), 0o644)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        path
    }

    /// A directory's files as the newest commit of `main`, at `/git/{name}.git`.
    pub fn commit(&self, name: &str, tree: &Path) {
        let git = |args: &[&str]| {
            let out = Command::new("git")
                .args(["-c", "user.name=a", "-c", "user.email=a@b.test", "-C"])
                .arg(tree)
                .args(args)
                .output()
                .unwrap();
            assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        };
        let bare = self.dir.path().join(format!("shelf/git/{name}.git"));
        if !tree.join(".git").exists() {
            git(&["init", "-q", "-b", "main"]);
            let _ = std::fs::remove_dir_all(&bare);
            git(&["init", "-q", "--bare", "-b", "main", bare.to_str().unwrap()]);
        }
        git(&["add", "-A"]);
        git(&["commit", "-q", "-m", "more"]);
        git(&["push", "-q", bare.to_str().unwrap(), "HEAD:main"]);
    }

    /// The world as the installation sees it.
    pub fn outside(&self) -> Outside {
        let mut private = vec![format!("127.0.0.1:{}", self.plain), format!("127.0.0.1:{}", self.secure)];
        let mut hosts =
            "127.0.0.1 localhost files.test denied.test inner.test\n10.1.2.3 rebound.test\n".to_owned();
        if let Some(address) = &self.registries {
            private.extend([format!("{address}:80"), format!("{address}:443")]);
            hosts.extend([address.as_str(), " ", REGISTRIES, "\n"]);
        }
        Outside {
            settings: format!("\n[gateway]\nallow_private = {private:?}\n"),
            hosts,
            ..Outside::default()
        }
    }

    /// Everything by its port; `inner` is a port that no exception covers.
    pub fn network(&self, inner: u16) -> Value {
        let allow: Vec<String> = [
            ("files.test", self.plain),
            ("files.test", self.secure),
            ("inner.test", inner),
            ("rebound.test", 80),
            ("127.0.0.1", self.plain),
        ]
        .iter()
        .map(|(host, port)| format!("{host}:{port}"))
        .collect();
        json!({ "egress": "allowlist", "allow": allow })
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An authority, and what it says of files.test and the registries.
fn certify(dir: &Path) {
    let names =
        REGISTRIES.split(' ').fold("DNS:files.test".to_owned(), |all, name| format!("{all}, DNS:{name}"));
    let config = format!(
        "[req]\ndistinguished_name = name\n[name]\n[authority]\nbasicConstraints = critical, CA:TRUE\n\
         [server]\nbasicConstraints = critical, CA:FALSE\nsubjectAltName = {names}\n"
    );
    std::fs::write(dir.join("openssl.cnf"), config).unwrap();
    let new = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-config",
        "openssl.cnf",
        "-extensions",
    ];
    for more in [
        "authority -subj /CN=Tests -keyout authority.key -out authority.pem",
        "server -subj /CN=files.test -CA authority.pem -CAkey authority.key -keyout key.pem -out certificate.pem",
    ] {
        let made = Command::new("openssl").args(new).args(more.split(' ')).current_dir(dir).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
}

/// A session of the tests.
pub struct Session<'a> {
    pub wharf: &'a Installation,
    pub name: &'static str,
}

impl<'a> Session<'a> {
    pub async fn create(wharf: &'a Installation, name: &'static str, image: &str, network: Value) -> Self {
        let body = json!({ "name": name, "image": image, "network": network,
            "resources": { "memory_mib": 1024, "pids": 256, "disk_mib": 512 } });
        wharf.post(&format!("/v1/spaces/{SPACE}/sessions?wait=ready"), body).await;
        Self { wharf, name }
    }

    pub async fn run(&self, script: &str) -> (i64, String) {
        let body = json!({ "argv": ["sh", "-c", format!("exec 2>&1\n{script}")], "timeout_seconds": 120 });
        let done = self.wharf.post(&format!("/v1/spaces/{SPACE}/sessions/{}/exec", self.name), body).await;
        let text = done["stdout"].as_str().unwrap().trim_end().to_owned();
        (done["exit_code"].as_i64().unwrap_or(-1), text)
    }

    /// Answers the last line of a script that has to succeed.
    pub async fn ok(&self, script: &str) -> String {
        let (code, text) = self.run(script).await;
        assert_eq!(code, 0, "{script}\n{text}\n{}", self.wharf.log());
        text.lines().last().unwrap_or_default().to_owned()
    }
}
