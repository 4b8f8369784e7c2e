//! Terminals over WebSocket.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::lab::{Lab, SOON};

const DESK: &str = "/v1/spaces/lab/sessions/desk";

struct Viewer {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    screen: String,
}

impl Viewer {
    async fn open(address: std::net::SocketAddr, token: &str, query: &str) -> Self {
        let mut request = format!("ws://{address}{DESK}/terminal?{query}").into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let (socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
        Self { socket, screen: String::new() }
    }

    async fn keys(&mut self, text: &str) {
        self.socket.send(Message::Binary(text.as_bytes().to_vec().into())).await.unwrap();
    }

    /// The next JSON frame; what is on the screen meanwhile is kept.
    async fn told(&mut self) -> Value {
        loop {
            match tokio::time::timeout(SOON, self.socket.next()).await.unwrap().unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(text.as_str()).unwrap(),
                Message::Binary(bytes) => self.screen.push_str(&String::from_utf8_lossy(&bytes)),
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn shows(&mut self, text: &str) {
        while !self.screen.contains(text) {
            match tokio::time::timeout(SOON, self.socket.next()).await.unwrap().unwrap().unwrap() {
                Message::Binary(bytes) => self.screen.push_str(&String::from_utf8_lossy(&bytes)),
                Message::Text(_) | Message::Ping(_) => {}
                other => panic!("{other:?} before {text:?}: {}", self.screen),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_look_at_one_terminal_and_one_comes_back_to_it() {
    let mut lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let address = lab.listen().await;
    let token = admin.token.clone().unwrap();
    let mut first = Viewer::open(address, &token, "cols=100&rows=30&command=cat").await;
    let attached = first.told().await;
    assert_eq!(attached["type"], "attached");
    let id = attached["id"].as_u64().unwrap();
    first.keys("hello\n").await;
    first.shows("hello\r\nhello\r\n").await;
    let mut second = Viewer::open(address, &token, &format!("id={id}")).await;
    assert_eq!(second.told().await["id"], id);
    second.shows("hello\r\nhello\r\n").await;
    second.keys("from two\n").await;
    first.shows("from two\r\nfrom two\r\n").await;

    let size = json!({"type": "resize", "cols": 120, "rows": 40}).to_string();
    second.socket.send(Message::Text(size.into())).await.unwrap();
    let resized = first.told().await;
    assert_eq!((resized["type"].as_str(), resized["cols"].as_u64()), (Some("resize"), Some(120)));

    drop(first);
    drop(second);
    let mut back = Viewer::open(address, &token, &format!("id={id}")).await;
    back.shows("from two\r\nfrom two\r\n").await;
    back.keys("\u{4}").await;
    let exit = loop {
        let told = back.told().await;
        if told["type"] == "exit" {
            break told;
        }
    };
    assert_eq!(exit["exit_code"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_a_websocket_and_says_so() {
    let lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let problem = admin.get(&format!("{DESK}/terminal")).await.refused(422, "invalid_field");
    assert!(problem["detail"].as_str().unwrap().contains("WebSocket"), "{problem}");
    admin.get(&format!("{DESK}/terminal?cols=0")).await.refused(422, "invalid_field");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_who_talks_nonsense_is_told() {
    let mut lab = Lab::at_work().await;
    let admin = lab.admin().await;
    lab.session(&admin, "desk").await;
    let address = lab.listen().await;
    let mut viewer = Viewer::open(address, &admin.token.clone().unwrap(), "command=cat").await;
    viewer.told().await;
    viewer.socket.send(Message::Text("{\"type\": \"dance\"}".into())).await.unwrap();
    let told = viewer.told().await;
    assert_eq!(
        (told["type"].as_str(), told["problem"]["code"].as_str()),
        (Some("error"), Some("bad_request"))
    );
    viewer.keys("still here\n").await;
    viewer.shows("still here").await;
}
