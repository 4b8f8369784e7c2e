use super::*;

#[test]
fn every_topic_survives_the_journey() {
    for topic in [
        Topic::Session(SessionId::new()),
        Topic::SessionLog(SessionId::new()),
        Topic::Space(SpaceId::new()),
        Topic::Audit,
    ] {
        assert_eq!(read(&write(topic)), Some(topic));
    }
    assert_eq!(read(""), None);
    assert_eq!(read("s-not-an-id"), None);
    assert_eq!(read("é"), None);
}
