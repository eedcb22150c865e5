//! The Rust side of `benches/compare/decode.py`: times the beam search on one `.npy` file.
//! Arguments: the file, the width of the beam, the number of runs. Without a file it does nothing.

use candle_core::{Result, Tensor};
use candle_ctc::{BeamOptions, beam_search};
use std::time::Instant;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let [file, width, runs] = &args[..] else {
        println!("usage: compare_decode FILE.npy WIDTH RUNS");
        return Ok(());
    };
    let log_probs = Tensor::read_npy(file)?;
    let number = |text: &str| text.parse().map_err(candle_core::Error::wrap);
    let exact = BeamOptions {
        beam_width: number(width)?,
        ..Default::default()
    };
    let pruned = BeamOptions {
        token_threshold: -5.0,
        beam_threshold: 10.0,
        ..exact
    };
    for (name, opts) in [("exact", exact), ("pruned", pruned)] {
        let mut times = Vec::new();
        for _ in 0..number(runs)? {
            let start = Instant::now();
            std::hint::black_box(beam_search(&log_probs, opts)?);
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        println!("{name}\t{}", times[times.len() / 2]);
    }
    let best = beam_search(&log_probs, exact)?.remove(0);
    let tokens: Vec<String> = best.tokens.iter().map(u32::to_string).collect();
    println!("tokens\t{}", tokens.join(" "));
    println!("score\t{}", best.score);
    Ok(())
}
