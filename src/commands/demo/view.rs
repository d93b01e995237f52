//! What a person sees while the demo runs: a screen on a terminal, else a line a second.

use super::meter::Frame;
use crate::error::{Fault, Result};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Gauge, Paragraph, Row, Sparkline, Table, Wrap};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How often the screen is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(200);
/// How often a line is printed without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// 1234567 as `1,234,567`.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The demo's output.
pub(super) struct Show {
    /// `None` where standard output is no terminal.
    terminal: Option<DefaultTerminal>,
    shown: Instant,
}

impl Show {
    /// Takes over the terminal, if there is one.
    ///
    /// # Errors
    /// Environment, where the terminal can't be taken over.
    pub fn open() -> Result<Show> {
        let is_watched = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
        let terminal = match is_watched {
            true => Some(ratatui::try_init().map_err(|e| Fault::io("the terminal", &e))?),
            false => None,
        };
        Ok(Show { terminal, shown: Instant::now() })
    }

    /// Tells of something that happened. On a screen it is shown with the next frame.
    ///
    /// # Errors
    /// Environment, where standard output can't be written to.
    pub fn note(&self, text: &str) -> Result<()> {
        match &self.terminal {
            Some(_) => Ok(()),
            None => crate::commands::print(&format!("{text}\n")),
        }
    }

    /// Shows where things stand, when it is time to.
    ///
    /// # Errors
    /// Environment, where the output can't be written to.
    pub fn turn(&mut self, frame: &Frame<'_>) -> Result<()> {
        let every = if self.terminal.is_some() { DRAW_EVERY } else { LINE_EVERY };
        if self.shown.elapsed() < every {
            return Ok(());
        }
        self.shown = Instant::now();
        match &mut self.terminal {
            Some(terminal) => {
                terminal.draw(|target| draw(frame, target)).map_err(|e| Fault::io("the terminal", &e))?;
                Ok(())
            }
            None => crate::commands::print(&line(frame)),
        }
    }

    /// True where q, Escape or Ctrl-C was pressed.
    ///
    /// # Errors
    /// Environment, where the terminal can't be read.
    pub fn quit_pressed(&self) -> Result<bool> {
        let broken = |e: std::io::Error| Fault::io("the terminal", &e);
        while self.terminal.is_some() && event::poll(Duration::ZERO).map_err(broken)? {
            if let Event::Key(key) = event::read().map_err(broken)?
                && key.kind == KeyEventKind::Press
            {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(true),
                    KeyCode::Char('c') if control => return Ok(true),
                    _ => {}
                }
            }
        }
        Ok(false)
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        if self.terminal.take().is_some() {
            ratatui::restore();
        }
    }
}

fn line(frame: &Frame<'_>) -> String {
    if !frame.live {
        return format!("{:4.0} s  {}\n", frame.elapsed.as_secs_f64(), frame.phase);
    }
    let ([p50, p99, p999, _], [model, no_change, majority]) = (frame.latency_ms, frame.recent);
    format!(
        "{:4.0} s  {} events  {}/s  p50 {p50:.2} p99 {p99:.2} p99.9 {p999:.2} ms  accuracy {model:.3} \
         (no-change {no_change:.3}, majority {majority:.3})  lag {}  version {} swap {}  {}\n",
        frame.elapsed.as_secs_f64(),
        grouped(frame.answered),
        grouped(frame.rate_now),
        grouped(frame.lag),
        frame.version,
        frame.swap,
        frame.phase,
    )
}

fn draw(frame: &Frame<'_>, target: &mut ratatui::Frame<'_>) {
    let curve = if target.area().height >= 32 { 8 } else { 5 };
    let heights = [
        Constraint::Length(3),
        Constraint::Length(curve),
        Constraint::Length(6),
        Constraint::Min(4),
        Constraint::Length(1),
    ];
    let [head, rates, tables, notes, foot] = Layout::vertical(heights).areas(target.area());
    let done = (frame.elapsed.as_secs_f64() / frame.seconds.max(1) as f64).clamp(0.0, 1.0);
    let title = format!(" millstream demo: {} ", frame.phase);
    let label = format!("{:.0} of {} s", frame.elapsed.as_secs_f64(), frame.seconds);
    let gauge = Gauge::default().block(Block::bordered().title(title)).ratio(done).label(label);
    target.render_widget(gauge.gauge_style(Style::new().fg(Color::Cyan)), head);
    draw_rates(frame, target, rates);
    let [left, right] = Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(tables);
    draw_latency(frame, target, left);
    draw_accuracy(frame, target, right);
    let (width, height) = (usize::from(notes.width.saturating_sub(2)), usize::from(notes.height.saturating_sub(2)));
    let lines: Vec<Line<'_>> =
        latest(frame.notes, width, height).iter().map(|note| Line::from(note.as_str())).collect();
    let story = Paragraph::new(lines).wrap(Wrap { trim: true }).block(Block::bordered().title(" what happened "));
    target.render_widget(story, notes);
    target.render_widget(Line::from(" q or Ctrl-C ends it").style(Style::new().add_modifier(Modifier::DIM)), foot);
}

/// The latest notes that have room, at least one. Wrapping at words takes a little more than the letters do.
fn latest(notes: &[String], width: usize, height: usize) -> &[String] {
    let lines = |note: &String| (note.chars().count() * 11 / 10).div_ceil(width.max(1)).max(1);
    let (mut from, mut used) = (notes.len(), 0);
    while from > 0 && (used + lines(&notes[from - 1]) <= height || from == notes.len()) {
        used += lines(&notes[from - 1]);
        from -= 1;
    }
    &notes[from..]
}

fn draw_rates(frame: &Frame<'_>, target: &mut ratatui::Frame<'_>, area: Rect) {
    let title = format!(
        " {} events/s now, {} on average; {} events ",
        grouped(frame.rate_now),
        grouped(frame.rate_mean),
        grouped(frame.answered)
    );
    let room = usize::from(area.width.saturating_sub(2));
    let from = frame.rates.len().saturating_sub(room);
    let line = Sparkline::default().data(&frame.rates[from..]).style(Style::new().fg(Color::Green));
    target.render_widget(line.block(Block::bordered().title(title)), area);
}

fn draw_latency(frame: &Frame<'_>, target: &mut ratatui::Frame<'_>, area: Rect) {
    let row = |name: &'static str, ms: [f64; 4]| {
        let cells = ms.map(|ms| Cell::from(format!("{ms:.2}")));
        Row::new([Cell::from(name)].into_iter().chain(cells).collect::<Vec<_>>())
    };
    let widths =
        [Constraint::Length(10), Constraint::Min(6), Constraint::Min(6), Constraint::Min(6), Constraint::Min(6)];
    let rows = [row("round trip", frame.latency_ms), row("in daemon", frame.inside_ms)];
    let head = Row::new(["ms", "p50", "p99", "p99.9", "max"]).style(Style::new().add_modifier(Modifier::BOLD));
    let title = format!(" latency; lag {} events ", grouped(frame.lag));
    let table = Table::new(rows, widths).header(head).block(Block::bordered().title(title));
    target.render_widget(table, area);
}

fn draw_accuracy(frame: &Frame<'_>, target: &mut ratatui::Frame<'_>, area: Rect) {
    let row = |name: &'static str, i: usize| {
        Row::new([name.to_string(), format!("{:.3}", frame.whole[i]), format!("{:.3}", frame.recent[i])])
    };
    let widths = [14, 12, 12].map(Constraint::Length);
    let rows = [row("model", 0), row("no-change", 1), row("majority", 2)];
    let head = Row::new(["accuracy", "since start", "last second"]).style(Style::new().add_modifier(Modifier::BOLD));
    let age = frame.checkpoint_age.map_or(String::new(), |age| format!("; checkpoint {age:.1} s old"));
    let title = format!(" version {}, swap {}{age} ", frame.version, frame.swap);
    target.render_widget(Table::new(rows, widths).header(head).block(Block::bordered().title(title)), area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn frame<'a>(notes: &'a [String], rates: &'a [u64]) -> Frame<'a> {
        Frame {
            elapsed: Duration::from_secs(7),
            seconds: 30,
            phase: "learning",
            live: true,
            answered: 1_234_567,
            rate_now: 812_345,
            rate_mean: 700_000,
            latency_ms: [4.125, 9.5, 12.25, 48.0],
            inside_ms: [0.1, 0.2, 0.3, 0.4],
            whole: [0.93, 0.501, 0.502],
            recent: [0.94, 0.499, 0.503],
            lag: 8_192,
            version: "3f9c2ab1",
            swap: 1,
            checkpoint_age: Some(0.5),
            rates,
            notes,
        }
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let texts = [0, 7, 999, 1_000, 12_345, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "7", "999", "1,000", "12,345", "1,234,567"]);
    }

    #[test]
    fn the_latest_notes_are_shown() {
        let notes: Vec<String> = [5, 200, 5, 90].map(|n| "x".repeat(n)).into();
        assert_eq!(latest(&notes, 100, 2), &notes[2..]);
        assert_eq!(latest(&notes, 100, 4), &notes[2..]);
        assert_eq!(latest(&notes, 100, 5), &notes[1..]);
        assert_eq!(latest(&notes, 100, 9), &notes[..]);
        assert_eq!(latest(&notes, 0, 0), &notes[3..]);
        assert!(latest(&[], 10, 10).is_empty());
    }

    #[test]
    fn a_line_says_it_all() {
        let text = line(&frame(&[], &[]));
        for part in ["1,234,567 events", "812,345/s", "p99 9.50", "accuracy 0.940", "lag 8,192", "3f9c2ab1 swap 1"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(line(&Frame { live: false, ..frame(&[], &[]) }), "   7 s  learning\n");
    }

    #[test]
    fn the_screen_holds_on_any_terminal() {
        let notes: Vec<String> = (0..40).map(|i| format!("note {i}")).collect();
        for (width, height) in [(100, 32), (60, 10), (3, 2), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("terminal");
            terminal.draw(|target| draw(&frame(&notes, &[1, 2, 3]), target)).expect("drawn");
            if width == 100 {
                let text = terminal.backend().to_string();
                for part in ["812,345 events/s", "9.50", "0.930", "0.501", "3f9c2ab1", "note 39", "7 of 30 s"] {
                    assert!(text.contains(part), "{part}:\n{text}");
                }
            }
        }
    }
}
