//! Rounds in which two programs took turns, as a table.

/// One measurement of each, made one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub(super) theirs: f64,
    pub(super) ours: f64,
}

/// One kind of measurement.
#[derive(Debug)]
pub(super) struct Row {
    threads: usize,
    what: &'static str,
    pub(super) rounds: Vec<Pair>,
}

impl Row {
    pub(super) fn new(threads: usize, what: &'static str) -> Self {
        Self {
            threads,
            what,
            rounds: Vec::new(),
        }
    }
}

/// The rows in Markdown, for documentation and readable as it is.
pub(super) fn markdown(rows: &[Row]) -> String {
    let mut cells = vec![["", "llama.cpp", "HALO", "ratio"].map(String::from)];
    for row in rows {
        let plural = if row.threads == 1 { "" } else { "s" };
        let of = |value: fn(&Pair) -> f64, digits| spread(&row.rounds, value, digits);
        cells.push([
            format!("{} thread{plural}, {}", row.threads, row.what),
            of(|pair| pair.theirs, 1),
            of(|pair| pair.ours, 1),
            of(|pair| pair.ours / pair.theirs, 2),
        ]);
    }
    let width = |column: usize| {
        let widths = cells.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths = [0, 1, 2, 3].map(width);
    // Figures stand to the right when it is rendered, too.
    cells.insert(
        1,
        [0, 1, 2, 3].map(|column| match column {
            0 => "-".repeat(widths[0]),
            _ => "-".repeat(widths[column] - 1) + ":",
        }),
    );
    let line = |row: &[String; 4]| {
        let [name, figures @ ..] = row;
        let mut line = format!("| {name:<0$} |", widths[0]);
        for (figure, width) in figures.iter().zip(&widths[1..]) {
            line += &format!(" {figure:>width$} |");
        }
        line + "\n"
    };
    cells.iter().map(line).collect()
}

/// `2.0 (1.0–3.0)`: the median, the lowest and the highest of what the rounds gave.
fn spread(rounds: &[Pair], value: fn(&Pair) -> f64, digits: usize) -> String {
    let mut values: Vec<f64> = rounds.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    let (Some(lowest), Some(highest)) = (values.first(), values.last()) else {
        return String::new();
    };
    let middle = values.len() / 2;
    let median = (values[(values.len() - 1) / 2] + values[middle]) / 2.0;
    format!("{median:.digits$} ({lowest:.digits$}–{highest:.digits$})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_of_what_was_measured_together() {
        let mut decode = Row::new(1, "decode");
        for (theirs, ours) in [(10.0, 20.0), (30.0, 30.0), (20.0, 60.0)] {
            decode.rounds.push(Pair { theirs, ours });
        }
        let mut prompt = Row::new(2, "prompt");
        for (theirs, ours) in [(100.0, 150.0), (200.0, 250.0)] {
            prompt.rounds.push(Pair { theirs, ours });
        }
        let expected = "\
|                   |           llama.cpp |                HALO |            ratio |
| ----------------- | ------------------: | ------------------: | ---------------: |
| 1 thread, decode  |    20.0 (10.0–30.0) |    30.0 (20.0–60.0) | 2.00 (1.00–3.00) |
| 2 threads, prompt | 150.0 (100.0–200.0) | 200.0 (150.0–250.0) | 1.38 (1.25–1.50) |
";
        assert_eq!(markdown(&[decode, prompt]), expected);
    }
}
