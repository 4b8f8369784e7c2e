#![allow(clippy::unwrap_used)]

use super::*;

fn launch() -> Request {
    Request::Launch {
        spec: JailSpec {
            session: SessionId::new(),
            incarnation: 3,
            volume: VolumeSpec {
                volume: VolumeId::new(),
                image: ImageRef { name: "base".parse().unwrap(), digest: "ab".repeat(32) },
                disk_mib: 1024,
                source: Source::Snapshot(SnapshotId::new()),
            },
            resources: Resources::default(),
            hostname: "lab".parse().unwrap(),
            allow_root: true,
        },
    }
}

#[test]
fn a_request_survives_the_wire_and_leaves_the_next_one_alone() {
    let mut bytes = encode(&launch(), MAX_REQUEST).unwrap();
    let first = bytes.len();
    bytes.extend(encode(&Request::Inventory {}, MAX_REQUEST).unwrap());
    let (request, used) = decode::<Request>(&bytes, MAX_REQUEST).unwrap().unwrap();
    assert!(matches!(request, Request::Launch { .. }));
    assert_eq!(used, first);
    let (next, _) = decode::<Request>(&bytes[used..], MAX_REQUEST).unwrap().unwrap();
    assert_eq!(next, Request::Inventory {});
}

#[test]
fn every_prefix_of_a_frame_asks_for_more() {
    let bytes = encode(&launch(), MAX_REQUEST).unwrap();
    for end in 0..bytes.len() {
        assert_eq!(decode::<Request>(&bytes[..end], MAX_REQUEST), Ok(None), "prefix of {end}");
    }
}

#[test]
fn a_frame_over_the_bound_is_refused_by_its_header_alone() {
    let header = (MAX_REQUEST as u32 + 1).to_be_bytes();
    assert!(matches!(decode::<Request>(&header, MAX_REQUEST), Err(Malformed::TooLong { .. })));
    assert!(matches!(encode(&"x".repeat(100), 50), Err(Malformed::TooLong { length: 102, limit: 50 })));
}

#[test]
fn unknown_requests_fields_and_trailing_bytes_are_refused() {
    for body in [
        r#"{"reboot":{}}"#,
        r#"{"inventory":{"of":"everything"}}"#,
        r#"{"hello":{"protocol":1,"token":"x"}}"#,
        r#"{"inventory":{}}{"inventory":{}}"#,
        r#"{"keep_warm":{"image":"../etc","count":1}}"#,
        "",
        "null",
        "\u{0}",
    ] {
        let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
        bytes.extend(body.as_bytes());
        assert!(matches!(decode::<Request>(&bytes, MAX_REQUEST), Err(Malformed::Json(_))), "{body}");
    }
}

#[test]
fn no_bytes_make_the_decoder_panic() {
    // A small linear congruential walk over mutations of a real frame: cheap enough for every run.
    let frame = encode(&launch(), MAX_REQUEST).unwrap();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..20_000 {
        let mut bytes = frame.clone();
        for _ in 0..3 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (seed >> 33) as usize % bytes.len();
            bytes[at] = (seed >> 20) as u8;
        }
        if let Ok(Some((_, used))) = decode::<Request>(&bytes, MAX_REQUEST) {
            assert!(used <= bytes.len());
        }
    }
}
