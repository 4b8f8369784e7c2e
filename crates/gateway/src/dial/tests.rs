#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Answers with one list after the other, the last one for ever: a name that changes its address.
struct Turning(Vec<Vec<IpAddr>>, AtomicUsize);

#[async_trait::async_trait]
impl Resolve for Turning {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        let n = self.1.fetch_add(1, Ordering::SeqCst);
        Ok(self.0[n.min(self.0.len() - 1)].clone())
    }
}

/// An interface of these stories.
const OWN: &str = "93.184.216.34";

fn machine(addresses: &'static [&'static str]) -> Machine {
    Machine::new(Arc::new(|| Ok(addresses.iter().map(|a| a.parse().unwrap()).collect()))).unwrap()
}

fn dialer(answers: &[&[&str]], exceptions: &[&str]) -> (Dialer, Arc<Turning>) {
    let lists = answers.iter().map(|l| l.iter().map(|a| a.parse().unwrap()).collect()).collect();
    let resolver = Arc::new(Turning(lists, AtomicUsize::new(0)));
    let exceptions = exceptions.iter().map(|e| e.parse().unwrap()).collect();
    (
        Dialer::new(
            resolver.clone(),
            machine(&[OWN, "2606:2800:21f::1"]),
            exceptions,
            Duration::from_secs(2),
        ),
        resolver,
    )
}

fn target(text: &str) -> Target {
    Target::parse(text, Some(80)).unwrap()
}

#[tokio::test]
async fn a_name_that_means_the_machine_is_refused_after_resolution() {
    for answer in
        ["127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fd00:ec2::254", "64:ff9b::a9fe:a9fe"]
    {
        let (dialer, _) = dialer(&[&[answer]], &[]);
        let refusal = dialer.connect(&target("innocent.example")).await.unwrap_err();
        assert_eq!((refusal.reason, refusal.status.as_u16()), ("address", 403), "{answer}");
        assert!(refusal.detail.contains("gateway.allow_private"), "{}", refusal.detail);
    }
    let (dialer, resolver) = dialer(&[&["8.8.8.8"]], &[]);
    assert_eq!(dialer.connect(&target("[::1]:80")).await.unwrap_err().reason, "address");
    assert_eq!(dialer.connect(&target("169.254.169.254")).await.unwrap_err().reason, "address");
    assert_eq!(resolver.1.load(Ordering::SeqCst), 0, "an address was looked up");
}

#[tokio::test]
async fn a_public_address_of_the_machine_is_the_machine() {
    for answer in [OWN, "::ffff:93.184.216.34", "64:ff9b::5db8:d822", "2606:2800:21f::1"] {
        let (dialer, _) = dialer(&[&[answer]], &[]);
        let refusal = dialer.check(&target("me.example")).await.unwrap_err();
        assert_eq!((refusal.reason, refusal.status.as_u16()), ("address", 403), "{answer}");
        assert!(refusal.detail.contains("this machine's own"), "{}", refusal.detail);
        assert!(refusal.detail.contains("gateway.allow_private"), "{}", refusal.detail);
    }
    let (dialer, _) = dialer(&[&["93.184.216.35"]], &[]);
    dialer.check(&target("other.example")).await.unwrap();
    let literal = target(&format!("{OWN}:8080"));
    assert_eq!(dialer.check(&literal).await.unwrap_err().reason, "address");
    let (excepted, _) = self::dialer(&[&[OWN]], &["93.184.216.34:8080"]);
    excepted.check(&literal).await.unwrap();
    assert!(excepted.check(&target("me.example")).await.is_err(), "the exception names a port");
}

#[test]
fn interfaces_are_looked_at_again_and_what_was_known_holds_where_they_cannot_be() {
    let first: IpAddr = OWN.parse().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let turn = asked.clone();
    let machine = Machine::new(Arc::new(move || match turn.fetch_add(1, Ordering::SeqCst) {
        0 => Ok(vec![first]),
        1 => Ok(vec![first, "1.2.3.4".parse().unwrap()]),
        _ => Err(io::Error::other("gone")),
    }))
    .unwrap();
    assert_eq!(machine.addresses()[..], [first]);
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(2050));
        assert_eq!(machine.addresses().len(), 2);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    assert!(Machine::new(Arc::new(|| Err(io::Error::other("gone")))).is_err());
}

#[tokio::test]
async fn a_name_is_resolved_once_and_what_was_judged_is_dialled() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let exception = format!("127.0.0.1:{port}");
    // The second answer would be another loopback address, which is not excepted.
    let (dialer, resolver) = dialer(&[&["127.0.0.1"], &["127.0.0.2"]], &[&exception]);
    let to = target(&format!("turning.example:{port}"));
    let stream = dialer.connect(&to).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap().to_string(), exception);
    assert_eq!(resolver.1.load(Ordering::SeqCst), 1);
    assert_eq!(dialer.connect(&to).await.unwrap_err().reason, "address");
}

#[tokio::test]
async fn of_several_addresses_only_those_allowed_are_tried_and_the_first_that_answers_is_taken() {
    let listener = tokio::net::TcpListener::bind("127.0.0.3:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Nobody listens at the first two; the metadata address is not even tried.
    let (dialer, _) =
        dialer(&[&["127.0.0.1", "127.0.0.2", "169.254.169.254", "127.0.0.3"]], &["127.0.0.0/8"]);
    let stream = dialer.connect(&target(&format!("many.example:{port}"))).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap().ip().to_string(), "127.0.0.3");
}

#[tokio::test]
async fn a_closed_port_and_an_empty_answer_are_said_as_such() {
    let (closed, _) = dialer(&[&["127.0.0.1"]], &["127.0.0.0/8"]);
    let refusal = closed.connect(&target("closed.example:1")).await.unwrap_err();
    assert_eq!((refusal.reason, refusal.status.as_u16()), ("connect", 502));
    let (empty, _) = dialer(&[&[]], &[]);
    let refusal = empty.connect(&target("empty.example:1")).await.unwrap_err();
    assert_eq!((refusal.reason, refusal.status.as_u16()), ("resolve", 502));
}

#[test]
fn families_take_turns() {
    let all: Vec<IpAddr> =
        ["2001::1", "2001::2", "2001::3", "1.1.1.1", "2.2.2.2"].iter().map(|a| a.parse().unwrap()).collect();
    let order: Vec<String> = interleave(all).iter().map(ToString::to_string).collect();
    assert_eq!(order, ["2001::1", "1.1.1.1", "2001::2", "2.2.2.2", "2001::3"]);
}
