//! How the cost of loss and gradient grows with T, S and N: a table, exponents fitted by least
//! squares on logarithms, a CSV file and a plot. The states that lie on a path are counted too: where T is not
//! much more than S, the corners of the lattice that no path enters are a large part of it.
//!
//! `cargo bench --bench scaling` prints; `-- --write` also rewrites docs/scaling.csv,
//! docs/scaling.svg and the section of docs/benchmarks.md. As a test (`cargo test --benches`, or
//! `-- --test`) it runs tiny sizes once.
//!
//! One thread, and the least of several runs: what disturbs a run only ever adds to it.

#[path = "common/page.rs"]
mod page;

use candle_core::{Device, Result, Tensor, Var};
use candle_ctc::{CtcLossOptions, Reduction, ctc_loss};
use plotters::prelude::*;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const CLASSES: usize = 32;

#[derive(Clone, Copy)]
struct Size {
    frames: usize,
    labels: usize,
    batch: usize,
}

/// One size after the other of one dimension, the others fixed.
struct Series {
    name: &'static str,
    fixed: Size,
    values: Vec<usize>,
    place: fn(&mut Size, usize),
}

/// A series with the milliseconds of each of its values.
struct Measured {
    series: Series,
    ms: Vec<f64>,
}

impl Size {
    /// States of the lattices that lie on a path, of targets without repeats.
    fn states(&self) -> usize {
        let (frames, labels) = (self.frames, self.labels);
        let in_frame = |t: usize| {
            let left = frames - 1 - t;
            let of_labels = labels.min(t + 1) - labels.saturating_sub(left + 1);
            let of_blanks = labels.min(t) + 1 - labels.saturating_sub(left);
            of_labels + of_blanks
        };
        self.batch * (0..frames).map(in_frame).sum::<usize>()
    }
}

fn series(tiny: bool) -> [Series; 4] {
    let values = |from: usize, to: usize| -> Vec<usize> {
        let to = if tiny { from } else { to };
        std::iter::successors(Some(from), |x| Some(2 * x))
            .take_while(|&x| x <= to)
            .collect()
    };
    let fixed = |frames, labels, batch| Size {
        frames,
        labels,
        batch,
    };
    [
        Series {
            name: "T",
            fixed: fixed(0, 20, 4),
            values: values(250, 8000),
            place: |size, x| size.frames = x,
        },
        Series {
            name: "T",
            fixed: fixed(0, 80, 4),
            values: values(250, 8000),
            place: |size, x| size.frames = x,
        },
        Series {
            name: "S",
            fixed: fixed(2000, 0, 4),
            values: values(20, 640),
            place: |size, x| size.labels = x,
        },
        Series {
            name: "N",
            fixed: fixed(500, 80, 0),
            values: values(1, 64),
            place: |size, x| size.batch = x,
        },
    ]
}

impl Series {
    fn size(&self, value: usize) -> Size {
        let mut size = self.fixed;
        (self.place)(&mut size, value);
        size
    }

    fn title(&self) -> String {
        let Size {
            frames,
            labels,
            batch,
        } = self.fixed;
        [("T", frames), ("S", labels), ("N", batch)]
            .iter()
            .filter(|(name, _)| *name != self.name)
            .map(|(name, value)| format!("{name} = {value}"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

struct Case {
    size: Size,
    leaf: Var,
    targets: Tensor,
}

impl Case {
    fn new(size: Size) -> Result<Self> {
        let x = Tensor::randn(0f32, 1.0, (size.frames, size.batch, CLASSES), &Device::Cpu)?;
        let labels = (0..size.batch * size.labels)
            .map(|i| 1 + (i * 7 % (CLASSES - 1)) as u32)
            .collect();
        Ok(Self {
            size,
            leaf: Var::from_tensor(&candle_nn::ops::log_softmax(&x, 2)?)?,
            targets: Tensor::from_vec(labels, (size.batch, size.labels), &Device::Cpu)?,
        })
    }

    fn step(&self) -> Result<Duration> {
        let frames = vec![self.size.frames; self.size.batch];
        let labels = vec![self.size.labels; self.size.batch];
        let opts = CtcLossOptions {
            reduction: Reduction::Sum,
            ..Default::default()
        };
        let start = Instant::now();
        let loss = ctc_loss(&self.leaf, &self.targets, frames, labels, opts)?;
        let gradients = loss.backward()?;
        std::hint::black_box(gradients.get(&self.leaf));
        drop(gradients);
        Ok(start.elapsed())
    }
}

/// The least time of each value, in milliseconds. All values take turns.
fn measure(series: Series, rounds: usize) -> Result<Measured> {
    let cases: Vec<Case> = series
        .values
        .iter()
        .map(|&value| Case::new(series.size(value)))
        .collect::<Result<_>>()?;
    let mut ms = vec![f64::INFINITY; cases.len()];
    for _ in 0..rounds {
        for (best, case) in ms.iter_mut().zip(&cases) {
            case.step()?;
            for _ in 0..3 {
                *best = best.min(case.step()?.as_secs_f64() * 1e3);
            }
        }
    }
    Ok(Measured { series, ms })
}

impl Measured {
    /// The states of each value, in millions.
    fn states(&self) -> Vec<f64> {
        let states = |&value: &usize| self.series.size(value).states() as f64 * 1e-6;
        self.series.values.iter().map(states).collect()
    }

    fn exponent(&self) -> f64 {
        self.exponent_of(&self.ms)
    }

    /// The slope of ln(y) over ln(value).
    fn exponent_of(&self, ys: &[f64]) -> f64 {
        let points: Vec<(f64, f64)> = self
            .series
            .values
            .iter()
            .zip(ys)
            .map(|(&x, y)| ((x as f64).ln(), y.ln()))
            .collect();
        let count = points.len() as f64;
        let mean_x = points.iter().map(|p| p.0).sum::<f64>() / count;
        let mean_y = points.iter().map(|p| p.1).sum::<f64>() / count;
        let covariance: f64 = points.iter().map(|p| (p.0 - mean_x) * (p.1 - mean_y)).sum();
        let variance: f64 = points.iter().map(|p| (p.0 - mean_x).powi(2)).sum();
        covariance / variance
    }
}

fn table(all: &[Measured]) -> String {
    let mut text = String::from(
        "Loss and gradient from log-probabilities, C = 32, one thread, the least of 90 runs.\n",
    );
    for measured in all {
        let Measured { series, ms } = measured;
        let columns = |cells: Vec<String>| cells.join(" | ");
        let values = columns(series.values.iter().map(usize::to_string).collect());
        let numbers = |ys: &[f64]| columns(ys.iter().map(|y| format!("{y:.2}")).collect());
        let states = measured.states();
        write!(
            text,
            "\n| {} ({}) | {values} | exponent |\n|---|{}\n| ms | {} | {:.3} |\n\
             | states on a path, millions | {} | {:.3} |\n",
            series.name,
            series.title(),
            "---:|".repeat(ms.len() + 1),
            numbers(ms),
            measured.exponent(),
            numbers(&states),
            measured.exponent_of(&states),
        )
        .expect("a string grows");
    }
    text
}

fn csv(all: &[Measured]) -> String {
    let mut text = String::from("dimension,frames,labels,batch,classes,milliseconds,states\n");
    for Measured { series, ms } in all {
        for (&value, ms) in series.values.iter().zip(ms) {
            let size = series.size(value);
            writeln!(
                text,
                "{},{},{},{},{CLASSES},{ms:.4},{}",
                series.name,
                size.frames,
                size.labels,
                size.batch,
                size.states()
            )
            .expect("a string grows");
        }
    }
    text
}

/// A panel for each series, with its points and the fitted line.
fn plot(all: &[Measured], path: &Path) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let blue = RGBColor(31, 90, 160);
    let grey = RGBColor(90, 90, 90);
    let root = SVGBackend::new(path, (1440, 360)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, measured) in root.split_evenly((1, 4)).iter().zip(all) {
        let Measured { series, ms } = measured;
        let points: Vec<(f64, f64)> = series
            .values
            .iter()
            .map(|&x| x as f64)
            .zip(ms.iter().copied())
            .collect();
        let (low, high) = (points[0], points[points.len() - 1]);
        let title = format!("exponent {:.3}  ({})", measured.exponent(), series.title());
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(56)
            .build_cartesian_2d(
                (low.0 / 1.4..high.0 * 1.4)
                    .log_scale()
                    .with_key_points(points.iter().map(|p| p.0).collect()),
                (low.1 / 2.0..high.1 * 2.0).log_scale(),
            )?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(grey.mix(0.2))
            .x_desc(series.name)
            .y_desc("milliseconds")
            .label_style(("sans-serif", 13))
            .axis_desc_style(("sans-serif", 14))
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y}"))
            .draw()?;
        // The fitted line goes through the mean of the logarithms.
        let count = points.len() as f64;
        let mean_x = points.iter().map(|p| p.0.ln()).sum::<f64>() / count;
        let mean_y = points.iter().map(|p| p.1.ln()).sum::<f64>() / count;
        let fit = |x: f64| (mean_y + measured.exponent() * (x.ln() - mean_x)).exp();
        chart.draw_series(LineSeries::new(
            [(low.0, fit(low.0)), (high.0, fit(high.0))],
            grey.stroke_width(2),
        ))?;
        chart.draw_series(
            points
                .iter()
                .map(|&point| Circle::new(point, 5, blue.filled())),
        )?;
    }
    root.present()?;
    Ok(())
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    // Cargo passes --bench to a benchmark, and nothing to a test.
    let arguments: Vec<String> = std::env::args().collect();
    let given = |name: &str| arguments.iter().any(|arg| arg == name);
    let tiny = given("--test") || !given("--bench");
    let rounds = if tiny { 1 } else { 30 };
    // Inside a pool the loss keeps to that pool.
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let all = one_thread.install(|| {
        let measured = series(tiny)
            .into_iter()
            .map(|series| measure(series, rounds));
        measured.collect::<Result<Vec<_>>>()
    })?;
    let text = table(&all);
    println!("{text}");
    if page::wanted() && !tiny {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        std::fs::write(docs.join("scaling.csv"), csv(&all))?;
        plot(&all, &docs.join("scaling.svg"))?;
        let text = format!("{text}\n![Cost over T, S and N](scaling.svg)\n");
        page::replace("scaling", &text);
    }
    Ok(())
}
