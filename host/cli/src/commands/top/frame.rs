//! How a cluster is drawn.

use std::fmt;

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Borders, Row, Sparkline, Table, Widget};

use crate::commands::status::{nodes, plan};
use crate::output;

use super::watched::{Leading, Node, State, View};

const KEYS: &str = "q quits, ? explains";

/// Rows in which a leader's speeds are drawn.
const SPEED_ROWS: u16 = 2;

const SPACING: u16 = 2;

const HELP: &str = "\
state       leads; works for a leader; idle, has nothing to do; silent, does
            not answer; gone
groups/s    neuron groups that the node computes in a second
loaded      how much of what it was asked to compute is in memory
model       the beginning of its identity: nodes with the same can work together
tokens/s    of all generations of a leader, in the last 10 seconds
asked again, concealed
            of the workers' partials in that time: how many were asked for
            again, and of how many the text goes without a part or all
heads       of each layer's attention: keys and values that the node computes
share, importance
            of the neuron groups, and of what they contribute
way, spread, lost
            there and back without computing, how much that varies, and the
            share of packets that is lost
part        when the node's part of a round is expected

? goes back";

/// What is to be drawn.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    cluster: &'a str,
    view: &'a View,
    keys: bool,
}

impl<'a> Frame<'a> {
    pub(super) fn new(cluster: &'a str, view: &'a View) -> Self {
        Self {
            cluster,
            view,
            keys: false,
        }
    }

    /// With a line about keys, for those who have some.
    pub(super) fn with_keys(self) -> Self {
        Self { keys: true, ..self }
    }

    /// All of it, as text.
    pub(super) fn text(&self) -> String {
        let tables = self.view.leaders.iter().map(plan_table);
        let tables = tables.chain([nodes_table(&self.view.nodes)]);
        let width = tables.map(|table| table.width()).max().unwrap_or(0);
        let policies = self.view.policies.iter().map(|line| line.chars().count());
        let width = policies.map(|w| w as u16).fold(width.max(80), u16::max);
        let area = Rect::new(0, 0, width, self.height());
        let mut buffer = Buffer::empty(area);
        self.draw(false, area, &mut buffer);
        let mut text = String::new();
        for row in buffer.content().chunks(width.into()) {
            let line: String = row.iter().map(|cell| cell.symbol()).collect();
            text += line.trim_end();
            text.push('\n');
        }
        text.truncate(text.trim_end().len() + 1);
        text
    }

    /// Rows that suffice.
    fn height(&self) -> u16 {
        let leaders = self.view.leaders.iter();
        let leaders = leaders.map(|leader| 5 + SPEED_ROWS as usize + leader.plan.devices.len());
        let height = 5 + self.view.nodes.len() + leaders.sum::<usize>() + self.view.policies.len();
        height.try_into().unwrap_or(u16::MAX)
    }

    /// Draws as much of it as the area has room for.
    pub(super) fn draw(&self, help: bool, area: Rect, buffer: &mut Buffer) {
        let mut page = Page { area, buffer };
        let title = format!("halo top: cluster {}, {}", self.cluster, self.count());
        let mut title = vec![title.bold()];
        if self.keys {
            title.push(format!("  {KEYS}").dim());
        }
        page.draw(1, Line::from(title));
        if help {
            return page.draw(u16::MAX, Text::raw(HELP));
        }
        page.heading("nodes");
        page.table(nodes_table(&self.view.nodes));
        for leader in &self.view.leaders {
            page.heading(&heading(leader));
            page.draw(1, Line::raw(summary(leader)));
            if leader.speeds.len() > 1 {
                // The latest, in whole numbers.
                let room = leader.speeds.len().min(page.area.width.into());
                let speeds = leader.speeds[leader.speeds.len() - room..].iter();
                let speeds = speeds.map(|speed| (speed * 100.0) as u64);
                let speeds = Sparkline::default().data(speeds).style(Color::Cyan);
                page.draw(SPEED_ROWS, speeds);
            }
            page.table(plan_table(leader));
        }
        if !self.view.policies.is_empty() {
            page.heading("policies");
        }
        for policy in &self.view.policies {
            page.draw(1, Line::raw(policy));
        }
    }

    fn count(&self) -> String {
        let nodes = self.view.nodes.iter();
        let there = nodes.filter(|node| !matches!(node.state, State::Gone(_)));
        match there.count() {
            1 => "1 node".into(),
            count => format!("{count} nodes"),
        }
    }
}

/// What is drawn from top to bottom; `area` is what is left.
struct Page<'a> {
    area: Rect,
    buffer: &'a mut Buffer,
}

impl Page<'_> {
    fn draw(&mut self, rows: u16, widget: impl Widget) {
        let rows = rows.min(self.area.height);
        let taken = Rect {
            height: rows,
            ..self.area
        };
        self.area.y += rows;
        self.area.height -= rows;
        widget.render(taken, self.buffer);
    }

    fn heading(&mut self, title: &str) {
        let title = format!(" {title} ");
        let block = Block::new().borders(Borders::TOP).title(title.bold());
        self.draw(1, block);
    }

    fn table(&mut self, table: Cells) {
        let rows = table.rows.len() + 1;
        self.draw(rows.try_into().unwrap_or(u16::MAX), table.widget());
    }
}

/// `shelf-1 leads: 12.4 tokens/s, 1 generation under way`.
fn heading(leader: &Leading) -> String {
    let generations = match leader.under_way {
        0 => "nothing".into(),
        1 => "1 generation".into(),
        count => format!("{count} generations"),
    };
    format!(
        "{} leads: {:.1} tokens/s, {generations} under way",
        leader.name, leader.speed
    )
}

fn summary(leader: &Leading) -> String {
    format!(
        "{}; asked again {}, concealed {}",
        plan::summary(&leader.plan),
        output::percent(leader.asked_again),
        output::percent(leader.concealed)
    )
}

fn nodes_table(nodes: &[Node]) -> Cells {
    let mut head = nodes::HEAD.map(String::from).to_vec();
    head[1] = "state".into();
    let rows = nodes.iter().map(|node| {
        let state = node.state.to_string();
        let cells = match &node.profile {
            Some(profile) => nodes::row(profile, &state, node.loading),
            None => vec![node.name.to_string(), state],
        };
        (cells, node.state.style())
    });
    Cells {
        head,
        rows: rows.collect(),
    }
}

fn plan_table(leader: &Leading) -> Cells {
    let devices = leader.plan.devices.iter();
    Cells {
        head: plan::HEAD.map(String::from).to_vec(),
        rows: devices
            .map(|device| (plan::row(device), Style::new()))
            .collect(),
    }
}

/// Rows of text in aligned columns: the first to the left, the others to the right.
struct Cells {
    head: Vec<String>,
    rows: Vec<(Vec<String>, Style)>,
}

impl Cells {
    fn widths(&self) -> Vec<u16> {
        let all = std::iter::once(&self.head).chain(self.rows.iter().map(|(cells, _)| cells));
        let mut widths = vec![0; self.head.len()];
        for cells in all {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count() as u16);
            }
        }
        widths
    }

    fn width(&self) -> u16 {
        let widths = self.widths();
        widths.iter().sum::<u16>() + SPACING * (widths.len() as u16 - 1)
    }

    fn widget(self) -> Table<'static> {
        let widths = self.widths().into_iter().map(Constraint::Length);
        let row = |cells: Vec<String>| {
            Row::new(cells.into_iter().enumerate().map(|(column, cell)| {
                let line = Line::from(cell);
                match column {
                    0 => line,
                    _ => line.right_aligned(),
                }
            }))
        };
        let rows = self.rows.into_iter();
        let rows = rows.map(|(cells, style)| row(cells).style(style));
        Table::new(rows, widths)
            .header(row(self.head).dim())
            .column_spacing(SPACING)
    }
}

impl State {
    fn style(self) -> Style {
        match self {
            Self::Leads => Color::Cyan.into(),
            Self::Works => Color::Green.into(),
            Self::Leader | Self::Idle => Style::new(),
            Self::Silent => Color::Yellow.into(),
            Self::Gone(_) => Color::Red.into(),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leads => f.write_str("leads"),
            Self::Leader => f.write_str("leader"),
            Self::Works => f.write_str("works"),
            Self::Idle => f.write_str("idle"),
            Self::Silent => f.write_str("silent"),
            Self::Gone(seconds) => write!(f, "gone {}", output::age(*seconds)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use halo_runtime::{Counts, Generating, Loading, Planned, PlannedDevice, PolicyState, Profile};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::look::Look;
    use super::super::watched::Watched;
    use super::*;

    fn profile(name: &str) -> Profile {
        Profile {
            node: name.parse().unwrap(),
            version: "0.1.0".into(),
            architecture: "aarch64".into(),
            cores: 4,
            threads: 4,
            serves: name != "desktop",
            model: "5f0c1e9ab2".into(),
            speed: 28_700.0,
            memory: 3_900_000_000,
            transport: Default::default(),
            temperature: Some(61.4),
        }
    }

    fn device(name: &str, groups: u64, delay_us: u32) -> PlannedDevice {
        PlannedDevice {
            node: name.parse().unwrap(),
            groups,
            heads: 8,
            share: groups as f64 / 484.0,
            importance: groups as f64 / 484.0,
            speed: 28_700.0,
            part_us: 520.0,
            delay_us,
            spread_us: delay_us / 8,
            loss: 0.012,
            memory_used: groups * 817_200,
            memory: 3_900_000_000,
            why: String::new(),
        }
    }

    /// What is in force on a node.
    fn policies(scheduler: &str) -> PolicyState {
        let change = |name: &str, faults: u64| {
            serde_json::json!([{
                "name": name, "digest": null, "settings": [], "cause": "started", "fault": null,
                "faults": faults, "seconds_ago": 60,
            }])
        };
        let state = serde_json::json!({
            "sequence": { "scheduler": 1, "predictor": 0 },
            "scheduler": change(scheduler, 0),
            "predictor": change("predictor-probe", 1),
        });
        serde_json::from_value(state).unwrap()
    }

    /// A desktop leads two Pis, has generated so many tokens, and a third Pi has nothing to do.
    fn look(tokens: u64) -> Look {
        let id = |name: &str| name.parse().unwrap();
        let names = ["desktop", "pi-1", "pi-2", "pi-3"];
        let plan = Planned {
            epoch: 3,
            scheduler: "scheduler-halo".into(),
            token_us: 24_600,
            round_us: 720.0,
            devices: vec![
                device("desktop", 230, 0),
                device("pi-1", 154, 480),
                device("pi-2", 100, 900),
            ],
        };
        let counts = Counts {
            partials: 44 * tokens,
            asked_again: tokens,
            concealed_partials: tokens / 2,
            ..Counts::default()
        };
        let generating = Generating {
            under_way: 1,
            tokens,
            counts,
        };
        let loading = Loading {
            assigned: 125_848_800,
            loaded: 81_720_000,
        };
        let scheduler = |name| match name {
            "pi-3" => "scheduler-even",
            _ => "scheduler-halo",
        };
        Look {
            profiles: names.map(|name| (id(name), Some(profile(name)))).into(),
            loading: [(id("pi-1"), loading)].into(),
            plans: [(id("desktop"), plan)].into(),
            generating: [(id("desktop"), generating)].into(),
            policies: names
                .map(|name| (id(name), policies(scheduler(name))))
                .into(),
        }
    }

    /// What is seen after looks of two seconds each.
    fn view(looks: impl IntoIterator<Item = Look>) -> View {
        let mut watched = Watched::default();
        let mut now = Instant::now();
        let mut view = View::default();
        for look in looks {
            view = watched.update(look, now);
            now += Duration::from_secs(2);
        }
        view
    }

    fn screen(view: &View, help: bool, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(110, height)).unwrap();
        let drawn = terminal.draw(|screen| {
            let frame = Frame::new("home", view).with_keys();
            frame.draw(help, screen.area(), screen.buffer_mut());
        });
        drawn.unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_cluster_at_work() {
        // Twice as fast from the third look on.
        let tokens = [0, 10, 20, 40, 60, 80];
        insta::assert_snapshot!(screen(&view(tokens.map(look)), false, 24));
    }

    #[test]
    fn help_explains_the_columns() {
        insta::assert_snapshot!(screen(&view([look(0)]), true, 24));
    }

    #[test]
    fn as_text() {
        insta::assert_snapshot!(Frame::new("home", &view([0, 25].map(look))).text());
    }

    #[test]
    fn a_small_screen_shows_the_beginning() {
        let whole = screen(&view([look(0)]), false, 24);
        let small = screen(&view([look(0)]), false, 4);
        assert!(whole.starts_with(&small), "{small}");
        screen(&view([look(0)]), false, 0);
    }

    #[test]
    fn nodes_that_leave_or_are_silent_are_told_of() {
        let without_worker = || {
            let mut look = look(0);
            look.profiles.remove(&"pi-1".parse().unwrap());
            look.profiles.insert("pi-2".parse().unwrap(), None);
            look
        };
        let state = |looks: Vec<Look>, name: &str| {
            let view = view(looks);
            let mut nodes = view.nodes.iter();
            nodes
                .find(|node| node.name.as_str() == name)
                .map(|node| node.state)
        };
        let looks = || vec![look(0), without_worker(), without_worker()];
        assert_eq!(state(looks(), "pi-1"), Some(State::Gone(4)));
        assert_eq!(state(looks(), "pi-2"), Some(State::Silent));
        assert_eq!(state(vec![look(0); 2], "pi-1"), Some(State::Works));
        let mut long = vec![look(0)];
        long.extend((0..40).map(|_| without_worker()));
        assert_eq!(state(long, "pi-1"), None);
    }

    #[test]
    fn a_leader_that_starts_anew_has_no_speed_below_nothing() {
        let speed = |tokens: &[u64]| {
            let view = view(tokens.iter().map(|tokens| look(*tokens)));
            view.leaders[0].speed
        };
        assert!((speed(&[100, 110]) - 5.0).abs() < 1e-9);
        assert!((speed(&[100, 110, 4]) - 0.0).abs() < 1e-9);
        assert!((speed(&[100, 110, 4, 10]) - 3.0).abs() < 1e-9);
        // What is longer ago than the window does not count.
        assert!((speed(&[0, 1000, 1010, 1020, 1030, 1040, 1050]) - 5.0).abs() < 1e-9);
    }
}
