//! Image archives of layers: an OCI image layout in a tar, and what `docker save` writes.
//!
//! Only an uncompressed, seekable archive can be one: layers lie in it in any order. Every layer's digest is checked.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Take};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::archive::hex;
use super::tarball::{Kind, Tarball};
use crate::step::{At, Step};

/// Descriptions are small; a layer is not read into memory.
const MAX_JSON: u64 = 4 << 20;
/// An image archive has a member per layer and a few more. More members than this: a root file system.
const MAX_MEMBERS: usize = 4096;

/// What a root file system has at its top and an image archive has not.
const ROOTS: [&[u8]; 8] = [b"bin", b"boot", b"dev", b"etc", b"home", b"lib", b"usr", b"var"];

/// Where a layer's bytes lie in the archive.
#[derive(Clone, Copy)]
pub(super) struct Layer {
    offset: u64,
    size: u64,
}

impl Layer {
    pub(super) fn open(self, archive: &mut File) -> Result<Take<&mut File>, Step> {
        archive.seek(SeekFrom::Start(self.offset)).at("find a layer")?;
        Ok(archive.take(self.size))
    }
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Descriptor>,
    /// In place of layers: an index of indexes.
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Saved {
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

/// The layers in their order, or `None` when the archive is something else. Leaves the archive at its beginning.
pub(super) fn layers(archive: &mut File) -> Result<Option<Vec<Layer>>, Step> {
    if archive.seek(SeekFrom::Start(0)).is_err() {
        return Ok(None);
    }
    let members = members(archive);
    let found = match members {
        Some(members) if members.contains_key("oci-layout") && members.contains_key("index.json") => {
            Some(from_layout(archive, &members)?)
        }
        Some(members) if members.contains_key("manifest.json") => Some(from_saved(archive, &members)?),
        _ => None,
    };
    archive.seek(SeekFrom::Start(0)).at("rewind the archive")?;
    Ok(found)
}

/// The archive's files by name; `None` as soon as it is clear that it is no image archive. Its faults, if it is a
/// damaged root tarball, are for the unpacker to name.
fn members(archive: &mut File) -> Option<HashMap<String, Layer>> {
    let mut found = HashMap::new();
    let mut tarball = Tarball::new(Skipping(archive.try_clone().ok()?));
    for _ in 0..MAX_MEMBERS {
        let Some(member) = tarball.next().ok()? else { return Some(found) };
        let path = member.path.strip_prefix(b"./").unwrap_or(&member.path);
        if ROOTS.contains(&path.split(|byte| *byte == b'/').next().unwrap_or(path)) {
            return None;
        }
        match member.kind {
            Kind::File => {
                let offset = archive.stream_position().ok()?;
                let name = String::from_utf8(member.path).ok()?;
                let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
                found.insert(name, Layer { offset, size: member.size });
            }
            Kind::Directory | Kind::Symlink => {}
            _ => return None,
        }
    }
    None
}

/// Passes over large content by seeking. Shares its position with the archive it was cloned from.
struct Skipping(File);

impl Read for Skipping {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

fn from_layout(archive: &mut File, members: &HashMap<String, Layer>) -> Result<Vec<Layer>, Step> {
    let index: Index = json(archive, members, "index.json")?;
    let mut manifest = manifest(archive, members, &pick(&index.manifests)?.digest)?;
    // At most one more level: an index that names one image for several platforms.
    if manifest.layers.is_empty() && !manifest.manifests.is_empty() {
        manifest = self::manifest(archive, members, &pick(&manifest.manifests)?.digest)?;
    }
    let layers: Vec<Layer> = manifest
        .layers
        .iter()
        .map(|layer| checked(archive, members, &layer.digest))
        .collect::<Result<_, _>>()?;
    if layers.is_empty() { Err(refuse("the image has no layers")) } else { Ok(layers) }
}

fn from_saved(archive: &mut File, members: &HashMap<String, Layer>) -> Result<Vec<Layer>, Step> {
    let saved: Vec<Saved> = json(archive, members, "manifest.json")?;
    let [image] = saved.as_slice() else {
        return Err(refuse(format!("it holds {} images; save one", saved.len())));
    };
    let find = |name: &String| members.get(name).copied().ok_or_else(|| refuse(format!("{name} is missing")));
    image.layers.iter().map(find).collect()
}

/// The entry for this machine: the only one, or the one of its platform.
fn pick(manifests: &[Descriptor]) -> Result<&Descriptor, Step> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let fits = |platform: &Platform| platform.os == "linux" && platform.architecture == architecture;
    match manifests {
        [only] => Ok(only),
        several => several.iter().find(|entry| entry.platform.as_ref().is_some_and(fits)).ok_or_else(|| {
            refuse(format!("none of its {} images is for linux/{architecture}", several.len()))
        }),
    }
}

fn manifest(archive: &mut File, members: &HashMap<String, Layer>, digest: &str) -> Result<Manifest, Step> {
    checked(archive, members, digest)?;
    json(archive, members, &blob(digest)?)
}

/// A blob whose content has the digest it is named by.
fn checked(archive: &mut File, members: &HashMap<String, Layer>, digest: &str) -> Result<Layer, Step> {
    let name = blob(digest)?;
    let layer = *members.get(&name).ok_or_else(|| refuse(format!("{name} is missing")))?;
    let mut hash = Sha256::new();
    let mut reader = layer.open(archive)?;
    let mut buffer = vec![0_u8; 128 << 10];
    loop {
        let read = reader.read(&mut buffer).at("read a layer")?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
    }
    if digest.strip_prefix("sha256:") == Some(hex(hash).as_str()) {
        Ok(layer)
    } else {
        Err(refuse(format!("{name} is damaged: its digest is another")))
    }
}

fn blob(digest: &str) -> Result<String, Step> {
    match digest.strip_prefix("sha256:") {
        Some(hex) if super::well_formed(hex) => Ok(format!("blobs/sha256/{hex}")),
        _ => {
            Err(refuse(format!("digest {:?} is not supported", digest.chars().take(80).collect::<String>())))
        }
    }
}

fn json<T: serde::de::DeserializeOwned>(
    archive: &mut File,
    members: &HashMap<String, Layer>,
    name: &str,
) -> Result<T, Step> {
    let member = *members.get(name).ok_or_else(|| refuse(format!("{name} is missing")))?;
    if member.size > MAX_JSON {
        return Err(refuse(format!("{name} has {} bytes", member.size)));
    }
    let mut bytes = Vec::new();
    member.open(archive)?.read_to_end(&mut bytes).at("read the archive")?;
    serde_json::from_slice(&bytes).map_err(|error| refuse(format!("{name}: {error}")))
}

fn refuse(why: impl std::fmt::Display) -> Step {
    Step::refused("read the image archive", why)
}
