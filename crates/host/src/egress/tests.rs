//! The three ways out, against a small gateway of the test's own.
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixListener};

use super::names::Names;
use super::resolver::reply;
use super::{Egress, forward, resolver, transparent};

fn query(name: &str, kind: TYPE) -> Vec<u8> {
    let mut packet = Packet::new_query(7);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new_unchecked(name).into_owned();
    packet.questions.push(Question::new(name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false));
    packet.build_bytes_vec().unwrap()
}

/// Code and the one record of an answer.
fn ask(names: &mut Names, name: &str, kind: TYPE) -> (RCODE, Option<String>) {
    let bytes = reply(names, "harbour", &query(name, kind)).unwrap();
    let packet = Packet::parse(&bytes).unwrap();
    assert_eq!((packet.id(), packet.questions.len()), (7, 1));
    assert!(packet.has_flags(PacketFlag::RESPONSE | PacketFlag::RECURSION_AVAILABLE));
    let data = packet.answers.first().map(|record| match &record.rdata {
        RData::A(a) => Ipv4Addr::from_bits(a.address).to_string(),
        RData::AAAA(a) => std::net::Ipv6Addr::from_bits(a.address).to_string(),
        RData::PTR(ptr) => ptr.0.to_string(),
        other => panic!("{other:?}"),
    });
    (packet.rcode(), data)
}

#[test]
fn names_get_addresses_and_everything_else_is_answered_at_once() {
    let names = &mut Names::default();
    let ok = |text: &str| (RCODE::NoError, Some(text.to_owned()));
    let empty = (RCODE::NoError, None);
    let none = (RCODE::NameError, None);
    assert_eq!(ask(names, "PyPI.org", TYPE::A), ok("198.18.0.2"));
    assert_eq!(ask(names, "pypi.org", TYPE::A), ok("198.18.0.2"));
    assert_eq!(ask(names, "gateway", TYPE::A), ok("198.18.0.3"));
    for kind in [TYPE::AAAA, TYPE::MX, TYPE::TXT, TYPE::SRV, TYPE::HTTPS] {
        assert_eq!(ask(names, "pypi.org", kind), empty, "{kind:?}");
    }
    assert_eq!(ask(names, "localhost", TYPE::A), ok("127.0.0.1"));
    assert_eq!(ask(names, "app.localhost", TYPE::AAAA), ok("::1"));
    assert_eq!(ask(names, "harbour", TYPE::A), ok("127.0.1.1"));
    assert_eq!(ask(names, "harbour", TYPE::AAAA), empty);
    assert_eq!(ask(names, "2.0.18.198.in-addr.arpa", TYPE::PTR), ok("pypi.org"));
    assert_eq!(ask(names, "1.0.0.127.in-addr.arpa", TYPE::PTR), ok("localhost"));
    assert_eq!(ask(names, "1.1.0.127.in-addr.arpa", TYPE::PTR), ok("harbour"));
    let one = format!("1.{}ip6.arpa", "0.".repeat(31));
    assert_eq!(ask(names, &one, TYPE::PTR), ok("localhost"));
    for unknown in ["8.8.8.8.in-addr.arpa", "arpa", "printer.local", "x.invalid", "sp ace.org", "10.0.0.1"] {
        assert_eq!(ask(names, unknown, TYPE::A), none, "{unknown}");
    }
}

#[test]
fn what_is_no_question_is_refused_by_its_kind() {
    let names = &mut Names::default();
    let code =
        |bytes: &[u8]| reply(&mut Names::default(), "h", bytes).map(|b| Packet::parse(&b).unwrap().rcode());
    let mut chaos = query("version.bind", TYPE::TXT);
    *chaos.last_mut().unwrap() = 3;
    assert_eq!(code(&chaos), Some(RCODE::Refused));
    let mut update = query("a.b", TYPE::A);
    update[2] |= 5 << 3;
    assert_eq!(code(&update), Some(RCODE::NotImplemented));
    assert_eq!(code(&query("a.b", TYPE::A)[..14]), Some(RCODE::FormatError));
    assert_eq!(reply(names, "h", b"short"), None);
    let mut answer = query("a.b", TYPE::A);
    answer[2] |= 0x80;
    assert_eq!(reply(names, "h", &answer), None, "two resolvers would talk for ever");
}

proptest! {
    #[test]
    fn no_datagram_makes_the_resolver_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = reply(&mut Names::default(), "h", &bytes);
    }

    #[test]
    fn no_damaged_question_makes_the_resolver_panic(at in 2usize..40, to: u8, cut in 0usize..40) {
        let mut bytes = query("some.host.example.org", TYPE::A);
        let n = bytes.len();
        bytes[at.min(n - 1)] = to;
        bytes.truncate(n - cut.min(n));
        let _ = reply(&mut Names::default(), "h", &bytes);
    }
}

/// A gateway that tunnels to one port, and refuses names that begin with `no`.
fn gateway(socket: &Path, to: SocketAddr) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let (mut first, mut line) = (String::new(), String::new());
                stream.read_line(&mut first).await.unwrap();
                while stream.read_line(&mut line).await.unwrap() > 2 {
                    line.clear();
                }
                if first.starts_with("CONNECT no") {
                    let answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 17\r\n\r\nno.example denied";
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    // Kept open, as a proxy may.
                    let _ = stream.read(&mut [0; 1]).await;
                    return;
                }
                let mut beyond = TcpStream::connect(to).await.unwrap();
                // Server's first words travel with the answer.
                let mut answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
                answer.extend(first.as_bytes());
                stream.write_all(&answer).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut beyond).await;
            });
        }
    })
}

/// Sends back, reversed, all it was sent, once the sender is done.
async fn backwards() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                all.reverse();
                stream.write_all(&all).await.unwrap();
            });
        }
    });
    address
}

fn lab() -> (tempfile::TempDir, Arc<Egress>) {
    let dir = tempfile::tempdir().unwrap();
    let egress = Arc::new(Egress::new(dir.path().join("gateway.sock")));
    (dir, egress)
}

/// A caller whose connection was led to the host on its way to `to`.
async fn led(egress: &Arc<Egress>, to: SocketAddr) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let egress = Arc::clone(egress);
    tokio::spawn(async move { transparent::connection(&egress, stream, to).await });
    caller
}

async fn all_of(mut stream: TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.map(|_| all)
}

#[tokio::test]
async fn a_led_connection_reaches_the_name_it_was_meant_for() {
    let (_dir, egress) = lab();
    let _gateway = gateway(&egress.gateway, backwards().await);
    let address = egress.names().address("files.example.org");
    let mut caller = led(&egress, (address, 443).into()).await;
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    caller.write_all(&sent).await.unwrap();
    caller.shutdown().await.unwrap();
    let got = all_of(caller).await.unwrap();
    let greeting = b"CONNECT files.example.org:443 HTTP/1.1\r\n";
    assert_eq!(&got[..greeting.len()], greeting);
    assert!(got[greeting.len()..].iter().eq(sent.iter().rev()), "{} bytes came back", got.len());

    // Addresses written out go as they are.
    for (to, said) in [
        ("93.184.216.34:80", "93.184.216.34:80"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ("[::ffff:9.9.9.9]:53", "9.9.9.9:53"),
    ] {
        let mut caller = led(&egress, to.parse().unwrap()).await;
        caller.shutdown().await.unwrap();
        assert_eq!(all_of(caller).await.unwrap(), format!("CONNECT {said} HTTP/1.1\r\n").as_bytes());
    }
}

#[tokio::test]
async fn a_refusal_is_a_reset_or_the_gateways_own_words() {
    let (_dir, egress) = lab();
    let _gateway = gateway(&egress.gateway, backwards().await);
    let address = egress.names().address("no.example");
    let caller = led(&egress, (address, 443).into()).await;
    assert_eq!(all_of(caller).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);

    let mut caller = led(&egress, (address, 80).into()).await;
    caller.write_all(b"GET / HTTP/1.1\r\nHost: no.example\r\n\r\n").await.unwrap();
    let mut got = String::new();
    caller.read_to_string(&mut got).await.unwrap();
    assert!(got.starts_with("HTTP/1.1 403 Forbidden") && got.ends_with("no.example denied"), "{got}");

    // An address that nobody was given.
    let caller = led(&egress, "198.19.7.7:80".parse().unwrap()).await;
    assert!(all_of(caller).await.is_err());
}

#[tokio::test]
async fn a_gateway_that_is_away_is_waited_for() {
    let (_dir, egress) = lab();
    let listener = super::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let proxy = listener.local_addr().unwrap();
    tokio::spawn(forward::serve(Arc::clone(&egress), listener));
    let mut caller = TcpStream::connect(proxy).await.unwrap();
    caller.write_all(b"CONNECT late.example:1 HTTP/1.1\r\n\r\nabc").await.unwrap();
    caller.shutdown().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let _gateway = gateway(&egress.gateway, backwards().await);
    let got = String::from_utf8(all_of(caller).await.unwrap()).unwrap();
    assert!(got.starts_with("HTTP/1.1 200 OK\r\n\r\nCONNECT late.example:1"), "{got}");
    assert!(got.ends_with("cba"), "{got}");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_stays_away_is_said_to_be() {
    let (_dir, egress) = lab();
    let listener = super::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let proxy = listener.local_addr().unwrap();
    tokio::spawn(forward::serve(Arc::clone(&egress), listener));
    let mut caller = TcpStream::connect(proxy).await.unwrap();
    caller.write_all(b"GET http://x/ HTTP/1.1\r\n\r\n").await.unwrap();
    let mut got = String::new();
    let _ = caller.read_to_string(&mut got).await;
    assert!(got.starts_with("HTTP/1.1 503 ") && got.contains("gateway does not answer"), "{got}");
    let (head, body) = got.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{got}");
}

#[tokio::test]
async fn both_kinds_of_sockets_of_the_resolver_answer() {
    let (_dir, egress) = lab();
    let socket = super::datagrams("127.0.0.1:0".parse().unwrap()).unwrap();
    let (udp, question) = (socket.local_addr().unwrap(), query("a.example", TYPE::A));
    tokio::spawn(resolver::datagrams(Arc::clone(&egress), socket));
    let caller = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    caller.send_to(b"noise", udp).await.unwrap();
    caller.send_to(&question, udp).await.unwrap();
    let mut answer = [0; 512];
    let n = tokio::time::timeout(Duration::from_secs(5), caller.recv(&mut answer)).await.unwrap().unwrap();
    assert_eq!(Packet::parse(&answer[..n]).unwrap().answers.len(), 1);

    let listener = super::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let tcp = listener.local_addr().unwrap();
    tokio::spawn(resolver::streams(egress, listener));
    let mut caller = TcpStream::connect(tcp).await.unwrap();
    for _ in 0..2 {
        caller.write_u16(question.len() as u16).await.unwrap();
        caller.write_all(&question).await.unwrap();
        let n = caller.read_u16().await.unwrap();
        caller.read_exact(&mut answer[..n.into()]).await.unwrap();
        assert_eq!(Packet::parse(&answer[..n.into()]).unwrap().answers.len(), 1);
    }
}
