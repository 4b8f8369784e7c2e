//! Recipes, package sources and the tar reader, without root and without a network.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::recipe::Recipe;
use super::tarball::{Kind, Tarball};
use super::{build, sources};
use crate::step;

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("vol-r-{}-{name}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn recipe(packages: &[&str], script: &str) -> Result<Recipe, step::Step> {
    let packages = packages.iter().map(|name| (*name).to_owned()).collect();
    Recipe::new("base".parse().unwrap(), Some("bookworm".to_owned()), packages, script.to_owned())
}

#[test]
fn the_shipped_recipe_is_one() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/base");
    let recipe = Recipe::load(&shipped, &mut |_| None).unwrap();
    assert_eq!(recipe.name.as_str(), "base");
    assert!(recipe.packages.iter().any(|name| name == "git"));
    assert!(recipe.script.contains("useradd --uid 1000"));
}

#[test]
fn a_recipe_that_extends_another_is_that_one_and_more() {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images");
    let base = Recipe::load(&images.join("base"), &mut |_| None).unwrap();
    let load = |known: &mut dyn FnMut(&wharf_domain::Name) -> Option<Recipe>| {
        Recipe::load(&images.join("desktop"), known)
    };
    let desktop = load(&mut |name| (name.as_str() == "base").then(|| base.clone())).unwrap();
    assert!(base.packages.iter().all(|name| desktop.packages.contains(name)));
    assert!(desktop.packages.iter().any(|name| name == "chromium"));
    assert!(desktop.script.starts_with(&base.script) && desktop.script.contains("/etc/chromium.d/"));
    assert!(!desktop.script.contains("--no-sandbox \""), "its own sandbox is on");
    assert_ne!(desktop.digest, base.digest);
    let refused = load(&mut |_| None).unwrap_err();
    assert_eq!(refused.kind, step::Kind::Refused);
    assert!(refused.to_string().contains("extends names base"), "{refused}");
}

#[test]
fn a_recipe_is_another_when_anything_of_it_is() {
    let one = recipe(&["git", "curl"], "true").unwrap();
    assert_eq!(one.digest, recipe(&["git", "curl"], "true").unwrap().digest);
    for other in [recipe(&["git"], "true"), recipe(&["git", "curl"], "false"), recipe(&["gitcurl"], "true")] {
        let other = other.unwrap();
        assert_ne!(one.digest, other.digest);
        assert_ne!(build::cached_path(Path::new("/c"), &one), build::cached_path(Path::new("/c"), &other));
    }
}

#[test]
fn a_recipe_cannot_smuggle_options_or_paths() {
    for word in ["--customize-hook=id", "git,curl", "a b", "", "x;id", "Git"] {
        let refused = recipe(&[word], "").unwrap_err();
        assert_eq!(refused.kind, step::Kind::Refused, "{word}: {refused}");
    }
    let dir = scratch("smuggle");
    for text in [
        "name = \"base\"\npackages = []\nscript = \"../../etc/passwd\"",
        "name = \"Base\"\npackages = []",
        "name = \"base\"\npackages = []\nscrpit = \"x\"",
    ] {
        fs::write(dir.join("recipe.toml"), text).unwrap();
        assert_eq!(Recipe::load(&dir, &mut |_| None).unwrap_err().kind, step::Kind::Refused, "{text}");
    }
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn only_the_releases_own_sources_are_taken_in_either_form() {
    let dir = scratch("apt");
    fs::create_dir_all(dir.join("sources.list.d")).unwrap();
    fs::write(
        dir.join("sources.list"),
        "# deb http://old.example/debian bookworm main\ndeb [arch=amd64 signed-by=/k.gpg] http://one.example/debian bookworm main contrib # yes\n\
         deb-src http://one.example/debian bookworm main\ndeb http://one.example/debian bookworm-backports main\n",
    )
    .unwrap();
    fs::write(
        dir.join("sources.list.d/debian.sources"),
        "Types: deb\n# a remark\nURIs: http://two.example/debian\nSuites: bookworm bookworm-updates trixie\nComponents: main\nSigned-By: /d.gpg\n\n\
         Types: deb\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\nEnabled: no\n",
    )
    .unwrap();
    fs::write(dir.join("sources.list.d/third.list"), "deb http://third.example/tool bookworm stable\n")
        .unwrap();
    fs::write(dir.join("sources.list.d/ignored.save"), "deb http://saved.example/debian bookworm main\n")
        .unwrap();
    assert_eq!(
        sources::of_machine(&dir, "bookworm").unwrap(),
        "deb [signed-by=/k.gpg] http://one.example/debian bookworm main contrib\n\
         deb [signed-by=/d.gpg] http://two.example/debian bookworm main\n\
         deb [signed-by=/d.gpg] http://two.example/debian bookworm-updates main\n"
    );
    assert_eq!(sources::of_machine(&dir, "sid").unwrap_err().kind, step::Kind::Refused);
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn the_tar_reader_takes_names_and_sizes_from_pax_headers() {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_pax_extensions([
        ("path", b"real/name".as_slice()),
        ("size", b"3"),
        ("mtime", b"17.5"),
        ("uid", b"9"),
    ])
    .unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path("other").unwrap();
    header.set_size(3);
    header.set_mode(0o600);
    header.set_cksum();
    tar.append(&header, b"abc".as_slice()).unwrap();
    let bytes = tar.into_inner().unwrap();
    let mut tarball = Tarball::new(bytes.as_slice());
    let member = tarball.next().unwrap().unwrap();
    assert_eq!((member.kind, member.path.as_slice(), member.size), (Kind::File, b"real/name".as_slice(), 3));
    assert_eq!((member.modified, member.user), (17, 9));
    let mut content = String::new();
    tarball.content().read_to_string(&mut content).unwrap();
    assert_eq!(content, "abc");
    assert!(tarball.next().unwrap().is_none());
}

#[test]
fn malformed_pax_records_are_refused() {
    for record in [
        "5 a=",
        "9999 path=x\n",
        "0 a=b\n",
        "x path=y\n",
        "13 path=x",
        "12 sparse\n\n",
        "22 GNU.sparse.major=1\n",
    ] {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(record.len() as u64);
        header.set_cksum();
        tar.append(&header, record.as_bytes()).unwrap();
        let bytes = tar.into_inner().unwrap();
        let refused = Tarball::new(bytes.as_slice()).next().unwrap_err();
        assert_eq!(refused.kind, step::Kind::Refused, "{record:?}: {refused}");
    }
}
