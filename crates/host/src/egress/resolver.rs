//! The session's name service: every name gets an address of the session's own, and what it really is the gateway finds out.
//!
//! It asks nobody. IPv6 addresses and other records do not exist here, which is said at once, so that programs go on
//! with what there is.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use simple_dns::rdata::{A, AAAA, OPT, PTR, RData};
use simple_dns::{
    CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Egress;
use super::names::Names;

/// An address keeps its name for as long as a session lives, mostly; see `names`.
const TTL_SECONDS: u32 = 300;
/// Bytes of a question; real ones have less than 300.
const QUESTION_BYTES: usize = 4096;
/// What we would take of a datagram (RFC 6891); answers are far below.
const DATAGRAM: u16 = 1232;
const STREAMS: usize = 16;
const STREAM_IDLE: Duration = Duration::from_secs(5);
/// RFC 1035, 2.3.4, as text.
const NAME_BYTES: usize = 253;
/// Where /etc/hosts has the session's own name.
const OWN: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
/// Names that mean a neighbourhood which a session does not have (RFC 6762, 6761, 7686).
const NOWHERE: [&str; 3] = ["local", "invalid", "onion"];

pub async fn datagrams(egress: Arc<Egress>, socket: UdpSocket) {
    let mut question = vec![0; QUESTION_BYTES];
    loop {
        match socket.recv_from(&mut question).await {
            Ok((n, from)) => {
                if let Some(answer) = answer(&egress, &question[..n]) {
                    // A caller that is gone needs no answer, one that does not hear it asks again.
                    let _ = socket.try_send_to(&answer, from);
                }
            }
            // What a caller's closed port sends back lands here too.
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

pub async fn streams(egress: Arc<Egress>, listener: TcpListener) {
    let slots = Arc::new(Semaphore::new(STREAMS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let egress = Arc::clone(&egress);
        tokio::spawn(async move {
            let _slot = slot;
            let _ = stream_of_questions(&egress, stream).await;
        });
    }
}

async fn stream_of_questions(egress: &Egress, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let length = timeout(STREAM_IDLE, stream.read_u16()).await??;
        let mut question = vec![0; usize::from(length).min(QUESTION_BYTES)];
        timeout(STREAM_IDLE, stream.read_exact(&mut question)).await??;
        let Some(answer) = answer(egress, &question) else { return Ok(()) };
        let whole = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
        timeout(STREAM_IDLE, stream.write_all(&whole)).await??;
    }
}

fn answer(egress: &Egress, question: &[u8]) -> Option<Vec<u8>> {
    let own = rustix::system::uname();
    reply(&mut egress.names(), &own.nodename().to_string_lossy(), question)
}

/// The whole service, but for the sockets. `None`: not a question, so there is nobody to answer.
pub(super) fn reply(names: &mut Names, own_name: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let (id, flags) = (bytes.get(..2)?, bytes.get(2)?);
    let id = u16::from_be_bytes([id[0], id[1]]);
    if flags & 0x80 != 0 || bytes.len() < 12 {
        return None;
    }
    let Ok(asked) = Packet::parse(bytes) else { return failure(id, RCODE::FormatError) };
    if asked.opcode() != OPCODE::StandardQuery {
        return failure(id, RCODE::NotImplemented);
    }
    let [question] = asked.questions.as_slice() else { return failure(id, RCODE::FormatError) };
    let mut packet = Packet::new_reply(id);
    packet.set_flags(PacketFlag::RECURSION_AVAILABLE | PacketFlag::AUTHORITATIVE_ANSWER);
    if asked.has_flags(PacketFlag::RECURSION_DESIRED) {
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    if asked.opt().is_some() {
        *packet.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: DATAGRAM, version: 0 });
    }
    packet.questions.push(question.clone());
    let (rcode, data) = resolve(names, own_name, question);
    *packet.rcode_mut() = rcode;
    packet
        .answers
        .extend(data.map(|data| ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL_SECONDS, data)));
    packet.build_bytes_vec_compressed().ok()
}

fn failure(id: u16, rcode: RCODE) -> Option<Vec<u8>> {
    let mut packet = Packet::new_reply(id);
    *packet.rcode_mut() = rcode;
    packet.build_bytes_vec().ok()
}

fn resolve(names: &mut Names, own_name: &str, question: &Question<'_>) -> (RCODE, Option<RData<'static>>) {
    if !matches!(question.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY) {
        return (RCODE::Refused, None);
    }
    let name = question.qname.to_string().to_ascii_lowercase();
    let name = name.trim_end_matches('.');
    let (four, six) = match question.qtype {
        QTYPE::TYPE(TYPE::A) | QTYPE::ANY => (true, false),
        QTYPE::TYPE(TYPE::AAAA) => (false, true),
        QTYPE::IXFR | QTYPE::AXFR => return (RCODE::Refused, None),
        _ => (false, false),
    };
    let a = |ip: Ipv4Addr| RData::A(A { address: ip.to_bits() });
    let aaaa = |ip: Ipv6Addr| RData::AAAA(AAAA { address: ip.to_bits() });
    let last = name.rsplit('.').next().unwrap_or_default();
    if last == "arpa" {
        return match backwards(names, own_name, name) {
            None => (RCODE::NameError, None),
            Some(found) => {
                let asked = matches!(question.qtype, QTYPE::TYPE(TYPE::PTR) | QTYPE::ANY);
                let data = asked.then(|| Name::new(&found).ok().map(|n| RData::PTR(PTR(n.into_owned()))));
                (RCODE::NoError, data.flatten())
            }
        };
    }
    if last == "localhost" || name == "localhost.localdomain" {
        let data = if four { Some(a(Ipv4Addr::LOCALHOST)) } else { six.then(|| aaaa(Ipv6Addr::LOCALHOST)) };
        return (RCODE::NoError, data);
    }
    if name.eq_ignore_ascii_case(own_name) {
        return (RCODE::NoError, four.then(|| a(OWN)));
    }
    if !is_host_name(name) || NOWHERE.contains(&last) {
        return (RCODE::NameError, None);
    }
    (RCODE::NoError, four.then(|| a(names.address(name))))
}

/// What can stand in a request to the gateway: letters, digits, `-` and `_` between dots, and no address.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= NAME_BYTES
        && name.split('.').all(is_label)
        && name.rsplit('.').next().is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()))
}

/// The name of an address that is asked for as a name.
fn backwards(names: &mut Names, own_name: &str, name: &str) -> Option<String> {
    if let Some(nibbles) = name.strip_suffix(".ip6.arpa") {
        let one = nibbles.starts_with("1.0.0.") && nibbles.len() == 63;
        return (one && nibbles[1..].bytes().all(|b| b == b'0' || b == b'.')).then(|| "localhost".to_owned());
    }
    let parts: Vec<u8> =
        name.strip_suffix(".in-addr.arpa")?.split('.').map(|p| p.parse().ok()).collect::<Option<_>>()?;
    let [d, c, b, a] = parts.as_slice() else { return None };
    let address = Ipv4Addr::new(*a, *b, *c, *d);
    if address == OWN {
        return Some(own_name.to_owned());
    }
    if address.is_loopback() {
        return Some("localhost".to_owned());
    }
    names.name(address).map(|name| name.to_string())
}
