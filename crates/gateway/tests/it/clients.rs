//! Real clients: curl and git, with a credential they never see.

use std::path::Path;
use std::process::Stdio;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio::process::Command;
use wharf_domain::egress::rule::{Match, Placement};

use crate::lab::{Computer, Lab, allow};
use crate::upstream::{Seen, Upstream, says};

/// What a session's host does: a port on loopback whose bytes go to the socket.
async fn bridge(session: &Computer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("http://{}", listener.local_addr().unwrap());
    let socket = session.socket.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let socket = socket.clone();
            tokio::spawn(async move {
                let mut gateway = tokio::net::UnixStream::connect(&socket).await?;
                tokio::io::copy_bidirectional(&mut client, &mut gateway).await
            });
        }
    });
    at
}

async fn run(program: &str, args: &[&str], dir: &Path, env: &[(&str, &str)]) -> (bool, String) {
    let out = Command::new(program)
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap())
        .env("HOME", dir)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    (out.status.success(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_speaks_plain_and_secure_through_the_gateway() {
    let lab = Lab::new().await;
    let api = Upstream::tls(&["api.example"], |_| says("secure")).await;
    let plain = Upstream::plain(|_| says("plain")).await;
    let (secure_at, plain_at) = (format!("api.example:{}", api.port), format!("web.example:{}", plain.port));
    for name in ["api.example", "web.example"] {
        lab.names.set(name, &[&["127.0.0.1"]]);
    }
    lab.secret("key", "sk-planted-credential").await;
    let rule = Match::new(secure_at.parse().unwrap(), vec![], None).unwrap();
    lab.connect("api", rule, Placement::header("x-key", String::new()).unwrap(), "key").await;
    let session = lab.session("s", allow(&[&secure_at, &plain_at])).await;
    let proxy = bridge(&session).await;
    let trust = lab.dir.path().join("trust.pem");
    std::fs::write(&trust, lab.authority().await).unwrap();
    let trust = trust.display().to_string();
    let curl = async |uri: &str, more: &[&str]| {
        let args = [&["-sS", "-m", "20", "-x", &proxy, "--cacert", &trust, uri][..], more].concat();
        run("curl", &args, lab.dir.path(), &[]).await
    };
    assert_eq!(curl(&format!("http://{plain_at}/"), &[]).await, (true, "plain".into()));
    assert_eq!(curl(&format!("http://{plain_at}/"), &["--proxytunnel"]).await, (true, "plain".into()));
    for version in ["--http1.1", "--http2"] {
        assert_eq!(
            curl(&format!("https://{secure_at}/"), &[version]).await,
            (true, "secure".into()),
            "{version}"
        );
        assert_eq!(api.last().header("x-key"), Some("sk-planted-credential"));
    }
    let (done, said) = curl("https://forbidden.example/", &[]).await;
    assert!(!done && said.contains("403"), "{said}");
}

/// A repository as files, for whoever knows the password.
fn files(root: std::path::PathBuf) -> impl Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync {
    move |seen| {
        // git-user:gh-planted-token
        if seen.header("authorization") != Some("Basic Z2l0LXVzZXI6Z2gtcGxhbnRlZC10b2tlbg==") {
            let refused = Response::builder().status(401).header("www-authenticate", "Basic realm=\"git\"");
            return refused.body(Full::default()).unwrap();
        }
        let uri: http::Uri = seen.uri.parse().unwrap();
        match std::fs::read(root.join(uri.path().trim_start_matches('/'))) {
            Ok(bytes) => Response::new(Full::new(Bytes::from(bytes))),
            Err(_) => Response::builder().status(404).body(Full::default()).unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn git_clones_a_private_repository_without_a_token_inside() {
    let lab = Lab::new().await;
    let dir = lab.dir.path();
    let git = async |args: &[&str], env: &[(&str, &str)]| {
        let (done, said) = run("git", args, dir, env).await;
        assert!(done, "git {args:?}: {said}");
        said
    };
    git(&["init", "-q", "-b", "main", "work"], &[]).await;
    std::fs::write(dir.join("work/README"), "private words\n").unwrap();
    git(&["-C", "work", "add", "README"], &[]).await;
    git(
        &["-C", "work", "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-qm", "first"],
        &[],
    )
    .await;
    git(&["clone", "-q", "--bare", "work", "served/acme/app.git"], &[]).await;
    git(&["-C", "served/acme/app.git", "update-server-info"], &[]).await;
    let server = Upstream::tls(&["git.example"], files(dir.join("served"))).await;
    let host = format!("git.example:{}", server.port);
    lab.names.set("git.example", &[&["127.0.0.1"]]);
    lab.secret("token", "gh-planted-token").await;
    let rule = Match::new(host.parse().unwrap(), vec![], Some("/acme/".into())).unwrap();
    lab.connect("git", rule, Placement::basic("git-user".into()).unwrap(), "token").await;
    let session = lab.session("s", allow(&[&host])).await;
    let proxy = bridge(&session).await;
    let trust = dir.join("trust.pem");
    std::fs::write(&trust, lab.authority().await).unwrap();
    let trust = trust.display().to_string();
    let env = [("https_proxy", proxy.as_str()), ("GIT_SSL_CAINFO", trust.as_str())];
    git(&["clone", "-q", &format!("https://{host}/acme/app.git"), "copy"], &env).await;
    assert_eq!(std::fs::read_to_string(dir.join("copy/README")).unwrap(), "private words\n");
    // Beside the connection's path there is no credential.
    let beside =
        run("git", &["clone", "-q", &format!("https://{host}/other/app.git"), "no"], dir, &env).await;
    assert!(!beside.0, "{}", beside.1);
    // It is nowhere in what git keeps.
    let kept = run("grep", &["-rl", "planted", "copy"], dir, &[]).await;
    assert!(!kept.0, "{}", kept.1);
}
