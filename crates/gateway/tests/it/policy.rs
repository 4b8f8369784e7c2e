//! What a session may reach, and what nobody may.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wharf_domain::egress::Policy;

use crate::lab::{Lab, SOON, allow, exchange, open, until};
use crate::upstream::{Upstream, says};

#[tokio::test(flavor = "multi_thread")]
async fn egress_none_reaches_the_gateway_and_nothing_else() {
    let lab = Lab::new().await;
    let upstream = Upstream::plain(|_| says("hello")).await;
    lab.names.set("site.example", &[&["127.0.0.1"]]);
    let closed = lab.session("closed", Policy::default()).await;
    let refused = closed.get(&format!("http://site.example:{}/", upstream.port)).await;
    assert_eq!(refused.status, 403);
    assert_eq!(refused.headers["content-type"], "application/problem+json");
    let problem = refused.json();
    assert_eq!(problem["code"], "forbidden");
    let detail = problem["detail"].as_str().unwrap();
    for part in [&format!("site.example:{}", upstream.port), "egress is none", "network.allow"] {
        assert!(detail.contains(part), "{detail}");
    }
    let refused = closed.tunnel("site.example:443").await.unwrap_err();
    assert_eq!(refused.status, 403);
    assert!(upstream.seen().is_empty());
    let own = closed.get("http://gateway/").await.json();
    assert_eq!((own["name"].as_str(), own["network"]["egress"].as_str()), (Some("closed"), Some("none")));
    let tunnel = closed.tunnel("gateway:80").await.unwrap();
    let request =
        Request::builder().uri("/").header("host", "gateway").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(exchange(tunnel, request).await.json(), own);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_policy_counts_at_once_and_ends_what_it_forbids() {
    let lab = Lab::new().await;
    let upstream = Upstream::plain(|_| says("hello")).await;
    lab.names.set("site.example", &[&["127.0.0.1"]]);
    let (uri, target) =
        (format!("http://site.example:{}/", upstream.port), format!("site.example:{}", upstream.port));
    let session = lab.session("s", Policy::default()).await;
    assert_eq!(session.get(&uri).await.status, 403);
    lab.patch(&session, allow(&[&target])).await;
    assert_eq!(session.get(&uri).await.text(), "hello");
    let mut tunnel = hyper_util::rt::TokioIo::new(session.tunnel(&target).await.unwrap());
    lab.patch(&session, allow(&["other.example"])).await;
    assert_eq!(session.get(&uri).await.status, 403);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(SOON, tunnel.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the tunnel went on");
    lab.patch(&session, open()).await;
    assert_eq!(session.get(&uri).await.text(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_come_and_go_with_jails_and_a_warm_jail_is_nobodys() {
    let mut lab = Lab::new().await;
    let (jail, socket) = lab.warm().await;
    let warm = crate::lab::Computer { id: wharf_domain::SessionId::new(), jail, socket: socket.clone() };
    let refused = warm.get("http://gateway/").await;
    assert_eq!((refused.status.as_u16(), refused.headers["retry-after"].to_str().unwrap()), (503, "1"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o666);
    let session = lab.session("s", open()).await;
    // A restart binds the same places again.
    lab.stop().await;
    assert!(!session.socket.exists());
    std::os::unix::net::UnixListener::bind(&session.socket).unwrap(); // a leftover nobody listens on
    lab.start();
    until(async || session.try_get().await).await;
    // The jail goes: so does everything that is open on its socket.
    let mut tunnel = hyper_util::rt::TokioIo::new(session.tunnel("gateway:80").await.unwrap());
    std::fs::remove_dir_all(lab.jails().join(session.jail.to_string())).unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(SOON, tunnel.read_to_end(&mut rest)).await.expect("it stayed open").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_the_metadata_service_leads_nowhere() {
    let lab = Lab::new().await;
    let upstream = Upstream::plain(|_| {
        let moved =
            Response::builder().status(302).header("location", "http://169.254.169.254/latest/meta-data/");
        moved.body(Full::default()).unwrap()
    })
    .await;
    lab.names.set("innocent.example", &[&["127.0.0.1"]]);
    let session = lab.session("s", open()).await;
    let moved = session.get(&format!("http://innocent.example:{}/", upstream.port)).await;
    assert_eq!(moved.status, 302, "the gateway follows nothing by itself");
    let refused = session.get(moved.headers["location"].to_str().unwrap()).await;
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("link-local"), "{}", refused.text());
    for literal in [
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://0.0.0.0/",
    ] {
        assert_eq!(session.get(literal).await.status, 403, "{literal}");
    }
    for odd in
        ["http://2852039166/", "http://0xa9fea9fe/", "http://0251.0376.0251.0376/", "http://169.254.43518/"]
    {
        assert_eq!(session.get(odd).await.status, 400, "{odd}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_turns_to_an_inner_address_is_refused_when_it_does() {
    let lab = Lab::with(|s| s.allow_private = vec!["127.0.0.1".into()]).await;
    let upstream = Upstream::plain(|_| says("public")).await;
    lab.names.set("rebind.example", &[&["127.0.0.1"], &["127.0.0.2"]]);
    let session = lab.session("s", open()).await;
    let target = format!("rebind.example:{}", upstream.port);
    let mut tunnel = hyper_util::rt::TokioIo::new(session.tunnel(&target).await.unwrap());
    tunnel.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    tunnel.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("public"), "{text}");
    // The same name again means another address now, which is judged like the first.
    let refused = session.tunnel(&target).await.unwrap_err();
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("127.0.0.2 is loopback"), "{}", refused.text());
    assert_eq!(session.get(&format!("http://{target}/")).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections_are_refused_by_the_limits_name() {
    let lab = Lab::with(|s| s.max_connections = 2).await;
    let session = lab.session("s", open()).await;
    let one = session.tunnel("gateway:80").await.unwrap();
    let two = session.tunnel("gateway:80").await.unwrap();
    let refused = session.tunnel("gateway:80").await.unwrap_err();
    assert_eq!(refused.status, 429);
    assert!(refused.text().contains("gateway.max_connections"), "{}", refused.text());
    drop((one, two));
    until(async || session.tunnel("gateway:80").await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_space_that_used_up_its_bytes_waits_for_tomorrow_or_for_more() {
    let lab = Lab::new().await;
    let upstream = Upstream::plain(|_| says("twelve bytes")).await;
    lab.names.set("site.example", &[&["127.0.0.1"]]);
    let session = lab.session("s", open()).await;
    let uri = format!("http://site.example:{}/", upstream.port);
    lab.quota(20).await;
    for _ in 0..2 {
        assert_eq!(session.get(&uri).await.text(), "twelve bytes");
    }
    // The log is written a moment later, and what is known of a session may be a second old.
    until(async || session.get(&uri).await.status == 429).await;
    let refused = session.get(&uri).await.text();
    for part in ["egress_bytes_per_day", "of 20 bytes", "wharf space update"] {
        assert!(refused.contains(part), "{refused}");
    }
    assert_eq!(session.tunnel("site.example:443").await.unwrap_err().status, 429);
    assert_eq!(session.get("http://gateway/").await.status, 200, "the gateway's own answers are no egress");
    lab.quota(1_000_000).await;
    until(async || session.get(&uri).await.status == 200).await;
}
