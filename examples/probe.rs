use candle_core::{Device, Result, Tensor, Var};
use candle_ctc::{CtcLossOptions, Reduction, ctc_loss};
fn main() -> Result<()> {
    let a: Vec<f64> = std::env::args().skip(1).map(|x| x.parse().unwrap()).collect();
    let (t, n, c, s, m, rounds) = (a[0] as usize, a[1] as usize, a[2] as usize, a[3] as usize, a[4], a[5] as usize);
    let mut state = 1u64;
    let mut random = move || { state = state.wrapping_mul(6364136223846793005).wrapping_add(1); (state >> 40) as f32 / (1u32 << 24) as f32 };
    let targets: Vec<u32> = (0..n * s).map(|_| 1 + (random() * (c - 1) as f32) as u32).collect();
    let mut data = vec![0f32; t * n * c];
    for (row, e) in data.chunks_exact_mut(c).enumerate() {
        let (f, i) = (row / n, row % n);
        e.fill_with(&mut random);
        let p = f * s / t;
        let lead = if f == 0 || p > (f - 1) * s / t || (f * s) as f64 / t as f64 % 1.0 < 0.5 { targets[i * s + p] as usize } else { 0 };
        if m < 0.0 { e.iter_mut().for_each(|x| { let (mut g, mut i) = (0.0, 0); while i < 12 { g += random(); i += 1 } ; *x = -(m as f32) * (g - 6.0) }); } else { e[lead] += m as f32; }
        let top = e.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = e.iter().map(|x| (x - top).exp()).sum();
        e.iter_mut().for_each(|x| *x -= top + sum.ln());
    }
    let leaf = Var::from_tensor(&Tensor::from_vec(data, (t, n, c), &Device::Cpu)?)?;
    let padded = Tensor::from_slice(&targets, (n, s), &Device::Cpu)?;
    let opts = CtcLossOptions { reduction: Reduction::Sum, ..Default::default() };
    let score = a.get(6).is_some();
    let mut best = f64::MAX;
    for _ in 0..rounds {
        let start = std::time::Instant::now();
        if score { ctc_loss(&leaf.as_detached_tensor(), &padded, vec![t; n], vec![s; n], opts)?; }
        else { ctc_loss(&leaf, &padded, vec![t; n], vec![s; n], opts)?.backward()?; }
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{a:?} {:.3} ms  {:?}", best * 1e3, candle_ctc::counts());
    Ok(())
}
