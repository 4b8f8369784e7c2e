//! Between the runtime port's words and the jailer protocol's, which are the same words.

use wharf_ports::runtime as port;
use wharf_wire::jailer as wire;

use crate::step::Step;

impl From<Step> for wire::Fault {
    fn from(step: Step) -> Self {
        fault_to_wire(step.into())
    }
}

pub fn fault_to_wire(fault: port::Fault) -> wire::Fault {
    match fault {
        port::Fault::Refused(why) => wire::Fault::Refused(why),
        port::Fault::Fenced(why) => wire::Fault::Fenced(why),
        port::Fault::Missing(what) => wire::Fault::Missing(what),
        port::Fault::InUse(by) => wire::Fault::InUse(by),
        port::Fault::Away(why) => wire::Fault::Away(why),
        port::Fault::Failed { step, cause } => wire::Fault::Failed { step, cause },
    }
}

pub fn fault_from_wire(fault: wire::Fault) -> port::Fault {
    match fault {
        wire::Fault::Refused(why) => port::Fault::Refused(why),
        wire::Fault::Fenced(why) => port::Fault::Fenced(why),
        wire::Fault::Missing(what) => port::Fault::Missing(what),
        wire::Fault::InUse(by) => port::Fault::InUse(by),
        wire::Fault::Away(why) => port::Fault::Away(why),
        wire::Fault::Failed { step, cause } => port::Fault::Failed { step, cause },
        wire::Fault::Malformed(why) => {
            port::Fault::Failed { step: "understand the request".to_owned(), cause: why }
        }
    }
}

pub fn volume_to_wire(spec: &port::VolumeSpec) -> wire::VolumeSpec {
    wire::VolumeSpec {
        volume: spec.volume,
        image: spec.image.clone(),
        disk_mib: spec.disk_mib,
        source: match spec.source {
            port::Source::Empty => wire::Source::Empty,
            port::Source::Snapshot(id) => wire::Source::Snapshot(id),
            port::Source::Existing => wire::Source::Existing,
        },
    }
}

pub fn volume_from_wire(spec: wire::VolumeSpec) -> port::VolumeSpec {
    port::VolumeSpec {
        volume: spec.volume,
        image: spec.image,
        disk_mib: spec.disk_mib,
        source: match spec.source {
            wire::Source::Empty => port::Source::Empty,
            wire::Source::Snapshot(id) => port::Source::Snapshot(id),
            wire::Source::Existing => port::Source::Existing,
        },
    }
}

pub fn jail_to_wire(spec: &port::JailSpec) -> wire::JailSpec {
    wire::JailSpec {
        session: spec.session,
        incarnation: spec.incarnation,
        volume: volume_to_wire(&spec.volume),
        resources: spec.resources,
        hostname: spec.hostname.clone(),
        allow_root: spec.allow_root,
    }
}

pub fn jail_from_wire(spec: wire::JailSpec) -> port::JailSpec {
    port::JailSpec {
        session: spec.session,
        incarnation: spec.incarnation,
        volume: volume_from_wire(spec.volume),
        resources: spec.resources,
        hostname: spec.hostname,
        allow_root: spec.allow_root,
    }
}

pub fn running_from_wire(r: wire::Running) -> port::Running {
    port::Running {
        jail: r.jail,
        session: r.session,
        incarnation: r.incarnation,
        volume: r.volume,
        host_socket: r.host_socket.into(),
        warm: r.warm,
    }
}

pub fn image_to_wire(i: port::ImageInfo) -> wire::ImageInfo {
    wire::ImageInfo { image: i.image, size_bytes: i.size_bytes, created_ms: i.created_ms, used_by: i.used_by }
}

pub fn image_from_wire(i: wire::ImageInfo) -> port::ImageInfo {
    port::ImageInfo { image: i.image, size_bytes: i.size_bytes, created_ms: i.created_ms, used_by: i.used_by }
}

pub fn running_to_wire(r: port::Running) -> wire::Running {
    wire::Running {
        jail: r.jail,
        session: r.session,
        incarnation: r.incarnation,
        volume: r.volume,
        host_socket: r.host_socket.to_string_lossy().into_owned(),
        warm: r.warm,
    }
}

pub fn capabilities_to_wire(c: port::Capabilities) -> wire::Capabilities {
    wire::Capabilities {
        protocol: wire::PROTOCOL,
        cgroups: c.cgroups,
        volumes: c.volumes,
        cpu_limit: c.cpu_limit,
        memory_limit: c.memory_limit,
        pids_limit: c.pids_limit,
        disk_limit: c.disk_limit,
        resizes_running: c.resizes_running,
        waives_disk_limit: c.waives_disk_limit,
        root_is_nobody: c.root_is_nobody,
        waives_user_namespaces: c.waives_user_namespaces,
        cheap_snapshots: c.cheap_snapshots,
        freeze: c.freeze,
    }
}

pub fn inventory_to_wire(i: port::Inventory) -> wire::Inventory {
    wire::Inventory {
        running: i.running.into_iter().map(running_to_wire).collect(),
        volumes: i.volumes,
        snapshots: i.snapshots,
        images: i.images.into_iter().map(image_to_wire).collect(),
    }
}

pub fn inventory_from_wire(i: wire::Inventory) -> port::Inventory {
    port::Inventory {
        running: i.running.into_iter().map(running_from_wire).collect(),
        volumes: i.volumes,
        snapshots: i.snapshots,
        images: i.images.into_iter().map(image_from_wire).collect(),
    }
}

pub fn stats_to_wire(s: port::Stats) -> wire::Stats {
    wire::Stats {
        cpu_usage_micros: s.cpu_usage_micros,
        memory_bytes: s.memory_bytes,
        memory_peak_bytes: s.memory_peak_bytes,
        memory_limit_bytes: s.memory_limit_bytes,
        oom_kills: s.oom_kills,
        pids: s.pids,
        disk_bytes: s.disk_bytes,
        disk_limit_bytes: s.disk_limit_bytes,
    }
}

pub fn stats_from_wire(s: wire::Stats) -> port::Stats {
    port::Stats {
        cpu_usage_micros: s.cpu_usage_micros,
        memory_bytes: s.memory_bytes,
        memory_peak_bytes: s.memory_peak_bytes,
        memory_limit_bytes: s.memory_limit_bytes,
        oom_kills: s.oom_kills,
        pids: s.pids,
        disk_bytes: s.disk_bytes,
        disk_limit_bytes: s.disk_limit_bytes,
    }
}
