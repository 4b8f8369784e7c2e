#![allow(clippy::unwrap_used)]

use std::os::unix::net::UnixListener;

use wharf_domain::ssh::Service;

use super::*;

fn line(args: &[&str]) -> Result<Ask, String> {
    read(args.iter().map(ToString::to_string), Some("version=2".into()))
}

#[test]
fn gits_command_line_becomes_a_request() {
    let ask = line(&[
        "-o",
        "SendEnv=GIT_PROTOCOL",
        "-p",
        "2222",
        "git@example.org",
        "git-upload-pack '/team/x.git'",
    ]);
    let expected = Ask {
        service: Service::UploadPack,
        host: "example.org".into(),
        port: Some(2222),
        user: Some("git".into()),
        path: "/team/x.git".into(),
        protocol: Some("version=2".into()),
    };
    assert_eq!(ask.unwrap(), expected);
    let ask = line(&["-4", "2001:db8::1", "git-receive-pack 'x'"]).unwrap();
    assert_eq!((ask.host.as_str(), ask.port, ask.user, ask.protocol), ("2001:db8::1", None, None, None));
    assert_eq!(ask.service, Service::ReceivePack);
}

#[test]
fn whatever_else_ssh_could_do_is_refused() {
    for (args, said) in [
        (&[][..], "started by git"),
        (&["example.org"], "no shell"),
        (&["example.org", "sh"], "\"sh\" is not let out"),
        (&["example.org", "git-upload-pack 'x'", "y"], "no shell"),
        (&["-o", "ProxyCommand=x", "example.org", "git-upload-pack 'x'"], "option -o"),
        (&["-i", "key", "example.org", "git-upload-pack 'x'"], "option -i"),
        (&["-p", "0", "example.org", "git-upload-pack 'x'"], "no port"),
    ] {
        let error = line(args).unwrap_err();
        assert!(error.contains(said), "{args:?}: {error}");
    }
}

/// A gateway that answers with these bytes.
fn gateway(dir: &Path, answer: &'static [u8]) -> PathBuf {
    let socket = dir.join("gateway.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        while head.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        stream.write_all(answer).unwrap();
    });
    socket
}

#[test]
fn what_the_gateway_refuses_is_said_in_its_words_and_what_is_torn_is_no_success() {
    let ask = line(&["git@example.org", "git-upload-pack 'x'"]).unwrap();
    for (answer, said) in [
        (
            &b"HTTP/1.1 403 Forbidden\r\ncontent-length: 27\r\n\r\n{\"detail\": \"no such thing\"}"[..],
            "no such thing",
        ),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "answers HTTP/1.1 404"),
        (b"", "broke the connection off"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "was broken off"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x01\0\0\0\x01", "was broken off"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x07\0\0\0\x01x", "does not keep its protocol"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let error = run(&gateway(dir.path(), answer), &ask).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn the_end_of_git_there_is_its_end_here() {
    let pieces = |code: u32| [&Kind::Exit.head(4)[..], &code.to_be_bytes()].concat();
    for (code, expected) in [(0, 0), (128, 128), (1000, FAILED)] {
        assert_eq!(receive(&mut pieces(code).as_slice()).unwrap(), expected);
    }
}
