//! Turns arguments into a [`Plan`], or reports errors in shapes, dtypes, lengths and labels.

mod input;
mod lengths;
mod targets;

pub(crate) use self::input::{ROWS_HELD, check_rows};

use self::input::{Dims, input_dims, layout_hint};
use self::lengths::{
    MOST_FRAMES, both_given, check_count, frames_given, given, input_lengths_of, lengths, read,
    target_lengths_given,
};
use self::targets::{ANY_CLASS, NO_BLANK, check_labels, labels, row_of};
use crate::options::{Checks, CtcLossOptions, InputLayout};
use crate::problem::integers::{check_int, int_values, is_on_gpu};
use crate::problem::lengths::{IntoLengths, Lengths};
use crate::problem::plan::{
    DeviceTargets, Input, InputKind, IntSource, LossProblem, Plan, Targets,
};
use candle_core::{Device, Result, Tensor, bail};

/// The public function whose arguments are checked, with the relevant options.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    /// The name of the function, for messages.
    pub function: &'static str,
    pub input: InputKind,
    /// Whether log-probabilities are checked by [`crate::distribution::check_normalised`].
    pub normalised: bool,
    pub blank: usize,
    pub layout: InputLayout,
    /// A label that is allowed even if it is not a class.
    pub star: Option<u32>,
}

impl Call {
    pub fn new(
        function: &'static str,
        input: InputKind,
        normalised: bool,
        blank: usize,
        layout: InputLayout,
    ) -> Self {
        Self {
            function,
            input,
            normalised,
            blank,
            layout,
            star: None,
        }
    }

    /// The name of the input in messages.
    pub fn input_name(&self) -> &'static str {
        match self.input {
            InputKind::LogProbs => "log_probs",
            InputKind::Logits => "logits",
        }
    }
}

/// Checks all arguments of the loss.
pub(crate) fn loss(
    function: &'static str,
    kind: InputKind,
    input: &Tensor,
    targets: &Tensor,
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
    opts: CtcLossOptions,
) -> Result<LossProblem> {
    let call = Call::new(function, kind, false, opts.blank, opts.layout);
    let dims = input_dims(call, input)?;
    if dims.frames == 0 || dims.batch == 0 {
        bail!(
            "{}: {} have shape {:?}, with T = {} frames and N = {} items; both must be at least 1",
            call.function,
            call.input_name(),
            input.dims(),
            dims.frames,
            dims.batch
        )
    }
    let (input_lengths, target_lengths) =
        both_given(call, dims, targets, input_lengths, target_lengths)?;
    let on_device = opts.checks == Checks::Device
        && is_on_gpu(input)
        && tensors(targets, &input_lengths, &target_lengths).any(is_on_gpu);
    let targets = if on_device {
        let targets = device_targets(call, dims, input, targets, input_lengths, target_lengths)?;
        Targets::Device(input_of(call, dims), targets)
    } else {
        Targets::Host(checked(call, dims, targets, input_lengths, target_lengths)?)
    };
    Ok(LossProblem {
        targets,
        weights: None,
        gradient: opts.gradient,
        reduction: opts.reduction,
        zero_infinity: opts.zero_infinity,
    })
}

/// Checks the arguments of a function that takes one target per item. With a `star` in the call, the labels of the plan
/// may include it.
pub(crate) fn plan_for(
    call: Call,
    input: &Tensor,
    targets: &Tensor,
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
) -> Result<Plan> {
    let dims = input_dims(call, input)?;
    let (input_lengths, target_lengths) =
        both_given(call, dims, targets, input_lengths, target_lengths)?;
    checked(call, dims, targets, input_lengths, target_lengths)
}

/// The arguments that are tensors.
fn tensors<'a>(
    targets: &'a Tensor,
    input_lengths: &'a Lengths,
    target_lengths: &'a Lengths,
) -> impl Iterator<Item = &'a Tensor> {
    let lengths = [input_lengths, target_lengths].into_iter();
    [targets]
        .into_iter()
        .chain(lengths.filter_map(Lengths::tensor))
}

fn checked(
    call: Call,
    dims: Dims,
    targets: &Tensor,
    input_lengths: Lengths,
    target_lengths: Lengths,
) -> Result<Plan> {
    check_int(targets, &format!("{}: targets", call.function))?;
    // Targets of a wrong shape may be a view of any size. They are not read, and reported after wrong lengths.
    let fits = row_of(call.function, targets.dims(), None, dims).is_ok();
    let tensors = tensors(targets, &input_lengths, &target_lengths);
    // Read everything on a GPU at once.
    let to_read: Vec<&Tensor> = tensors.skip(usize::from(!fits)).collect();
    let mut values = int_values(&to_read)?.into_iter();
    let targets_values = match fits {
        true => values.next().unwrap_or_default(),
        false => Vec::new(),
    };
    let mut resolve = |lengths: Lengths| match lengths.tensor() {
        Some(_) => lengths.with_values(&values.next().unwrap_or_default()),
        None => lengths,
    };
    let (input_lengths, target_lengths) = (resolve(input_lengths), resolve(target_lengths));
    let input_lengths = input_lengths_of(call, input_lengths, dims)?;
    let target_lengths = lengths(call.function, "target_lengths", target_lengths, dims)?;
    let targets = (targets.dims(), targets_values.as_slice());
    let (labels, label_offsets) = labels(call, targets, &target_lengths, dims)?;
    Ok(collect(call, dims, input_lengths, labels, label_offsets))
}

/// Lengths and targets that stay on the device: only shapes are checked, and values that the host knows.
fn device_targets(
    call: Call,
    dims: Dims,
    input: &Tensor,
    targets: &Tensor,
    input_lengths: Lengths,
    target_lengths: Lengths,
) -> Result<DeviceTargets> {
    let function = call.function;
    check_int(targets, &format!("{function}: targets"))?;
    let on_device = |name: &str, lengths: &Tensor| -> Result<IntSource> {
        check_count(function, name, lengths.elem_count(), dims)?;
        Ok(IntSource::Tensor(lengths.clone()))
    };
    // Tensors on another GPU are copied, as those on the CPU are.
    let stays = |tensor: &&Tensor| is_on_gpu(tensor) && tensor.device().same_device(input.device());
    // Values that the host knows are checked here. Checked lengths are lengths of tensors, so they fit.
    let signed =
        |values: &[usize]| IntSource::Values(values.iter().map(|&value| value as i64).collect());
    let input_lengths = match input_lengths.tensor().filter(stays) {
        Some(tensor) => on_device("input_lengths", tensor)?,
        None => {
            let lengths = read(input_lengths)?;
            signed(&input_lengths_of(call, lengths, dims)?)
        }
    };
    let (target_lengths, row, longest) = match target_lengths.tensor().filter(stays) {
        Some(tensor) => {
            let row = row_of(function, targets.dims(), None, dims)?;
            let longest = row.unwrap_or_else(|| targets.elem_count());
            (on_device("target_lengths", tensor)?, row, longest)
        }
        None => {
            let values = lengths(function, "target_lengths", read(target_lengths)?, dims)?;
            let row = row_of(function, targets.dims(), Some(&values), dims)?;
            if !stays(&targets) {
                let given = int_values(&[targets])?.pop().unwrap_or_default();
                labels(call, (targets.dims(), given.as_slice()), &values, dims)?;
            }
            let longest = values.iter().copied().max().unwrap_or(0);
            (signed(&values), row, longest)
        }
    };
    let targets = match stays(&targets) {
        true => targets.detach(),
        false => targets.to_device(&Device::Cpu)?.to_device(input.device())?,
    };
    Ok(DeviceTargets {
        input_lengths,
        target_lengths,
        targets: IntSource::Tensor(targets),
        // Rows without labels are not read; 0 stands for a concatenation, whose lengths must add up.
        row: row.map_or(0, |row| row.max(1)),
        labels: longest,
    })
}

/// Checks the arguments of a function without targets: the plan has none.
pub(crate) fn plan_for_decoding(
    call: Call,
    input: &Tensor,
    input_lengths: impl IntoLengths,
) -> Result<Plan> {
    let dims = input_dims(call, input)?;
    const TOO_MANY: u64 = 1 << 32;
    if dims.classes as u64 >= TOO_MANY {
        bail!(
            "{}: C = {} classes; fewer than {TOO_MANY} are taken, since labels are numbers of 32 bits, the largest of \
             which stands for none",
            call.function,
            dims.classes
        )
    }
    check_rows(call.function, call.input_name(), dims.classes)?;
    let input_lengths = frames_given(call, dims, input_lengths)?;
    Ok(without_targets(call, dims, input_lengths))
}

/// One utterance as `(T, C)`, also from a batch of one. The error for a larger batch names `{function}_batch`.
pub(crate) fn utterance(function: &str, input: &Tensor) -> Result<Tensor> {
    utterance_or(function, input, || {
        format!("; for a batch there is {function}_batch")
    })
}

/// The same with other advice for a larger batch.
pub(crate) fn utterance_or(
    function: &str,
    input: &Tensor,
    instead: impl Fn() -> String,
) -> Result<Tensor> {
    match input.dims() {
        [_, _] => Ok(input.clone()),
        [1, _, _] => input.squeeze(0),
        [_, 1, _] => input.squeeze(1),
        other => bail!(
            "{function}: the input has shape {other:?}; expected (T, C), (1, T, C) or (T, 1, C){}",
            instead()
        ),
    }
}

/// Checks the arguments of a function that takes one utterance of shape `(T, C)`, as returned by [`utterance`], and
/// uses all its frames.
pub(crate) fn plan_for_utterance(call: Call, input: &Tensor) -> Result<Plan> {
    plan_for_decoding(call, input, input.dims()[0])
}

/// One utterance as `(T, C)`, and the plan for its target.
pub(crate) fn utterance_and_target(
    call: Call,
    input: &Tensor,
    target: &[u32],
) -> Result<(Tensor, Plan)> {
    let input = utterance(call.function, input)?;
    let plan = plan_for_utterance(call, &input)?;
    let labels = target.iter().map(|&label| i64::from(label));
    check_labels(call, plan.input.classes, labels, || "the target".into())?;
    let plan = Plan {
        labels: target.to_vec(),
        label_offsets: vec![0, target.len()],
        ..plan
    };
    Ok((input, plan))
}

/// Checks the arguments of a function that takes many transcripts per item: the plan has no targets.
pub(crate) fn plan_for_transcripts<S: AsRef<[u32]>>(
    call: Call,
    input: &Tensor,
    input_lengths: impl IntoLengths,
    transcripts: &[&[S]],
) -> Result<Plan> {
    let function = call.function;
    let dims = input_dims(call, input)?;
    let input_lengths = frames_given(call, dims, input_lengths)?;
    if transcripts.len() != dims.batch {
        bail!(
            "{function}: transcripts are given for {} items, but the batch has N = {} items{}",
            transcripts.len(),
            dims.batch,
            layout_hint(dims, transcripts.len() == dims.frames)
        )
    }
    for (item, transcripts) in transcripts.iter().enumerate() {
        for (number, transcript) in transcripts.iter().enumerate() {
            let labels = transcript.as_ref().iter().map(|&label| i64::from(label));
            let of = || format!("transcript {number} of item {item}");
            check_labels(call, dims.classes, labels, of)?;
        }
    }
    Ok(without_targets(call, dims, input_lengths))
}

/// Checks the labels of phrases that a function looks for.
pub(crate) fn check_phrases<S: AsRef<[u32]>>(
    call: Call,
    classes: usize,
    phrases: &[S],
) -> Result<()> {
    for (number, phrase) in phrases.iter().enumerate() {
        let phrase = phrase.as_ref();
        if phrase.is_empty() {
            bail!(
                "{}: phrase {number} has no labels, so it would stand everywhere; leave it out",
                call.function
            )
        }
        let labels = phrase.iter().map(|&label| i64::from(label));
        check_labels(call, classes, labels, || format!("phrase {number}"))?;
    }
    Ok(())
}

/// The frames and the target of each item, without an input: input lengths, labels, and offsets of the items in the
/// labels.
pub(crate) fn targets_only(
    function: &'static str,
    targets: &Tensor,
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
) -> Result<(Vec<usize>, Vec<u32>, Vec<usize>)> {
    let input_lengths = read(given(function, "input_lengths", input_lengths)?)?;
    let batch = match &input_lengths {
        Lengths::Scalar(_) => 1,
        Lengths::Batch(values) => values.len(),
        Lengths::Tensor(tensor) => tensor.elem_count(),
    };
    // Any label is valid, since neither the classes nor the blank are known.
    let dims = Dims {
        frames: MOST_FRAMES,
        batch,
        classes: ANY_CLASS,
        layout: None,
    };
    let input_lengths = lengths(function, "input_lengths", input_lengths, dims)?;
    if let Some(item) = input_lengths
        .iter()
        .position(|&length| length > MOST_FRAMES)
    {
        bail!(
            "{function}: input_lengths[{item}] = {} is no plausible length: no tensor has more than \
             {MOST_FRAMES} frames",
            input_lengths[item]
        )
    }
    let target_lengths = target_lengths_given(function, dims, targets, target_lengths)?;
    let target_lengths = lengths(function, "target_lengths", read(target_lengths)?, dims)?;
    let layout = InputLayout::default();
    let call = Call::new(function, InputKind::LogProbs, false, NO_BLANK, layout);
    check_int(targets, &format!("{function}: targets"))?;
    // Targets that do not fit are not read, since a view may have any size.
    row_of(function, targets.dims(), Some(&target_lengths), dims)?;
    let values = int_values(&[targets])?.pop().unwrap_or_default();
    let targets = (targets.dims(), values.as_slice());
    let (labels, label_offsets) = labels(call, targets, &target_lengths, dims)?;
    Ok((input_lengths, labels, label_offsets))
}

fn without_targets(call: Call, dims: Dims, input_lengths: Vec<usize>) -> Plan {
    collect(
        call,
        dims,
        input_lengths,
        Vec::new(),
        vec![0; dims.batch + 1],
    )
}

fn collect(
    call: Call,
    dims: Dims,
    input_lengths: Vec<usize>,
    labels: Vec<u32>,
    label_offsets: Vec<usize>,
) -> Plan {
    Plan {
        input: input_of(call, dims),
        input_lengths,
        labels,
        label_offsets,
    }
}

fn input_of(call: Call, dims: Dims) -> Input {
    Input {
        frames: dims.frames,
        batch: dims.batch,
        classes: dims.classes,
        blank: call.blank,
        layout: dims.layout,
        kind: call.input,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    /// Checks a batch of two items, with 4 frames and 3 classes, as for a loss on a GPU with `Checks::Device`; the CPU
    /// is in the place of the GPU.
    fn device_targets_of(targets: &Tensor, target_lengths: [i128; 2]) -> Result<DeviceTargets> {
        let input = Tensor::zeros((4, 2, 3), DType::F32, &Device::Cpu)?;
        let call = Call::new("f", InputKind::LogProbs, false, 0, InputLayout::TimeMajor);
        let dims = input_dims(call, &input)?;
        let [frames, labels] = [vec![4, 4], target_lengths.to_vec()].map(Lengths::Batch);
        device_targets(call, dims, &input, targets, frames, labels)
    }

    #[test]
    #[cfg_attr(ctc_softgpu, ignore = "there all tensors stay on the GPU")]
    fn labels_and_their_lengths_on_the_host_are_checked_there() {
        let host = &Device::Cpu;
        let padded = Tensor::new(&[[1i64, 2], [2, 9]], host).unwrap();
        let joined = Tensor::new(&[1i64, 2, 2, 9], host).unwrap();
        let columns = Tensor::new(&[[1i64, 2], [2, 9], [0, 0]], host).unwrap();
        for targets in [padded, joined, columns.t().unwrap()] {
            let error = device_targets_of(&targets, [2, 2]).unwrap_err().to_string();
            assert!(
                error.contains("f: the target of item 1 has label 9 at position 1"),
                "{error}"
            );
        }
        let blank = Tensor::new(&[1i64, 2, 0], host).unwrap();
        let error = device_targets_of(&blank, [1, 2]).unwrap_err().to_string();
        assert!(
            error.contains("f: the target of item 1 has the blank (0) at position 1"),
            "{error}"
        );
    }

    #[test]
    #[cfg_attr(ctc_softgpu, ignore = "there all tensors stay on the GPU")]
    fn padding_on_the_host_is_not_checked() {
        let host = &Device::Cpu;
        // The padding is a number that is no class, the blank, or a negative number.
        for padding in [9i64, 0, -100] {
            let padded = Tensor::new(&[[1, 2], [2, padding]], host).unwrap();
            let checked = device_targets_of(&padded, [2, 1]).unwrap();
            assert_eq!((checked.labels, checked.row), (2, 2));
        }
        // Both items share one row.
        let row = Tensor::new(&[[2i64, 1]], host).unwrap();
        let shared = row.broadcast_as((2, 2)).unwrap();
        let checked = device_targets_of(&shared, [2, 1]).unwrap();
        assert_eq!((checked.labels, checked.row), (2, 2));
        let none = Tensor::zeros((2, 0), DType::I64, host).unwrap();
        let checked = device_targets_of(&none, [0, 0]).unwrap();
        assert_eq!((checked.labels, checked.row), (0, 1));
    }
}
