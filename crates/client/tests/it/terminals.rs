//! A terminal over WebSocket, the other side played by a real WebSocket implementation.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message;
use wharf_client::{Client, Credential, Error, TerminalEvent, terminal::Options};

use crate::peer::{Peer, problem};

#[tokio::test]
async fn keys_and_sizes_go_there_and_output_comes_back_until_the_exit() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        socket.send(Message::Text(r#"{"type":"attached","id":3}"#.into())).await.unwrap();
        let mut got = Vec::new();
        while got.len() < 2 {
            got.push(socket.next().await.unwrap().unwrap());
        }
        socket.send(Message::Binary(vec![0xff, b'x'].into())).await.unwrap();
        socket.send(Message::Text(r#"{"type":"exit","exit_code":7}"#.into())).await.unwrap();
        got
    });
    let client = Client::builder(&url).credential(Credential::token("t")).build().unwrap();
    let session = client.space("lab").session("s");
    let mut line = session.terminal(&Options { cols: 80, rows: 24, ..Options::default() }).await.unwrap();
    assert!(matches!(line.next().await.unwrap().unwrap(), TerminalEvent::Attached(3)));
    let mut keys = line.keys().unwrap();
    keys.send(b"ls\r".to_vec()).await.unwrap();
    keys.resize(100, 30).await.unwrap();
    match line.next().await.unwrap().unwrap() {
        TerminalEvent::Output(bytes) => assert_eq!(bytes.as_ref(), [0xff, b'x']),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        line.next().await.unwrap().unwrap(),
        TerminalEvent::Exit { code: Some(7), signal: None }
    ));
    let got = server.await.unwrap();
    assert_eq!(got[0], Message::Binary(b"ls\r".to_vec().into()));
    assert_eq!(got[1], Message::Text(r#"{"type":"resize","cols":100,"rows":30}"#.into()));
}

#[tokio::test]
async fn a_refused_terminal_is_a_problem_like_any_other() {
    let peer = Peer::script(vec![problem(403, "forbidden", false, vec![])]).await;
    let session = peer.client().space("lab").session("s");
    let error = session.terminal(&Options::default()).await.err().unwrap();
    assert!(error.is(wharf_domain::Code::Forbidden));
}

#[tokio::test]
async fn an_answer_that_is_no_websocket_is_refused() {
    let peer = Peer::script(vec![crate::peer::json(200, &serde_json::json!({}))]).await;
    let session = peer.client().space("lab").session("s");
    assert!(matches!(session.terminal(&Options::default()).await, Err(Error::Protocol { .. })));
}

#[tokio::test]
async fn a_desktop_is_bytes_both_ways_until_the_viewer_has_had_enough() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
        let (stream, _) = listener.accept().await.unwrap();
        let mut asked = String::new();
        let look = |request: &Request, response: Response| {
            asked = format!("{} {}", request.uri(), request.headers()["authorization"].to_str().unwrap());
            Ok(response)
        };
        let mut socket = tokio_tungstenite::accept_hdr_async(stream, look).await.unwrap();
        socket.send(Message::Binary(b"RFB 003.008\n".to_vec().into())).await.unwrap();
        let said = socket.next().await.unwrap().unwrap();
        let end = socket.next().await.unwrap().unwrap();
        (asked, said, end)
    });
    let client = Client::builder(&url).credential(Credential::token("t")).build().unwrap();
    let mut tunnel = client.space("lab").session("s").desktop(true).await.unwrap();
    assert_eq!(tunnel.from.next().await.unwrap().unwrap().as_ref(), b"RFB 003.008\n");
    tunnel.to.send(b"RFB 003.008\n".to_vec()).await.unwrap();
    tunnel.to.close().await.unwrap();
    let (asked, said, end) = server.await.unwrap();
    assert_eq!(asked, "/v1/spaces/lab/sessions/s/desktop?mode=view Bearer t");
    assert_eq!(said, Message::Binary(b"RFB 003.008\n".to_vec().into()));
    assert!(end.is_close(), "{end:?}");
}
