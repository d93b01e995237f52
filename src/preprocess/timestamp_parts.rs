//! `timestamp-parts`: hour, day of the week and the like, from a timestamp (ms since 1970-01-01, UTC).
//!
//! Options: `fields` (default: all timestamps); `parts`, of `year month day day_of_week day_of_year hour
//! minute second` (default hour, day_of_week, month); `cyclic` (false), which makes sine and cosine of
//! each part instead of its number, so that 23 h is near 0 h; `keep` (false), which keeps the timestamp.
//!
//! The new columns are named `field.hour`, or `field.hour.sin` and `field.hour.cos`. Months and days count from
//! 1, days of the week from Monday = 0. The calendar is the Gregorian one, extended to all years; a
//! missing timestamp, or one more than 8.64e15 ms away from 1970, gives missing parts.

use super::columns::Keep;
use super::spec::Spec;
use super::{Built, DenseKind, Layout, Row, Step};
use crate::error::Fault;
use serde_json::{Map, Value};

const DAY_MS: i64 = 86_400_000;
const TIMESTAMP_MS_MAX: f64 = 8.64e15;

/// A part: its name, its first number, and how many numbers make a cycle (0: it has none).
#[derive(Debug, Clone, Copy)]
struct Part {
    name: &'static str,
    first: f64,
    cycle: f64,
}

const fn part(name: &'static str, first: f64, cycle: f64) -> Part {
    Part { name, first, cycle }
}

const PARTS: [Part; 8] = [
    part("year", 0.0, 0.0),
    part("month", 1.0, 12.0),
    part("day", 1.0, 31.0),
    part("day_of_week", 0.0, 7.0),
    part("day_of_year", 1.0, 366.0),
    part("hour", 0.0, 24.0),
    part("minute", 0.0, 60.0),
    part("second", 0.0, 60.0),
];

struct TimestampParts {
    fields: Vec<usize>,
    /// Indices into `PARTS`.
    parts: Vec<usize>,
    cyclic: bool,
    keep: Keep,
}

/// Builds the step from its spec.
pub(super) fn build(spec: &Map<String, Value>, layout: &Layout) -> Built {
    let spec = Spec::new(spec, layout, &["fields", "parts", "cyclic", "keep"])?;
    let cyclic = spec.flag("cyclic", false)?;
    let fields = spec.dense(|kind| kind == DenseKind::Timestamp)?;
    if let Some(i) = fields.iter().find(|i| layout.dense[**i].1 != DenseKind::Timestamp) {
        let name = &layout.dense[*i].0;
        return Err(Fault::misuse(format!("fields: {name:?} is not a timestamp")));
    }
    let names = spec.words("parts")?.unwrap_or(vec!["hour", "day_of_week", "month"]);
    let known = PARTS.map(|p| p.name);
    let find = |name: &&str| {
        known
            .iter()
            .position(|k| k == name)
            .ok_or_else(|| Fault::misuse(format!("parts: no part {name:?}")).hint(format!("of {}", known.join(", "))))
    };
    let parts = names.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    if cyclic && parts.contains(&0) {
        return Err(Fault::misuse("parts: a year has no cycle").hint("leave year or cyclic out"));
    }
    let gone = if spec.flag("keep", false)? { &[][..] } else { &fields[..] };
    let keep = Keep::all_but(layout.dense.len(), gone);
    let mut after = Layout { dense: keep.names(&layout.dense), ..layout.clone() };
    for field in &fields {
        for name in &names {
            let field = &layout.dense[*field].0;
            if cyclic {
                after.dense.push((format!("{field}.{name}.sin"), DenseKind::Number));
                after.dense.push((format!("{field}.{name}.cos"), DenseKind::Number));
            } else {
                after.dense.push((format!("{field}.{name}"), DenseKind::Number));
            }
        }
    }
    Ok((Box::new(TimestampParts { fields, parts, cyclic, keep }), after))
}

/// All parts of a timestamp, in the order of `PARTS`.
fn split(ms: f64) -> [f64; 8] {
    // Written so that NaN is refused as well.
    if !(-TIMESTAMP_MS_MAX..=TIMESTAMP_MS_MAX).contains(&ms) {
        return [f64::NAN; 8];
    }
    let ms = ms.floor() as i64;
    let (days, in_day) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    let (year, month, day) = civil(days);
    // 1970-01-01 was a Thursday.
    let day_of_week = (days + 3).rem_euclid(7);
    let day_of_year = days - days_before(year) + 1;
    let (hour, minute, second) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60);
    [year, month, day, day_of_week, day_of_year, hour, minute, second].map(|v| v as f64)
}

/// Days from 1970-01-01 to January 1st of a year.
fn days_before(year: i64) -> i64 {
    let y = year - 1;
    y * 365 + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) - 719_162
}

/// Year, month and day of a day counted from 1970-01-01. Years are taken to start in March, so that the
/// leap day is the last one, and the months' lengths repeat every five months: 153 days.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day + 2) / 153;
    let day = day - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

impl Step for TimestampParts {
    fn learns(&self) -> bool {
        false
    }
    fn transform(&self, row: &mut Row, _text: &[u8]) {
        let width = row.dense.len();
        for field in &self.fields {
            let all = split(row.dense[*field]);
            for &part in &self.parts {
                if self.cyclic {
                    let Part { first, cycle, .. } = PARTS[part];
                    let angle = (all[part] - first) / cycle * std::f64::consts::TAU;
                    row.dense.push(libm::sin(angle));
                    row.dense.push(libm::cos(angle));
                } else {
                    row.dense.push(all[part]);
                }
            }
        }
        self.keep.apply_front(width, &mut row.dense);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (ms, expected) in [
            (0.0, [1970, 1, 1, 3, 1, 0, 0, 0]),
            (-1.0, [1969, 12, 31, 2, 365, 23, 59, 59]),
            (951_782_400_000.0, [2000, 2, 29, 1, 60, 0, 0, 0]),
            (1_709_251_199_999.0, [2024, 2, 29, 3, 60, 23, 59, 59]),
            (-2_203_891_200_000.0, [1900, 3, 1, 3, 60, 0, 0, 0]),
            (-62_135_596_800_000.0, [1, 1, 1, 0, 1, 0, 0, 0]),
            (1_798_761_599_000.0, [2026, 12, 31, 3, 365, 23, 59, 59]),
        ] {
            assert_eq!(split(ms), expected.map(f64::from), "{ms}");
        }
    }

    #[test]
    fn every_day_follows_the_day_before() {
        let (mut year, mut month, mut day) = civil(-1_000_000);
        for days in -999_999..1_000_000 {
            let (y, m, d) = civil(days);
            let next_day = (y, m, d) == (year, month, day + 1);
            let next_month = d == 1 && day >= 28 && ((y, m) == (year, month + 1) || (y, m, month) == (year + 1, 1, 12));
            assert!(next_day || next_month, "{y}-{m}-{d} after {year}-{month}-{day}");
            (year, month, day) = (y, m, d);
        }
    }

    #[test]
    fn out_of_range_is_missing() {
        assert!(split(8.64e15)[0].is_finite());
        assert!(split(8.64e15 + 1.0)[0].is_nan());
        assert!(split(f64::NAN)[3].is_nan());
    }
}
