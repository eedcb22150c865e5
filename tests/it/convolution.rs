//! What the README says about candle's convolutions: over a height of 1, conv2d gives what conv1d should.

use candle_core::{Device, Result, Tensor, Var};

const FRAMES: usize = 9;
const WIDTH: usize = 3;
const STRIDE: usize = 2;
const PADDING: usize = 1;

type Convolution = fn(&Tensor, &Tensor) -> Result<Tensor>;

fn conv1d(input: &Tensor, kernel: &Tensor) -> Result<Tensor> {
    input.conv1d(kernel, PADDING, STRIDE, 1, 1)
}

/// `conv2d` pads both dimensions alike, so the frames are padded apart.
fn conv2d_over_a_height_of_1(input: &Tensor, kernel: &Tensor) -> Result<Tensor> {
    let input = input.unsqueeze(2)?.pad_with_zeros(3, PADDING, PADDING)?;
    input
        .conv2d(&kernel.unsqueeze(2)?, 0, STRIDE, 1, 1)?
        .squeeze(2)
}

/// Numbers without a pattern.
fn numbers(shape: &[usize], seed: usize) -> Result<Tensor> {
    let count = shape.iter().product();
    let values =
        (0..count).map(|i: usize| ((i * i * 7 + i * seed + seed) % 23) as f64 / 11.0 - 1.0);
    Tensor::from_iter(values, &Device::Cpu)?.reshape(shape)
}

/// A sum that weighs every output in its own way.
fn loss(output: &Tensor) -> Result<Tensor> {
    (output * numbers(output.dims(), 3)?)?.sum_all()
}

/// The gradient of the loss with respect to both arguments, entry by entry.
fn gradients(convolution: Convolution, arguments: &[Tensor; 2]) -> Result<Vec<f64>> {
    let [input, kernel] = [
        Var::from_tensor(&arguments[0])?,
        Var::from_tensor(&arguments[1])?,
    ];
    let gradients = loss(&convolution(&input, &kernel)?)?.backward()?;
    let mut entries = Vec::new();
    for leaf in [&input, &kernel] {
        let gradient = gradients.get(leaf).expect("a leaf has a gradient");
        entries.extend(gradient.flatten_all()?.to_vec1::<f64>()?);
    }
    Ok(entries)
}

/// The same by finite differences. The loss is linear in each argument, so a step of 1 is as good as any.
fn differences(convolution: Convolution, arguments: &[Tensor; 2]) -> Result<Vec<f64>> {
    let [input, kernel] = arguments;
    let here = loss(&convolution(input, kernel)?)?.to_scalar::<f64>()?;
    let mut entries = Vec::new();
    for (which, argument) in arguments.iter().enumerate() {
        let values = argument.flatten_all()?.to_vec1::<f64>()?;
        for i in 0..values.len() {
            let mut values = values.clone();
            values[i] += 1.0;
            let moved = Tensor::from_vec(values, argument.shape(), &Device::Cpu)?;
            let output = match which {
                0 => convolution(&moved, kernel),
                _ => convolution(input, &moved),
            };
            entries.push(loss(&output?)?.to_scalar::<f64>()? - here);
        }
    }
    Ok(entries)
}

fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max)
}

#[test]
fn conv2d_over_a_height_of_1_gives_the_outputs_of_conv1d_and_right_gradients() -> Result<()> {
    for (items, channels, outputs) in [
        (1, 1, 1),
        (1, 3, 4),
        (2, 1, 1),
        (2, 3, 1),
        (2, 1, 4),
        (2, 3, 4),
    ] {
        let arguments = [
            numbers(&[items, channels, FRAMES], 5)?,
            numbers(&[outputs, channels, WIDTH], 2)?,
        ];
        let [expected, output] = [conv1d, conv2d_over_a_height_of_1 as Convolution]
            .map(|convolution| convolution(&arguments[0], &arguments[1]));
        let (expected, output) = (expected?, output?);
        assert_eq!(output.dims(), expected.dims());
        let [expected, output] = [expected, output].map(|x| x.flatten_all()?.to_vec1::<f64>());
        assert!(apart(&expected?, &output?) < 1e-12);

        let differences = differences(conv2d_over_a_height_of_1, &arguments)?;
        let errors = [conv2d_over_a_height_of_1, conv1d as Convolution]
            .map(|convolution| Ok(apart(&gradients(convolution, &arguments)?, &differences)));
        let [two, one]: [Result<f64>; 2] = errors;
        // That of conv1d is printed and not asserted: it will be right in a later candle.
        println!(
            "N = {items}, {channels} to {outputs} channels: conv1d is off by {:.1e}",
            one?
        );
        assert!(two? < 1e-9);
    }
    Ok(())
}
