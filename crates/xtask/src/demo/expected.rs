//! What the harbour's report must say, worked out a second time and in another language.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

struct Arrival {
    hour: i64,
    stay_hours: f64,
    ship: String,
    cargo: String,
    tonnes: Option<f64>,
}

pub fn report(csv: &str) -> Result<Value> {
    let rows: Vec<Arrival> = csv
        .lines()
        .skip(1)
        .enumerate()
        .map(|(at, l)| arrival(l).with_context(|| format!("row {}", at + 2)))
        .collect::<Result<_>>()?;
    let mut tonnes: BTreeMap<&str, f64> = BTreeMap::new();
    let mut stays: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut hours: BTreeMap<i64, u32> = BTreeMap::new();
    let mut ships: BTreeMap<&str, u32> = BTreeMap::new();
    for row in &rows {
        if let Some(weight) = row.tonnes {
            *tonnes.entry(&row.cargo).or_default() += weight;
        }
        stays.entry(&row.cargo).or_default().push(row.stay_hours);
        *hours.entry(row.hour).or_default() += 1;
        *ships.entry(&row.ship).or_default() += 1;
    }
    let limit = median(rows.iter().map(|r| r.stay_hours).collect()) * 3.0;
    // Maps are sorted, and the first of equals wins: the smallest hour, the first name.
    let hour = hours.iter().rev().max_by_key(|(_, n)| **n).map(|(hour, _)| *hour);
    let ship = ships.iter().rev().max_by_key(|(_, n)| **n).map(|(ship, _)| *ship);
    Ok(json!({
        "arrivals": rows.len(),
        "unweighed": rows.iter().filter(|r| r.tonnes.is_none()).count(),
        "tonnes": tonnes.into_iter().map(|(c, t)| (c.to_owned(), json!(round(t, 10.0)))).collect::<serde_json::Map<_, _>>(),
        "median_stay_hours": stays.into_iter().map(|(c, s)| (c.to_owned(), json!(round(median(s), 100.0)))).collect::<serde_json::Map<_, _>>(),
        "busiest_hour": hour,
        "most_frequent_ship": ship,
        "overstayed": rows.iter().filter(|r| r.stay_hours > limit).count(),
    }))
}

fn arrival(line: &str) -> Result<Arrival> {
    let cells: Vec<&str> = line.split(',').collect();
    let [from, to, ship, _berth, cargo, tonnes] = cells.as_slice() else {
        anyhow::bail!("not six cells: {line}")
    };
    let (from, to) = (minutes(from)?, minutes(to)?);
    Ok(Arrival {
        hour: from / 60 % 24,
        stay_hours: (to - from) as f64 / 60.0,
        ship: (*ship).to_owned(),
        cargo: (*cargo).to_owned(),
        tonnes: if tonnes.is_empty() { None } else { Some(tonnes.parse()?) },
    })
}

/// Minutes since 1970 of `YYYY-MM-DDTHH:MM` (days from civil, H. Hinnant).
fn minutes(text: &str) -> Result<i64> {
    let part =
        |range: std::ops::Range<usize>| -> Result<i64> { Ok(text.get(range).context("too short")?.parse()?) };
    let (year, month, day) = (part(0..4)?, part(5..7)?, part(8..10)?);
    let y = if month <= 2 { year - 1 } else { year };
    let shifted = (month + 9) % 12;
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let era_year = y.rem_euclid(400);
    let days =
        y.div_euclid(400) * 146_097 + era_year * 365 + era_year / 4 - era_year / 100 + day_of_year - 719_468;
    Ok((days * 24 + part(11..13)?) * 60 + part(14..16)?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n % 2 == 1 { values[n / 2] } else { f64::midpoint(values[n / 2 - 1], values[n / 2]) }
}

fn round(value: f64, by: f64) -> f64 {
    (value * by).round() / by
}
