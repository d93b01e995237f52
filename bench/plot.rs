//! Plots as inline SVG: bars beside bars, latency over percentiles, the limit beside what was reached. Colours are
//! the page's (CSS variables), so that they follow its light and its dark face.

use crate::report::short;
use std::fmt::Write;

/// Width of a plot in CSS pixels; the height follows from what is in it.
const WIDTH: f64 = 920.0;
/// Left of the bars: their names.
const NAMES_WIDTH: f64 = 210.0;
/// Right of the bars: their values.
const VALUES_WIDTH: f64 = 270.0;
/// Height of a bar, and from a pair of bars to the next.
const BAR_HEIGHT: f64 = 14.0;
const PAIR_GAP: f64 = 14.0;

/// A bar, and the one beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What was measured.
    pub label: String,
    /// Its value.
    pub value: f64,
    /// What it was put beside: name, value, ratio.
    pub beside: Option<(String, f64, f64)>,
}

/// One line over percentiles: the quantiles (0 to below 1) and a latency for each.
pub type Curve<'a> = (&'a str, Vec<(f64, f64)>);

/// Text as HTML and SVG may hold it.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn open(height: f64, title: &str) -> String {
    let title = escape(title);
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" role=\"img\" \
         aria-label=\"{title}\"><title>{title}</title>\n"
    )
}

fn put(svg: &mut String, text: std::fmt::Arguments<'_>) {
    svg.write_fmt(text).expect("a String takes all");
    svg.push('\n');
}

fn text(svg: &mut String, class: &str, x: f64, y: f64, words: &str) {
    put(svg, format_args!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(words)));
}

fn rect(svg: &mut String, class: &str, x: f64, y: f64, width: f64, tip: &str) {
    let tip = escape(tip);
    let width = width.max(0.5);
    put(
        svg,
        format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\">\
             <title>{tip}</title></rect>"
        ),
    );
}

/// Horizontal bars on one scale that begins at 0; what stands beside a bar is the thinner-coloured one below it.
pub fn bars(title: &str, unit: &str, rows: &[Bar]) -> String {
    let values = rows.iter().flat_map(|r| [Some(r.value), r.beside.as_ref().map(|b| b.1)]).flatten();
    let most = values.filter(|v| v.is_finite()).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - NAMES_WIDTH - VALUES_WIDTH) / most;
    let height = rows.iter().map(|r| pair_height(r) + PAIR_GAP).sum::<f64>() + 8.0;
    let mut svg = open(height, title);
    put(
        &mut svg,
        format_args!("<line class=\"axis\" x1=\"{NAMES_WIDTH}\" x2=\"{NAMES_WIDTH}\" y1=\"0\" y2=\"{height:.0}\"/>"),
    );
    let mut y = 8.0;
    for row in rows {
        let ratio = row.beside.as_ref().map_or(String::new(), |b| format!(" ({}×)", short(b.2)));
        text(&mut svg, "name", NAMES_WIDTH - 8.0, y + 11.0, &row.label);
        bar(&mut svg, "ours", y, scale, &row.label, row.value, unit, &ratio);
        if let Some((name, value, _)) = &row.beside {
            let below = y + BAR_HEIGHT + 2.0;
            text(&mut svg, "name dim", NAMES_WIDTH - 8.0, below + 11.0, name);
            bar(&mut svg, "beside", below, scale, name, *value, unit, "");
        }
        y += pair_height(row) + PAIR_GAP;
    }
    svg + "</svg>\n"
}

fn pair_height(row: &Bar) -> f64 {
    if row.beside.is_some() { 2.0 * BAR_HEIGHT + 2.0 } else { BAR_HEIGHT }
}

#[expect(clippy::too_many_arguments, reason = "a bar is its place, its scale and its words")]
fn bar(svg: &mut String, class: &str, y: f64, scale: f64, name: &str, value: f64, unit: &str, after: &str) {
    let (shown, width) = (short(value), if value.is_finite() { value * scale } else { 0.0 });
    rect(svg, class, NAMES_WIDTH, y, width, &format!("{name}: {shown} {unit}"));
    text(svg, "value", NAMES_WIDTH + width + 6.0, y + 11.0, &format!("{shown} {unit}{after}"));
}

/// Terms of the limit end to end, above the bar of what was reached.
pub fn limit(title: &str, unit: &str, terms: &[(String, f64)], reached: f64) -> String {
    let total: f64 = terms.iter().map(|t| t.1).sum();
    let scale = (WIDTH - NAMES_WIDTH - VALUES_WIDTH) / total.max(reached).max(f64::MIN_POSITIVE);
    let height = 2.0 * BAR_HEIGHT + 44.0;
    let mut svg = open(height, title);
    text(&mut svg, "name", NAMES_WIDTH - 8.0, 15.0, "limit");
    let (mut x, mut key) = (NAMES_WIDTH, NAMES_WIDTH);
    for (i, (name, value)) in terms.iter().enumerate() {
        let (class, words) = (format!("term{}", i % 5), format!("{name} {}", short(*value)));
        rect(&mut svg, &class, x, 4.0, (value * scale - 1.0).max(0.5), &format!("{name}: {} {unit}", short(*value)));
        x += value * scale;
        put(
            &mut svg,
            format_args!(
                "<rect class=\"{class}\" x=\"{key:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\"/>",
                height - 16.0
            ),
        );
        text(&mut svg, "key", key + 14.0, height - 7.0, &words);
        key += 26.0 + 6.6 * words.chars().count() as f64;
    }
    text(&mut svg, "value", x + 6.0, 15.0, &format!("{} {unit}", short(total)));
    let y = BAR_HEIGHT + 8.0;
    text(&mut svg, "name", NAMES_WIDTH - 8.0, y + 11.0, "reached");
    rect(&mut svg, "ours", NAMES_WIDTH, y, reached * scale, &format!("reached: {} {unit}", short(reached)));
    let fraction = total / reached;
    text(
        &mut svg,
        "value",
        NAMES_WIDTH + reached * scale + 6.0,
        y + 11.0,
        &format!("{} {unit}: {} of the limit", short(reached), short(fraction)),
    );
    svg + "</svg>\n"
}

/// Latency over percentiles: the axis below is 1 ÷ (1 − quantile), both axes are logarithmic.
pub fn percentiles(title: &str, unit: &str, curves: &[Curve<'_>]) -> String {
    const LEFT: f64 = 70.0;
    const RIGHT: f64 = 30.0;
    const BOTTOM: f64 = 44.0;
    const HEIGHT: f64 = 300.0;
    let points = || curves.iter().flat_map(|c| &c.1).filter(|(_, v)| *v > 0.0);
    let rarest = points().map(|(q, _)| 1.0 / (1.0 - q)).fold(10.0, f64::max);
    let (low, high) = points().fold((f64::MAX, 0.0_f64), |(l, h), (_, v)| (l.min(*v), h.max(*v)));
    let (low, high) = if high > 0.0 { (low.log10().floor(), high.log10().ceil()) } else { (0.0, 1.0) };
    let high = if high > low { high } else { low + 1.0 };
    let x = |q: f64| LEFT + (WIDTH - LEFT - RIGHT) * (1.0 / (1.0 - q)).log10() / rarest.log10();
    let y = |v: f64| 10.0 + (HEIGHT - BOTTOM - 10.0) * (1.0 - (v.max(1e-12).log10() - low) / (high - low));
    let mut svg = open(HEIGHT, title);
    for decade in low as i32..=high as i32 {
        let (at, value) = (y(10_f64.powi(decade)), 10_f64.powi(decade));
        let right = WIDTH - RIGHT;
        put(
            &mut svg,
            format_args!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"),
        );
        let whole = usize::try_from(-decade).unwrap_or(0);
        text(&mut svg, "name dim", LEFT - 8.0, at + 4.0, &format!("{value:.whole$}"));
    }
    text(&mut svg, "key dim", 4.0, HEIGHT - 8.0, unit);
    for (name, quantile) in [("p0", 0.0), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)] {
        if 1.0 / (1.0 - quantile) <= rarest * 1.001 {
            let (at, bottom) = (x(quantile), HEIGHT - BOTTOM);
            put(
                &mut svg,
                format_args!("<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"10\" y2=\"{bottom}\"/>"),
            );
            text(&mut svg, "tick dim", at, HEIGHT - BOTTOM + 18.0, name);
        }
    }
    for (i, (name, points)) in curves.iter().enumerate() {
        let class = if i == 0 { "ours" } else { "beside" };
        let path: Vec<String> =
            points.iter().filter(|(_, v)| *v > 0.0).map(|(q, v)| format!("{:.1},{:.1}", x(*q), y(*v))).collect();
        put(&mut svg, format_args!("<polyline class=\"line {class}\" points=\"{}\"/>", path.join(" ")));
        let at = LEFT + 10.0 + 180.0 * i as f64;
        put(
            &mut svg,
            format_args!("<rect class=\"{class}\" x=\"{at}\" y=\"{:.1}\" width=\"10\" height=\"10\"/>", HEIGHT - 16.0),
        );
        text(&mut svg, "key", at + 14.0, HEIGHT - 7.0, name);
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(svg: &str, from: &str, name: &str) -> f64 {
        let rest = &svg[svg.find(from).expect("the mark")..];
        let rest = &rest[rest.find(&format!(" {name}=\"")).expect("the attribute") + name.len() + 3..];
        rest[..rest.find('"').expect("its end")].parse().expect("a number")
    }

    #[test]
    fn a_bar_of_half_the_value_is_half_as_long() {
        let beside = Some(("vw".to_string(), 1e6, 2.0));
        let svg = bars("rates", "events/s", &[Bar { label: "rate".into(), value: 2e6, beside }]);
        let (ours, theirs) = (attribute(&svg, "class=\"ours\"", "width"), attribute(&svg, "class=\"beside\"", "width"));
        assert!((ours - 2.0 * theirs).abs() < 0.2, "{ours} {theirs}");
        assert!(svg.contains("(2.000×)") && svg.contains("2,000,000 events/s"), "{svg}");
    }

    #[test]
    fn the_limits_terms_lie_end_to_end_and_the_fraction_is_theirs() {
        let terms = [("receive".to_string(), 30.0), ("parse".to_string(), 70.0)];
        let svg = limit("limit", "ns", &terms, 200.0);
        let (first, second, reached) = (
            attribute(&svg, "class=\"term0\"", "x"),
            attribute(&svg, "class=\"term1\"", "x"),
            attribute(&svg, "class=\"ours\"", "width"),
        );
        assert!(((second - first) - 0.15 * reached).abs() < 0.2, "{first} {second} {reached}");
        assert!(svg.contains("0.5000 of the limit"), "{svg}");
    }

    #[test]
    fn a_percentile_curve_rises_to_the_right() {
        let curve = vec![(0.0, 10.0), (0.5, 20.0), (0.9, 40.0), (0.999, 900.0)];
        let svg = percentiles("latency", "µs", &[("ours", curve.clone()), ("echo", curve)]);
        let points = svg.split("points=\"").nth(1).and_then(|p| p.split('"').next()).expect("a line");
        let points: Vec<(f64, f64)> = points
            .split(' ')
            .map(|p| p.split_once(',').map(|(x, y)| (x.parse().expect("x"), y.parse().expect("y"))).expect("a point"))
            .collect();
        assert_eq!(points.len(), 4);
        assert!(points.windows(2).all(|p| p[1].0 > p[0].0 && p[1].1 < p[0].1), "{points:?}");
        assert!(svg.contains(">p99.9<") && !svg.contains(">p99.99<"), "only percentiles that were sampled");
    }

    #[test]
    fn nothing_that_is_named_can_break_the_page() {
        let svg = bars("<b>", "\"/s", &[Bar { label: "a<script>&".into(), value: f64::NAN, beside: None }]);
        assert!(!svg.contains("<script>") && !svg.contains("<b>") && svg.contains("a&lt;script&gt;&amp;"), "{svg}");
        assert!(!svg.contains("=\"NaN"), "{svg}");
    }
}
