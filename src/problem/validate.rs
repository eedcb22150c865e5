//! Turns arguments into a [`Plan`], or reports errors in shapes, dtypes, lengths and labels.

use crate::memory::check_room;
use crate::options::{Checks, CtcLossOptions, InputLayout};
use crate::problem::integers::{check_int, int_values, is_on_gpu};
use crate::problem::lengths::{IntoLengths, Lengths};
use crate::problem::plan::{
    DeviceTargets, Input, InputKind, IntSource, LossProblem, Plan, Targets,
};
use candle_core::{DType, Result, Tensor, bail};

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
    // Values that the host knows are checked here. Checked lengths are lengths of tensors, so they fit.
    let signed =
        |values: &[usize]| IntSource::Values(values.iter().map(|&value| value as i64).collect());
    let input_lengths = match input_lengths.tensor().filter(|tensor| is_on_gpu(tensor)) {
        Some(tensor) => on_device("input_lengths", tensor)?,
        None => {
            let lengths = read(input_lengths)?;
            signed(&input_lengths_of(call, lengths, dims)?)
        }
    };
    let (target_lengths, row, longest) =
        match target_lengths.tensor().filter(|tensor| is_on_gpu(tensor)) {
            Some(tensor) => {
                let row = row_of(function, targets.dims(), None, dims)?;
                let longest = row.unwrap_or_else(|| targets.elem_count());
                (on_device("target_lengths", tensor)?, row, longest)
            }
            None => {
                let values = lengths(function, "target_lengths", read(target_lengths)?, dims)?;
                let row = row_of(function, targets.dims(), Some(&values), dims)?;
                let longest = values.iter().copied().max().unwrap_or(0);
                (signed(&values), row, longest)
            }
        };
    let targets = match is_on_gpu(targets) {
        true => targets.detach(),
        false => targets.to_device(input.device())?,
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

#[derive(Clone, Copy)]
struct Dims {
    frames: usize,
    batch: usize,
    classes: usize,
    layout: Option<InputLayout>,
}

fn input_dims(call: Call, input: &Tensor) -> Result<Dims> {
    let (function, name) = (call.function, call.input_name());
    let dtype = input.dtype();
    if !matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16) {
        bail!("{function}: {name} have dtype {dtype:?}; expected f32, f64, f16 or bf16")
    }
    if dtype == DType::F64 && input.device().is_metal() {
        bail!(
            "{function}: {name} have dtype F64, which Metal does not support; convert them with \
             to_dtype(DType::F32) or move them to the CPU"
        )
    }
    let (frames, batch, classes, layout) = match (input.dims(), call.layout) {
        (&[frames, classes], _) => (frames, 1, classes, None),
        (&[frames, batch, classes], layout @ InputLayout::TimeMajor) => {
            (frames, batch, classes, Some(layout))
        }
        (&[batch, frames, classes], layout @ InputLayout::BatchMajor) => {
            (frames, batch, classes, Some(layout))
        }
        (other, layout) => {
            let batched = match layout {
                InputLayout::TimeMajor => "(T, N, C)",
                InputLayout::BatchMajor => "(N, T, C)",
            };
            bail!("{function}: {name} have shape {other:?}; expected {batched} or (T, C)")
        }
    };
    if call.blank >= classes {
        bail!(
            "{function}: blank = {} is not a class; {name} have C = {classes} classes",
            call.blank
        )
    }
    if call.input == InputKind::Logits || call.normalised {
        check_rows(function, name, classes)?;
    }
    Ok(Dims {
        frames,
        batch,
        classes,
        layout,
    })
}

/// An error if the rows that a call holds at a time do not fit any memory: a view of stride 0 may have any number of
/// classes.
pub(crate) fn check_rows(function: &str, name: &str, classes: usize) -> Result<()> {
    let what = format!("{function}: a row of {name}");
    check_room::<f64>(&what, ROWS_HELD, &[classes])
}

/// Rows of f64 that must fit the memory.
pub(crate) const ROWS_HELD: usize = 8;

/// The frames of each item, at most those of the input.
fn input_lengths_of(call: Call, input_lengths: Lengths, dims: Dims) -> Result<Vec<usize>> {
    let (function, frames) = (call.function, dims.frames);
    let input_lengths = lengths(function, "input_lengths", input_lengths, dims)?;
    let hint = || {
        let fit = input_lengths.iter().all(|&length| length <= dims.batch);
        layout_hint(dims, fit)
    };
    at_most(
        function,
        "input_lengths",
        &input_lengths,
        frames,
        "T",
        "frames; lengths count the frames that the model puts out, after its strides",
        hint,
    )?;
    Ok(input_lengths)
}

/// Converts the frames of each item, reads them if they are a tensor, and checks them.
fn frames_given(call: Call, dims: Dims, input_lengths: impl IntoLengths) -> Result<Vec<usize>> {
    let lengths = input_lengths_given(call, dims, input_lengths)?;
    input_lengths_of(call, read(lengths)?, dims)
}

/// Converts both kinds of lengths without reading tensors, and checks how many these hold.
fn both_given(
    call: Call,
    dims: Dims,
    targets: &Tensor,
    input_lengths: impl IntoLengths,
    target_lengths: impl IntoLengths,
) -> Result<(Lengths, Lengths)> {
    Ok((
        input_lengths_given(call, dims, input_lengths)?,
        target_lengths_given(call.function, dims, targets, target_lengths)?,
    ))
}

fn input_lengths_given(call: Call, dims: Dims, lengths: impl IntoLengths) -> Result<Lengths> {
    let lengths = given(call.function, "input_lengths", lengths)?;
    check_tensor_count(call.function, "input_lengths", &lengths, dims)?;
    let most = ("T", dims.frames);
    check_u8(call.function, "input_lengths", &lengths, dims, most)?;
    Ok(lengths)
}

fn target_lengths_given(
    function: &str,
    dims: Dims,
    targets: &Tensor,
    lengths: impl IntoLengths,
) -> Result<Lengths> {
    let lengths = given(function, "target_lengths", lengths)?;
    check_tensor_count(function, "target_lengths", &lengths, dims)?;
    // The maximum number of labels of a target, from the shape of the targets.
    let most = match *targets.dims() {
        [all] => ("the number of labels", all),
        [_, longest] => ("S", longest),
        _ => return Ok(lengths),
    };
    check_u8(function, "target_lengths", &lengths, dims, most)?;
    Ok(lengths)
}

/// Refuses a tensor of u8 for lengths that may exceed 255, since candle's sum of a u8 mask wraps: a length of 300
/// becomes 44. `size` and `most` are the name and the value of the largest possible length. A wrong number of lengths
/// is reported elsewhere.
fn check_u8(
    function: &str,
    name: &str,
    lengths: &Lengths,
    dims: Dims,
    (size, most): (&str, usize),
) -> Result<()> {
    let may_wrap =
        |tensor: &Tensor| tensor.dtype() == DType::U8 && tensor.elem_count() == dims.batch;
    if most > u8::MAX.into() && lengths.tensor().is_some_and(may_wrap) {
        bail!(
            "{function}: {name} have dtype u8, which ends at 255, but {size} = {most}; the sum of a \
             u8 mask wraps there: sum it as mask.to_dtype(DType::U32)"
        )
    }
    Ok(())
}

/// Converts lengths; an error names the argument.
fn given(function: &str, name: &str, lengths: impl IntoLengths) -> Result<Lengths> {
    lengths
        .into_lengths()
        .map_err(|error| candle_core::Error::Msg(format!("{function}: {name}: {error}")).bt())
}

/// Reads lengths if they are a tensor.
fn read(lengths: Lengths) -> Result<Lengths> {
    let values = match lengths.tensor() {
        Some(tensor) => int_values(&[tensor])?.pop().unwrap_or_default(),
        None => return Ok(lengths),
    };
    Ok(lengths.with_values(&values))
}

/// Checks that there is one length per item.
fn check_count(function: &str, name: &str, entries: usize, dims: Dims) -> Result<()> {
    let batch = dims.batch;
    if entries == batch {
        return Ok(());
    }
    let hint = layout_hint(dims, entries == dims.frames);
    bail!("{function}: {name} has {entries} entries, but the batch has N = {batch} items{hint}")
}

/// The same for a tensor with a dimension before it is read, since a view of stride 0 may have any number of entries.
fn check_tensor_count(function: &str, name: &str, lengths: &Lengths, dims: Dims) -> Result<()> {
    match lengths.tensor().map(Tensor::dims) {
        Some(&[entries]) => check_count(function, name, entries, dims),
        _ => Ok(()),
    }
}

/// The hint for an error that a wrong layout may have caused, because the argument would `fit` if frames and items were
/// exchanged: how the input was read, and how to choose the other layout.
fn layout_hint(dims: Dims, fit: bool) -> String {
    let Dims {
        frames,
        batch,
        classes,
        layout,
    } = dims;
    match layout {
        Some(InputLayout::TimeMajor) if fit => format!(
            "; the input is read as (T, N, C) = ({frames}, {batch}, {classes}), for (N, T, C) set \
             layout to InputLayout::BatchMajor"
        ),
        Some(InputLayout::BatchMajor) if fit => format!(
            "; the input is read as (N, T, C) = ({batch}, {frames}, {classes}), for (T, N, C) set \
             layout to InputLayout::TimeMajor"
        ),
        _ => String::new(),
    }
}

/// Checks for one non-negative length per item.
fn lengths(function: &str, name: &str, lengths: Lengths, dims: Dims) -> Result<Vec<usize>> {
    let batch = dims.batch;
    let values = match lengths {
        Lengths::Scalar(one) if batch == 1 => vec![one],
        Lengths::Scalar(one) => bail!(
            "{function}: {name} is the single number {one}, but the batch has N = {batch} items; \
             give one length for each{}",
            layout_hint(dims, dims.frames == 1)
        ),
        Lengths::Batch(values) => values,
        Lengths::Tensor(_) => unreachable!("lengths are read before they are checked"),
    };
    check_count(function, name, values.len(), dims)?;
    let checked = values.iter().enumerate().map(|(item, &value)| {
        if value < 0 {
            bail!("{function}: {name}[{item}] = {value}; a length must not be negative")
        }
        // A value that does not fit is too long for any tensor.
        Ok(usize::try_from(value).unwrap_or(usize::MAX))
    });
    checked.collect()
}

fn at_most(
    function: &str,
    name: &str,
    lengths: &[usize],
    most: usize,
    size: &str,
    unit: &str,
    hint: impl Fn() -> String,
) -> Result<()> {
    match lengths.iter().position(|&length| length > most) {
        Some(item) => bail!(
            "{function}: {name}[{item}] = {}, but there are only {size} = {most} {unit}{}",
            lengths[item],
            hint()
        ),
        None => Ok(()),
    }
}

/// The row length of padded targets; `None` for concatenated targets. Lengths, if known, must fit the shape of the
/// targets.
fn row_of(
    function: &str,
    targets: &[usize],
    target_lengths: Option<&[usize]>,
    dims: Dims,
) -> Result<Option<usize>> {
    let batch = dims.batch;
    match (targets, target_lengths) {
        (&[entries], Some(target_lengths)) => {
            let sum = target_lengths
                .iter()
                .try_fold(0usize, |sum, &length| sum.checked_add(length));
            if sum != Some(entries) {
                bail!(
                    "{function}: targets are a concatenation of {entries} labels, but \
                     target_lengths add up to {}; padded targets have two dimensions, (N, S)",
                    sum.map_or("more than fits".into(), |sum| sum.to_string())
                )
            }
            Ok(None)
        }
        (&[_], None) => Ok(None),
        (&[rows, longest], target_lengths) if rows == batch => {
            let lengths = target_lengths.unwrap_or_default();
            at_most(
                function,
                "target_lengths",
                lengths,
                longest,
                "S",
                "labels an item",
                String::new,
            )?;
            Ok(Some(longest))
        }
        (other, _) => bail!(
            "{function}: targets have shape {other:?}; expected ({batch}, S), or a concatenation of \
             one dimension{}",
            layout_hint(dims, other.len() == 2 && other[0] == dims.frames)
        ),
    }
}

/// The labels of all items, concatenated, and their offsets. The targets are given as shape and values.
fn labels(
    call: Call,
    (targets, values): (&[usize], &[i64]),
    target_lengths: &[usize],
    dims: Dims,
) -> Result<(Vec<u32>, Vec<usize>)> {
    let row = row_of(call.function, targets, Some(target_lengths), dims)?;
    let mut labels = Vec::with_capacity(target_lengths.iter().sum());
    let mut label_offsets = Vec::with_capacity(dims.batch + 1);
    label_offsets.push(0);
    for (item, &length) in target_lengths.iter().enumerate() {
        let start = row.map_or(labels.len(), |row| item * row);
        let target = values[start..start + length].iter().copied();
        let of = || format!("the target of item {item}");
        check_labels(call, dims.classes, target.clone(), of)?;
        labels.extend(target.map(|label| label as u32));
        label_offsets.push(labels.len());
    }
    Ok((labels, label_offsets))
}

/// More frames than any tensor has: it holds at most `isize::MAX` bytes, and a frame takes at least two. Also
/// represents an unknown number of frames.
const MOST_FRAMES: usize = isize::MAX as usize / 2;

/// Represent an unknown blank and an unknown number of classes.
const NO_BLANK: usize = usize::MAX;
const ANY_CLASS: usize = usize::MAX;

/// Each label must be the star, or a class other than the blank.
fn check_labels(
    call: Call,
    classes: usize,
    labels: impl Iterator<Item = i64> + Clone,
    of: impl Fn() -> String,
) -> Result<()> {
    let (function, blank) = (call.function, call.blank);
    let is_blank = |label: i64| (blank != NO_BLANK) & (label == blank as i64);
    let (limit, star) = ((classes as u64).min(1 << 32), call.star.map(i64::from));
    // A negative label becomes too large as an unsigned number.
    let is_label =
        |label: i64| !is_blank(label) & (((label as u64) < limit) | (star == Some(label)));
    // Check all labels, which is faster than stopping at the first invalid one.
    if labels
        .clone()
        .fold(true, |all, label| all & is_label(label))
    {
        return Ok(());
    }
    for (position, label) in labels.enumerate() {
        if is_blank(label) {
            bail!(
                "{function}: {} has the blank ({blank}) at position {position}; it must hold labels \
                 only: where that is padding, the target length is too large, and where it is a label, \
                 blank must be another class",
                of()
            )
        }
        if !is_label(label) {
            let range = match classes {
                ANY_CLASS => "from 0 to 4294967295".to_string(),
                _ => format!("at least 0 and below C = {classes}, the classes of the input"),
            };
            bail!(
                "{function}: {} has label {label} at position {position}; labels must be {range}",
                of()
            )
        }
    }
    Ok(())
}
