//! Streams: in order, resumable without a gap or a repeat, ended when the server drains.

use futures_util::StreamExt as _;
use http::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::lab::{Event, Lab, SOON};

const DESK: &str = "/v1/spaces/lab/sessions/desk";

#[tokio::test(flavor = "multi_thread")]
async fn a_sessions_log_resumes_anywhere_without_a_gap_or_a_repeat() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let mut live = admin.events(&format!("{DESK}/events?after=0")).await;
    let script = "for i in 1 2 3 4 5; do echo line $i; done";
    admin.post(&format!("{DESK}/messages?wait=done"), json!({"content": script})).await.expect(202);
    let seen = live.up_to("turn.done").await;
    let numbers: Vec<i64> = seen.iter().map(|e| e.id.as_ref().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as i64).collect::<Vec<_>>(), "no gap and no repeat");
    assert_eq!(seen[0].event, "session.state");
    assert!(
        seen.iter().any(|e| e.event == "message.created" && e.data["data"]["content"][0]["text"] == script),
        "{seen:#?}"
    );
    for at in 0..seen.len() {
        let id = seen[at].id.clone().unwrap();
        let mut rest =
            admin.stream(Method::GET, &format!("{DESK}/events"), None, &[("last-event-id", &id)]).await;
        for wanted in &seen[at + 1..] {
            assert_eq!(rest.next().await.as_ref(), Some(wanted));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_without_a_number_hears_what_comes() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    admin.post(&format!("{DESK}/messages?wait=done"), json!({"content": "echo before"})).await.expect(202);
    // The state after a turn is settled by its own entry.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let mut live = admin.events(&format!("{DESK}/events")).await;
    live.silent().await;
    admin.post(&format!("{DESK}/messages"), json!({"content": "echo after"})).await.expect(202);
    let heard = live.up_to("turn.done").await;
    assert!(heard.iter().all(|e| !e.data.to_string().contains("before")), "{heard:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_shall_not_follow_ends() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    // A session may be used a moment before its log says that it is up.
    admin.post(&format!("{DESK}/messages?wait=done"), json!({"content": "true"})).await.expect(202);
    let mut log = admin.events(&format!("{DESK}/events?after=0&no_follow")).await;
    let mut n = 0;
    while log.next().await.is_some() {
        n += 1;
    }
    assert!(n >= 2, "at least init and idle");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_stream_travels_over_websocket() {
    let mut lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let address = lab.listen().await;
    let mut request = format!("ws://{address}{DESK}/events?after=0").into_client_request().unwrap();
    let token = format!("Bearer {}", admin.token.as_ref().unwrap());
    request.headers_mut().insert("authorization", token.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let mut sse = admin.events(&format!("{DESK}/events?after=0")).await;
    admin.post(&format!("{DESK}/messages"), json!({"content": "echo both"})).await.expect(202);
    for wanted in sse.up_to("turn.done").await {
        let frame = loop {
            match tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap() {
                Message::Text(text) => {
                    let frame: Value = serde_json::from_str(text.as_str()).unwrap();
                    if frame["event"] == "position" {
                        assert_eq!(frame["id"], "0");
                        continue;
                    }
                    break frame;
                }
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        };
        let got = Event {
            id: frame["id"].as_str().map(str::to_owned),
            event: frame["event"].as_str().unwrap().to_owned(),
            data: frame["data"].clone(),
        };
        assert_eq!(got, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_server_ends_its_streams() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    // The word that it is idle may follow the state itself.
    let mut log = admin.events(&format!("{DESK}/events?after=0")).await;
    while log.next().await.unwrap().data["data"]["state"] != "idle" {}
    log.silent().await;
    lab.stopper.drain();
    while log.next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_what_is_made_changed_and_deleted() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    let list = admin.get("/v1/spaces/lab/sessions").await.expect(200);
    let from = list["resource_version"].as_str().unwrap();
    let mut watch =
        admin.events(&format!("/v1/spaces/lab/sessions?watch=true&resource_version={from}")).await;
    lab.session(&admin, "desk").await;
    let first = watch.next().await.unwrap();
    assert_eq!((first.event.as_str(), first.data["object"]["name"].as_str()), ("added", Some("desk")));
    // However many changes were seen as one, the last is the truth.
    let mut last = first;
    while last.data["object"]["state"] != "idle" {
        last = watch.next().await.unwrap();
        assert_eq!(last.event, "modified");
    }
    admin.delete(DESK).await.expect(202);
    let gone = loop {
        let event = watch.next().await.unwrap();
        if event.event == "deleted" {
            break event;
        }
    };
    assert_eq!(gone.data["name"], "desk");
    assert!(gone.data["object"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_by_label_sees_things_come_and_go() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let mut watch = admin.events("/v1/spaces/lab/sessions?watch=true&labels=team=red").await;
    admin.patch(DESK, json!({"labels": {"team": "red"}})).await.expect(200);
    // Changes from just before the watch may be seen as well: that the session is not (yet) among the red ones.
    let told = loop {
        let event = watch.next().await.unwrap();
        if event.event != "deleted" {
            break event;
        }
    };
    assert_eq!(told.data["object"]["labels"]["team"], "red");
    admin.patch(DESK, json!({"labels": {"team": null}})).await.expect(200);
    watch.up_to("deleted").await;
    admin.patch(DESK, json!({"metadata": {"n": 1}})).await.expect(200);
    watch.silent().await;
    admin.patch(DESK, json!({"labels": {"team": "red"}})).await.expect(200);
    assert_eq!(watch.next().await.unwrap().event, "added");
}
