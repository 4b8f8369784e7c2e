//! The way out, and the ways in.

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::{Computer, Place, until};
use crate::installation::SPACE;

/// In front of a command: it knows no proxy. (Busybox posts through one as if it got.)
const BARE: &str = "env -u http_proxy -u https_proxy -u all_proxy";

pub async fn the_way_out_is_the_gateways_to_open(place: Place) {
    let port = place.beyond;
    let allow = json!({ "network": { "egress": "allowlist", "allow": [format!("files.test:{port}")] } });
    let one = place.session_with("outgoing", allow).await;
    let none = place.session_with("indoors", json!({ "network": { "egress": "none" } })).await;
    let get = |url: &str| format!("wget -q -O - {url}");
    let there = format!("http://files.test:{port}/");
    for way in [get(&there), format!("{BARE} {}", get(&there))] {
        assert_eq!(one.ok(&way).await, "ahoy", "{way}");
        assert_ne!(none.sh("agent", &way).await.0, 0, "{way}");
    }
    // What is not on the list, private addresses whatever the list says, and the machine's own services.
    let api = place.wharf.address.rsplit(':').next().unwrap().to_owned();
    for url in [
        format!("http://denied.test:{port}/"),
        "http://169.254.169.254/latest/".to_owned(),
        format!("http://10.0.0.1:{port}/"),
        format!("http://127.0.0.1:{api}/readyz"),
    ] {
        for way in [get(&url), format!("{BARE} {}", get(&url))] {
            assert_ne!(one.sh("root", &way).await.0, 0, "{way}");
        }
    }
    for user in ["agent", "root"] {
        let (code, said) = one
            .sh(
                user,
                &format!(
                    "{BARE} nc -u -w 2 8.8.8.8 53 < /etc/passwd && {BARE} nc -w 2 8.8.8.8 53 < /dev/null"
                ),
            )
            .await;
        assert!(code != 0 || !said.contains("root"), "{user}: {code} {said}");
    }
    // Each is known by its own socket.
    for (computer, egress) in [(&one, "allowlist"), (&none, "none")] {
        let told = computer.ok(&get("http://gateway/")).await;
        assert!(told.contains(&format!("\"{}\"", computer.name)) && told.contains(egress), "{told}");
    }
    let seen = async |decision: &str| {
        let lines = one.get("egress?limit=100").await;
        let lines = lines["items"].as_array().unwrap();
        lines
            .iter()
            .any(|l| l["decision"] == decision && l["host"].as_str().is_some_and(|h| h.contains(".test")))
    };
    until("both are in the log", async || seen("allowed").await && seen("denied").await).await;
    // A new policy counts for the next request.
    let (status, said) = none
        .patch(json!({ "network": { "egress": "allowlist", "allow": [format!("files.test:{port}")] } }))
        .await;
    assert!(status.is_success(), "{said}");
    until("the way is open", async || none.sh("agent", &get(&there)).await == (0, "ahoy".to_owned())).await;
    one.close().await;
    assert_eq!(one.ok(&get(&there)).await, "ahoy");
}

pub async fn a_model_answers_programs_inside(place: Place) {
    let space = format!("/v1/spaces/{SPACE}");
    let usage = json!({ "input_tokens": 10, "output_tokens": 2 });
    let turns = json!([{ "say": [{ "type": "text", "text": "a model said this" }], "usage": usage }]);
    let provider = json!({ "name": "suite", "protocol": "scripted", "script": { "turns": turns } });
    place.wharf.post(&format!("{space}/providers"), provider).await;
    let one = place.session_with("asking", json!({ "network": { "egress": "none" } })).await;
    let body = r#"{"model":"any","max_tokens":9,"messages":[{"role":"user","content":"Hi"}]}"#;
    let ask = format!(
        "{BARE} wget -q -O - --header 'content-type: application/json' --post-data '{body}' http://gateway/suite/v1/messages"
    );
    let answer = one.answer(&ask).await;
    assert!(answer.contains("a model said this"), "{answer}");
    let usage = one.row().await["usage"].clone();
    assert_eq!((&usage["requests"], &usage["input_tokens"]), (&json!(1), &json!(10)), "{usage}");
}

async fn serve(computer: &Computer) {
    computer
        .post(
            "exec",
            json!({ "command": "exec httpd -f -p 127.0.0.1:8000 -h /home/agent/site", "background": true }),
        )
        .await;
    until("somebody listens", async || {
        let ports = computer.get("ports").await;
        ports["items"].as_array().unwrap().iter().any(|p| p["port"] == 8000)
    })
    .await;
}

pub async fn a_port_is_reached_by_path_and_by_host_name_and_wakes_its_session(place: Place) {
    let one = place.session("web").await;
    one.ok("mkdir site; echo hello from inside > site/index.html").await;
    let by_path =
        async || place.wharf.call(Method::GET, &one.at("ports/8000/index.html"), None, None).await.unwrap();
    assert_eq!(by_path().await.0, StatusCode::BAD_GATEWAY);
    serve(&one).await;
    let (status, page) = by_path().await;
    assert_eq!((status.as_u16(), page), (200, json!("hello from inside\n")));
    let (status, problem) = place.wharf.call(Method::GET, &one.at("ports/3128/"), None, None).await.unwrap();
    assert_eq!(status, 422, "{problem}");

    // A browser comes with a link, which becomes a cookie of that host name.
    let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let host = format!("8000-web.{SPACE}.ports.test");
    let visit = |path: String, cookie: Option<String>| {
        let request = browser.get(format!("http://{}{path}", place.wharf.address)).header("host", &host);
        let request = request.header("sec-fetch-site", "none").header("sec-fetch-mode", "navigate");
        match cookie {
            Some(cookie) => request.header("cookie", cookie),
            None => request,
        }
        .send()
    };
    assert_eq!(visit("/".into(), None).await.unwrap().status(), 401);
    let link = one.post("port-links", json!({ "port": 8000, "path": "/index.html" })).await;
    let inside = link["url"].as_str().unwrap().strip_prefix(&format!("http://{host}")).unwrap().to_owned();
    let entered = visit(inside, None).await.unwrap();
    assert_eq!(
        (entered.status().as_u16(), entered.headers()["location"].to_str().unwrap()),
        (303, "/index.html")
    );
    let cookie = entered.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let by_host = async || visit("/index.html".into(), Some(cookie.clone())).await.unwrap();
    assert_eq!(by_host().await.text().await.unwrap(), "hello from inside\n");

    // Bytes as they are, both ways.
    let mut socket = place.wharf.websocket(&one.at("tunnel?port=8000")).await;
    socket.send(Message::Binary(b"GET /index.html HTTP/1.0\r\n\r\n".to_vec().into())).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(Ok(message)) = tokio::time::timeout(super::SOON, socket.next()).await.unwrap() {
        match message {
            Message::Binary(more) => bytes.extend_from_slice(&more),
            Message::Text(_) | Message::Close(_) => break,
            _ => {}
        }
    }
    assert!(
        String::from_utf8_lossy(&bytes).ends_with("hello from inside\n"),
        "{}",
        String::from_utf8_lossy(&bytes)
    );

    // A request at either address brings the computer back; its programs are started again by whoever started them.
    for by_name in [false, true] {
        one.close().await;
        if by_name {
            by_host().await.status()
        } else {
            by_path().await.0
        };
        one.is("idle").await;
        serve(&one).await;
        assert_eq!(by_host().await.text().await.unwrap(), "hello from inside\n");
        assert_eq!(by_path().await.1, "hello from inside\n");
    }
}

pub async fn published_files_outlive_their_session(place: Place) {
    let one = place.session("author").await;
    one.ok(
        "mkdir -p report/data; echo '<h1>Report</h1>' > report/index.html; seq 200000 > report/data/numbers",
    )
    .await;
    let made = one.post("publish", json!({ "paths": ["/home/agent/report"], "name": "report" })).await;
    assert_eq!(made["files"], 2, "{made}");
    let numbers = one.read("/home/agent/report/data/numbers").await;
    one.ok("echo changed > report/index.html").await;
    one.delete().await;
    let link = place.wharf.post(&format!("/v1/spaces/{SPACE}/published/report/links"), json!({})).await;
    let url = link["url"].as_str().unwrap();
    assert_eq!(reqwest::get(url).await.unwrap().text().await.unwrap(), "<h1>Report</h1>\n");
    let ask = async |header: &str, value: &str| {
        reqwest::Client::new().get(format!("{url}data/numbers")).header(header, value).send().await.unwrap()
    };
    let part = ask("range", "bytes=1000-1999").await;
    assert_eq!(part.status(), 206);
    let etag = part.headers()["etag"].to_str().unwrap().to_owned();
    assert_eq!(part.bytes().await.unwrap()[..], numbers[1000..2000]);
    assert_eq!(ask("if-none-match", &etag).await.status(), 304);
}

pub async fn an_image_without_a_desktop_is_named(place: Place) {
    let one = place.session("blind").await;
    let (status, problem) = place.wharf.call(Method::GET, &one.at("screenshot"), None, None).await.unwrap();
    assert_eq!(status, 422);
    assert!(problem["detail"].as_str().unwrap().contains("image tiny has no desktop"), "{problem}");
}
