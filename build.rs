//! With the feature `cuda`: compiles `kernels/ctc.cu` with nvcc, to machine code for the GPUs that it is built for, and
//! to PTX, which the driver of a newer one compiles further.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The lowest architecture that CUDA 13 supports (Turing). Its PTX runs on every later one.
const LOWEST: u32 = 75;

/// The parts that `kernels/ctc.cu` is compiled in; `src/gpu/cuda.rs` loads what it needs of them.
const IMAGES: [&str; 10] = [
    "common",
    "rows_f32",
    "rows_f16",
    "rows_bf16",
    "rows_f64",
    "lattice_f32_1",
    "lattice_f32_2",
    "lattice_f32_4",
    "lattice_f64",
    "best_path",
];

fn main() {
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(ctc_softgpu)");
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        compile();
    }
    // For the tests of the kernels where there is no GPU: see tools/softgpu.
    println!("cargo::rerun-if-env-changed=CTC_SOFTGPU_LIB");
    if let Some(library) = env::var_os("CTC_SOFTGPU_LIB") {
        let library = Path::new(&library).display();
        println!("cargo::rustc-cfg=ctc_softgpu");
        println!("cargo::rustc-link-search=native={library}");
        println!("cargo::rustc-link-arg=-Wl,-rpath,{library}");
    }
}

/// nvcc of `NVCC`, of the toolkit that the environment names, or of the path.
fn nvcc() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    for variable in [
        "CUDA_HOME",
        "CUDA_PATH",
        "CUDA_ROOT",
        "CUDA_TOOLKIT_ROOT_DIR",
    ] {
        println!("cargo::rerun-if-env-changed={variable}");
        if let Some(home) = env::var_os(variable) {
            let nvcc = Path::new(&home).join("bin").join("nvcc");
            if nvcc.exists() {
                return nvcc;
            }
        }
    }
    "nvcc".into()
}

/// 90 of 90, 9.0 or 90a.
fn number(capability: &str) -> Option<u32> {
    let digits: String = capability.chars().filter(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// What `CUDA_COMPUTE_CAP` says, else the GPUs of this machine: candle's kernels are built for the same. None where
/// there is none.
fn capabilities() -> Vec<u32> {
    if let Ok(given) = env::var("CUDA_COMPUTE_CAP") {
        let capability = number(&given)
            .unwrap_or_else(|| panic!("CUDA_COMPUTE_CAP is {given:?}; give a number such as 90"));
        return vec![capability];
    }
    let asked = Command::new("nvidia-smi")
        .args(["--query-gpu=compute_cap", "--format=csv,noheader"])
        .output();
    let mut found: Vec<u32> = match asked {
        Ok(asked) if asked.status.success() => String::from_utf8_lossy(&asked.stdout)
            .lines()
            .filter_map(number)
            .collect(),
        _ => Vec::new(),
    };
    found.sort_unstable();
    found.dedup();
    found
}

fn compile() {
    println!("cargo::rerun-if-env-changed=NVCC");
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    let capabilities = capabilities();
    let lowest = capabilities.first().unwrap_or(&LOWEST);
    // PTX for the lowest of them and what is newer, machine code for each.
    let mut architectures = vec![format!("arch=compute_{lowest},code=compute_{lowest}")];
    for capability in &capabilities {
        architectures.push(format!("arch=compute_{capability},code=sm_{capability}"));
    }
    let nvcc = nvcc();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    std::thread::scope(|scope| {
        for images in IMAGES.chunks(IMAGES.len().div_ceil(2)) {
            let (nvcc, out, architectures) = (&nvcc, &out, &architectures);
            scope.spawn(move || {
                for image in images {
                    compile_image(nvcc, image, architectures, &out.join(image));
                }
            });
        }
    });
}

/// Compiles one image of `kernels/ctc.cu` to `out`.
fn compile_image(nvcc: &Path, image: &str, architectures: &[String], out: &Path) {
    let run = Command::new(nvcc)
        // The kernels say themselves where a product and a sum are fused. A sum in two parts holds what the
        // rounding of a product lost, and a fused product would bring that in once more.
        .arg("-fmad=false")
        .args(["-fatbin", "-O3", "-std=c++17", "kernels/ctc.cu", "-o"])
        .arg(out)
        .arg(format!("-DCTC_IMAGE=CTC_{}", image.to_uppercase()))
        .args(architectures.iter().flat_map(|one| ["-gencode", one]))
        .output();
    match run {
        Ok(run) if run.status.success() => {}
        Ok(run) => panic!(
            "{} failed:\n{}{}",
            nvcc.display(),
            String::from_utf8_lossy(&run.stdout),
            String::from_utf8_lossy(&run.stderr)
        ),
        Err(error) => panic!(
            "the feature `cuda` needs nvcc, and {} cannot be run: {error}. Set CUDA_HOME, or bring a \
             toolkit with scripts/setup-cuda.sh",
            nvcc.display()
        ),
    }
    // A file that is there and empty would only be noticed on a GPU.
    assert!(
        fs::metadata(out).is_ok_and(|file| file.len() > 0),
        "nvcc wrote nothing for {image}"
    );
}
