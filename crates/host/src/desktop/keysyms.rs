//! Names of keys, as people and models write them, and the keysyms they stand for (X11 protocol, appendix A; keysymdef.h).

pub const SHIFT: u32 = 0xffe1;
pub const RETURN: u32 = 0xff0d;
pub const TAB: u32 = 0xff09;
/// Keysyms of Unicode characters beyond Latin-1 are the character and this.
const UNICODE: u32 = 0x0100_0000;

/// Lower case; looked up without regard to case, spaces, underscores and hyphens.
const NAMES: &[(&str, u32)] = &[
    ("ctrl", 0xffe3),
    ("control", 0xffe3),
    ("controll", 0xffe3),
    ("controlr", 0xffe4),
    ("shift", SHIFT),
    ("shiftl", SHIFT),
    ("shiftr", 0xffe2),
    ("alt", 0xffe9),
    ("altl", 0xffe9),
    ("altr", 0xffea),
    ("option", 0xffe9),
    ("altgr", 0xfe03),
    ("isolevel3shift", 0xfe03),
    ("super", 0xffeb),
    ("superl", 0xffeb),
    ("superr", 0xffec),
    ("win", 0xffeb),
    ("windows", 0xffeb),
    ("cmd", 0xffeb),
    ("command", 0xffeb),
    ("meta", 0xffeb),
    ("metal", 0xffe7),
    ("metar", 0xffe8),
    ("hyper", 0xffed),
    ("capslock", 0xffe5),
    ("numlock", 0xff7f),
    ("scrolllock", 0xff14),
    ("return", RETURN),
    ("enter", RETURN),
    ("tab", TAB),
    ("isolefttab", 0xfe20),
    ("backspace", 0xff08),
    ("escape", 0xff1b),
    ("esc", 0xff1b),
    ("delete", 0xffff),
    ("del", 0xffff),
    ("insert", 0xff63),
    ("ins", 0xff63),
    ("home", 0xff50),
    ("end", 0xff57),
    ("pageup", 0xff55),
    ("pgup", 0xff55),
    ("prior", 0xff55),
    ("pagedown", 0xff56),
    ("pgdn", 0xff56),
    ("pgdown", 0xff56),
    ("next", 0xff56),
    ("left", 0xff51),
    ("up", 0xff52),
    ("right", 0xff53),
    ("down", 0xff54),
    ("arrowleft", 0xff51),
    ("arrowup", 0xff52),
    ("arrowright", 0xff53),
    ("arrowdown", 0xff54),
    ("menu", 0xff67),
    ("contextmenu", 0xff67),
    ("print", 0xff61),
    ("printscreen", 0xff61),
    ("pause", 0xff13),
    ("break", 0xff6b),
    ("space", 0x20),
    ("spacebar", 0x20),
    ("exclam", 0x21),
    ("quotedbl", 0x22),
    ("numbersign", 0x23),
    ("dollar", 0x24),
    ("percent", 0x25),
    ("ampersand", 0x26),
    ("apostrophe", 0x27),
    ("parenleft", 0x28),
    ("parenright", 0x29),
    ("asterisk", 0x2a),
    ("plus", 0x2b),
    ("comma", 0x2c),
    ("minus", 0x2d),
    ("period", 0x2e),
    ("slash", 0x2f),
    ("colon", 0x3a),
    ("semicolon", 0x3b),
    ("less", 0x3c),
    ("equal", 0x3d),
    ("greater", 0x3e),
    ("question", 0x3f),
    ("at", 0x40),
    ("bracketleft", 0x5b),
    ("backslash", 0x5c),
    ("bracketright", 0x5d),
    ("asciicircum", 0x5e),
    ("underscore", 0x5f),
    ("grave", 0x60),
    ("braceleft", 0x7b),
    ("bar", 0x7c),
    ("braceright", 0x7d),
    ("asciitilde", 0x7e),
    ("kpenter", 0xff8d),
    ("kpadd", 0xffab),
    ("kpsubtract", 0xffad),
    ("kpmultiply", 0xffaa),
    ("kpdivide", 0xffaf),
    ("kpdecimal", 0xffae),
    ("kpequal", 0xffbd),
    ("kphome", 0xff95),
    ("kpleft", 0xff96),
    ("kpup", 0xff97),
    ("kpright", 0xff98),
    ("kpdown", 0xff99),
    ("kpprior", 0xff9a),
    ("kppageup", 0xff9a),
    ("kpnext", 0xff9b),
    ("kppagedown", 0xff9b),
    ("kpend", 0xff9c),
    ("kpinsert", 0xff9e),
    ("kpdelete", 0xff9f),
    ("xf86back", 0x1008_ff26),
    ("xf86forward", 0x1008_ff27),
    ("xf86reload", 0x1008_ff29),
    ("xf86audiomute", 0x1008_ff12),
    ("xf86audiolowervolume", 0x1008_ff11),
    ("xf86audioraisevolume", 0x1008_ff13),
    ("xf86audioplay", 0x1008_ff14),
    ("xf86audiostop", 0x1008_ff15),
];

/// The keysym that makes a character; none for control characters but line break and tab.
pub fn of_char(c: char) -> Option<u32> {
    match c {
        '\n' => Some(RETURN),
        '\t' => Some(TAB),
        ' '..='~' | '\u{a0}'..='\u{ff}' => Some(c.into()),
        c if c.is_control() => None,
        c => Some(UNICODE | u32::from(c)),
    }
}

/// The keysym of a key's name, or of a single character.
pub fn of_name(name: &str) -> Option<u32> {
    let mut chars = name.chars();
    if let (Some(c), None) = (chars.next(), chars.next()) {
        return of_char(c);
    }
    let plain: String =
        name.chars().filter(|c| !matches!(c, '_' | '-' | ' ')).flat_map(char::to_lowercase).collect();
    if let Some((_, keysym)) = NAMES.iter().find(|(known, _)| *known == plain) {
        return Some(*keysym);
    }
    let rest = |prefix: &str| plain.strip_prefix(prefix);
    if let Some(n) = rest("f").and_then(|n| n.parse::<u32>().ok()).filter(|n| (1..=35).contains(n)) {
        return Some(0xffbd + n);
    }
    if let Some(n) = rest("kp").and_then(|n| n.parse::<u32>().ok()).filter(|n| *n <= 9) {
        return Some(0xffb0 + n);
    }
    let point = rest("u+").or_else(|| rest("u"))?;
    let long_enough = (4..=6).contains(&point.len()) && point.bytes().all(|b| b.is_ascii_hexdigit());
    let point = if long_enough { u32::from_str_radix(point, 16).ok()? } else { return None };
    of_char(char::from_u32(point)?)
}

/// The keys of a chord, `ctrl+shift+t`; what is not a key otherwise.
pub fn chord(text: &str) -> Result<Vec<u32>, String> {
    // A plus at the end is the key of that name: `ctrl++`, `+`.
    let (names, plus) = match text.strip_suffix('+') {
        Some("") => ("", true),
        Some(rest) => match rest.strip_suffix('+') {
            Some(rest) => (rest, true),
            None => return Err(format!("{text:?} ends in + without a key; the key itself is `plus`")),
        },
        None => (text, false),
    };
    let mut keys = Vec::new();
    for name in names.split('+').filter(|_| !names.is_empty()) {
        let unknown = || {
            format!(
                "{name:?} is not a key: use names such as Return, Page_Down, ctrl, F5, or a single character"
            )
        };
        keys.push(of_name(name).ok_or_else(unknown)?);
    }
    keys.extend(plus.then_some(u32::from('+')));
    match keys.len() {
        0 => Err("there is no key".to_owned()),
        1..=8 => Ok(keys),
        n => Err(format!("a chord of {n} keys is over the limit of 8")),
    }
}
