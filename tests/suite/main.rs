//! Every test that takes a device, as one program: to be built on one machine and run on another that has a
//! GPU and no Rust. `scripts/gpu-check.sh` runs it.

#[path = "../accuracy.rs"]
mod accuracy;
#[path = "../autograd.rs"]
mod autograd;
#[path = "../checks.rs"]
mod checks;
#[path = "../determinism.rs"]
mod determinism;
#[path = "../edges.rs"]
mod edges;
#[path = "../errors.rs"]
mod errors;
#[path = "../forms.rs"]
mod forms;
#[path = "../golden.rs"]
mod golden;
#[path = "../gradient.rs"]
mod gradient;
#[path = "../hostile.rs"]
mod hostile;
#[path = "../inference.rs"]
mod inference;
#[path = "../kernels.rs"]
mod kernels;
#[path = "../lengths.rs"]
mod lengths;
#[path = "../long_targets.rs"]
mod long_targets;
#[path = "../properties.rs"]
mod properties;
#[path = "../views.rs"]
mod views;

/// On a machine that should have a GPU, a run that silently tests the CPU alone is a failure.
#[test]
fn the_gpu_is_there() {
    if std::env::var_os("CTC_EXPECT_GPU").is_some() {
        assert!(
            kernels::common::devices().len() > 1,
            "CTC_EXPECT_GPU is set, and candle finds no GPU"
        );
    }
}
