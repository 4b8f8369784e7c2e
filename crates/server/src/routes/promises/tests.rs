#![allow(clippy::unwrap_used)]

use super::*;

fn all() -> Capabilities {
    Capabilities {
        runtime: "docker".to_owned(),
        cgroups: "v2".to_owned(),
        volumes: "overlay2 on xfs".to_owned(),
        cpu_limit: true,
        memory_limit: true,
        pids_limit: true,
        disk_limit: true,
        resizes_running: false,
        waives_disk_limit: false,
        root_is_nobody: true,
        waives_user_namespaces: false,
        cheap_snapshots: false,
        freeze: true,
    }
}

#[test]
fn each_limit_that_is_missing_is_refused_by_its_name() {
    let wanted = Resources::default();
    limits(&all(), "docker", &wanted).unwrap();
    for (can, field) in [
        (Capabilities { cpu_limit: false, ..all() }, "resources.cpu_millis"),
        (Capabilities { memory_limit: false, ..all() }, "resources.memory_mib"),
        (Capabilities { pids_limit: false, ..all() }, "resources.pids"),
        (Capabilities { disk_limit: false, ..all() }, "resources.disk_mib"),
    ] {
        let refused = limits(&can, "docker", &wanted).unwrap_err();
        assert_eq!((refused.code, refused.field.as_deref()), (Code::Unsupported, Some(field)));
        assert!(refused.public.contains("runtime docker"), "{}", refused.public);
    }
    let waived = Capabilities { disk_limit: false, waives_disk_limit: true, ..all() };
    limits(&waived, "docker", &wanted).unwrap();
}
