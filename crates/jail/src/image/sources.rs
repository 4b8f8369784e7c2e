//! The machine's own package sources for a release, as one-line entries.
//!
//! Images are built from what the machine itself is installed from: mirrors and keys are the operator's choice, and
//! none is named here. Third parties' sources of the machine stay out: only the release itself, its updates and its
//! security updates are taken.

use std::fs;
use std::path::Path;

use crate::step::{At, Step};

#[derive(Debug, Default)]
struct Source {
    types: Vec<String>,
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
}

/// The entries of `etc_apt` (normally `/etc/apt`) for `suite`.
pub(super) fn of_machine(etc_apt: &Path, suite: &str) -> Result<String, Step> {
    let mut files = vec![etc_apt.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc_apt.join("sources.list.d")) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let mut lines = Vec::new();
    for file in files.iter().filter(|file| file.exists()) {
        let text = fs::read_to_string(file).at_with(|| format!("read {}", file.display()))?;
        let sources = match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => text.lines().filter_map(one_line).collect(),
            Some("sources") => stanzas(&text),
            _ => continue,
        };
        for source in sources {
            lines.extend(entries_for(&source, suite));
        }
    }
    lines.dedup();
    if lines.is_empty() {
        return Err(Step::refused(
            "find package sources",
            format!(
                "{} names no source for {suite}; the recipe's suite has to be one of this machine's",
                etc_apt.display()
            ),
        ));
    }
    Ok(lines.join("\n") + "\n")
}

fn entries_for(source: &Source, suite: &str) -> Vec<String> {
    let ours = |name: &&String| {
        name.strip_prefix(suite).is_some_and(|rest| ["", "-updates", "-security", "/updates"].contains(&rest))
    };
    if !source.types.iter().any(|kind| kind == "deb") || !source.components.iter().any(|name| name == "main")
    {
        return Vec::new();
    }
    let options = source.signed_by.as_ref().map(|path| format!("[signed-by={path}] ")).unwrap_or_default();
    let components = source.components.join(" ");
    source
        .uris
        .iter()
        .flat_map(|uri| source.suites.iter().filter(ours).map(move |suite| (uri, suite)))
        .map(|(uri, suite)| format!("deb {options}{uri} {suite} {components}"))
        .collect()
}

/// `deb [options] uri suite component…` of sources.list(5).
fn one_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb ")?.trim();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    let (uri, suite) = (words.next()?, words.next()?);
    let signed_by =
        options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).map(str::to_owned);
    Some(Source {
        types: vec!["deb".to_owned()],
        uris: vec![uri],
        suites: vec![suite],
        components: words.collect(),
        signed_by: signed_by.filter(|path| path.starts_with('/')),
    })
}

/// The deb822 form of sources.list(5).
fn stanzas(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    for stanza in text.split("\n\n") {
        let mut source = Source::default();
        let mut enabled = true;
        for line in stanza.lines().filter(|line| !line.starts_with(['#', ' ', '\t'])) {
            let Some((key, value)) = line.split_once(':') else { continue };
            let words = || value.split_whitespace().map(str::to_owned).collect();
            match key.to_ascii_lowercase().as_str() {
                "types" => source.types = words(),
                "uris" => source.uris = words(),
                "suites" => source.suites = words(),
                "components" => source.components = words(),
                "enabled" => enabled = value.trim() != "no",
                // A key written out in place has no path; apt's trusted keys have to do then.
                "signed-by" => {
                    source.signed_by = Some(value.trim().to_owned()).filter(|path| path.starts_with('/'));
                }
                _ => {}
            }
        }
        if enabled {
            found.push(source);
        }
    }
    found
}
