//! The typed client against hosts that come and go.

use wharf_chassis::HostClient;
use wharf_chassis::host_client::HostError;
use wharf_domain::Code;
use wharf_wire::host::exec::ExecRequest;
use wharf_wire::host::files::WriteOptions;

use crate::harness::{Host, all, code, shell_turn};

#[tokio::test]
async fn a_host_that_is_not_there_is_unreachable_not_broken() {
    let dir = tempfile::tempdir().unwrap();
    let client = HostClient::new(dir.path().join("none.sock"));
    assert!(matches!(client.health().await, Err(HostError::Unreachable { .. })));
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("dead.sock")).unwrap());
    let error = HostClient::new(dir.path().join("dead.sock")).health().await.unwrap_err();
    assert!(matches!(error, HostError::Unreachable { .. }));
    assert_eq!(wharf_domain::Error::from(error).code, Code::Unavailable);
}

#[tokio::test]
async fn connections_kept_from_a_host_that_died_are_not_the_callers_trouble() {
    let host = Host::start().await;
    let client = host.client.clone();
    let wanted = ExecRequest::argv(["sleep", "0.05"]);
    let calls = (0..6).map(|_| client.exec(&wanted));
    assert!(
        futures_util::future::join_all(calls).await.iter().all(Result::is_ok),
        "six connections are kept now"
    );
    let before = client.health().await.unwrap().incarnation;
    let host = Host::start_in(host.kill()).await;
    for _ in 0..12 {
        assert_ne!(client.health().await.unwrap().incarnation, before);
    }
    drop(host);
    assert!(matches!(client.health().await, Err(HostError::Unreachable { .. })));
}

#[tokio::test]
async fn a_stream_cut_by_the_hosts_death_is_an_error_or_lacks_its_end() {
    let host = Host::start().await;
    let turn = shell_turn("echo said; sleep 300");
    let mut events = host.client.turn(&turn, 0).await.unwrap();
    events.next().await.unwrap().unwrap();
    let dir = host.kill();
    let mut was_broken = false;
    while let Some(event) = events.next().await {
        was_broken |= matches!(event, Err(HostError::Broken(_)));
        if event.is_err() {
            break;
        }
    }
    assert!(was_broken, "a cut stream must not look like a whole one");
    drop(dir);
}

#[tokio::test]
async fn a_command_cut_by_the_hosts_death_is_broken() {
    let host = Host::start().await;
    let client = host.client.clone();
    let call = tokio::spawn(async move { client.exec(&ExecRequest::argv(["sleep", "300"])).await });
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let _dir = host.kill();
    assert!(matches!(call.await.unwrap(), Err(HostError::Broken(_))));
}

#[tokio::test]
async fn a_refusal_leaves_the_connection_fit_for_the_next_request() {
    let host = Host::start().await;
    for i in 0..20 {
        assert_eq!(code(host.client.stat("/none", false).await), Code::NotFound);
        assert!(host.sh("true").await.exit.success());
        let name = format!("/home/agent/ä &?=#%{i}");
        host.client.write_bytes(&name, &WriteOptions::default(), "x").await.unwrap();
        assert_eq!(host.client.stat(&name, false).await.unwrap().size, 1, "odd names survive the query");
    }
    let held = host.client.stats().await.unwrap().host_fds;
    assert!(held < 40, "{held} descriptors for one client at a time");
    let events = all(host.client.turn(&shell_turn("echo x"), 0).await.unwrap()).await;
    assert!(events.len() >= 3);
}
