use super::{Own, own};

#[test]
fn an_address_of_wharfs_own_is_told_from_all_others() {
    let public = "https://wharf.example.com";
    let host = Some("127.0.0.1:7878");
    let ours = Some(Own { space: "lab", repo: "triage" });
    for url in [
        "/git/lab/triage.git",
        "/git/lab/triage",
        "http://127.0.0.1:7878/git/lab/triage.git",
        "https://wharf.example.com/git/lab/triage.git",
    ] {
        assert_eq!(own(url, host, public), ours, "{url}");
    }
    for url in [
        "https://git.example.com/git/lab/triage.git",
        "http://127.0.0.1:7879/git/lab/triage.git",
        "https://wharf.example.com.evil.test/git/lab/triage.git",
        "/srv/triage.git",
        "/git/lab",
        "/git/lab/a/b.git",
        "ssh://127.0.0.1:7878/git/lab/triage.git",
        "git@127.0.0.1:git/lab/triage.git",
    ] {
        assert_eq!(own(url, host, public), None, "{url}");
    }
}
