//! The bits of some hundred results, against those that are stored in `tests/data/golden_bits.txt`: on every
//! instruction set of this processor, and so on AVX2, AVX-512 and NEON alike, whichever of them a machine has. SSE2,
//! which has no fused multiply-add, has a column of its own.
//!
//! `CTC_BLESS=1 cargo test --test golden_bits` writes the file anew, on a machine with a fused multiply-add and with SSE2
//! (any x86-64 with AVX2). Do so when results are meant to change; `git diff` then names the cases.
//!
//! Inputs are made by integer arithmetic and by single operations of IEEE 754, so that they are the same everywhere.
//! Results that went through `exp` and `ln` of the platform in f64 are compared only where that is glibc's.
//!
//! In a file of its own: the instruction set is the process's.

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_ctc::{
    AlignOptions, BeamOptions, CtcLossOptions, GradientKind, GreedyOptions, InputKind, InputLayout,
    Isa, PrefixScorer, PrefixScorerOptions, Reduction, ScoreOptions, beam_search_batch,
    forced_align_batch, greedy_decode_batch, score_transcripts, state_posteriors_batch,
    token_confidence_batch,
};
use common::{Entry, Rng, for_confidence, tensors};
use half::{bf16, f16};
use std::collections::BTreeMap;
use std::f64::consts::LN_2;
use std::fmt::Write;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden_bits.txt");

/// FNV-1a over the bits of numbers.
struct Hash(u64);

impl Hash {
    fn new() -> Self {
        Hash(0xcbf2_9ce4_8422_2325)
    }

    fn word(&mut self, word: u64) {
        for byte in word.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// All NaNs count as one.
    fn number(&mut self, x: f64) {
        self.word(if x.is_nan() { f64::NAN } else { x }.to_bits());
    }

    fn numbers(values: &[f64]) -> u64 {
        let mut hash = Hash::new();
        hash.word(values.len() as u64);
        values.iter().for_each(|&x| hash.number(x));
        hash.0
    }
}

/// Whether the platform's `exp` and `ln` are those that the stored hashes were made with.
const SAME_LIBM: bool = cfg!(target_env = "gnu");

/// The hashes of one instruction set, by case.
#[derive(Default)]
struct Hashes {
    all: BTreeMap<String, u64>,
}

impl Hashes {
    /// With `libm`, the result holds f64 numbers from the platform's `exp` or `ln`.
    fn add(&mut self, name: String, libm: bool, hash: u64) {
        if !libm || SAME_LIBM {
            let before = self.all.insert(name.clone(), hash);
            assert!(before.is_none(), "two cases are named {name:?}");
        }
    }
}

/// The digits that both columns of the file have.
type Columns = [u64; 2];

/// The column of an instruction set: with a fused multiply-add, or without.
fn column(isa: Isa) -> usize {
    usize::from(isa == Isa::Baseline && !cfg!(target_arch = "aarch64"))
}

/// A tensor of these numbers. Halves are cut and not rounded: conversions differ between processors.
fn tensor(values: &[f64], dims: &[usize], dtype: DType) -> Tensor {
    let singles = values.iter().map(|&x| x as f32);
    let device = &Device::Cpu;
    match dtype {
        DType::F64 => Tensor::from_vec(values.to_vec(), dims, device),
        DType::F32 => Tensor::from_vec(singles.collect::<Vec<_>>(), dims, device),
        DType::BF16 => {
            let cut = singles.map(|x| bf16::from_bits((x.to_bits() >> 16) as u16));
            Tensor::from_vec(cut.collect::<Vec<_>>(), dims, device)
        }
        DType::F16 => {
            let cut = singles.map(|x| f16::from_bits(half_bits(x)));
            Tensor::from_vec(cut.collect::<Vec<_>>(), dims, device)
        }
        other => panic!("{other:?} is not a float dtype"),
    }
    .unwrap()
}

/// The f16 that is nearest to 0 of the two beside a number; 0 for what is below the normal ones.
fn half_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let (sign, exponent) = ((bits >> 16 & 0x8000) as u16, (bits >> 23 & 0xff) as i32);
    let half = match exponent - 127 + 15 {
        ..=0 => 0,
        31.. => 0x7c00,
        exponent => (exponent as u32) << 10 | bits >> 13 & 0x3ff,
    };
    sign | half as u16
}

#[test]
fn halves_are_cut() {
    for (x, want) in [
        (0.0, 0.0),
        (-1.0, -1.0),
        (-0.100_01, -0.099_975_586),
        (65504.0, 65504.0),
        (f32::NEG_INFINITY, f32::NEG_INFINITY),
    ] {
        assert_eq!(f16::from_bits(half_bits(x)).to_f32(), want);
    }
}

/// What the entries of an input are.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// From −8 to 0.
    Random,
    /// Rows that add up to 1 but for one rounding of each entry.
    Normal,
    /// One path is ahead by so many nats, but for some frames.
    Sure(i32),
    /// As random, with −inf in three of ten entries off one path.
    Masked,
    /// As random, with all but one path at −inf for some frames on end.
    Bursts,
}

/// A batch.
struct Batch {
    kind: Kind,
    frames: usize,
    items: usize,
    classes: usize,
    /// (T, N, C)
    values: Vec<f64>,
    targets: Vec<Vec<usize>>,
    input_lengths: Vec<usize>,
}

impl Batch {
    fn new(kind: Kind, frames: usize, items: usize, classes: usize, labels: usize) -> Self {
        let mut rng = Rng::new((frames * 1_000_003 + items * 1009 + classes) as u64);
        let input_lengths: Vec<usize> = (0..items).map(|n| frames - 3 * (n % 9)).collect();
        let targets: Vec<Vec<usize>> = (0..items)
            .map(|n| {
                let start = n * labels;
                let places = start..start + labels - n % labels.min(9);
                places.map(|i| 1 + i * i % (classes - 1)).collect()
            })
            .collect();
        let mut values = vec![0.0; frames * items * classes];
        for (n, target) in targets.iter().enumerate() {
            let mut burst = 0;
            for t in 0..frames {
                let length = input_lengths[n];
                // Label i has frame i · T / U to itself.
                let place = t * target.len() / length;
                let starts =
                    place * length / target.len() == t || (place + 1) * length / target.len() == t;
                let place = place + usize::from(place * length / target.len() != t);
                let on_path = if starts && place < target.len() && t < length {
                    target[place]
                } else {
                    0
                };
                if burst == 0 && rng.below(9) == 0 {
                    burst = 1 + rng.below(12);
                }
                let in_burst = burst > 0;
                burst = burst.saturating_sub(1);
                let row = &mut values[(t * items + n) * classes..][..classes];
                fill(row, kind, on_path, in_burst, &mut rng);
            }
        }
        Batch {
            kind,
            frames,
            items,
            classes,
            values,
            targets,
            input_lengths,
        }
    }

    fn name(&self) -> String {
        let (kind, n) = (self.kind, self.items);
        format!("{kind:?} T={} N={n} C={}", self.frames, self.classes)
    }

    fn input(&self, dtype: DType) -> Tensor {
        let dims = [self.frames, self.items, self.classes];
        tensor(&self.values, &dims, dtype)
    }

    fn padded(&self) -> Tensor {
        tensors::padded(&self.targets, 0, 0, DType::U32, &Device::Cpu)
    }

    fn target_lengths(&self) -> Vec<usize> {
        self.targets.iter().map(Vec::len).collect()
    }
}

/// A number from 0 to 1 with 24 bits.
fn unit(rng: &mut Rng) -> f64 {
    (rng.next_u64() >> 40) as f64 / f64::from(1u32 << 24)
}

fn fill(row: &mut [f64], kind: Kind, on_path: usize, in_burst: bool, rng: &mut Rng) {
    for (class, x) in row.iter_mut().enumerate() {
        let off_path = class != on_path;
        *x = match kind {
            Kind::Normal => 0.0,
            Kind::Sure(_) if in_burst && rng.below(3) == 0 => -unit(rng),
            Kind::Sure(_) if !off_path => -1.0 / 1024.0,
            Kind::Sure(lead) => -f64::from(lead) - unit(rng),
            Kind::Random | Kind::Masked | Kind::Bursts => -8.0 * unit(rng),
        };
        let masked = match kind {
            Kind::Masked => off_path && rng.below(10) < 3,
            Kind::Bursts => off_path && in_burst,
            _ => false,
        };
        if masked {
            *x = f64::NEG_INFINITY;
        }
    }
    if kind == Kind::Normal {
        // 1/2, 1/4, and so on, the last twice, in some order.
        let classes = row.len();
        let mut order: Vec<usize> = (0..classes).collect();
        for i in (1..classes).rev() {
            order.swap(i, rng.below(i + 1));
        }
        for (power, class) in order.into_iter().enumerate() {
            row[class] = -((power + 1).min(classes - 1) as f64) * LN_2;
        }
    }
}

/// Losses and gradients.
fn losses(batch: &Batch, dtypes: &[DType], hashes: &mut Hashes) -> Result<()> {
    let (targets, lengths) = (batch.padded(), batch.target_lengths());
    for &dtype in dtypes {
        let input = batch.input(dtype);
        for (entry, gradient) in [
            (Entry::LogProbs, GradientKind::Exact),
            (Entry::LogProbs, GradientKind::Torch),
            (Entry::Logits, GradientKind::Exact),
        ] {
            let options = CtcLossOptions {
                reduction: Reduction::None,
                gradient,
                ..Default::default()
            };
            let leaf = Var::from_tensor(&input)?;
            let run = |x: &Tensor| entry.loss(x, &targets, &batch.input_lengths, &lengths, options);
            let loss = run(&leaf)?;
            let values = tensors::read(&loss);
            let name = format!("{} {dtype:?} {entry:?} {gradient:?}", batch.name());
            if gradient == GradientKind::Exact {
                // Losses alone may go another way, to the same bits.
                let alone = tensors::read(&run(&input)?);
                assert_eq!(common::bits(&alone), common::bits(&values), "{name}");
                let finite = values.iter().filter(|loss| loss.is_finite()).count();
                assert!(finite * 2 > values.len(), "{name}: {values:?}");
                hashes.add(
                    format!("{name} loss"),
                    dtype == DType::F64,
                    Hash::numbers(&values),
                );
            }
            let gradient = loss.backward()?.get(&leaf).unwrap().clone();
            let mut gradient = tensors::read(&gradient);
            // candle's sum of bf16 gradients drops these on some processors.
            if dtype == DType::BF16 {
                let subnormal = |x: &&mut f64| x.abs() < bf16::MIN_POSITIVE.to_f64();
                gradient.iter_mut().filter(subnormal).for_each(|x| *x = 0.0);
            }
            assert!(gradient.iter().any(|&g| g != 0.0), "{name}: no gradient");
            hashes.add(
                format!("{name} gradient"),
                dtype == DType::F64 && options.gradient == GradientKind::Torch,
                Hash::numbers(&gradient),
            );
        }
    }
    Ok(())
}

/// Scores, alignments, confidences and transcripts.
fn inference(batch: &Batch, dtype: DType, hashes: &mut Hashes) -> Result<()> {
    let (targets, lengths) = (batch.padded(), batch.target_lengths());
    let (input, frames) = (batch.input(dtype), &batch.input_lengths);
    let name = format!("{} {dtype:?}", batch.name());

    let first = input.narrow(1, 0, 1)?.squeeze(1)?;
    let target = &batch.targets[0];
    let list: Vec<Vec<u32>> = (0..67)
        .map(|i| {
            let length = target.len() - i % target.len().min(7);
            let mut labels: Vec<u32> = target[..length].iter().map(|&label| label as u32).collect();
            let place = i * 3 % length;
            labels[place] = 1 + ((labels[place] as usize + i) % (batch.classes - 1)) as u32;
            labels
        })
        .collect();
    for kind in [InputKind::LogProbs, InputKind::Logits] {
        let opts = ScoreOptions {
            input: kind,
            normalised: false,
            ..Default::default()
        };
        let name = match kind {
            InputKind::Logits => format!("{name} logits"),
            InputKind::LogProbs => name.clone(),
        };
        for count in [1, 67] {
            let scores = score_transcripts(&first, &list[..count], opts)?;
            let name = format!("{name} {count} scores");
            hashes.add(name, true, Hash::numbers(&scores));
        }
        let states =
            state_posteriors_batch(&input, &targets, frames, &lengths, for_confidence(opts))?;
        let states: Vec<f64> = states.iter().flat_map(tensors::read).collect();
        assert!(states.iter().any(|&p| p > 0.5), "{name}");
        hashes.add(format!("{name} states"), true, Hash::numbers(&states));
        let tokens =
            token_confidence_batch(&input, &targets, frames, &lengths, for_confidence(opts))?
                .concat();
        let tokens = tokens.iter().flat_map(|t| {
            [
                t.posterior,
                t.probability,
                t.expected_frame,
                t.expected_frames,
            ]
        });
        hashes.add(
            format!("{name} confidence"),
            true,
            Hash::numbers(&tokens.collect::<Vec<_>>()),
        );
    }

    let mut hash = Hash::new();
    let opts = AlignOptions {
        normalised: false,
        ..Default::default()
    };
    for aligned in forced_align_batch(&input, &targets, frames, &lengths, opts)? {
        let aligned = aligned.expect("a path");
        hash.number(aligned.score);
        aligned.labels.iter().for_each(|&x| hash.word(x.into()));
        let scores = aligned.frame_scores.iter();
        scores.for_each(|&x| hash.number(x.into()));
        for span in &aligned.spans {
            hash.word(span.start as u64);
            hash.number(span.score.into());
        }
    }
    hashes.add(format!("{name} best paths"), false, hash.0);

    // What decodes takes batches either way.
    let opts = GreedyOptions {
        normalised: false,
        ..Default::default()
    };
    let greedy = greedy_decode_batch(&input, frames, opts)?;
    let opts = BeamOptions {
        beam_width: 12,
        n_best: 5,
        layout: InputLayout::BatchMajor,
        normalised: false,
        ..Default::default()
    };
    let beams = beam_search_batch(&input.transpose(0, 1)?, frames, opts)?;
    for (what, libm, hypotheses) in [("greedy", false, greedy), ("beams", true, beams.concat())] {
        assert!(!hypotheses.is_empty(), "{name}");
        let mut hash = Hash::new();
        for hypothesis in &hypotheses {
            hash.number(hypothesis.score);
            hypothesis.tokens.iter().for_each(|&x| hash.word(x.into()));
            for span in &hypothesis.spans {
                hash.word(span.start as u64);
                hash.word(span.end as u64);
                hash.number(span.score.into());
            }
        }
        hashes.add(format!("{name} {what}"), libm, hash.0);
    }

    let opts = PrefixScorerOptions {
        normalised: false,
        ..Default::default()
    };
    let scorer = PrefixScorer::new(&first, opts)?;
    let mut state = scorer.initial_state();
    let mut numbers = Vec::new();
    for &token in target.iter().take(4) {
        let scores = scorer.score(&[&state])?;
        numbers.extend(scores[0].next.iter().copied());
        numbers.push(scores[0].end);
        state = scorer.extend(&state, token as u32)?;
        numbers.push(state.score());
    }
    hashes.add(format!("{name} prefixes"), true, Hash::numbers(&numbers));
    Ok(())
}

/// All cases with the instruction set in force.
fn all() -> Result<Hashes> {
    let mut hashes = Hashes::default();
    let all = tensors::FLOATS;
    for (frames, items, classes, labels) in [
        (9, 1, 2, 1),
        (40, 3, 7, 9),
        (150, 2, 300, 40),
        (400, 2, 5, 90),
        // Several tiles, and so much work that threads share an item.
        (700, 1, 140, 129),
        // Items side by side, on machines of up to eight threads.
        (70, 67, 7, 20),
    ] {
        let batch = Batch::new(Kind::Random, frames, items, classes, labels);
        losses(&batch, &all, &mut hashes)?;
    }
    // Gradients that take non-temporal stores.
    let batch = Batch::new(Kind::Random, 150, 10, 3001, 20);
    losses(&batch, &[DType::F32, DType::F64], &mut hashes)?;
    for kind in [
        Kind::Normal,
        Kind::Sure(14),
        Kind::Sure(80),
        Kind::Masked,
        Kind::Bursts,
    ] {
        for (frames, items, classes, labels) in [(40, 3, 7, 9), (310, 1, 12, 70), (70, 67, 7, 20)] {
            let batch = Batch::new(kind, frames, items, classes, labels);
            losses(&batch, &all, &mut hashes)?;
        }
        for (frames, items, classes, labels) in [(33, 3, 9, 6), (120, 2, 12, 40)] {
            let batch = Batch::new(kind, frames, items, classes, labels);
            for dtype in all {
                inference(&batch, dtype, &mut hashes)?;
            }
        }
    }
    Ok(hashes)
}

fn stored() -> BTreeMap<String, Columns> {
    let text = std::fs::read_to_string(FILE).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            let mut hash = || {
                let digits = words.next().unwrap_or_default();
                u64::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("no hashes: {line:?}"))
            };
            let columns = [hash(), hash()];
            (words.next().expect("a name").to_string(), columns)
        })
        .collect()
}

/// Writes the file from the hashes of all instruction sets.
fn bless(of_each: &[(Isa, Hashes)]) {
    if !SAME_LIBM {
        panic!("bless where the platform has glibc");
    }
    let of = |column: usize| {
        let found = of_each.iter().find(|(isa, _)| self::column(*isa) == column);
        &found.expect("bless on an x86-64 with AVX2").1.all
    };
    let mut text = String::from(
        "# Hash with a fused multiply-add, hash without, case. Written by CTC_BLESS=1: see tests/golden_bits.rs.\n",
    );
    for (name, hash) in of(0) {
        writeln!(text, "{hash:016x} {:016x} {name}", of(1)[name]).unwrap();
    }
    std::fs::write(FILE, text).unwrap();
}

#[test]
#[cfg_attr(ctc_softgpu, ignore = "the bits of the CPU's code")]
fn results_have_the_stored_bits_on_every_instruction_set() -> Result<()> {
    let best = Isa::current();
    let mut of_each = Vec::new();
    for isa in Isa::available() {
        assert!(isa.force());
        assert_eq!(Isa::current(), isa);
        of_each.push((isa, all()?));
    }
    assert!(best.force());
    if std::env::var_os("CTC_BLESS").is_some() {
        bless(&of_each);
    }
    let stored = stored();
    let mut faults = Vec::new();
    for (isa, hashes) in &of_each {
        println!("{isa:?}: {} of {} cases", hashes.all.len(), stored.len());
        for (name, &hash) in &hashes.all {
            match stored.get(name) {
                None => faults.push(format!("{isa:?}: {name} is not in the file")),
                Some(columns) if columns[column(*isa)] != hash => faults.push(format!(
                    "{isa:?}: {name}: {hash:016x}, and {:016x} in the file",
                    columns[column(*isa)]
                )),
                Some(_) => {}
            }
        }
        if SAME_LIBM {
            for name in stored.keys().filter(|name| !hashes.all.contains_key(*name)) {
                faults.push(format!("{isa:?}: {name} is in the file and has no case"));
            }
        }
    }
    assert!(stored.len() >= 300, "the file has {} cases", stored.len());
    assert!(
        faults.is_empty(),
        "{} hashes differ (CTC_BLESS=1 writes the file anew if they should):\n{}",
        faults.len(),
        faults.join("\n")
    );
    Ok(())
}
