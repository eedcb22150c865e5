//! With the feature `cuda`: compiles `kernels/ctc.cu` to PTX with nvcc, which the driver compiles further
//! for the GPU that it finds.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The lowest architecture that CUDA 13 supports (Turing). Its PTX runs on every later one.
const LOWEST: u32 = 75;

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

fn compile() {
    println!("cargo::rerun-if-env-changed=NVCC");
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    let capability = match env::var("CUDA_COMPUTE_CAP") {
        // Forms in use: 90, 9.0, 90a.
        Ok(given) => {
            let digits: String = given.chars().filter(char::is_ascii_digit).collect();
            digits.parse().unwrap_or_else(|_| {
                panic!("CUDA_COMPUTE_CAP is {given:?}; give a number such as 90")
            })
        }
        Err(_) => LOWEST,
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("ctc.ptx");
    let nvcc = nvcc();
    let run = Command::new(&nvcc)
        // The kernels say themselves where a product and a sum are fused. A sum in two parts holds what the
        // rounding of a product lost, and a fused product would bring that in once more.
        .arg("-fmad=false")
        .args(["-ptx", "-O3", "-std=c++17", "kernels/ctc.cu", "-o"])
        .arg(&out)
        .arg(format!("-arch=compute_{capability}"))
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
        fs::metadata(&out).is_ok_and(|file| file.len() > 0),
        "nvcc wrote no PTX"
    );
}
