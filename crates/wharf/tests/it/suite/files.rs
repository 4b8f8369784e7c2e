//! Files of a session, running or closed.

use reqwest::Method;
use serde_json::json;

use super::{PLANT, Place, TREE};

pub async fn files_are_written_read_in_parts_listed_moved_and_deleted(place: Place) {
    let one = place.session("files").await;
    let file = "/home/agent/deep/a.txt";
    assert_eq!(one.put(file, "0123456789").await.0, 404);
    let (status, written) = one.put(&format!("{file}?parents&mode=0600"), "0123456789").await;
    assert!(status.is_success(), "{written}");
    let stat = one.get(&format!("files{file}?stat")).await;
    assert_eq!((&stat["mode"], &stat["kind"]), (&json!("0600"), &json!("file")), "{stat}");
    assert_eq!(one.ok("cat deep/a.txt; stat -c %u:%g deep/a.txt").await, "01234567891000:1000");

    for (range, wanted) in [("bytes=2-4", "234"), ("bytes=-3", "789")] {
        let request = place.wharf.request(Method::GET, &one.at(&format!("files{file}"))).await;
        let part = request.header("range", range).send().await.unwrap();
        assert_eq!(part.status(), 206);
        assert_eq!(part.text().await.unwrap(), wanted);
    }
    for (path, op) in [
        (file, json!({ "op": "chmod", "mode": "0755" })),
        ("/home/agent/new/dir", json!({ "op": "mkdir", "parents": true })),
        (file, json!({ "op": "move", "to": "/home/agent/new/b.txt" })),
    ] {
        let (status, said) = one.call(Method::POST, &format!("files{path}"), op).await;
        assert_eq!(status, 204, "{path}: {said}");
    }
    let list = one.get("files/home/agent/new?list").await;
    let names: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["b.txt", "dir"]);
    let (status, _) = one.call(Method::DELETE, "files/home/agent/new", json!({})).await;
    assert_eq!(status, 409);
    let (status, gone) = one.call(Method::DELETE, "files/home/agent/new?recursive", json!({})).await;
    assert!(status.is_success(), "{gone}");
    assert_eq!(one.ok("ls new 2>&1 | grep -c 'No such file'").await, "1");

    // The machine's own files are not in reach by a link.
    one.ok("ln -s /proc/1/root/etc/shadow shadow; ln -s ../../../../../../../../etc/hostname up").await;
    let machine = std::fs::read_to_string("/etc/hostname").unwrap();
    for link in ["shadow", "up"] {
        let (_, read) = place
            .wharf
            .call(Method::GET, &one.at(&format!("files/home/agent/{link}")), None, None)
            .await
            .unwrap();
        let read = read.as_str().unwrap_or_default().trim().to_owned();
        assert!(!read.contains("root:") && (read.is_empty() || read != machine.trim()), "{link}: {read}");
    }

    let large: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
    assert!(one.put("/home/agent/large", large.clone()).await.0.is_success());
    assert!(one.read("/home/agent/large").await == large);
}

pub async fn a_closed_sessions_files_are_there_and_it_stays_closed(place: Place) {
    let one = place.session("shelf").await;
    one.put("/home/agent/note", "kept").await;
    one.close().await;
    assert_eq!(one.read("/home/agent/note").await, b"kept");
    let (status, said) = one.put("/home/agent/note", "changed").await;
    assert!(status.is_success(), "{said}");
    let list = one.get("files/home/agent?list").await;
    assert!(list["items"].as_array().unwrap().iter().any(|f| f["name"] == "note"), "{list}");
    assert_eq!(one.state().await, "closed");
    one.restore().await;
    assert_eq!(one.ok("cat note").await, "changed");
}

pub async fn a_tree_travels_as_an_archive_with_all_that_is_in_it(place: Place) {
    let (one, two) = (place.session("giver").await, place.session("taker").await);
    one.as_root(PLANT).await;
    let archive = one.read("/opt/tree?tar").await;
    two.as_root("mkdir -p /opt/tree").await;
    let (status, unpacked) = two.put("/opt/tree?tar", archive).await;
    assert!(status.is_success(), "{unpacked}");
    // Contents, modes and links; not who owned it there.
    let look = "cd /opt/tree; find . -type f | sort | while read -r f; do echo \"$f\"; sha256sum < \"$f\"; done; readlink link dangling; find . -type d | sort";
    assert_eq!(two.as_root(look).await, one.as_root(look).await);
    let (status, problem) = two.put("/opt/tree?tar", "this is no archive").await;
    assert_eq!(status, 400, "{problem}");
    assert!(one.as_root(TREE).await.contains("installed"));
}
