//! What programs in a session reach, with their own real clients: servers on the machine stand for the world beyond, under names
//! that only this installation's resolver knows.

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::beyond::{Beyond, Session};
use crate::installation::{Installation, Outside, Part, Runtime, SPACE, image_archive, possible_on};
use crate::on_every_runtime;

/// In front of a command: it knows no proxy.
const BARE: &str = "env -u http_proxy -u https_proxy -u all_proxy -u HTTP_PROXY -u HTTPS_PROXY -u ALL_PROXY";

/// Talks WebSocket to files.test, through the proxy or as if there were none.
const WEBSOCKET: &str = r#"
import os, socket, sys
port, proxied = int(sys.argv[1]), sys.argv[2] == "proxy"
link = socket.create_connection(("127.0.0.1", 3128) if proxied else ("files.test", port), 10)
stream = link.makefile("rwb")
def head():
    first = stream.readline().decode()
    while stream.readline().strip(): pass
    return first.split()[1]
if proxied:
    stream.write(b"CONNECT files.test:%d HTTP/1.1\r\nHost: files.test:%d\r\n\r\n" % (port, port)); stream.flush()
    assert head() == "200"
stream.write(b"GET /ws HTTP/1.1\r\nHost: files.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"); stream.flush()
assert head() == "101"
for word in [b"ahoy", b"again"]:
    mask = os.urandom(4)
    stream.write(bytes([0x81, 0x80 | len(word)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(word))); stream.flush()
    assert stream.read(2 + len(word))[2:] == word
print("spoken")
"#;

/// Asks files.test, ends its side before there is an answer, and reads it.
const HALF: &str = r#"
import socket, sys
port, way = int(sys.argv[1]), sys.argv[2]
host = b"files.test:%d" % port
rest = b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"
asks = {"bare": b"GET /echo" + rest, "proxy": b"GET http://" + host + b"/echo" + rest,
    "tunnel": b"CONNECT " + host + rest + b"GET /echo" + rest}[way]
link = socket.create_connection(("files.test", port) if way == "bare" else ("127.0.0.1", 3128), 10)
link.sendall(asks)
link.shutdown(socket.SHUT_WR)
answer = b""
while piece := link.recv(65536): answer += piece
print("answered" if b'"method"' in answer else repr(answer))
"#;

on_every_runtime!(real_programs_reach_what_they_may_with_and_without_knowing_proxies);

async fn real_programs_reach_what_they_may_with_and_without_knowing_proxies(runtime: Runtime) {
    let (true, Some(archive)) = (possible_on(runtime), image_archive("base")) else { return };
    let beyond = Beyond::start();
    let wharf = Installation::start_with(&Outside { runtime, ..beyond.outside() }).await;
    wharf.import(&archive, "base").await;
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let session =
        Session::create(&wharf, "one", "base", beyond.network(closed.local_addr().unwrap().port())).await;
    let (plain, secure) = (beyond.plain, beyond.secure);
    let (http, https) = (format!("http://files.test:{plain}"), format!("https://files.test:{secure}"));
    session
        .ok(&format!(
            "cat > /tmp/ca.pem <<'END'\n{}\nEND",
            std::fs::read_to_string(beyond.authority()).unwrap()
        ))
        .await;
    session.ok(&format!("cat > /tmp/ws.py <<'END'\n{WEBSOCKET}\nEND")).await;
    session.ok(&format!("cat > /tmp/half.py <<'END'\n{HALF}\nEND")).await;
    session
        .ok("printf 'deb [trusted=yes] http://files.test:%s/apt ./\\n' \"$PORT\" > /tmp/harbour.list"
            .replace("\"$PORT\"", &plain.to_string())
            .as_str())
        .await;

    // All are tried, so that one run tells of all.
    let mut wrong = Vec::new();
    let fetch = "node -e 'fetch(process.argv[1]).then(r => r.json()).then(j => console.log(j.method))'";
    let urllib = "python3 -c 'import json, sys, urllib.request as u; print(json.load(u.urlopen(sys.argv[1], timeout=20))[\"method\"])'";
    let apt = "apt-get -o Dir::Etc::sourcelist=/tmp/harbour.list -o Dir::Etc::sourceparts=-";
    let pip = format!(
        "pip install -q --no-cache-dir --disable-pip-version-check --index-url {http}/simple --trusted-host files.test"
    );
    let npm = format!(
        "npm install --silent --no-audit --no-fund --cache /tmp/npm-cache --registry {http}/npm/ harbour"
    );
    let ask_npm = "node -p 'require(\"harbour\")'";
    for (script, expected) in [
        (format!("curl -fsS {http}/echo | jq -r .method"), "GET"),
        (format!("curl -fsS -d abc {http}/echo | jq -r .length"), "3"),
        (format!("curl -fsS --cacert /tmp/ca.pem {https}/echo | jq -r .method"), "GET"),
        (format!("{BARE} curl -fsS {http}/echo | jq -r .method"), "GET"),
        (format!("{BARE} curl -fsS --cacert /tmp/ca.pem {https}/echo | jq -r .method"), "GET"),
        (format!("{BARE} curl -fsS http://127.0.0.1:{plain}/ >/dev/null; echo $?"), "7"), // the session's own loopback
        (format!("wget -q -O - {http}/echo | jq -r .method"), "GET"),
        (format!("{urllib} {http}/echo"), "GET"),
        (format!("{BARE} {urllib} {http}/echo"), "GET"),
        (format!("SSL_CERT_FILE=/tmp/ca.pem {BARE} {urllib} {https}/echo"), "GET"),
        // Node's fetch reads no proxy variable.
        (format!("{fetch} {http}/echo"), "GET"),
        (format!("NODE_EXTRA_CA_CERTS=/tmp/ca.pem {fetch} {https}/echo"), "GET"),
        (format!("git clone -q {http}/git/harbour.git /tmp/a && cat /tmp/a/berths"), "7"),
        (format!("GIT_SSL_CAINFO=/tmp/ca.pem git clone -q {https}/git/harbour.git /tmp/b && cat /tmp/b/berths"), "7"),
        (format!("{BARE} git clone -q {http}/git/harbour.git /tmp/c && cat /tmp/c/berths"), "7"),
        (
            "cd /tmp/a && echo 8 > berths && git -c user.name=a -c user.email=a@b.test commit -qam more && git push -q origin HEAD:more && echo pushed".to_owned(),
            "pushed",
        ),
        (format!("{pip} harbour && python3 -c 'import harbour; print(harbour.BERTHS)'"), "7"),
        (format!("{BARE} {pip} --target /tmp/py harbour && cd /tmp/py && python3 -c 'import harbour; print(harbour.BERTHS)'"), "7"),
        (format!("mkdir -p /tmp/n && cd /tmp/n && {npm} && {ask_npm}"), "7"),
        (format!("mkdir -p /tmp/m && cd /tmp/m && {BARE} {npm} && {ask_npm}"), "7"),
        (format!("sudo {apt} update -qq && sudo {apt} install -qqy harbour >/dev/null && cat /usr/share/harbour/berths"), "7"),
        (format!("sudo dpkg -r harbour >/dev/null && sudo env -i PATH=$PATH {apt} install -qqy harbour >/dev/null && cat /usr/share/harbour/berths"), "7"),
        (format!("python3 /tmp/ws.py {plain} proxy"), "spoken"),
        (format!("python3 /tmp/ws.py {plain} bare"), "spoken"),
        (format!("python3 /tmp/half.py {plain} proxy"), "answered"),
        (format!("python3 /tmp/half.py {plain} tunnel"), "answered"),
        (format!("python3 /tmp/half.py {plain} bare"), "answered"),
        ("getent hosts files.test | cut -d' ' -f1".to_owned(), "198.18.0.2"),
        ("getent hosts localhost | grep -c files".to_owned() + " || true", "0"),
        ("curl -fsS http://gateway/ | jq -r .network.egress".to_owned(), "allowlist"),
        (format!("{BARE} curl -fsS http://gateway/ | jq -r .network.egress"), "allowlist"),
    ] {
        let begun = Instant::now();
        let (code, text) = session.run(&script).await;
        if code != 0 || text.lines().last() != Some(expected) {
            wrong.push(format!("{script}\n  {code}, {:?}: {text}", begun.elapsed()));
        }
    }
    // A gigabyte would take long; half a megabyte each way, many at once, whole.
    let many = format!(
        "head -c 500000 /dev/urandom > /tmp/x; for i in $(seq 20); do (curl -fsS --data-binary @/tmp/x {http}/echo | jq -r .length >> /tmp/lengths) & done; wait; sort -u /tmp/lengths | tr '\\n' ' '; wc -l < /tmp/lengths"
    );
    assert_eq!(session.ok(&many).await, "500000 20");

    // What is denied says so, whoever asks, and soon.
    for (script, said) in [
        (format!("curl -sS -f http://denied.test:{plain}/"), "403"),
        (format!("curl -sS http://denied.test:{plain}/ | grep -o denied.test; false"), "denied.test"),
        (format!("curl -sS https://denied.test:{secure}/"), "403"),
        (format!("{BARE} curl -sS -f http://denied.test:{plain}/"), "403"),
        (format!("{BARE} curl -sS https://denied.test:{secure}/"), "reset by peer"),
        (format!("{urllib} http://denied.test:{plain}/echo"), "403"),
        (format!("{BARE} {urllib} https://denied.test:{secure}/echo"), "reset by peer"),
        (format!("{fetch} https://denied.test:{secure}/echo"), "ECONNRESET"),
        (format!("git clone http://denied.test:{plain}/git/harbour.git /tmp/d"), "403"),
        (format!("{BARE} git clone https://denied.test:{secure}/git/harbour.git /tmp/e"), "eset"),
        (
            // It keeps the answer to itself and says what follows from it.
            format!(
                "pip install --retries 0 --no-cache-dir --index-url http://denied.test:{plain}/simple --trusted-host denied.test nothing"
            ),
            "No matching distribution",
        ),
        (
            format!("cd /tmp/n && npm install --no-audit --registry http://denied.test:{plain}/npm/ nothing"),
            "403",
        ),
        (
            format!(
                "printf 'deb [trusted=yes] http://denied.test:{plain}/apt ./\\n' > /tmp/denied.list; sudo apt-get -o Dir::Etc::sourcelist=/tmp/denied.list -o Dir::Etc::sourceparts=- update -o APT::Update::Error-Mode=any"
            ),
            "403",
        ),
    ] {
        let begun = Instant::now();
        let (code, text) = session.run(&script).await;
        if code == 0 || !text.contains(said) || begun.elapsed() > Duration::from_secs(30) {
            wrong.push(format!("{script}\n  {code}, {:?}: {text}", begun.elapsed()));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), wharf.log());
    wharf.finish();
}

on_every_runtime!(nothing_is_reached_but_by_the_gateways_leave);

async fn nothing_is_reached_but_by_the_gateways_leave(runtime: Runtime) {
    let (true, Some(archive)) = (possible_on(runtime), image_archive("base")) else { return };
    let beyond = Beyond::start();
    let mut wharf = Installation::start_with(&Outside { runtime, ..beyond.outside() }).await;
    wharf.import(&archive, "base").await;
    let inner = TcpListener::bind("127.0.0.1:0").unwrap();
    inner.set_nonblocking(true).unwrap();
    let port = inner.local_addr().unwrap().port();
    let plain = beyond.plain;
    {
        let session = Session::create(&wharf, "one", "base", beyond.network(port)).await;
        let get = |url: &str| format!("curl -fsS -m 25 {url}");
        // Everything that runs finds the way, and what the session sets itself wins.
        for (name, value) in [
            ("http_proxy", "http://127.0.0.1:3128"),
            ("HTTPS_PROXY", "http://127.0.0.1:3128"),
            ("ALL_PROXY", "http://127.0.0.1:3128"),
            ("no_proxy", "localhost,127.0.0.1,::1,one"),
        ] {
            assert_eq!(session.ok(&format!("echo ${name}")).await, value, "{name}");
        }
        let body = json!({ "argv": ["sh", "-c", "echo $http_proxy"], "env": { "http_proxy": "mine" } });
        let said = wharf.post(&format!("/v1/spaces/{SPACE}/sessions/one/exec"), body).await;
        assert_eq!(said["stdout"], "mine\n");
        let said = json!({ "content": "echo $http_proxy" });
        let said = wharf.post(&format!("/v1/spaces/{SPACE}/sessions/one/messages?wait=done"), said).await;
        assert_eq!(said["replies"][0]["content"][0]["text"], "http://127.0.0.1:3128\n", "{said}");

        // With a connection the gateway speaks for the host, under the certificate of the space, which the session trusts. The
        // host's own is nobody's: what comes then is the gateway's word for that.
        let secret = format!("curl -sS -o /dev/null -w %{{http_code}} https://files.test:{}/", beyond.secure);
        let (code, text) = session.run(&secret).await;
        assert_eq!(code, 60, "{text}");
        wharf.post("/v1/spaces/lab/secrets", json!({ "name": "key", "value": "let-me-in" })).await;
        let host = format!("files.test:{}", beyond.secure);
        let rule = json!({ "name": "key", "match": { "host": host }, "inject": { "header": "x-key", "secret": "key" } });
        wharf.post("/v1/spaces/lab/connections", rule).await;
        let since = Instant::now();
        while session.run(&secret).await != (0, "502".to_owned()) {
            assert!(since.elapsed() < Duration::from_secs(10), "{:?}", session.run(&secret).await);
        }

        assert!(session.ok(&get(&format!("http://files.test:{plain}/echo"))).await.contains("\"GET\""));
        assert_eq!(session.ok("getent hosts files.test | cut -d' ' -f1").await, "198.18.0.2");
        let bare = format!("{BARE} {}", get(&format!("http://198.18.0.2:{plain}/echo")));
        assert!(session.ok(&bare).await.contains("\"GET\""));

        // Names that lead to private addresses, and such addresses themselves, whatever the list says.
        for url in [
            format!("http://inner.test:{port}/"),
            "http://rebound.test/".to_owned(),
            format!("http://127.0.0.2:{plain}/"),
            "http://169.254.169.254/latest/meta-data/".to_owned(),
            format!("http://denied.test:{plain}/"),
        ] {
            let (code, text) = session.run(&get(&url)).await;
            assert!(code != 0 && text.contains("403"), "{url}: {code} {text}");
        }
        let (code, text) = session.run(&format!("{BARE} {}", get("http://169.254.169.254/latest/"))).await;
        assert!(code != 0 && text.contains("403"), "{code} {text}");
        assert!(inner.accept().is_err(), "a connection arrived where none may");
        // No other protocol leaves, and the machine's own services are not here.
        let send = |kind: &str, to: &str| {
            format!(
                "sudo python3 -c 'import socket as s; s.socket(s.AF_INET, {kind}).sendto(bytes(8), (\"{to}\", 53))' 2>&1 | grep PermissionError && exit 1; true"
            )
        };
        let api = wharf.address.rsplit(':').next().unwrap();
        for attempt in [
            send("s.SOCK_DGRAM", "8.8.8.8"),
            send("s.SOCK_RAW, 1", "8.8.8.8"),
            format!("bash -c 'exec 3<>/dev/tcp/127.0.0.1/{api}'"),
            "touch /run/wharf/gateway/x".to_owned(),
            "ls /run/wharf/gateway".to_owned(),
        ] {
            let (code, text) = session.run(&attempt).await;
            assert_ne!(code, 0, "{attempt}: {text}");
        }

        let none = Session::create(&wharf, "none", "base", json!({ "egress": "none" })).await;
        let (code, text) = none.run(&get(&format!("http://files.test:{plain}/echo"))).await;
        assert!(code != 0 && text.contains("403"), "{code} {text}");
        assert!(none.ok(&get("http://gateway/")).await.contains("\"none\""));
        // Each asks through its own socket.
        assert!(session.ok(&get("http://gateway/")).await.contains("\"one\""));

        // A request made while the gateway is away is answered by the next one.
        let late = get(&format!("http://files.test:{plain}/echo"));
        let waits = format!("sleep 2; for i in 1 2 3 4; do {late} > /tmp/late && break; done");
        let body = json!({ "argv": ["sh", "-c", waits], "background": true });
        wharf.post(&format!("/v1/spaces/{SPACE}/sessions/one/exec"), body).await;
    }
    let control = wharf.parts().into_iter().find(|(part, _)| *part == Part::Control).unwrap().1;
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert!(Command::new("kill").args(["-9", &control.to_string()]).status().unwrap().success());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    wharf.ready().await;
    let session = Session { wharf: &wharf, name: "one" };
    let since = Instant::now();
    while session.run("grep -c GET /tmp/late").await.1 != "1" {
        assert!(
            since.elapsed() < Duration::from_secs(40),
            "the late request was never answered\n{}",
            wharf.log()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Closed and restored, the way is there again.
    wharf.post(&format!("/v1/spaces/{SPACE}/sessions/one/close"), json!({})).await;
    let since = Instant::now();
    while wharf.get(&format!("/v1/spaces/{SPACE}/sessions/one")).await["state"] != "closed" {
        assert!(since.elapsed() < Duration::from_secs(20), "it does not close\n{}", wharf.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    wharf.post(&format!("/v1/spaces/{SPACE}/sessions/one/restore?wait=ready"), json!({})).await;
    assert!(session.ok(&format!("curl -fsS http://files.test:{plain}/echo")).await.contains("\"GET\""));
    wharf.finish();
}
