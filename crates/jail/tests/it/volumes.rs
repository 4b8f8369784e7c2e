//! Volumes as the launcher and the reconciler use them, on a real btrfs in a real loop file.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use wharf_domain::{SnapshotId, VolumeId};
use wharf_jail::step::Kind;
use wharf_jail::volume::{Driver, DriverChoice, Pool, PoolSettings, Prepared};
use wharf_ports::runtime::{Source, VolumeSpec};

use crate::lab;
use crate::lab::{Lab, OUTSIDE_ROOT, UserNamespace, spec};

const MIB: u64 = 1 << 20;

/// Writes until the disk says no; answers how many MiB went in, or an error that is not the limit.
fn fill(path: &Path) -> Result<u64, String> {
    let full = |error: &std::io::Error| error.raw_os_error() == Some(libc::EDQUOT);
    let mut file = match fs::File::create(path) {
        Err(error) if full(&error) => return Ok(0),
        answer => answer.map_err(|error| error.to_string())?,
    };
    // Not compressible, not zero: what a session would really write.
    let block: Vec<u8> = (0..MIB as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for written in 0..4096 {
        match file.write_all(&block).and_then(|()| file.sync_data()) {
            Ok(()) => {}
            Err(error) if full(&error) => return Ok(written),
            Err(error) => return Err(format!("after {written} MiB: {error}")),
        }
    }
    Err("no limit".to_owned())
}

#[test]
fn the_disk_limit_bites_inside_the_sandbox() {
    let lab = lab!(btrfs);
    let volume = lab.volume(32);
    lab.sandbox(volume, |root| {
        let written = fill(&root.join("big"))?;
        if (28..=32).contains(&written) { Ok(()) } else { Err(format!("{written} MiB of 32 went in")) }
    })
    .unwrap();
    let (used, limit) = lab.pool().usage(volume).unwrap();
    assert_eq!(limit, 32 * MIB);
    assert!(used > 28 * MIB && used <= limit, "{used} of {limit}");
}

#[test]
fn a_full_session_comes_back_and_can_delete() {
    let lab = lab!(btrfs);
    let volume = lab.volume(24);
    lab.sandbox(volume, |root| fill(&root.join("big")).map(drop)).unwrap();
    lab.pool().sync(volume).unwrap();
    lab.sandbox(volume, |root| {
        fs::remove_file(root.join("big")).map_err(|error| format!("delete: {error}"))?;
        Ok(())
    })
    .unwrap();
    lab.pool().sync(volume).unwrap();
    lab.sandbox(volume, |root| {
        fs::write(root.join("small"), vec![7; 1 << 20]).map_err(|error| error.to_string())
    })
    .unwrap();
}

#[test]
fn a_full_session_forks_and_its_limit_changes() {
    let lab = lab!(btrfs);
    let volume = lab.volume(24);
    // Not synced: the bytes are held against the limit before they are counted.
    lab.sandbox(volume, |root| {
        fs::write(root.join("big"), vec![7; 64 << 20]).err().map(drop).ok_or_else(|| "no limit".to_owned())
    })
    .unwrap();
    let snapshot = SnapshotId::new();
    let bytes = lab.pool().snapshot(volume, snapshot).unwrap();
    assert!(bytes > 16 * MIB, "{bytes}");
    lab.sandbox(volume, |_| Ok(())).unwrap();
    let written = |lab: &Lab, volume| {
        lab.sandbox(volume, |root| fill(&root.join("more")).map(drop)).unwrap();
        lab.pool().sync(volume).unwrap();
        lab.pool().usage(volume).unwrap().0
    };
    assert!(written(&lab, volume) <= 24 * MIB, "the lent room was not taken back");
    lab.pool().set_quota(volume, 32).unwrap();
    assert!(written(&lab, volume) > 26 * MIB);
    let fork = lab.fork(snapshot, 32).unwrap();
    lab.sandbox(fork, |root| fs::write(root.join("x"), vec![1; 1 << 20]).map_err(|error| error.to_string()))
        .unwrap();
}

#[test]
fn one_session_at_its_limit_does_not_stop_another() {
    let lab = lab!(btrfs);
    let (full, other) = (lab.volume(16), lab.volume(16));
    lab.sandbox(full, |root| fill(&root.join("big")).map(drop)).unwrap();
    lab.sandbox(other, |root| fs::write(root.join("x"), vec![1; 8 << 20]).map_err(|error| error.to_string()))
        .unwrap();
}

#[test]
fn root_inside_owns_what_it_writes_and_is_nobody_outside() {
    let lab = lab!(btrfs);
    let volume = lab.volume(64);
    lab.sandbox(volume, |root| {
        let said = |error: std::io::Error| error.to_string();
        if fs::read_to_string(root.join("etc/motd")).map_err(said)? != "from the image\n" {
            return Err("the image does not show".to_owned());
        }
        fs::write(root.join("etc/motd"), "changed").map_err(said)?;
        fs::write(root.join("mine"), "x").map_err(said)?;
        std::os::unix::fs::chown(root.join("mine"), Some(1000), Some(1000)).map_err(said)?;
        fs::remove_file(root.join("usr/bin/tool")).map_err(said)?;
        let owner = fs::metadata(root.join("etc")).map_err(said)?.uid();
        if owner == 0 { Ok(()) } else { Err(format!("/etc is of {owner}")) }
    })
    .unwrap();
    assert_eq!(fs::metadata(lab.upper(volume, "etc/motd")).unwrap().uid(), 0);
    assert_eq!(fs::metadata(lab.upper(volume, "mine")).unwrap().uid(), 1000);
    let image = lab.image();
    let rootfs = lab.settings.data_dir.join(format!("images/plain/{}/rootfs", image.digest));
    assert_eq!(fs::read(rootfs.join("etc/motd")).unwrap(), b"from the image\n");
    assert!(rootfs.join("usr/bin/tool").exists());
    assert_ne!(OUTSIDE_ROOT, 0);
}

#[test]
fn programs_run_from_image_and_volume() {
    let lab = lab!(btrfs);
    let volume = lab.volume(64);
    lab.sandbox(volume, |root| {
        let said = |error: std::io::Error| error.to_string();
        fs::copy("/bin/true", root.join("true")).map_err(said)?;
        fs::set_permissions(root.join("true"), fs::Permissions::from_mode(0o755)).map_err(said)?;
        let status = std::process::Command::new(root.join("true")).status().map_err(said)?;
        if status.success() { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
}

#[test]
fn the_same_volume_twice_is_one_volume_and_a_different_one_is_refused() {
    let lab = lab!(btrfs);
    let (image, other) = (lab.image(), lab.image_of("other", b"other\n"));
    let volume = VolumeId::new();
    assert_eq!(lab.pool().prepare(&spec(volume, &image, 64)).unwrap(), Prepared::Made);
    fs::write(lab.upper(volume, "kept"), "x").unwrap();
    assert_eq!(lab.pool().prepare(&spec(volume, &image, 64)).unwrap(), Prepared::Existed);
    assert!(lab.upper(volume, "kept").exists());
    assert_eq!(lab.pool().prepare(&spec(volume, &image, 128)).unwrap(), Prepared::Existed);
    assert_eq!(lab.pool().usage(volume).unwrap().1, 128 * MIB);
    let refused = lab.pool().prepare(&spec(volume, &other, 64)).unwrap_err();
    assert_eq!(refused.kind, Kind::Refused, "{refused}");
    assert_eq!(lab.pool().volumes().unwrap(), [volume]);
}

#[test]
fn a_volume_without_its_image_is_refused_and_leaves_nothing() {
    let lab = lab!(btrfs);
    let mut image = lab.image();
    for digest in ["0".repeat(64), "../../etc".to_owned()] {
        image.digest = digest;
        let refused = lab.pool().prepare(&spec(VolumeId::new(), &image, 64)).unwrap_err();
        assert_eq!(refused.kind, Kind::Refused, "{refused}");
    }
    assert!(lab.pool().volumes().unwrap().is_empty());
}

#[test]
fn a_limit_grows_and_shrinks_but_not_below_what_is_held() {
    let lab = lab!(btrfs);
    let volume = lab.volume(16);
    lab.sandbox(volume, |root| fill(&root.join("big")).map(drop)).unwrap();
    lab.pool().sync(volume).unwrap();
    let refused = lab.pool().set_quota(volume, 8).unwrap_err();
    assert_eq!(refused.kind, Kind::Refused, "{refused}");
    lab.pool().set_quota(volume, 32).unwrap();
    lab.sandbox(volume, |root| {
        let written = fill(&root.join("more"))?;
        if (12..=16).contains(&written) { Ok(()) } else { Err(format!("{written} MiB more")) }
    })
    .unwrap();
    assert_eq!(lab.pool().set_quota(VolumeId::new(), 8).unwrap_err().kind, Kind::Missing);
}

#[test]
fn a_snapshot_shares_its_extents_and_a_fork_goes_its_own_way() {
    let lab = lab!(btrfs);
    let volume = lab.volume(512);
    fs::write(lab.upper(volume, "big"), vec![5_u8; 64 << 20]).unwrap();
    fs::write(lab.upper(volume, "note"), "before").unwrap();
    let snapshot = SnapshotId::new();
    let before = lab.pool().space().unwrap().pool_free;
    let bytes = lab.pool().snapshot(volume, snapshot).unwrap();
    assert!((64 * MIB..70 * MIB).contains(&bytes), "{bytes}");
    let taken = before.saturating_sub(lab.pool().space().unwrap().pool_free);
    // The file's own bytes may only now have gone to the disk; a copy would have taken them twice.
    assert!(taken < 100 * MIB, "a snapshot of 64 MiB took {taken}");
    fs::write(lab.upper(volume, "note"), "after").unwrap();

    let free = lab.pool().space().unwrap().pool_free;
    let fork = lab.fork(snapshot, 512).unwrap();
    assert!(free - lab.pool().space().unwrap().pool_free < 8 * MIB);
    assert_eq!(fs::read_to_string(lab.upper(fork, "note")).unwrap(), "before");
    assert_eq!(fs::metadata(lab.upper(fork, "big")).unwrap().len(), 64 << 20);
    fs::write(lab.upper(fork, "note"), "the fork's").unwrap();
    assert_eq!(fs::read_to_string(lab.upper(volume, "note")).unwrap(), "after");

    lab.pool().delete_volume(volume).unwrap();
    lab.pool().delete_snapshot(snapshot).unwrap();
    lab.sandbox(fork, |root| {
        let note = fs::read_to_string(root.join("note")).map_err(|error| error.to_string())?;
        if note == "the fork's" { Ok(()) } else { Err(note) }
    })
    .unwrap();
}

#[test]
fn the_same_snapshot_twice_is_one_and_of_another_volume_is_refused() {
    let lab = lab!(btrfs);
    let (volume, other) = (lab.volume(64), lab.volume(64));
    fs::write(lab.upper(volume, "note"), "first").unwrap();
    let snapshot = SnapshotId::new();
    let bytes = lab.pool().snapshot(volume, snapshot).unwrap();
    fs::write(lab.upper(volume, "note"), "second").unwrap();
    assert_eq!(lab.pool().snapshot(volume, snapshot).unwrap(), bytes);
    let fork = lab.fork(snapshot, 64).unwrap();
    assert_eq!(fs::read_to_string(lab.upper(fork, "note")).unwrap(), "first");
    assert_eq!(lab.pool().snapshot(other, snapshot).unwrap_err().kind, Kind::Refused);
    assert_eq!(lab.pool().snapshots().unwrap(), [snapshot]);
    assert!(fs::write(lab.inside(&format!("snapshots/{snapshot}/upper/note")), "no").is_err());
}

#[test]
fn a_fork_cannot_escape_the_limit_through_its_inheritance() {
    let lab = lab!(btrfs);
    let volume = lab.volume(64);
    fs::write(lab.upper(volume, "big"), vec![5_u8; 40 << 20]).unwrap();
    let snapshot = SnapshotId::new();
    lab.pool().snapshot(volume, snapshot).unwrap();
    let refused = lab.fork(snapshot, 32).unwrap_err();
    assert_eq!(refused.kind, Kind::Refused, "{refused}");
    let fork = lab.fork(snapshot, 64).unwrap();
    lab.pool().delete_volume(volume).unwrap();
    lab.pool().delete_snapshot(snapshot).unwrap();
    lab.sandbox(fork, |root| {
        let written = fill(&root.join("more"))?;
        if (18..=24).contains(&written) { Ok(()) } else { Err(format!("{written} MiB over 40 of 64")) }
    })
    .unwrap();
}

#[test]
fn what_was_deleted_on_the_way_does_not_count_against_a_fork() {
    let lab = lab!(btrfs);
    let volume = lab.volume(64);
    for round in 0..3 {
        fs::write(lab.upper(volume, "scratch"), vec![round; 16 << 20]).unwrap();
        lab.pool().sync(volume).unwrap();
        lab.pool().snapshot(volume, SnapshotId::new()).unwrap();
        fs::remove_file(lab.upper(volume, "scratch")).unwrap();
    }
    let last = SnapshotId::new();
    lab.pool().snapshot(volume, last).unwrap();
    let fork = lab.fork(last, 64).unwrap();
    let (used, _) = lab.pool().usage(fork).unwrap();
    assert!(used < 2 * MIB, "an empty fork is charged {used}");
}

#[test]
fn a_warm_volume_becomes_a_sessions() {
    let lab = lab!(btrfs);
    let (warm, session, other) = (lab.volume(64), VolumeId::new(), lab.volume(64));
    fs::write(lab.upper(warm, "x"), "x").unwrap();
    lab.pool().rename(warm, session).unwrap();
    lab.pool().rename(warm, session).unwrap();
    assert!(lab.upper(session, "x").exists());
    assert_eq!(lab.pool().rename(other, session).unwrap_err().kind, Kind::InUse);
    assert_eq!(lab.pool().rename(warm, VolumeId::new()).unwrap_err().kind, Kind::Missing);
    lab.sandbox(session, |root| fill(&root.join("big")).map(drop)).unwrap();
}

#[test]
fn a_volume_renamed_under_a_running_sandbox_stays_its_root() {
    let lab = lab!(btrfs);
    let (warm, session) = (lab.volume(64), VolumeId::new());
    let namespace = UserNamespace::new();
    let mounts = lab.pool().mounts(warm, std::os::fd::AsFd::as_fd(&namespace.fd)).unwrap();
    lab.pool().rename(warm, session).unwrap();
    let work =
        rustix::fs::openat(&mounts.upper, "upper", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
    assert!(work.is_ok());
    assert_eq!(
        lab.pool().mounts(warm, std::os::fd::AsFd::as_fd(&namespace.fd)).unwrap_err().kind,
        Kind::Missing
    );
}

#[test]
fn deleting_twice_succeeds() {
    let lab = lab!(btrfs);
    let volume = lab.volume(64);
    let snapshot = SnapshotId::new();
    lab.pool().snapshot(volume, snapshot).unwrap();
    for _ in 0..2 {
        lab.pool().delete_volume(volume).unwrap();
        lab.pool().delete_snapshot(snapshot).unwrap();
    }
    assert!(lab.pool().volumes().unwrap().is_empty() && lab.pool().snapshots().unwrap().is_empty());
    let missing = lab.fork(snapshot, 64).unwrap_err();
    assert_eq!(missing.kind, Kind::Missing);
}

#[test]
fn an_image_in_use_is_not_deleted() {
    let lab = lab!(btrfs);
    let image = lab.image();
    let volume = lab.volume(64);
    let snapshot = SnapshotId::new();
    lab.pool().snapshot(volume, snapshot).unwrap();
    assert_eq!(lab.pool().images().unwrap()[0].used_by, 2);
    assert_eq!(lab.pool().image_delete(&image).unwrap_err().kind, Kind::InUse);
    lab.pool().delete_volume(volume).unwrap();
    assert_eq!(lab.pool().image_delete(&image).unwrap_err().kind, Kind::InUse);
    lab.pool().delete_snapshot(snapshot).unwrap();
    lab.pool().image_delete(&image).unwrap();
    lab.pool().image_delete(&image).unwrap();
    assert!(lab.pool().images().unwrap().is_empty());
}

#[test]
fn after_a_crash_everything_finished_is_there_and_nothing_half_made() {
    let mut lab = lab!(btrfs);
    let image = lab.image();
    let volume = lab.volume(64);
    fs::write(lab.upper(volume, "kept"), "x").unwrap();
    let (snapshot, half_made) = (SnapshotId::new(), VolumeId::new());
    lab.pool().snapshot(volume, snapshot).unwrap();
    let half_image = lab.settings.data_dir.join("images/plain/.tmp-1-2/rootfs");
    lab.killed_while(|lab| {
        // Cut short at every point: made but not described, described but not named, retired but not removed.
        fs::create_dir(lab.inside(&format!("volumes/.tmp-{}", VolumeId::new()))).unwrap();
        fs::create_dir(lab.inside(&format!("volumes/{}", VolumeId::new()))).unwrap();
        fs::create_dir_all(lab.inside(&format!("snapshots/.dead-{}/upper/deep", SnapshotId::new()))).unwrap();
        lab.pool().prepare(&spec(half_made, &image, 64)).unwrap();
        fs::rename(
            lab.inside(&format!("volumes/{half_made}")),
            lab.inside(&format!("volumes/.tmp-{half_made}")),
        )
        .unwrap();
        fs::create_dir_all(&half_image).unwrap();
    });

    assert_eq!(lab.pool().volumes().unwrap(), [volume]);
    assert_eq!(lab.pool().snapshots().unwrap(), [snapshot]);
    assert_eq!(fs::read_dir(lab.inside("volumes")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(lab.inside("snapshots")).unwrap().count(), 1);
    assert!(!half_image.exists());
    assert_eq!(fs::read_to_string(lab.upper(volume, "kept")).unwrap(), "x");
    assert_eq!(lab.loops().len(), 1, "{:?}", lab.loops());
    lab.pool().prepare(&spec(half_made, &image, 64)).unwrap();
    lab.sandbox(half_made, |root| fill(&root.join("big")).map(drop)).unwrap();
}

#[test]
fn a_sandbox_outlives_the_jailer_and_the_next_one_finds_the_same_pool() {
    let mut lab = lab!(btrfs);
    let volume = lab.volume(64);
    let namespace = UserNamespace::new();
    let mounts = lab.pool().mounts(volume, std::os::fd::AsFd::as_fd(&namespace.fd)).unwrap();
    lab.close();
    // The sandbox still holds its mount, so the device is still attached: it must be found, not attached twice.
    assert_eq!(lab.loops().len(), 1);
    let upper =
        rustix::fs::openat(&mounts.upper, "upper", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty())
            .unwrap();
    lab.reopen();
    assert_eq!(lab.loops().len(), 1);
    rustix::fs::mkdirat(&upper, "by-the-sandbox", rustix::fs::Mode::from_raw_mode(0o755)).unwrap_err();
    fs::create_dir(lab.upper(volume, "by-the-jailer")).unwrap();
    assert!(rustix::fs::statat(&upper, "by-the-jailer", rustix::fs::AtFlags::empty()).is_ok());
}

#[test]
fn a_pool_survives_closing_grows_and_never_shrinks() {
    let mut lab = lab!(btrfs);
    let volume = lab.volume(64);
    fs::write(lab.upper(volume, "kept"), "x").unwrap();
    let small = lab.pool().space().unwrap().pool_total;
    lab.settings.loop_size_mib = Some(1536);
    lab.reopen();
    assert!(lab.pool().space().unwrap().pool_total > small);
    assert_eq!(fs::read_to_string(lab.upper(volume, "kept")).unwrap(), "x");
    lab.settings.loop_size_mib = Some(512);
    lab.reopen();
    assert!(lab.pool().space().unwrap().pool_total > small);
    assert_eq!(lab.pool().usage(volume).unwrap().1, 64 * MIB);
}

#[test]
fn two_jailers_do_not_share_a_pool() {
    let lab = lab!(btrfs);
    let refused = Pool::open(&lab.settings).map(drop).unwrap_err();
    assert!(refused.to_string().contains("another process"), "{refused}");
}

#[test]
fn nothing_new_begins_when_the_pool_is_nearly_full() {
    let mut lab = lab!(btrfs);
    lab.close();
    fs::remove_file(lab.settings.data_dir.join("pool.btrfs")).unwrap();
    lab.settings.loop_size_mib = Some(256);
    lab.reopen();
    let volume = lab.volume(4096);
    let mut file = fs::File::create(lab.upper(volume, "big")).unwrap();
    while file.write_all(&vec![3; 4 << 20]).and_then(|()| file.sync_data()).is_ok() {}
    let refused = lab.pool().prepare(&spec(VolumeId::new(), &lab.image(), 16)).unwrap_err();
    assert_eq!(refused.kind, Kind::Refused);
    assert!(refused.to_string().contains("nearly full"), "{refused}");
}

#[test]
fn the_pool_is_seen_by_nobody_else() {
    let lab = lab!(btrfs);
    let mounts = fs::read_to_string("/proc/1/mounts").unwrap();
    assert!(!mounts.contains(&*lab.dir.to_string_lossy()));
    assert_eq!(fs::metadata(&lab.settings.data_dir).unwrap().mode() & 0o7777, 0o700);
    let own = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    let line = own.lines().find(|line| line.contains("/pool btrfs")).unwrap();
    for flag in ["nosuid", "nodev", "noexec"] {
        assert!(line.contains(flag), "{line}");
    }
}

#[test]
fn deleted_volumes_leave_no_quota_groups() {
    let lab = lab!(btrfs);
    for _ in 0..5 {
        let volume = lab.volume(64);
        lab.pool().delete_volume(volume).unwrap();
    }
    let kept = lab.volume(64);
    assert!(groups(&lab) >= 6);
    // The space is freed in the background at the file system's commits; half a minute apart, but for this test.
    let pool = lab.inside("");
    rustix::mount::mount_remount(&pool, rustix::mount::MountFlags::NOATIME, c"commit=1").unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while groups(&lab) > 2 && std::time::Instant::now() < until {
        lab.pool().sync(kept).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(groups(&lab) <= 2, "{} groups", groups(&lab));
}

fn groups(lab: &Lab) -> usize {
    let device = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    let device = device.lines().rfind(|line| line.contains(&*lab.dir.to_string_lossy())).unwrap();
    let device = device.split(' ').next().unwrap().trim_start_matches("/dev/").to_owned();
    for entry in fs::read_dir("/sys/fs/btrfs").unwrap().flatten() {
        if entry.path().join("devices").join(&device).exists() {
            let list = fs::read_dir(entry.path().join("qgroups")).unwrap().flatten();
            return list.filter(|group| group.file_name().to_string_lossy().starts_with("0_")).count();
        }
    }
    panic!("no file system on {device}");
}

#[test]
fn plain_directories_refuse_limits_unless_the_operator_waives_them() {
    let lab = lab!(with, DriverChoice::Directory, false);
    assert_eq!(lab.pool().driver(), Driver::Directory);
    assert!(!lab.pool().limits_disk());
    let refused = lab.pool().prepare(&spec(VolumeId::new(), &lab.image(), 64)).unwrap_err();
    assert_eq!(refused.kind, Kind::Refused);
    assert!(refused.to_string().contains("disk limit"), "{refused}");
}

#[test]
fn plain_directories_fork_by_copying_everything() {
    let lab = lab!(directory);
    let volume = lab.volume(64);
    let file = lab.upper(volume, "file");
    fs::write(&file, "before").unwrap();
    std::os::unix::fs::chown(&file, Some(1000), Some(7)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(&file, lab.upper(volume, "same")).unwrap();
    std::os::unix::fs::symlink("/nowhere", lab.upper(volume, "link")).unwrap();
    rustix::fs::setxattr(&file, "user.note", b"kept", rustix::fs::XattrFlags::empty()).unwrap();
    let mut sparse = fs::File::create(lab.upper(volume, "sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    sparse.write_all(b"head").unwrap();

    let snapshot = SnapshotId::new();
    lab.pool().snapshot(volume, snapshot).unwrap();
    fs::write(&file, "after").unwrap();
    let fork = lab.fork(snapshot, 64).unwrap();
    let copied = fs::metadata(lab.upper(fork, "file")).unwrap();
    assert_eq!(fs::read_to_string(lab.upper(fork, "file")).unwrap(), "before");
    assert_eq!((copied.uid(), copied.gid(), copied.mode() & 0o7777, copied.nlink()), (1000, 7, 0o4751, 2));
    assert_eq!(fs::read_link(lab.upper(fork, "link")).unwrap(), Path::new("/nowhere"));
    let mut note = [0_u8; 4];
    rustix::fs::getxattr(lab.upper(fork, "file"), "user.note", &mut note[..]).unwrap();
    assert_eq!(&note, b"kept");
    let sparse = fs::metadata(lab.upper(fork, "sparse")).unwrap();
    assert_eq!(sparse.len(), 1 << 30);
    assert!(sparse.blocks() < 1024, "{} blocks", sparse.blocks());
    lab.sandbox(fork, |root| fs::write(root.join("etc/new"), "x").map_err(|error| error.to_string()))
        .unwrap();
}

#[test]
fn plain_directories_are_swept_and_kept_apart_from_btrfs() {
    let mut lab = lab!(directory);
    let volume = lab.volume(64);
    // Deeper than any descriptor limit, as a session could leave it.
    let mut deep = lab.upper(volume, "d");
    for _ in 0..40 {
        fs::create_dir_all(&deep).unwrap();
        for _ in 0..20 {
            deep.push("d");
        }
    }
    let gone = lab.volume(64);
    lab.killed_while(|lab| {
        fs::rename(lab.inside(&format!("volumes/{gone}")), lab.inside(&format!("volumes/.dead-{gone}")))
            .unwrap();
    });
    assert_eq!(lab.pool().volumes().unwrap(), [volume]);
    lab.pool().delete_volume(volume).unwrap();
    assert!(!lab.inside(&format!("volumes/.dead-{volume}")).exists());

    lab.close();
    let settings = PoolSettings { driver: DriverChoice::Btrfs, ..lab.settings.clone() };
    assert_eq!(Pool::open(&settings).map(drop).unwrap_err().kind, Kind::Refused);
    let settings = PoolSettings { driver: DriverChoice::Auto, ..lab.settings.clone() };
    assert_eq!(Pool::open(&settings).unwrap().driver(), Driver::Directory);
}

#[test]
fn a_fork_of_another_image_is_refused() {
    let lab = lab!(btrfs);
    let volume = lab.volume(64);
    let snapshot = SnapshotId::new();
    lab.pool().snapshot(volume, snapshot).unwrap();
    let other = lab.image_of("other", b"other\n");
    let source = Source::Snapshot(snapshot);
    let refused =
        lab.pool().prepare(&VolumeSpec { source, ..spec(VolumeId::new(), &other, 64) }).unwrap_err();
    assert_eq!(refused.kind, Kind::Refused, "{refused}");
}

#[test]
fn on_a_btrfs_with_simple_quotas_the_pool_needs_no_file() {
    let mut outer = lab!(btrfs);
    outer.settings.loop_size_mib = Some(3072);
    outer.reopen();
    let data_dir = outer.inside("nested");
    let settings = PoolSettings { data_dir: data_dir.clone(), ..outer.settings.clone() };
    let pool = Pool::open(&settings).unwrap();
    assert_eq!((pool.driver(), data_dir.join("pool.btrfs").exists()), (Driver::Btrfs, false));
    let archive = outer.file(&lab::root_tar(b"nested\n"));
    let image = pool.import_image(&"plain".parse().unwrap(), archive).unwrap().image;
    let (volume, snapshot, fork) = (VolumeId::new(), SnapshotId::new(), VolumeId::new());
    pool.prepare(&spec(volume, &image, 16)).unwrap();
    let written = fill(&data_dir.join(format!("pool/volumes/{volume}/upper/big"))).unwrap();
    assert!((12..=16).contains(&written), "{written} MiB of 16 went in");
    pool.snapshot(volume, snapshot).unwrap();
    pool.prepare(&VolumeSpec { source: Source::Snapshot(snapshot), ..spec(fork, &image, 64) }).unwrap();
    pool.delete_volume(volume).unwrap();
    drop(pool);
    let pool = Pool::open(&settings).unwrap();
    assert_eq!((pool.volumes().unwrap(), pool.snapshots().unwrap()), (vec![fork], vec![snapshot]));
    pool.delete_volume(fork).unwrap();
    pool.delete_snapshot(snapshot).unwrap();
}

#[test]
fn a_volume_that_must_exist_is_never_made_empty() {
    let lab = lab!(btrfs);
    let image = lab.image();
    let volume = lab.volume(64);
    fs::write(lab.upper(volume, "kept"), "x").unwrap();
    let existing = |volume| VolumeSpec { source: Source::Existing, ..spec(volume, &image, 64) };
    assert_eq!(lab.pool().prepare(&existing(volume)).unwrap(), Prepared::Existed);
    lab.pool().delete_volume(volume).unwrap();
    assert_eq!(lab.pool().prepare(&existing(volume)).unwrap_err().kind, Kind::Missing);
    assert!(lab.pool().volumes().unwrap().is_empty());
    assert_eq!(fs::read_dir(lab.inside("volumes")).unwrap().count(), 0);
}
