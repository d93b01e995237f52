//! `report`: the JSON lines of a run as one page that needs nothing else: dated, the machine named, throughput beside
//! the peers, what a row costs, latency over percentiles, how far from the limit; and every figure in a table.

use crate::plot::{self, Bar, escape};
use crate::report::short;
use serde::Deserialize;
use std::fmt::Write;
use std::path::PathBuf;

/// A line of `--json`, as far as the page shows it.
#[derive(Debug, Clone, Deserialize)]
pub struct Line {
    name: String,
    unit: String,
    value: Option<f64>,
    worst: Option<f64>,
    beside: Option<Peer>,
    ratio: Option<f64>,
    samples: u64,
    machine: String,
    result_hash: Option<String>,
    #[serde(default)]
    at: String,
    #[serde(default)]
    size: String,
    #[serde(default)]
    version: String,
    percentiles: Option<Percentiles>,
}

#[derive(Debug, Clone, Deserialize)]
struct Peer {
    name: String,
    value: Option<f64>,
}

/// A whole distribution: a latency at each quantile.
#[derive(Debug, Clone, Deserialize)]
struct Percentiles {
    quantiles: Vec<f64>,
    values: Vec<f64>,
    beside: Option<Vec<f64>>,
}

impl Line {
    fn workload(&self) -> &str {
        self.name.split('/').next().unwrap_or(&self.name)
    }
    fn figure(&self) -> &str {
        self.name.split_once('/').map_or(&self.name, |(_, figure)| figure)
    }
    fn is_rate(&self) -> bool {
        self.unit.ends_with("/s")
    }
    fn is_cost(&self) -> bool {
        self.unit.starts_with("ns/") && !self.figure().contains("floor")
    }
    fn bar(&self) -> Bar {
        let beside = self
            .beside
            .as_ref()
            .map(|peer| (peer.name.clone(), peer.value.unwrap_or(f64::NAN), self.ratio.unwrap_or(f64::NAN)));
        Bar { label: self.figure().into(), value: self.value.unwrap_or(f64::NAN), beside }
    }
}

/// The figures of a file of JSON lines.
///
/// # Errors
/// What was wrong with which line.
pub fn read(text: &str) -> Result<Vec<Line>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let lines = lines.map(|(i, line)| serde_json::from_str(line).map_err(|e| format!("line {}: {e}", i + 1)));
    let lines: Vec<Line> = lines.collect::<Result<_, String>>()?;
    if lines.is_empty() { Err("holds no figures".into()) } else { Ok(lines) }
}

/// Makes the page of each file of JSON lines, beside it; returns the pages' paths.
///
/// # Errors
/// The file, and what was wrong with it.
pub fn make(files: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    let page_of = |file: &PathBuf| {
        let fault = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
        let lines = read(&std::fs::read_to_string(file).map_err(|e| fault(&e))?).map_err(|e| fault(&e))?;
        let page = file.with_extension("html");
        std::fs::write(&page, html(&lines)).map_err(|e| format!("{}: {e}", page.display()))?;
        Ok(page)
    };
    files.iter().map(page_of).collect()
}

/// Workloads in the order in which they ran.
fn workloads(lines: &[Line]) -> Vec<&str> {
    let mut all: Vec<&str> = Vec::new();
    for line in lines {
        if !all.contains(&line.workload()) {
            all.push(line.workload());
        }
    }
    all
}

/// The page.
pub fn html(lines: &[Line]) -> String {
    let Some(first) = lines.first() else { return String::new() };
    let when = if first.at.is_empty() { "undated" } else { &first.at };
    let smoke = if first.size == "smoke" {
        "<p class=\"warning\">Smoke size: shows that nothing is broken, says little about speed.</p>\n"
    } else {
        ""
    };
    let mut body = format!(
        "<h1>Millstream benchmarks</h1>\n<p>{} · millstream {}<br>{}</p>\n{smoke}\
         <p class=\"dim\">Blue is Millstream, grey what stands beside it in the same run, on the same rows; in brackets \
         how many times better Millstream is (for latencies: its over theirs, so 1 is the best there is). Medians; the \
         worst is in the table.</p>\n",
        escape(when),
        escape(&first.version),
        escape(&first.machine)
    );
    for workload in workloads(lines) {
        let of: Vec<&Line> = lines.iter().filter(|l| l.workload() == workload).collect();
        section(&mut body, workload, &of);
    }
    body += "<h2>All figures</h2>\n";
    table(&mut body, lines);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Millstream benchmarks, {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        escape(when)
    )
}

fn section(body: &mut String, workload: &str, lines: &[&Line]) {
    let mut plots = String::new();
    for (heading, is) in [("Throughput", Line::is_rate as fn(&Line) -> bool), ("Cost", Line::is_cost)] {
        let mut units: Vec<&str> = Vec::new();
        for line in lines.iter().filter(|l| is(l)) {
            if !units.contains(&line.unit.as_str()) {
                units.push(&line.unit);
            }
        }
        for unit in units {
            let rows: Vec<Bar> = lines.iter().filter(|l| is(l) && l.unit == unit).map(|l| l.bar()).collect();
            add(&mut plots, &format!("{heading}, {unit}"), &plot::bars(&format!("{workload}: {unit}"), unit, &rows));
        }
    }
    limits(&mut plots, workload, lines);
    for line in lines {
        let Some(p) = &line.percentiles else { continue };
        let points = |values: &[f64]| p.quantiles.iter().copied().zip(values.iter().copied()).collect();
        let mut curves = vec![("Millstream", points(&p.values))];
        if let (Some(values), Some(peer)) = (&p.beside, &line.beside) {
            curves.push((peer.name.as_str(), points(values)));
        }
        let name = line.figure().trim_end_matches("-max");
        let title = format!("{workload}: {name}, latency over percentiles");
        add(&mut plots, &format!("Latency, {name}"), &plot::percentiles(&title, &line.unit, &curves));
    }
    if !plots.is_empty() {
        write!(body, "<h2>{}</h2>\n{plots}", escape(workload)).expect("a String takes all");
    }
}

/// The limit's terms beside what was reached: figures `…floor-TERM` and the `…daemon-cpu` (or `…cpu`) that they
/// belong to, which has the same beginning.
fn limits(plots: &mut String, workload: &str, lines: &[&Line]) {
    for fraction in lines.iter().filter(|l| l.figure().ends_with("fraction-of-limit")) {
        let prefix = fraction.figure().trim_end_matches("fraction-of-limit");
        let start = format!("{prefix}floor-");
        let terms: Vec<(String, f64)> =
            lines.iter().filter_map(|l| Some((l.figure().strip_prefix(&start)?.to_string(), l.value?))).collect();
        let total: f64 = terms.iter().map(|t| t.1).sum();
        let unit = lines.iter().find(|l| l.figure().starts_with(&start)).map_or("", |l| &l.unit);
        if let Some(value) = fraction.value.filter(|v| *v > 0.0 && total > 0.0) {
            let title = format!("{workload}: {prefix}the limit, term by term, and what was reached");
            let of = prefix.trim_end_matches('-');
            let heading =
                if of.is_empty() { "Fraction of the limit".into() } else { format!("Fraction of the limit, {of}") };
            add(plots, &heading, &plot::limit(&title, unit, &terms, total / value));
        }
    }
}

fn add(plots: &mut String, heading: &str, svg: &str) {
    write!(plots, "<h3>{}</h3>\n<div class=\"plot\">{svg}</div>\n", escape(heading)).expect("a String takes all");
}

fn table(body: &mut String, lines: &[Line]) {
    *body += "<div class=\"plot\"><table>\n<thead><tr><th>figure</th><th>value</th><th>unit</th><th>worst</th>\
              <th>beside it</th><th>its value</th><th>ratio</th><th>samples</th><th>result</th></tr></thead>\n<tbody>\n";
    let number = |value: Option<f64>| value.map_or(String::new(), short);
    for line in lines {
        let peer = line.beside.as_ref();
        writeln!(
            body,
            "<tr><td>{}</td><td class=\"n\">{}</td><td>{}</td><td class=\"n\">{}</td><td>{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"hash\">{}</td></tr>",
            escape(&line.name),
            number(line.value),
            escape(&line.unit),
            number(line.worst),
            escape(peer.map_or("", |p| &p.name)),
            number(peer.and_then(|p| p.value)),
            line.ratio.map_or(String::new(), |r| format!("{}×", short(r))),
            line.samples,
            escape(line.result_hash.as_deref().unwrap_or(""))
        )
        .expect("a String takes all");
    }
    *body += "</tbody></table></div>\n";
}

/// Both faces of the page; nothing is fetched.
const STYLE: &str = "\
:root { color-scheme: light dark; --page: #fcfcfb; --ink: #1b1c1e; --dim: #5d6268; --line: #dcdee1; --ours: #2a6fdb;
  --beside: #8f969e; --t0: #1f7a8c; --t1: #d1792b; --t2: #7a55b8; --t3: #4d8f3a; --t4: #b8446a; --warn: #8a5300; }
@media (prefers-color-scheme: dark) { :root { --page: #17181a; --ink: #ececea; --dim: #a3a8ae; --line: #34373b;
  --ours: #6ea4f5; --beside: #7d858d; --t0: #4fb3c6; --t1: #e59a55; --t2: #a98ae0; --t3: #7fc06a; --t4: #e07fa0;
  --warn: #f0b75b; } }
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; } .dim { color: var(--dim); } .warning { color: var(--warn); }
.plot { overflow-x: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); } svg .dim { fill: var(--dim); }
svg .name { text-anchor: end; } svg .tick { text-anchor: middle; }
svg .ours { fill: var(--ours); } svg .beside { fill: var(--beside); }
svg .line { fill: none; stroke-width: 2; } svg .line.ours { stroke: var(--ours); }
svg .line.beside { stroke: var(--beside); stroke-dasharray: 5 3; }
svg .axis { stroke: var(--dim); } svg .grid { stroke: var(--line); }
svg .term0 { fill: var(--t0); } svg .term1 { fill: var(--t1); } svg .term2 { fill: var(--t2); }
svg .term3 { fill: var(--t3); } svg .term4 { fill: var(--t4); }
table { border-collapse: collapse; font-size: 13px; } th, td { text-align: left; padding: .2rem .6rem .2rem 0;
  border-bottom: 1px solid var(--line); white-space: nowrap; } .n { text-align: right; font-variant-numeric: tabular-nums; }
.hash { font-family: ui-monospace, monospace; color: var(--dim); }
";

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"
{"name":"socket-json/rate","unit":"events/s","value":2.5e6,"worst":2.4e6,"beside":{"name":"vw --daemon","value":7.4e4},"ratio":33.8,"samples":5,"machine":"A <CPU>, 2 cores","result_hash":"00ff","at":"2026-11-23T13:00:00Z","size":"full","version":"0.1.0"}
{"name":"socket-json/daemon-cpu","unit":"ns/event","value":340.0,"worst":350.0,"beside":null,"ratio":null,"samples":5,"machine":"A","result_hash":null}
{"name":"socket-json/floor-receive","unit":"ns/event","value":70.0,"worst":null,"beside":null,"ratio":null,"samples":5,"machine":"A","result_hash":null}
{"name":"socket-json/floor-parse","unit":"ns/event","value":100.0,"worst":null,"beside":null,"ratio":null,"samples":5,"machine":"A","result_hash":null}
{"name":"socket-json/fraction-of-limit","unit":"floor/daemon-cpu","value":0.5,"worst":0.4,"beside":null,"ratio":null,"samples":5,"machine":"A","result_hash":null}
{"name":"latency/load-50-max","unit":"µs","value":900.0,"worst":null,"beside":{"name":"echo","value":500.0},"ratio":1.8,"samples":1000,"machine":"A","result_hash":null,"percentiles":{"quantiles":[0.0,0.5,0.9],"values":[10.0,20.0,900.0],"beside":[9.0,15.0,500.0]}}
"#;

    #[test]
    fn a_page_has_every_plot_and_every_figure() {
        let page = html(&read(LINES).expect("the lines"));
        for part in [
            "2026-11-23T13:00:00Z",
            "A &lt;CPU&gt;, 2 cores",
            "vw --daemon",
            "33.80×",
            "Throughput, events/s",
            "Cost, ns/event",
            "0.5000 of the limit",
            "Latency, load-50",
            "class=\"line beside\"",
            "00ff",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        assert_eq!(page.matches("<tr><td>").count(), 6);
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }

    #[test]
    fn a_page_fetches_nothing() {
        let page = html(&read(LINES).expect("the lines"));
        for outside in ["http:", "https:", "src=", "@import", "url(", "<link", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        assert!(read("{\"name\":3}").expect_err("not a figure").starts_with("line 1:"));
        assert_eq!(read("\n").expect_err("empty"), "holds no figures");
    }
}
