//! What the control plane can send to root's process: every frame is taken, refused or waited for, and what is taken
//! comes out of the encoder as the same message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_wire::jailer::{HEADER, MAX_REQUEST, Reply, Request, decode, encode};

fuzz_target!(|bytes: &[u8]| {
    check::<Request>(bytes);
    check::<Reply>(bytes);
    // The header's length is what random bytes never hit; give the same bytes as a body too.
    let mut frame = (bytes.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(bytes);
    check::<Request>(&frame);
    check::<Reply>(&frame);
});

fn check<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(Some((message, taken))) = decode::<T>(bytes, MAX_REQUEST) else { return };
    assert!(taken >= HEADER && taken <= bytes.len());
    // Escapes may make the text longer than it came.
    let frame = encode(&message, 8 * MAX_REQUEST).expect("a decoded message can be encoded");
    let (again, all) = decode::<T>(&frame, 8 * MAX_REQUEST).expect("its frame is one").expect("and whole");
    assert_eq!(again, message);
    assert_eq!(all, frame.len());
}
