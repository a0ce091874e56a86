use anyhow::Result;
use plotters::prelude::*;

use crate::lab::percent;

const SIZE: (u32, u32) = (720, 400);

/// Okabe and Ito's, which the colour-blind tell apart too.
const COLOURS: [RGBColor; 5] = [
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 90, 96),
];

/// Something that changes with the share of packets lost.
#[derive(Debug)]
pub(super) struct Plot {
    pub(super) title: String,
    /// What is upwards.
    pub(super) y: &'static str,
    /// Upwards by powers of two.
    pub(super) logarithmic: bool,
    /// Names, and points of a share and a value.
    pub(super) lines: Vec<(String, Vec<(f64, f64)>)>,
}

impl Plot {
    /// An image that brings its own background, so that it can be read on any page.
    pub(super) fn svg(&self) -> Result<String> {
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let x = points().fold(0.01f64, |most, (x, _)| most.max(*x)) * 1.02;
        let highest = points().fold(f64::MIN_POSITIVE, |most, (_, y)| most.max(*y));
        let lowest = points().fold(highest, |least, (_, y)| least.min(*y));
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            let failed = |error: &dyn std::fmt::Display| anyhow::anyhow!("cannot draw: {error}");
            root.fill(&WHITE).map_err(|e| failed(&e))?;
            let mut builder = ChartBuilder::on(&root);
            builder
                .caption(&self.title, ("sans-serif", 20))
                .margin(12)
                .x_label_area_size(44)
                .y_label_area_size(64);
            // A scale by powers is another type, and everything else the same.
            macro_rules! draw {
                ($range:expr) => {{
                    let mut chart = builder
                        .build_cartesian_2d(0.0..x, $range)
                        .map_err(|e| failed(&e))?;
                    chart
                        .configure_mesh()
                        .light_line_style(WHITE)
                        .label_style(("sans-serif", 14))
                        .axis_desc_style(("sans-serif", 15))
                        .x_desc("packets lost")
                        .x_labels(6)
                        .x_label_formatter(&|share| percent(*share))
                        .y_desc(self.y)
                        .y_labels(8)
                        .y_label_formatter(&|y: &f64| {
                            format!("{:.*}", usize::from(y.abs() < 10.0), y)
                        })
                        .draw()
                        .map_err(|e| failed(&e))?;
                    for ((name, points), colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
                        let line = LineSeries::new(points.iter().copied(), colour.stroke_width(3))
                            .point_size(4);
                        chart
                            .draw_series(line)
                            .map_err(|e| failed(&e))?
                            .label(name)
                            .legend(|(x, y)| {
                                PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(3))
                            });
                    }
                    chart
                        .configure_series_labels()
                        .position(SeriesLabelPosition::UpperLeft)
                        .background_style(WHITE.mix(0.85))
                        .border_style(RGBColor(200, 200, 200))
                        .label_font(("sans-serif", 15))
                        .draw()
                        .map_err(|e| failed(&e))?;
                }};
            }
            if self.logarithmic {
                // Of ten there would be one line, or two.
                draw!((lowest * 0.8..highest * 1.6).log_scale().base(2.0));
            } else {
                let room = (highest - lowest).max(highest.abs() * 0.01) * 0.15;
                draw!(lowest - room..highest + 3.0 * room);
            }
            root.present().map_err(|e| failed(&e))?;
        }
        Ok(svg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_drawn_and_named() {
        for logarithmic in [false, true] {
            let plot = Plot {
                title: "Time & loss".into(),
                y: "ms",
                logarithmic,
                lines: vec![
                    ("tcp".into(), vec![(0.0, 30.0), (0.2, 6000.0)]),
                    ("relaxed".into(), vec![(0.0, 30.0), (0.2, 40.0)]),
                ],
            };
            let svg = plot.svg().unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            assert!(
                svg.contains("Time &amp; loss") && svg.contains("20 %"),
                "{svg}"
            );
            for colour in ["#D55E00", "#0072B2"] {
                assert!(svg.contains(colour), "{svg}");
            }
            assert!(svg.contains("relaxed") && svg.contains("tcp"));
        }
    }
}
