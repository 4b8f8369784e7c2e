#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOjU6fH9v+hiXuGtK0zgvqvLgA5fD8rt7SpPC7zymVg6";
const PRINT: &str = "SHA256:XD4mm1PJhqLACObvMwjWspl0SEWTlFTkfAUcg4S2B6s";

#[test]
fn what_git_asks_its_ssh_program_for_is_read() {
    for (text, service, path) in [
        ("git-upload-pack 'team/agent.git'", Service::UploadPack, "team/agent.git"),
        ("git-receive-pack '/srv/a b.git'", Service::ReceivePack, "/srv/a b.git"),
        ("git-upload-archive '~me/it'\\''s'", Service::UploadArchive, "~me/it's"),
        ("git-upload-pack 'wow'\\!''", Service::UploadPack, "wow!"),
    ] {
        assert_eq!(read_command(text).unwrap(), (service, path.to_owned()), "{text}");
    }
    for text in [
        "",
        "sh",
        "bash -c 'git-upload-pack'",
        "git-upload-pack",
        "git-upload-pack ",
        "git-upload-pack ''",
        "git-upload-pack team/agent.git",
        "git-upload-pack 'a' 'b'",
        "git-upload-pack 'a'; sh",
        "git-upload-pack 'a'\\;'b'",
        "git-upload-pack 'a",
        "git-upload-pack '--exec=sh'",
        "git-upload-pack 'a\nb'",
        "git-upload-packs 'a'",
        "git-lfs-authenticate 'a' download",
        "git upload-pack 'a'",
    ] {
        assert_eq!(read_command(text).unwrap_err().code, Code::InvalidField, "{text}");
    }
}

proptest! {
    #[test]
    fn a_path_comes_out_of_its_quotes_as_it_went_in(path in "[^\\p{Cc}-][^\\p{Cc}]{0,60}") {
        let written = command(Service::UploadPack, &path).unwrap();
        prop_assert_eq!(read_command(&written).unwrap(), (Service::UploadPack, path));
    }

    #[test]
    fn no_command_whatever_is_more_than_a_service_and_a_path(text in "git-(upload|receive)-pack '?[a';$`\\\\ ]{0,20}'?") {
        if let Ok((service, path)) = read_command(&text) {
            prop_assert_eq!(read_command(&command(service, &path).unwrap()).unwrap(), (service, path));
        }
    }
}

#[test]
fn a_shell_reads_one_word_out_of_the_quotes() {
    for path in ["a'b", "$(touch x)", "`id`", "a;b", "a\\'b", "!!", "~root", "ä ö"] {
        let written = command(Service::UploadPack, path).unwrap();
        let words = written.strip_prefix("git-upload-pack ").unwrap();
        let script = format!("printf '%s|' {words}");
        let out = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), format!("{path}|"));
    }
}

#[test]
fn keys_of_servers_are_read_as_people_have_them() {
    for text in [
        ED25519.to_owned(),
        format!("{ED25519} root@forge"),
        format!("  forge.example.org {ED25519}\n"),
        format!("[forge.example.org]:2222,[192.0.2.1]:2222 {ED25519} comment of words"),
        format!("|1|aGVsbG8=|d29ybGQ= {ED25519}"),
    ] {
        let key: HostKey = text.parse().unwrap_or_else(|e: Error| panic!("{text}: {e}"));
        assert_eq!(key.as_str(), ED25519);
        assert_eq!(key.kind(), Some("ssh-ed25519"));
        assert!(key.is(ED25519, "SHA256:other") && !key.is("ssh-ed25519 AAAAother", PRINT));
    }
    for text in [PRINT.to_owned(), format!("{PRINT}=")] {
        let print: HostKey = text.parse().unwrap();
        assert_eq!((print.as_str(), print.kind()), (PRINT, None));
        assert!(print.is("ssh-ed25519 AAAAany", PRINT) && !print.is(ED25519, "SHA256:other"));
    }
}

#[test]
fn what_is_no_key_of_a_server_is_refused_with_what_to_write() {
    let cut = &ED25519[..ED25519.len() - 8];
    for text in [
        "",
        "forge.example.org",
        "SHA256:short",
        "MD5:16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-dss AAAAB3NzaC1kc3MAAACBAOeB",
        cut,
        &format!("ssh-rsa {}", ED25519.split(' ').nth(1).unwrap()),
        &format!("@cert-authority *.example.org {ED25519}"),
        &format!("{ED25519}\n{ED25519}"),
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ] {
        let error = text.parse::<HostKey>().unwrap_err();
        assert_eq!(error.code, Code::InvalidField, "{text}");
        assert!(error.public.contains("ssh-keyscan"), "{text}: {}", error.public);
    }
}

#[test]
fn users_and_versions_of_the_protocol_are_words() {
    for user in ["git", "a.b-c_d", "APKAEIBAERJR2EXAMPLE", "me@corp"] {
        check_user(user).unwrap();
    }
    for user in ["", "-oProxyCommand=x", "a b", "a:b", "ä"] {
        check_user(user).unwrap_err();
    }
    check_protocol("version=2").unwrap();
    for text in ["", "version=2 x", "a\nb"] {
        check_protocol(text).unwrap_err();
    }
}
