#![allow(clippy::unwrap_used)]

use super::*;

fn ask() -> Ask {
    Ask {
        service: Service::UploadPack,
        host: "Git.Example.org".into(),
        port: None,
        user: Some("git".into()),
        path: "team/ä 'agent'.git".into(),
        protocol: Some("version=2".into()),
    }
}

#[test]
fn a_request_arrives_as_it_was_sent() {
    let (read, target) = Ask::from_header(&ask().to_header()).unwrap();
    assert_eq!((read, target.to_string()), (ask(), "git.example.org:22".into()));
    let six = Ask { host: "2001:db8::1".into(), port: Some(2222), ..ask() };
    assert_eq!(Ask::from_header(&six.to_header()).unwrap().1.to_string(), "[2001:db8::1]:2222");
}

#[test]
fn what_is_no_request_of_gits_is_refused() {
    for wrong in [
        Ask { path: "-x".into(), ..ask() },
        Ask { path: "a\nb".into(), ..ask() },
        Ask { path: String::new(), ..ask() },
        Ask { host: "a b".into(), ..ask() },
        Ask { host: "127.1".into(), ..ask() },
        Ask { user: Some("-x".into()), ..ask() },
        Ask { port: Some(0), ..ask() },
        Ask { protocol: Some("version=2\nLD_PRELOAD=x".into()), ..ask() },
    ] {
        Ask::from_header(&wrong.to_header()).unwrap_err();
    }
    Ask::from_header("{}").unwrap_err();
    let other = URL_SAFE_NO_PAD.encode(r#"{"service":"sh","host":"a.b","path":"x"}"#);
    Ask::from_header(&other).unwrap_err();
}

#[test]
fn pieces_are_known_by_their_heads() {
    for (kind, length) in
        [(Kind::Data, 0), (Kind::Data, PIECE), (Kind::Errors, 7), (Kind::End, 0), (Kind::Exit, 4)]
    {
        assert_eq!(Kind::of(kind.head(length)), Some((kind, length)));
    }
    for head in [[0, 0, 1, 0, 1], [2, 0, 0, 0, 1], [3, 0, 0, 0, 0], [4, 0, 0, 0, 0], [0xff; 5]] {
        assert_eq!(Kind::of(head), None, "{head:?}");
    }
}
