//! Published copies: what is copied, who reads it, how it ends, and what must not be in it.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use wharf_store::Actor;

use crate::lab::{Answer, Caller, Lab, until};

const DESK: &str = "/v1/spaces/lab/sessions/desk";
const COPIES: &str = "/v1/spaces/lab/published";
const SECRET: &str = "correct horse battery staple";

async fn write(admin: &Caller, path: &str, content: &[u8]) {
    let request = admin.request(Method::PUT, &format!("{DESK}/files{path}?parents"));
    admin.send(request.body(content.to_vec().into()).unwrap()).await.expect(200);
}

async fn sh(admin: &Caller, script: &str) {
    let done = admin.post(&format!("{DESK}/exec"), json!({"command": script})).await.expect(200);
    assert_eq!(done["exit_code"], 0, "{done}");
}

/// A session with a report of several files, the larger over a chunk.
async fn at_work() -> (Lab, Caller, Vec<u8>) {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let large: Vec<u8> = (0..2_500_000_u32).map(|n| (n % 251) as u8).collect();
    write(&admin, "/home/agent/report/index.html", b"<h1>Report</h1>").await;
    write(&admin, "/home/agent/report/data/large.bin", &large).await;
    write(&admin, "/home/agent/report/data/a%20%C3%A4.txt", "äöü".as_bytes()).await;
    write(&admin, "/home/agent/report/empty.css", b"").await;
    (lab, admin, large)
}

async fn publish(admin: &Caller, body: Value) -> Value {
    admin.post(&format!("{DESK}/publish"), body).await.expect(201)
}

async fn link(admin: &Caller, name: &str, body: Value) -> String {
    let made = admin.post(&format!("{COPIES}/{name}/links"), body).await.expect(201);
    let url = made["url"].as_str().unwrap();
    let at = url.find("/published/").unwrap();
    url[at..].to_owned()
}

async fn disk(admin: &Caller) -> u64 {
    let usage = admin.get("/v1/spaces/lab/usage").await.expect(200);
    usage["disk_mib"]["used"].as_u64().unwrap_or_else(|| panic!("{usage}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_read_by_its_link_and_outlives_its_session() {
    let (lab, admin, large) = at_work().await;
    let made = publish(&admin, json!({"paths": ["/home/agent/report/"], "name": "report"})).await;
    assert_eq!(
        (made["files"].as_u64(), made["left_out"].as_u64(), made["url"].as_str()),
        (Some(4), Some(0), None)
    );
    let base = link(&admin, "report", json!({})).await;
    let nobody = lab.nobody();

    let page = nobody.get(&base).await;
    assert_eq!((page.status.as_u16(), page.text().as_str()), (200, "<h1>Report</h1>"));
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").unwrap().starts_with("sandbox"));
    assert!(!page.header("content-security-policy").unwrap().contains("allow-same-origin"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(page.header("cache-control"), Some("no-cache"));

    // What happens in the session afterwards, and the session's end, change nothing.
    write(&admin, "/home/agent/report/index.html", b"changed").await;
    admin.delete(DESK).await.expect(202);
    assert_eq!(nobody.get(&base).await.text(), "<h1>Report</h1>");
    let all = nobody.get(&format!("{base}data/large.bin")).await;
    assert!(all.bytes == large, "{} bytes", all.bytes.len());
    assert_eq!(all.header("content-type"), Some("application/octet-stream"));
    assert_eq!(nobody.get(&format!("{base}data/a%20%C3%A4.txt")).await.text(), "äöü");
    assert_eq!(nobody.get(&format!("{base}empty.css")).await.bytes, b"");
    let saved = nobody.get(&format!("{base}data/a%20%C3%A4.txt?download")).await;
    assert_eq!(saved.header("content-disposition"), Some("attachment; filename*=UTF-8''a%20%C3%A4.txt"));

    let moved = nobody.get(&format!("{base}data")).await;
    assert_eq!((moved.status.as_u16(), moved.header("location")), (308, Some("data/")));
    let bare = nobody.get(base.trim_end_matches('/')).await;
    assert_eq!(bare.status, 308);
    let listed = nobody.get(&format!("{base}data/")).await.text();
    assert!(listed.contains("href=\"./a%20%C3%A4.txt\"") && listed.contains(">large.bin<"), "{listed}");
    for path in ["none", "data/none", "index.html/", "data/../index.html", "..", "empty.css/x"] {
        nobody.get(&format!("{base}{path}")).await.refused(404, "not_found");
    }
    assert_eq!(nobody.call(Method::POST, &base, None, &[]).await.status, 405);
}

fn part(answer: &Answer) -> (u16, Option<&str>, Option<&str>) {
    (answer.status.as_u16(), answer.header("content-range"), answer.header("content-length"))
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_and_conditions_are_honoured() {
    let (lab, admin, large) = at_work().await;
    publish(&admin, json!({"paths": ["/home/agent/report/data/large.bin"], "name": "one"})).await;
    let file = link(&admin, "one", json!({})).await + "large.bin";
    let ask = |headers: Vec<(&'static str, String)>| {
        let (nobody, file) = (lab.nobody(), file.clone());
        async move {
            let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
            nobody.call(Method::GET, &file, None, &headers).await
        }
    };
    let whole = ask(vec![]).await;
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    let etag = whole.header("etag").unwrap().to_owned();
    assert!(etag.len() == 66 && etag.starts_with('"'), "{etag}");
    // Within a chunk, over the border of two, the end, and one byte.
    for (first, last) in [(0, 99), (1_048_000, 1_049_000), (1_048_576, 1_048_576), (2_400_000, 2_499_999)] {
        let got = ask(vec![("range", format!("bytes={first}-{last}"))]).await;
        let range = format!("bytes {first}-{last}/2500000");
        assert_eq!(part(&got), (206, Some(range.as_str()), Some((last - first + 1).to_string().as_str())));
        assert!(got.bytes == large[first..=last], "{first}-{last}");
    }
    let end = ask(vec![("range", "bytes=-10".to_owned())]).await;
    assert_eq!(
        (part(&end).1, end.bytes.as_slice()),
        (Some("bytes 2499990-2499999/2500000"), &large[2_499_990..])
    );
    let outside = ask(vec![("range", "bytes=2500000-".to_owned())]).await;
    assert_eq!(outside.header("content-range"), Some("bytes */2500000"));
    outside.refused(416, "range_not_satisfiable");
    for ignored in ["bytes=0-1,4-5", "bytes=5-1", "lines=1-2"] {
        assert_eq!(
            part(&ask(vec![("range", ignored.to_owned())]).await),
            (200, None, Some("2500000")),
            "{ignored}"
        );
    }
    let same = ask(vec![("if-none-match", format!("\"x\", W/{etag}"))]).await;
    assert_eq!((same.status.as_u16(), same.bytes.len(), same.header("etag")), (304, 0, Some(etag.as_str())));
    assert_eq!(ask(vec![("if-none-match", "\"x\"".to_owned())]).await.status, 200);
    let range = ("range", "bytes=0-0".to_owned());
    assert_eq!(ask(vec![range.clone(), ("if-range", etag.clone())]).await.status, 206);
    assert_eq!(ask(vec![range, ("if-range", "\"x\"".to_owned())]).await.status, 200);
    let head = lab.nobody().call(Method::HEAD, &file, None, &[]).await;
    assert_eq!((part(&head), head.bytes.len()), ((200, None, Some("2500000")), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn links_expire_are_revoked_and_cannot_be_made_up() {
    let (lab, admin, _) = at_work().await;
    publish(&admin, json!({"paths": ["/home/agent/report"], "name": "report"})).await;
    publish(&admin, json!({"paths": ["/home/agent/report"], "name": "open", "visibility": "public"})).await;
    let nobody = lab.nobody();
    let short = link(&admin, "report", json!({"expires_in_seconds": 120})).await;
    let long = link(&admin, "report", json!({"expires_in_seconds": 1200})).await;
    assert_eq!(nobody.get(&short).await.status, 200);
    lab.db.clock.advance(Duration::from_secs(121));
    let gone = nobody.get(&short).await.refused(404, "not_found");
    assert!(gone["detail"].as_str().unwrap().contains("expired"), "{gone}");
    assert_eq!(nobody.get(&long).await.status, 200);

    // Without its signature, with a longer life, or for another copy it is none.
    let (slug, rest) = long.strip_prefix("/published/").unwrap().split_once('.').unwrap();
    let (expires, signature) = rest.trim_end_matches('/').split_once('.').unwrap();
    let open = link(&admin, "open", json!({})).await;
    let other = open.strip_prefix("/published/").unwrap().trim_end_matches('/');
    for forged in [
        slug.to_owned(),
        format!("{slug}.{}.{signature}", expires.parse::<u64>().unwrap() + 1),
        format!("{other}.{expires}.{signature}"),
        format!("{slug}.{expires}.{}", "A".repeat(86)),
        "x".to_owned(),
    ] {
        nobody.get(&format!("/published/{forged}/")).await.refused(404, "not_found");
    }
    admin.delete(&format!("{COPIES}/report/links")).await.expect(204);
    nobody.get(&long).await.refused(404, "not_found");
    let fresh = link(&admin, "report", json!({})).await;
    assert_eq!(nobody.get(&fresh).await.status, 200);

    let shown = admin.get(&format!("{COPIES}/open")).await.expect(200);
    assert!(shown["url"].as_str().unwrap().ends_with(&open), "{shown}");
    assert_eq!(nobody.get(&open).await.status, 200);
    admin.delete(&format!("{COPIES}/open")).await.expect(204);
    nobody.get(&open).await.refused(404, "not_found");
    let gone = admin.delete(&format!("{DESK}/publish")).await.expect(200);
    assert_eq!(gone["copies"], 1);
    nobody.get(&fresh).await.refused(404, "not_found");
    assert_eq!(admin.get(COPIES).await.expect(200)["items"], json!([]));
    // Who may only look makes no links and sees none.
    let viewer = lab.actor("vera", &[("viewer", Some("lab"))]).await;
    viewer.post(&format!("{DESK}/publish"), json!({"paths": ["/etc"]})).await.refused(403, "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_secret_is_found_and_nothing_is_published() {
    let (_lab, admin, mut large) = at_work().await;
    let secret = json!({"name": "key", "value": format!("{SECRET}\n")});
    admin.post("/v1/spaces/lab/secrets", secret).await.expect(201);
    // Over the border of two chunks of what is read, deep in a large file.
    large.splice(1_048_570..1_048_570, SECRET.bytes());
    write(&admin, "/home/agent/report/data/large.bin", &large).await;
    let refused = admin.post(&format!("{DESK}/publish"), json!({"paths": ["/home/agent/report"]})).await;
    let problem = refused.refused(409, "invalid_state");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("/home/agent/report/data/large.bin") && detail.contains("secret key"),
        "{detail}"
    );
    assert!(!detail.contains(SECRET));
    sh(&admin, &format!("cd report && rm data/large.bin && touch '{SECRET}.txt'")).await;
    let refused = admin.post(&format!("{DESK}/publish"), json!({"paths": ["/home/agent/report"]})).await;
    refused.refused(409, "invalid_state");
    assert_eq!(admin.get(COPIES).await.expect(200)["items"], json!([]));
    sh(&admin, &format!("rm 'report/{SECRET}.txt'")).await;
    publish(&admin, json!({"paths": ["/home/agent/report"]})).await;
    let audit = admin.get("/v1/audit?verb=publish&limit=100").await.expect(200);
    let made =
        audit["items"].as_array().unwrap().iter().find(|e| e["resource"] == "published").unwrap().clone();
    assert_eq!(made["detail"]["secrets_checked"], 1, "{made}");
    assert!(!audit.to_string().contains(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_left_out_and_what_cannot_be_copied_is_named() {
    let (lab, admin, _) = at_work().await;
    sh(&admin, "cd report && ln -s /etc/passwd outside && ln -s data inside && mkfifo pipe && mkdir none")
        .await;
    let made = publish(&admin, json!({"paths": ["/home/agent/report"], "name": "report"})).await;
    assert_eq!((made["files"].as_u64(), made["left_out"].as_u64()), (Some(4), Some(3)));
    let base = link(&admin, "report", json!({})).await;
    lab.nobody().get(&format!("{base}outside")).await.refused(404, "not_found");

    let two = json!({"paths": ["/home/agent/report/data", "/home/agent/report/index.html"], "name": "two"});
    publish(&admin, two).await;
    let base = link(&admin, "two", json!({})).await;
    assert_eq!(lab.nobody().get(&format!("{base}data/a%20%C3%A4.txt")).await.text(), "äöü");
    for (paths, status, code) in [
        (json!([]), 422, "invalid_field"),
        (json!(["report"]), 422, "invalid_field"),
        (json!(["/"]), 422, "invalid_field"),
        (json!(["/home/../etc"]), 422, "invalid_field"),
        (json!(["/proc/self/environ"]), 422, "invalid_field"),
        (json!(["/run/wharf"]), 422, "invalid_field"),
        (json!(["/home/agent/nothing"]), 422, "invalid_reference"),
        (json!(["/home/agent/report/outside"]), 422, "invalid_reference"),
        (json!(["/home/agent/report/none"]), 422, "invalid_reference"),
        (json!(["/home/agent/report/index.html", "/home/agent/report/index.html"]), 422, "invalid_field"),
    ] {
        let refused = admin.post(&format!("{DESK}/publish"), json!({"paths": paths})).await;
        assert_eq!(refused.refused(status, code)["field"], "paths", "{paths}");
    }
    let taken =
        admin.post(&format!("{DESK}/publish"), json!({"paths": ["/home/agent/report"], "name": "two"})).await;
    taken.refused(409, "already_exists");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_counts_until_it_ends_and_its_bytes_are_swept_after_it() {
    let (lab, admin, large) = at_work().await;
    let before = disk(&admin).await;
    let key = [("idempotency-key", "once")];
    let body = json!({"paths": ["/home/agent/report"], "name": "report", "expires_in_seconds": 7200});
    let path = format!("{DESK}/publish");
    let made = admin.call(Method::POST, &path, Some(body.clone()), &key).await.expect(201);
    let again = admin.call(Method::POST, &path, Some(body), &key).await.expect(201);
    assert_eq!(made["id"], again["id"]);
    assert_eq!(disk(&admin).await, before + 3, "3 MiB begun");
    admin.call(Method::POST, &format!("{DESK}/close"), None, &[]).await.expect(202);
    until(|| async { admin.get(DESK).await.expect(200)["state"] == "closed" }).await;
    // A closed session's files are published too, and the same bytes are kept once.
    publish(&admin, json!({"paths": ["/home/agent/report/data"], "name": "data"})).await;
    assert_eq!(disk(&admin).await, before + 6);

    // What a crash left of a copy on its way: bytes that nothing names.
    let store = lab.store.clone();
    let mut lost = store.blob_writer(1 << 30).await.unwrap();
    lost.write(&large).await.unwrap();
    let sweep = || async { store.system(Actor::Retention).sweep().await.unwrap() };
    assert_eq!(sweep().await.blobs, 0, "it may still be on its way");
    lab.db.clock.advance(Duration::from_secs(3700));
    assert_eq!(sweep().await.blobs, 1);
    let admin = lab.admin().await;
    let base = link(&admin, "report", json!({"expires_in_seconds": 30_000_000})).await;
    let whole = lab.nobody().get(&format!("{base}data/large.bin")).await;
    assert!(whole.bytes == large);

    // Over its time it is gone at once, and swept with the next pass.
    lab.db.clock.advance(Duration::from_secs(3700));
    lab.nobody().get(&base).await.refused(404, "not_found");
    admin.get(&format!("{COPIES}/report")).await.refused(401, "token_expired");
    let admin = lab.admin().await;
    admin.get(&format!("{COPIES}/report")).await.refused(404, "not_found");
    let swept = sweep().await;
    assert_eq!(swept.published, 1);
    assert_eq!(disk(&admin).await, before + 3);
    // Two of its files are the other copy's as well.
    assert_eq!(swept.blobs, 2, "index.html and empty.css");
    let data = link(&admin, "data", json!({})).await;
    assert!(lab.nobody().get(&format!("{data}large.bin")).await.bytes == large);
    admin.delete(&format!("{COPIES}/data")).await.expect(204);
    assert_eq!(disk(&admin).await, before);
    assert_eq!(sweep().await.blobs, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_does_not_fit_the_quota_is_not_made() {
    let (_lab, admin, _) = at_work().await;
    let used = disk(&admin).await;
    admin.patch("/v1/spaces/lab", json!({"quotas": {"disk_mib": used + 2}})).await.expect(200);
    let refused = admin.post(&format!("{DESK}/publish"), json!({"paths": ["/home/agent/report"]})).await;
    assert_eq!(refused.refused(422, "quota_exceeded")["field"], "disk_mib");
    publish(&admin, json!({"paths": ["/home/agent/report/index.html"]})).await;
    assert_eq!(disk(&admin).await, used + 1);
    let refused = admin.delete("/v1/spaces/lab").await;
    assert_eq!(refused.refused(409, "in_use")["code"], "in_use");
}
