//! An ssh server of the test's own: Debian's `openssh-server` on loopback, whose only command is `git-shell`, for whoever has a key.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const DAEMON: &str = "/usr/sbin/sshd";

/// Why there can be none here; `None` when there can. Fails where it is required.
pub fn missing() -> Option<String> {
    if Path::new(DAEMON).exists() {
        return None;
    }
    let why = format!("{DAEMON} is missing (apt install openssh-server)");
    let required = std::env::var("WHARF_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|r| r.trim() == "ssh"), "tests of ssh are required here, but: {why}");
    println!("skipped: {why}");
    Some(why)
}

/// A key pair, as `ssh-keygen` makes it.
pub struct Key {
    pub private: String,
    /// Kind and key, without a comment.
    pub public: String,
    pub fingerprint: String,
}

/// The server. Repositories are named by their path below its directory `git`, with and without a slash, as at a forge.
pub struct Sshd {
    dir: PathBuf,
    child: Child,
    pub port: u16,
    /// What it shows first, and its second key.
    pub host_keys: [Key; 2],
}

/// A new key of a kind, below a directory, under a passphrase unless that is empty.
pub fn key(dir: &Path, name: &str, kind: &str, passphrase: &str) -> Key {
    let path = dir.join(name);
    let run = |args: &[&str]| {
        let out = Command::new("ssh-keygen").args(args).arg("-f").arg(&path).output().unwrap();
        assert!(out.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    run(&["-q", "-t", kind, "-N", passphrase, "-C", "somebody@laptop"]);
    let public = std::fs::read_to_string(path.with_extension("pub")).unwrap();
    Key {
        private: std::fs::read_to_string(&path).unwrap(),
        public: public.split(' ').take(2).collect::<Vec<_>>().join(" "),
        fingerprint: run(&["-l"]).split(' ').nth(1).unwrap().to_owned(),
    }
}

impl Sshd {
    /// Starts one in a new directory, and waits until it answers.
    pub fn start(dir: &Path) -> Self {
        std::fs::create_dir_all(dir.join("git")).unwrap();
        let dir = dir.canonicalize().unwrap();
        let host_keys = ["ed25519", "ecdsa"].map(|kind| key(&dir, &format!("host_{kind}"), kind, ""));
        let at = |name: &str| dir.join(name).display().to_string();
        let exec = Command::new("git").arg("--exec-path").output().unwrap();
        let enter = format!(
            "#!/bin/sh\nprintf '%s %s\\n' \"$GIT_PROTOCOL\" \"$SSH_ORIGINAL_COMMAND\" >> {}\ncd {} || exit 1\n\
             wanted=$(printf '%s' \"$SSH_ORIGINAL_COMMAND\" | sed \"s# '/*# '#\")\n\
             PATH={} exec {}/git-shell -c \"$wanted\"\n",
            at("commands"),
            at("git"),
            std::env::var("PATH").unwrap(),
            String::from_utf8(exec.stdout).unwrap().trim(),
        );
        std::fs::write(dir.join("enter"), enter).unwrap();
        std::fs::set_permissions(dir.join("enter"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(dir.join("authorized_keys"), "").unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nHostKey {}\nPidFile none\nAuthorizedKeysFile {}\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
             AcceptEnv GIT_PROTOCOL\nForceCommand {}\nLogLevel VERBOSE\n",
            at("host_ed25519"),
            at("host_ecdsa"),
            at("authorized_keys"),
            at("enter"),
        );
        std::fs::write(dir.join("config"), config).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        // As root it wants a directory in /run; the machine's own is left alone.
        let script = if rustix::process::geteuid().is_root() {
            "exec unshare -m sh -c 'mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && exec \"$@\"' sh \"$@\""
        } else {
            "exec \"$@\""
        };
        let child = Command::new("sh")
            .args(["-c", script, "sh", DAEMON, "-D", "-e", "-f"])
            .arg(dir.join("config"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut this = Self { dir, child, port, host_keys };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = this.child.try_wait().unwrap() {
                panic!("sshd ended with {status}:\n{}", this.log());
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "no sshd after 30 s:\n{}", this.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        this
    }

    /// The only user it can let in: whoever runs the test.
    pub fn user() -> String {
        let out = Command::new("id").arg("-un").output().unwrap();
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    /// A new key it lets in.
    pub fn let_in(&self, name: &str, kind: &str) -> Key {
        let key = key(&self.dir, name, kind, "");
        let mut file = std::fs::File::options().append(true).open(self.dir.join("authorized_keys")).unwrap();
        writeln!(file, "{}", key.public).unwrap();
        key
    }

    /// Where repositories are.
    pub fn git(&self) -> PathBuf {
        self.dir.join("git")
    }

    /// A bare repository with one commit on `main` of these files.
    pub fn repository(&self, name: &str, files: &[(&str, &[u8])]) {
        let tree = self.dir.join("tree").join(name);
        std::fs::create_dir_all(&tree).unwrap();
        for (file, bytes) in files {
            std::fs::write(tree.join(file), bytes).unwrap();
        }
        let bare = self.git().join(format!("{name}.git"));
        let run = |args: &[&str]| {
            let out = Command::new("git")
                .args(["-c", "user.name=a", "-c", "user.email=a@b.test", "-C"])
                .arg(&tree)
                .args(args)
                .output()
                .unwrap();
            assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        };
        run(&["init", "-q", "-b", "main"]);
        run(&["add", "-A"]);
        run(&["commit", "-q", "-m", "first"]);
        run(&["clone", "-q", "--bare", ".", bare.to_str().unwrap()]);
    }

    /// What it was asked to run, each behind the version of git's protocol that was wished for.
    pub fn commands(&self) -> String {
        std::fs::read_to_string(self.dir.join("commands")).unwrap_or_default()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
