#![allow(clippy::unwrap_used)]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn silence_ends_a_relay_and_words_do_not() {
    let (_stopper, stop) = wharf_chassis::lifecycle::Stopper::new();
    let (mut outside, caller) = tokio::io::duplex(64);
    let (mut inside, program) = tokio::io::duplex(64);
    let limit = Duration::from_millis(1500);
    let relay = tokio::spawn(relay(caller, program, limit, stop));
    let begun = Instant::now();
    while begun.elapsed() < limit * 2 {
        tokio::time::sleep(limit / 15).await;
        outside.write_all(b"x").await.unwrap();
        assert_eq!(inside.read_u8().await.unwrap(), b'x');
    }
    assert!(!relay.is_finished());
    tokio::time::timeout(LONG, relay).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_end_of_one_side_is_passed_on_while_the_other_goes_on() {
    let (_stopper, stop) = wharf_chassis::lifecycle::Stopper::new();
    let (mut outside, caller) = tokio::io::duplex(64);
    let (mut inside, program) = tokio::io::duplex(64);
    let relay = tokio::spawn(relay(caller, program, LONG, stop));
    outside.write_all(b"question").await.unwrap();
    outside.shutdown().await.unwrap();
    let mut asked = String::new();
    inside.read_to_string(&mut asked).await.unwrap();
    assert_eq!(asked, "question");
    inside.write_all(b"answer").await.unwrap();
    inside.shutdown().await.unwrap();
    let mut answered = String::new();
    outside.read_to_string(&mut answered).await.unwrap();
    assert_eq!(answered, "answer");
    relay.await.unwrap();
}
