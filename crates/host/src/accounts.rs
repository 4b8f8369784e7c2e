//! Users of the session, read from its own `/etc/passwd` and `/etc/group`.
//!
//! No name service: a static binary cannot load its modules, and what a session's files say is all there is. Files are read anew each
//! time, since `useradd` inside is allowed; they are small and in the page cache.

use std::io::Read as _;

use wharf_domain::Code;

use crate::fault::{Fault, Result};
use crate::root::Root;

/// The user everything runs as when nobody is named.
pub const AGENT: &str = "agent";
const AGENT_ID: u32 = 1000;
/// Bytes read of `/etc/passwd` and `/etc/group`.
const FILE_BYTES: u64 = 1024 * 1024;
/// Supplementary groups of one user (the kernel's own limit is 65536).
const GROUPS: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
    pub shell: String,
    pub groups: Vec<u32>,
}

/// Whether the host may become somebody else: only as uid 0 and PID 1 of a jail. Elsewhere it is a test, or a session
/// without root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    Jail,
    Own { uid: u32, gid: u32 },
}

impl Power {
    pub fn is_jail(self) -> bool {
        self == Self::Jail
    }

    pub fn of_this_process() -> Self {
        let uid = rustix::process::geteuid();
        if uid.is_root() && rustix::process::getpid().is_init() {
            Self::Jail
        } else {
            Self::Own { uid: uid.as_raw(), gid: rustix::process::getegid().as_raw() }
        }
    }
}

/// The account a request names; `agent` when it names none.
pub fn find(root: &Root, power: Power, user: Option<&str>) -> Result<Account> {
    let name = user.unwrap_or(AGENT);
    let passwd = read(root, "/etc/passwd");
    let number = name.parse::<u32>().ok();
    let mut found = parse_passwd(&passwd).find(|a| a.name == name || (number == Some(a.uid)));
    if found.is_none() && name == AGENT {
        found = Some(Account {
            name: AGENT.into(),
            uid: AGENT_ID,
            gid: AGENT_ID,
            home: "/home/agent".into(),
            shell: String::new(),
            groups: Vec::new(),
        });
    }
    if found.is_none()
        && let Some(uid) = number
    {
        found = Some(Account {
            name: name.into(),
            uid,
            gid: uid,
            home: "/".into(),
            shell: String::new(),
            groups: Vec::new(),
        });
    }
    let mut account =
        found.ok_or_else(|| Fault::invalid("user", format!("the session has no user {name:?}")))?;
    if let Power::Own { uid, gid } = power {
        if account.name == AGENT {
            (account.uid, account.gid) = (uid, gid);
        } else if account.uid != uid {
            return Err(Fault::new(
                Code::Unsupported,
                format!("the session's host runs as uid {uid} and may not become {name}"),
            )
            .field("user"));
        }
    } else {
        account.groups = parse_groups(&read(root, "/etc/group"), &account.name);
    }
    Ok(account)
}

/// `user`, `user:group` or numbers, for files.
pub fn owner(root: &Root, power: Power, text: Option<&str>) -> Result<(u32, u32)> {
    let Some(text) = text else {
        let agent = find(root, power, None)?;
        return Ok((agent.uid, agent.gid));
    };
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let passwd = read(root, "/etc/passwd");
    let known = parse_passwd(&passwd).find(|a| a.name == user);
    let (uid, own) = match (known, user.parse::<u32>()) {
        (Some(account), _) => (account.uid, account.gid),
        (None, Ok(uid)) if uid != u32::MAX => {
            (uid, parse_passwd(&passwd).find(|a| a.uid == uid).map_or(uid, |a| a.gid))
        }
        (None, _) if user == AGENT => {
            let agent = find(root, power, None)?;
            (agent.uid, agent.gid)
        }
        (None, _) => return Err(Fault::invalid("owner", format!("the session has no user {user:?}"))),
    };
    let gid = match group {
        None => own,
        Some(group) => match (group_id(&read(root, "/etc/group"), group), group.parse::<u32>()) {
            (Some(gid), _) => gid,
            (None, Ok(gid)) if gid != u32::MAX => gid,
            (None, _) => return Err(Fault::invalid("owner", format!("the session has no group {group:?}"))),
        },
    };
    Ok((uid, gid))
}

fn read(root: &Root, path: &str) -> String {
    let Ok(path) = wharf_wire::host::path::normalise(path) else { return String::new() };
    let Ok(file) = root.open_file(&path) else { return String::new() };
    let mut bytes = Vec::new();
    let _ = file.take(FILE_BYTES).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// passwd(5). Lines that are not are passed over, as getpwent(3) does.
pub fn parse_passwd(text: &str) -> impl Iterator<Item = Account> + '_ {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, uid, gid, _gecos, home, shell) = (
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next().unwrap_or(""),
        );
        if name.is_empty() || name.starts_with('#') {
            return None;
        }
        Some(Account {
            name: name.into(),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: if home.starts_with('/') { home.into() } else { "/".into() },
            shell: shell.into(),
            groups: Vec::new(),
        })
    })
}

/// Groups of group(5) that list `user`.
pub fn parse_groups(text: &str, user: &str) -> Vec<u32> {
    group_lines(text)
        .filter(|(_, _, members)| members.split(',').any(|m| m == user))
        .map(|(_, gid, _)| gid)
        .take(GROUPS)
        .collect()
}

fn group_id(text: &str, name: &str) -> Option<u32> {
    group_lines(text).find(|(n, _, _)| *n == name).map(|(_, gid, _)| gid)
}

fn group_lines(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, gid.parse().ok()?, fields.next().unwrap_or("")))
    })
}
