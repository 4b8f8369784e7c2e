//! Programs that start other programs: where in their arguments those stand.

use super::Word;
use crate::glob::{self, Tok};

/// What a program is told to start.
pub(super) enum Inner {
    Nothing,
    Words(Vec<Word>),
    /// With more arguments that come in.
    Each(Vec<Word>),
    Several(Vec<Vec<Word>>),
    /// A text a shell reads, and what `$0` and on are there.
    Script(Word, Vec<Word>),
    /// A shell that reads what flows in.
    Input,
    /// A shell that reads a file: the argument's place.
    File(usize),
    /// It only says where a program is.
    Lookup(String),
}

/// Options of a program that starts another.
struct Wrapper {
    names: &'static [&'static str],
    /// Short options with a value, and long ones whose value may stand apart.
    short: &'static str,
    long: &'static [&'static str],
    /// Operands before the command.
    operands: usize,
    /// `NAME=value` may stand before the command.
    assigns: bool,
}

const fn plain(names: &'static [&'static str]) -> Wrapper {
    Wrapper { names, short: "", long: &[], operands: 0, assigns: false }
}

const WRAPPERS: &[Wrapper] = &[
    plain(&[
        "nohup",
        "setsid",
        "builtin",
        "busybox",
        "toybox",
        "catchsegv",
        "fakeroot",
        "torsocks",
        "proxychains",
        "proxychains4",
        "dbus-run-session",
        "unbuffer",
        "firejail",
        "caffeinate",
        "ltrace",
    ]),
    Wrapper {
        names: &["sudo"],
        short: "ugpChDRTrt",
        long: &[
            "--user",
            "--group",
            "--prompt",
            "--close-from",
            "--host",
            "--chdir",
            "--chroot",
            "--role",
            "--type",
            "--command-timeout",
            "--other-user",
        ],
        operands: 0,
        assigns: true,
    },
    Wrapper { names: &["doas"], short: "Cu", long: &[], operands: 0, assigns: true },
    Wrapper { names: &["exec"], short: "a", long: &[], operands: 0, assigns: false },
    Wrapper { names: &["nice"], short: "n", long: &["--adjustment"], operands: 0, assigns: false },
    Wrapper {
        names: &["ionice"],
        short: "cnpPu",
        long: &["--class", "--classdata"],
        operands: 0,
        assigns: false,
    },
    Wrapper {
        names: &["timeout", "gtimeout"],
        short: "ks",
        long: &["--kill-after", "--signal"],
        operands: 1,
        assigns: false,
    },
    Wrapper {
        names: &["stdbuf"],
        short: "ioe",
        long: &["--input", "--output", "--error"],
        operands: 0,
        assigns: false,
    },
    Wrapper {
        names: &["time", "gtime"],
        short: "fo",
        long: &["--format", "--output"],
        operands: 0,
        assigns: false,
    },
    Wrapper { names: &["chroot"], short: "", long: &["--userspec", "--groups"], operands: 1, assigns: false },
    Wrapper { names: &["taskset", "chrt"], short: "", long: &[], operands: 1, assigns: false },
    Wrapper { names: &["unshare"], short: "SGRw", long: &["--root", "--wd"], operands: 0, assigns: false },
    Wrapper { names: &["nsenter"], short: "tSGW", long: &["--target"], operands: 0, assigns: false },
    Wrapper {
        names: &["setpriv", "prlimit", "systemd-run", "systemd-inhibit"],
        short: "p",
        long: &[],
        operands: 0,
        assigns: false,
    },
    Wrapper { names: &["strace"], short: "aeEIoOpPsSuUbX", long: &[], operands: 0, assigns: false },
    Wrapper { names: &["xvfb-run"], short: "efnpsw", long: &[], operands: 0, assigns: false },
    Wrapper { names: &["runuser"], short: "ugGw", long: &[], operands: 0, assigns: false },
];

const SHELLS: [&str; 9] = ["sh", "bash", "dash", "zsh", "ksh", "ash", "mksh", "fish", "rbash"];

fn text(word: &Word) -> Option<String> {
    glob::literal(word)
}

/// Where the operands begin, behind options of which some take a value.
fn skip(args: &[Word], short: &str, long: &[&str], assigns: bool) -> usize {
    let mut at = 0;
    while let Some(arg) = args.get(at).and_then(text) {
        if arg == "--" {
            return at + 1;
        }
        if arg.starts_with("--") {
            at += 1 + usize::from(long.contains(&arg.as_str()));
        } else if let Some(cluster) = arg.strip_prefix('-').filter(|c| !c.is_empty()) {
            let taken = cluster.char_indices().find(|(_, c)| short.contains(*c));
            at += match taken {
                Some((n, c)) if n + c.len_utf8() == cluster.len() => 2,
                _ => 1,
            };
        } else if assigns && arg.contains('=') && !arg.starts_with(['/', '.']) {
            at += 1;
        } else {
            return at;
        }
    }
    at.min(args.len())
}

fn rest(args: &[Word], from: usize) -> Vec<Word> {
    args.get(from..).unwrap_or_default().to_vec()
}

fn joined(words: &[Word]) -> Word {
    words.join(&Tok::Ch(' '))
}

/// What a program of that name starts; `None` for one that starts nothing known here.
pub(super) fn inner(name: &str, args: &[Word]) -> Option<Inner> {
    if SHELLS.contains(&name) {
        return Some(shell(args));
    }
    if let Some(wrapper) = WRAPPERS.iter().find(|w| w.names.contains(&name)) {
        if name == "runuser"
            && let Some(script) = command_option(args, "-c", &["--command", "--session-command"])
        {
            return Some(Inner::Script(script, Vec::new()));
        }
        let at = skip(args, wrapper.short, wrapper.long, wrapper.assigns);
        let words = rest(args, at + wrapper.operands);
        // `sudo -s` and `sudo -i` alone are a shell that reads what flows in.
        return Some(
            if words.is_empty() && matches!(name, "sudo" | "doas" | "nsenter" | "unshare" | "chroot") {
                Inner::Input
            } else {
                Inner::Words(words)
            },
        );
    }
    Some(match name {
        "command" => {
            let at = skip(args, "", &[], false);
            let looks = args[..at.min(args.len())].iter().filter_map(text).any(|a| a.contains(['v', 'V']));
            match (looks, args.get(at).and_then(text)) {
                (true, Some(name)) => Inner::Lookup(name),
                (true, None) => Inner::Nothing,
                _ => Inner::Words(rest(args, at)),
            }
        }
        "env" => env(args),
        "xargs" | "gxargs" => Inner::Each(rest(
            args,
            skip(
                args,
                "adEIiLlnPs",
                &[
                    "--arg-file",
                    "--delimiter",
                    "--max-args",
                    "--max-procs",
                    "--max-chars",
                    "--replace",
                    "--max-lines",
                ],
                false,
            ),
        )),
        "parallel" => {
            let at = skip(args, "jaIN", &["--jobs", "--arg-file"], false);
            let end = args
                .iter()
                .position(|a| matches!(text(a).as_deref(), Some(":::" | "::::")))
                .unwrap_or(args.len());
            let mut words = args.get(at..end).unwrap_or_default().to_vec();
            words.extend(rest(args, end + 1));
            if words.len() == 1 { Inner::Script(words.remove(0), Vec::new()) } else { Inner::Each(words) }
        }
        "find" | "gfind" => find(args),
        "su" | "script" => match command_option(args, "-c", &["--command"]) {
            Some(script) => Inner::Script(script, Vec::new()),
            None if name == "su" => Inner::Input,
            None => Inner::Nothing,
        },
        "flock" => match command_option(args, "-c", &["--command"]) {
            Some(script) => Inner::Script(script, Vec::new()),
            None => Inner::Words(rest(args, skip(args, "wE", &["--timeout"], false) + 1)),
        },
        "watch" => {
            let at = skip(args, "n", &["--interval"], false);
            Inner::Script(joined(args.get(at..).unwrap_or_default()), Vec::new())
        }
        _ => return None,
    })
}

/// The value of an option, apart or behind an equals sign.
fn command_option(args: &[Word], short: &str, long: &[&str]) -> Option<Word> {
    for (n, arg) in args.iter().enumerate() {
        let Some(said) = text(arg) else { continue };
        let cluster = said.starts_with('-') && !said.starts_with("--") && said.ends_with(&short[1..]);
        if cluster || long.contains(&said.as_str()) {
            return args.get(n + 1).cloned();
        }
        if let Some((name, value)) = said.split_once('=')
            && long.contains(&name)
        {
            return Some(glob::word(value));
        }
    }
    None
}

fn shell(args: &[Word]) -> Inner {
    let mut at = 0;
    let (mut script, mut input) = (false, false);
    while let Some(arg) = args.get(at) {
        let Some(said) = text(arg) else { break };
        match said.as_str() {
            "--" | "-" => {
                at += 1;
                break;
            }
            "--rcfile" | "--init-file" => at += 2,
            option if option.starts_with("--") => at += 1,
            option if option.len() > 1 && option.starts_with(['-', '+']) => {
                script |= option.starts_with('-') && option.contains('c');
                input |= option.starts_with('-') && option.contains('s');
                at += if option.ends_with(['o', 'O']) { 2 } else { 1 };
            }
            _ => break,
        }
    }
    match args.get(at) {
        Some(text) if script => Inner::Script(text.clone(), rest(args, at + 1)),
        None if script => Inner::Nothing,
        Some(_) if !input => Inner::File(at),
        _ => Inner::Input,
    }
}

fn env(args: &[Word]) -> Inner {
    for (n, arg) in args.iter().enumerate() {
        let Some(said) = text(arg) else { break };
        if said == "-S" || said == "--split-string" || said == "-vS" {
            return Inner::Script(joined(args.get(n + 1..).unwrap_or_default()), Vec::new());
        }
        if let Some(value) = said.strip_prefix("-S").or_else(|| said.strip_prefix("--split-string=")) {
            let mut words = vec![glob::word(value)];
            words.extend(rest(args, n + 1));
            return Inner::Script(joined(&words), Vec::new());
        }
        if !said.starts_with('-') && !said.contains('=') {
            break;
        }
    }
    Inner::Words(rest(args, skip(args, "uC", &["--unset", "--chdir"], true)))
}

/// `-exec` and its kin, with what is found below the places it begins at.
fn find(args: &[Word]) -> Inner {
    let starts = |a: &&Word| !matches!(a.first(), Some(Tok::Ch('-' | '(' | '!')));
    let places: Vec<&Word> = args.iter().take_while(starts).collect();
    const AS_IT_IS: [&str; 9] =
        ["-depth", "-d", "-xdev", "-mount", "-maxdepth", "-mindepth", "-print", "-print0", "-follow"];
    let mut narrowed = false;
    let mut all = Vec::new();
    let mut at = 0;
    while at < args.len() {
        let said = text(&args[at]);
        at += 1;
        if !matches!(said.as_deref(), Some("-exec" | "-execdir" | "-ok" | "-okdir")) {
            narrowed |= said.is_some_and(|s| s.starts_with('-') && !AS_IT_IS.contains(&s.as_str()));
            continue;
        }
        let mut words: Vec<Word> = Vec::new();
        while let Some(arg) = args.get(at) {
            at += 1;
            match text(arg).as_deref() {
                Some(";" | "+") => break,
                Some("{}") => words.extend(places.iter().map(|p| {
                    let mut found = (*p).clone();
                    if narrowed {
                        found.extend([Tok::Ch('/'), Tok::Unknown]);
                    }
                    found
                })),
                _ => words.push(arg.clone()),
            }
        }
        all.push(words);
    }
    if all.is_empty() { Inner::Nothing } else { Inner::Several(all) }
}
