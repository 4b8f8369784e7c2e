//! What a sandbox can send out: an agent's lines and the host's answers. Nothing in them may stop the reader.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_wire::host::agent::{FromAgent, parse_line};
use wharf_wire::host::{B64, Env, Piece};

fuzz_target!(|bytes: &[u8]| {
    for line in bytes.split(|byte| *byte == b'\n') {
        match parse_line(line) {
            Ok(said) => {
                let text = serde_json::to_vec(&said).expect("what was read can be written");
                let again: FromAgent = parse_line(&text).expect("and read again");
                assert_eq!(serde_json::to_vec(&again).ok(), Some(text));
            }
            // A refusal quotes the line, but never all of a long one.
            Err(why) => assert!(why.len() < 4096, "{} bytes of refusal", why.len()),
        }
    }
    let piece = Piece::from(bytes.to_vec());
    let text = serde_json::to_string(&piece).expect("output can be written");
    let again: Piece = serde_json::from_str(&text).expect("and read again");
    assert_eq!(again.into_bytes(), bytes);
    if let Ok(decoded) = serde_json::from_slice::<B64>(bytes) {
        serde_json::to_string(&decoded).expect("bytes can be written");
    }
    if let Ok(env) = serde_json::from_slice::<Env>(bytes) {
        let _ = env.check();
    }
});
