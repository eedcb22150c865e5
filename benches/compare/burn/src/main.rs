//! burn's side of the comparison: the CTC loss of burn-nn on the flex backend, a worker that
//! `benches/compare/compare.py` starts and asks, one line of JSON at a time.

use burn::nn::loss::{CTCLoss, CTCLossConfig};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};
use serde_json::{Value, json};
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::time::Instant;

fn main() {
    let mut case: Option<(String, Case)> = None;
    for line in std::io::stdin().lock().lines() {
        let request: Value =
            serde_json::from_str(&line.expect("a line")).expect("a request in JSON");
        let path = request["case"].as_str().expect("a case");
        if case.as_ref().is_none_or(|(name, _)| name != path) {
            drop(case.take());
            case = Some((path.to_string(), Case::load(path)));
        }
        let (_, case) = case.as_ref().expect("just loaded");
        println!("{}", answer(case, &request));
        std::io::stdout().flush().expect("a reader");
    }
}

fn answer(case: &Case, request: &Value) -> Value {
    let mode = request["mode"].as_str().expect("a mode");
    if let Some(path) = request["save"].as_str() {
        case.save(mode, path);
        return json!({ "saved": path });
    }
    let seconds = request["seconds"].as_f64().expect("a duration");
    for _ in 0..request["warm"].as_u64().unwrap_or(1) {
        case.run(mode);
    }
    let start = Instant::now();
    let mut times = Vec::new();
    // At least three runs, unless they are very slow.
    while start.elapsed().as_secs_f64() < seconds
        || (times.len() < 3 && start.elapsed().as_secs_f64() < 8.0 * seconds)
    {
        let start = Instant::now();
        case.run(mode);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    json!({ "ms": times })
}

struct Case {
    ctc: CTCLoss,
    /// `(T, N, C)`, with automatic differentiation and without.
    tracked: Tensor<3>,
    plain: Tensor<3>,
    targets: TensorData,
    input_lengths: TensorData,
    target_lengths: TensorData,
}

impl Case {
    fn load(path: &str) -> Self {
        let bytes = std::fs::read(path).expect("inputs");
        let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
        let view = |name: &str| tensors.tensor(name).expect("a tensor of that name");
        let ints = |name: &str| {
            let view = view(name);
            assert_eq!(view.dtype(), Dtype::I64);
            let (entries, _) = view.data().as_chunks::<8>();
            let entries: Vec<i64> = entries.iter().map(|x| i64::from_le_bytes(*x)).collect();
            TensorData::new(entries, view.shape().to_vec())
        };
        let input = view("input");
        assert_eq!(input.dtype(), Dtype::F32);
        let (entries, _) = input.data().as_chunks::<4>();
        let entries: Vec<f32> = entries.iter().map(|x| f32::from_le_bytes(*x)).collect();
        let input = TensorData::new(entries, input.shape().to_vec());
        Self {
            ctc: CTCLossConfig::new().init(),
            tracked: Tensor::from_data(input.clone(), &Device::flex().autodiff()),
            plain: Tensor::from_data(input, &Device::flex()),
            targets: ints("targets"),
            input_lengths: ints("input_lengths"),
            target_lengths: ints("target_lengths"),
        }
    }

    fn losses(&self, mode: &str, input: Tensor<3>) -> Tensor<1> {
        let device = input.device();
        let input = match mode {
            "logits" => log_softmax(input, 2),
            _ => input,
        };
        let targets: Tensor<2, Int> = Tensor::from_data(self.targets.clone(), &device);
        let input_lengths: Tensor<1, Int> = Tensor::from_data(self.input_lengths.clone(), &device);
        let target_lengths: Tensor<1, Int> =
            Tensor::from_data(self.target_lengths.clone(), &device);
        self.ctc
            .forward(input, targets, input_lengths, target_lengths)
    }

    fn run(&self, mode: &str) {
        if mode == "score" {
            black_box(self.losses(mode, self.plain.clone()).sum().into_data());
            return;
        }
        let leaf = self.tracked.clone().require_grad();
        let gradients = self.losses(mode, leaf.clone()).sum().backward();
        black_box(leaf.grad(&gradients));
    }

    /// The losses `(N)` and the gradient of their sum `(T, N, C)`.
    fn save(&self, mode: &str, path: &str) {
        let leaf = self.tracked.clone().require_grad();
        let losses = self.losses(mode, leaf.clone());
        let gradients = losses.clone().sum().backward();
        let gradient = leaf.grad(&gradients).expect("the leaf's gradient");
        let [frames, batch, classes] = gradient.dims();
        let bytes = |data: TensorData| -> Vec<u8> {
            let entries = data.to_vec::<f32>().expect("f32");
            entries.iter().flat_map(|x| x.to_le_bytes()).collect()
        };
        let (losses, gradient) = (bytes(losses.into_data()), bytes(gradient.into_data()));
        let view = |shape: &[usize], data| TensorView::new(Dtype::F32, shape.to_vec(), data);
        let tensors = [
            ("losses", view(&[batch], &losses).expect("a view")),
            (
                "gradient",
                view(&[frames, batch, classes], &gradient).expect("a view"),
            ),
        ];
        serialize_to_file(tensors, None, path.as_ref()).expect("a file");
    }
}
