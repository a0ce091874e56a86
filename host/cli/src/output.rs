//! What people and programs see.

use std::io::Write;

use owo_colors::OwoColorize;
use serde::Serialize;

use crate::options::Global;

/// Prints results to standard output, as text or as JSON, and everything else to standard error. Colours go to terminals only.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    silent: bool,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        Self {
            json: global.json,
            silent: false,
        }
    }

    /// Prints nothing.
    pub(crate) fn silent() -> Self {
        Self {
            json: false,
            silent: true,
        }
    }

    /// Whether programs read the output.
    pub(crate) fn json(self) -> bool {
        self.json
    }

    /// Prints a value as one line of JSON.
    pub(crate) fn line(self, value: &impl Serialize) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, value)?;
        out.write_all(b"\n")?;
        Ok(out.flush()?)
    }

    /// Prints a piece of streamed text. An error is a closed pipe, which ends the command quietly.
    pub(crate) fn piece(self, text: &str) -> std::io::Result<()> {
        if self.silent || self.json {
            return Ok(());
        }
        let mut out = anstream::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// Prints a line for people on standard error; nothing when programs read.
    pub(crate) fn note(self, text: impl std::fmt::Display) {
        if !self.json && !self.silent {
            anstream::eprintln!("{text}");
        }
    }

    /// Says why the command failed: a sentence, and its causes if they say more.
    pub(crate) fn error(self, error: &anyhow::Error) {
        if self.json {
            let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
            // Standard output may be closed; then there is nobody to tell.
            let _ = self.line(&serde_json::json!({ "error": chain[0], "causes": chain[1..] }));
            return;
        }
        anstream::eprintln!("{} {error}", "error:".red().bold());
        let mut said = error.to_string();
        for cause in error.chain().skip(1).map(ToString::to_string) {
            // Many errors repeat their cause in their own words.
            if !said.contains(&cause) {
                anstream::eprintln!("  {} {cause}", "because:".dimmed());
            }
            said = cause;
        }
    }
}

/// `3.9 MB`: bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["B", "KB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

/// `0.42 s` or `17 ms`.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{:.0} ms", seconds * 1e3)
    } else {
        format!("{seconds:.1} s")
    }
}

/// `17 us` or `1.2 ms`.
pub(crate) fn microseconds(count: u64) -> String {
    match count {
        0..1000 => format!("{count} us"),
        _ => format!("{:.1} ms", count as f64 / 1e3),
    }
}

/// `42 s`, `7 min`, `3 h` or `2 d`.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `3 faults`; nothing if there were none.
pub(crate) fn faults(count: u64) -> String {
    match count {
        0 => String::new(),
        1 => "1 fault".into(),
        count => format!("{count} faults"),
    }
}

/// `1.2 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Rows of text in aligned columns: the first column to the left, the others to the right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        rows.iter()
            .filter_map(|r| r.get(c))
            .map(|s| s.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[c] - cell.chars().count());
            line += &(if c == 0 {
                format!("{cell}{pad}")
            } else {
                format!("  {pad}{cell}")
            });
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn figures_are_for_people() {
        assert_eq!(super::bytes(999), "999 B");
        assert_eq!(super::bytes(1_049_760), "1.0 MB");
        assert_eq!(super::bytes(999_999), "1.0 MB");
        assert_eq!(super::seconds(0.0171), "17 ms");
        assert_eq!(super::percent(0.0123), "1.2 %");
        assert_eq!([17, 1234].map(super::microseconds), ["17 us", "1.2 ms"]);
        let ages = [0, 119, 120, 7200, 172_800].map(super::age);
        assert_eq!(ages, ["0 s", "119 s", "2 min", "2 h", "2 d"]);
        assert_eq!([0, 1, 2].map(super::faults), ["", "1 fault", "2 faults"]);
        let rows = [["", "a"], ["long", "10"]].map(|r| r.map(String::from).to_vec());
        assert_eq!(super::table(&rows), "       a\nlong  10\n");
    }
}
