#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn tags_read_as_they_were_written_and_those_of_others_do_not() {
    let ours = Names { installation: "one".into() };
    let others = Names { installation: "two".into() };
    let image = ImageRef { name: "base".parse().unwrap(), digest: "d".repeat(64) };
    let (volume, snapshot) = (VolumeId::new(), SnapshotId::new());
    for (tag, meaning) in [
        (ours.image(&image), Tag::Image(image)),
        (ours.volume(volume), Tag::Volume(volume)),
        (ours.snapshot(snapshot), Tag::Snapshot(snapshot)),
    ] {
        assert_eq!(others.read(&tag), None);
        assert_eq!(ours.read(&tag), Some(meaning));
    }
    for foreign in ["busybox:latest", "<none>:<none>", "wharf/one/volume:x", "wharf/one/other:y"] {
        assert_eq!(ours.read(foreign), None, "{foreign}");
    }
}
