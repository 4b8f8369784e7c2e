//! Commands, processes in the background, terminals.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{Computer, Place, SOON, until};
use crate::installation::Socket;

pub async fn a_command_answers_with_what_it_wrote_and_how_it_ended(place: Place) {
    let one = place.session("commands").await;
    let body = json!({ "command": "cat; echo oops >&2; echo $COLOUR; pwd; exit 3", "stdin": "in\n",
        "env": { "COLOUR": "red" }, "cwd": "/tmp" });
    let done = one.post("exec", body).await;
    assert_eq!((&done["exit_code"], &done["timed_out"]), (&json!(3), &json!(false)), "{done}");
    assert_eq!((&done["stdout"], &done["stderr"]), (&json!("in\nred\n/tmp\n"), &json!("oops\n")), "{done}");
    let bytes = one.post("exec", json!({ "argv": ["printf", "\\377"] })).await;
    assert_eq!((&bytes["stdout"], &bytes["stdout_encoding"]), (&json!("/w=="), &json!("base64")), "{bytes}");
    // Its whole process group ends with its time.
    let late = json!({ "command": "sleep 7101 & sleep 7101", "timeout_seconds": 1 });
    assert_eq!(one.post("exec", late).await["timed_out"], true);
    assert_eq!(one.ok("ps | grep -c '[s]leep 7101' || true").await, "0");
    assert_eq!(one.post("exec", json!({ "command": "kill -9 $$" })).await["signal"], 9);
    assert_eq!(one.ok("id -u; id -g; echo $HOME; pwd").await, "1000\n1000\n/home/agent\n/home/agent");
    assert_eq!(one.as_root("id -u; echo $HOME; touch /etc/roots && rm /etc/roots").await, "0\n/root");
    let (status, problem) =
        one.call(Method::POST, "exec", json!({ "argv": ["id"], "user": "nobody-here" })).await;
    assert_eq!(status, 422, "{problem}");
    let (status, problem) = one.call(Method::POST, "exec", json!({ "argv": ["no-such-program"] })).await;
    assert!(status.is_client_error(), "{status}: {problem}");

    let body = json!({ "command": "echo run >> runs; cat runs" });
    for _ in 0..2 {
        let again =
            place.wharf.call(Method::POST, &one.at("exec"), Some(&body), Some("suite-key")).await.unwrap().1;
        assert_eq!(again["stdout"], "run\n", "a command under a key runs once: {again}");
    }
}

pub async fn output_streams_and_a_caller_who_goes_away_ends_the_command(place: Place) {
    let one = place.session("streams").await;
    let open = async |command: &str| {
        let request = place.wharf.request(Method::POST, &one.at("exec")).await;
        let body = json!({ "command": command });
        request.header("accept", "text/event-stream").json(&body).send().await.unwrap()
    };
    let mut answer = open("echo one; while [ ! -e go ]; do sleep 0.05; done; echo two").await;
    let mut seen = String::new();
    read_to(&mut answer, &mut seen, "one\\n").await;
    assert!(!seen.contains("two"), "{seen}");
    one.ok("touch go").await;
    read_to(&mut answer, &mut seen, "event: exit").await;
    assert!(seen.contains("two\\n"), "{seen}");

    let mut answer = open("echo up; sleep 7102").await;
    read_to(&mut answer, &mut seen, "up\\n").await;
    let runs = async || one.ok("ps | grep -c '[s]leep 7102' || true").await;
    until("it sleeps", async || runs().await == "1").await;
    drop(answer);
    until("it ended", async || runs().await == "0").await;
}

async fn read_to(answer: &mut reqwest::Response, seen: &mut String, word: &str) {
    while !seen.contains(word) {
        let piece = tokio::time::timeout(SOON, answer.chunk()).await.unwrap().unwrap();
        let piece = piece.unwrap_or_else(|| panic!("no {word:?} in {seen}"));
        seen.push_str(&String::from_utf8_lossy(&piece));
    }
}

pub async fn a_process_in_the_background_is_read_fed_and_ended(place: Place) {
    let one = place.session("background").await;
    let process = one.post("exec", json!({ "argv": ["cat"], "background": true, "stdin_open": true })).await;
    let at = format!("processes/{}", process["id"]);
    assert_eq!(process["state"], "running", "{process}");
    let given = one.call(Method::POST, &format!("{at}/stdin"), json!({ "data": "first\n" })).await;
    assert_eq!(given.0, 204, "{given:?}");
    let written = async |from: u64| one.get(&format!("{at}/output?offset={from}")).await;
    until("it says the first", async || written(0).await["data"] == "first\n").await;
    one.call(Method::POST, &format!("{at}/stdin"), json!({ "data": "c2Vjb25kCg==", "encoding": "base64" }))
        .await;
    until("it says the second", async || written(6).await["data"] == "second\n").await;
    assert_eq!(written(6).await["next_offset"], 13);
    let ended = one.call(Method::POST, &format!("{at}/signal"), json!({ "signal": "TERM" })).await;
    assert_eq!(ended.0, 204, "{ended:?}");
    until("it ended", async || one.get(&at).await["state"] == "exited").await;
    assert_eq!(one.get(&at).await["signal"], 15);
    assert!(one.get("processes").await["items"].as_array().unwrap().iter().any(|p| p["id"] == process["id"]));
}

struct Viewer {
    socket: Socket,
    screen: String,
}

impl Viewer {
    async fn open(computer: &Computer, query: &str) -> Self {
        let socket = computer.wharf.websocket(&computer.at(&format!("terminal?{query}"))).await;
        Self { socket, screen: String::new() }
    }

    async fn keys(&mut self, text: &str) {
        self.socket.send(Message::Binary(text.as_bytes().to_vec().into())).await.unwrap();
    }

    async fn frame(&mut self) -> Option<Value> {
        match tokio::time::timeout(SOON, self.socket.next()).await.unwrap().unwrap().unwrap() {
            Message::Text(text) => return Some(serde_json::from_str(text.as_str()).unwrap()),
            Message::Binary(bytes) => self.screen.push_str(&String::from_utf8_lossy(&bytes)),
            Message::Ping(_) => {}
            other => panic!("{other:?} after {}", self.screen),
        }
        None
    }

    async fn told(&mut self, kind: &str) -> Value {
        loop {
            if let Some(told) = self.frame().await
                && told["type"] == kind
            {
                return told;
            }
        }
    }

    async fn shows(&mut self, text: &str) {
        while !self.screen.contains(text) {
            self.frame().await;
        }
    }
}

pub async fn a_terminal_is_shared_resized_and_come_back_to(place: Place) {
    let one = place.session("terminal").await;
    let mut first = Viewer::open(&one, "cols=100&rows=30&command=sh").await;
    let id = first.told("attached").await["id"].as_u64().unwrap();
    first.keys("stty size; tty; echo $((40+2))\n").await;
    first.shows("30 100\r\n").await;
    first.shows("/dev/pts/").await;
    first.shows("42\r\n").await;
    let mut second = Viewer::open(&one, &format!("id={id}")).await;
    second.shows("42\r\n").await;
    let size = json!({ "type": "resize", "cols": 120, "rows": 40 }).to_string();
    second.socket.send(Message::Text(size.into())).await.unwrap();
    assert_eq!(first.told("resize").await["cols"], 120);
    second.keys("stty size\n").await;
    first.shows("40 120\r\n").await;
    // A program in front is interrupted, the shell stays.
    second.keys("sleep 7103\n").await;
    until("it sleeps", async || one.ok("ps | grep -c '[s]leep 7103' || true").await == "1").await;
    second.keys("\u{3}").await;
    second.keys("echo st''ill\n").await;
    first.shows("still\r\n").await;
    drop((first, second));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut back = Viewer::open(&one, &format!("id={id}")).await;
    back.shows("still\r\n").await;
    back.keys("exit 5\n").await;
    assert_eq!(back.told("exit").await["exit_code"], 5);
}
