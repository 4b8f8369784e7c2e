//! Numbers as people read them, and as they write them: ages, sizes, durations, CPU.

use std::time::Duration;

use wharf_domain::Time;

/// How long ago, in the largest unit that still tells something.
pub fn age(at: Time, now: Time) -> String {
    span(now.since(at))
}

pub fn span(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..=119 => format!("{s}s"),
        120..=7_199 => format!("{}m", s / 60),
        7_200..=172_799 => format!("{}h", s / 3_600),
        172_800..=63_071_999 => format!("{}d", s / 86_400),
        _ => format!("{}y", s / 31_536_000),
    }
}

/// Bytes in binary units.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

pub fn mib(n: u64) -> String {
    if n.is_multiple_of(1024) { format!("{}Gi", n / 1024) } else { format!("{n}Mi") }
}

/// `1500` milli-cores as `1.5`.
pub fn cores(millis: u64) -> String {
    let text = format!("{:.3}", millis as f64 / 1000.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Micro-dollars as dollars: to the cent, or as exactly as it takes.
pub fn dollars(micro: u64) -> String {
    let (whole, rest) = (micro / 1_000_000, micro % 1_000_000);
    if rest.is_multiple_of(10_000) {
        return format!("${whole}.{:02}", rest / 10_000);
    }
    format!("${whole}.{rest:06}").trim_end_matches('0').to_owned()
}

/// `3`, `0.30`, `.000001`: dollars as micro-dollars.
pub fn parse_dollars(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if fraction.len() > 6 || !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty())
    {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let micro: u64 = format!("{fraction:0<6}").parse().ok()?;
    whole.checked_mul(1_000_000)?.checked_add(micro)
}

/// `90`, `90s`, `15m`, `2h`, `7d` as seconds.
pub fn parse_seconds(text: &str) -> Result<u32, String> {
    let wrong = || {
        format!("{text:?} is no duration: write seconds, or a number with s, m, h or d (90s, 15m, 2h, 7d)")
    };
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor: u32 = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    number.parse::<u32>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(wrong)
}

/// The same, and `never` as 0.
pub fn parse_idle(text: &str) -> Result<u32, String> {
    if text == "never" { Ok(0) } else { parse_seconds(text) }
}

/// `1`, `0.5`, `250m` as milli-cores.
pub fn parse_cpu(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is no amount of CPU: write cores (2, 0.5) or thousandths (250m)");
    if let Some(millis) = text.strip_suffix('m') {
        return millis.parse().map_err(|_| wrong());
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3
        || !fraction.bytes().all(|b| b.is_ascii_digit())
        || (whole.is_empty() && fraction.is_empty())
    {
        return Err(wrong());
    }
    let whole: u32 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
    let thousandths: u32 = format!("{fraction:0<3}").parse().map_err(|_| wrong())?;
    whole.checked_mul(1000).and_then(|w| w.checked_add(thousandths)).ok_or_else(wrong)
}

/// `512`, `512Mi`, `512MiB`, `4G`, `4GiB` as MiB.
pub fn parse_mib(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is no size: write MiB, or a number with Mi, Gi or Ti (512, 512Mi, 4Gi)");
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor: u32 = match unit {
        "" | "M" | "Mi" | "MiB" => 1,
        "G" | "Gi" | "GiB" => 1024,
        "T" | "Ti" | "TiB" => 1024 * 1024,
        _ => return Err(wrong()),
    };
    number.parse::<u32>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(wrong)
}

/// `KEY=VALUE`.
pub fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((k, v)) if !k.is_empty() => Ok((k.to_owned(), v.to_owned())),
        _ => Err(format!("{text:?} is no pair: write KEY=VALUE")),
    }
}

/// `KEY=VALUE` to set, `KEY-` to remove.
pub fn parse_label_change(text: &str) -> Result<(String, Option<String>), String> {
    match (text.split_once('='), text.strip_suffix('-')) {
        (Some((k, v)), _) if !k.is_empty() => Ok((k.to_owned(), Some(v.to_owned()))),
        (None, Some(k)) if !k.is_empty() => Ok((k.to_owned(), None)),
        _ => Err(format!("{text:?} is no change of a label: write KEY=VALUE to set one, KEY- to remove it")),
    }
}
