//! One source, several instruction sets: the choice is made once, at run time.
//!
//! The kernels are plain loops over fixed-size blocks, which the compiler vectorises for the instructions that the
//! surrounding function may use. [`dispatch`] puts them into a function that may use AVX2 and FMA, or AVX-512. On
//! aarch64 the baseline is NEON.
//!
//! The kernels keep to operations that IEEE 754 defines, in a fixed order. So all instruction sets with a fused
//! multiply-add give bit-identical results; SSE2, which has none, differs in the last bits.

use pulp::{Scalar128b, Simd, WithSimd};
#[cfg(target_arch = "x86_64")]
use std::any::Any;
use std::any::TypeId;
use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set that the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Isa {
    /// The baseline of the target: SSE2 on x86-64, NEON on aarch64.
    Baseline = 1,
    /// AVX2 and FMA: x86-64-v3.
    Avx2 = 2,
    /// AVX-512 F, BW, CD, DQ and VL: x86-64-v4.
    Avx512 = 3,
}

/// The instruction set in use; 0 until it is first queried.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

impl Isa {
    /// The instruction sets that this processor supports, the best last.
    pub fn available() -> Vec<Isa> {
        [Isa::Baseline, Isa::Avx2, Isa::Avx512]
            .into_iter()
            .filter(|isa| isa.is_available())
            .collect()
    }

    /// Whether this processor supports it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Baseline => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => pulp::x86::V3::is_available(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => pulp::x86::V4::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The instruction set in use.
    pub fn current() -> Isa {
        match CHOSEN.load(Ordering::Relaxed) {
            1 => Isa::Baseline,
            2 => Isa::Avx2,
            3 => Isa::Avx512,
            _ => {
                let best = *Isa::available().last().unwrap_or(&Isa::Baseline);
                CHOSEN.store(best as u8, Ordering::Relaxed);
                best
            }
        }
    }

    /// Makes the whole process use this instruction set, for tests and benchmarks. Returns whether the processor
    /// supports it; if not, nothing changes.
    pub fn force(self) -> bool {
        let available = self.is_available();
        if available {
            CHOSEN.store(self as u8, Ordering::Relaxed);
        }
        available
    }
}

/// Whether `a · b + c` is one instruction, rounded once. Without it, a fused operation would be a library call.
#[inline(always)]
pub(crate) fn fuses<S: Simd>() -> bool {
    TypeId::of::<S>() != TypeId::of::<Scalar128b>()
}

/// Casts `simd` to instruction set `T`, if it is `T`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn known<S: Simd, T: Simd>(simd: S) -> Option<T> {
    (&simd as &dyn Any).downcast_ref().copied()
}

/// `a · b + c`
#[inline(always)]
pub(crate) fn mul_add_f64<S: Simd>(simd: S, a: S::f64s, b: S::f64s, c: S::f64s) -> S::f64s {
    if fuses::<S>() {
        simd.mul_add_e_f64s(a, b, c)
    } else {
        simd.add_f64s(simd.mul_f64s(a, b), c)
    }
}

/// `a · b + c`
#[inline(always)]
pub(crate) fn mul_add_f32<S: Simd>(simd: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
    if fuses::<S>() {
        simd.mul_add_e_f32s(a, b, c)
    } else {
        simd.add_f32s(simd.mul_f32s(a, b), c)
    }
}

/// Runs `kernel` compiled for the instruction set in use. Everything it calls must be `#[inline(always)]`, including
/// the closure itself.
#[inline(always)]
pub(crate) fn dispatch<T>(kernel: impl FnOnce() -> T) -> T {
    dispatch_simd(kernel)
}

/// [`dispatch`] for a kernel with explicit vectors.
#[inline(always)]
pub(crate) fn dispatch_simd<W: WithSimd>(kernel: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        match Isa::current() {
            Isa::Avx512 => {
                if let Some(simd) = pulp::x86::V4::try_new() {
                    return Simd::vectorize(simd, kernel);
                }
            }
            Isa::Avx2 => {
                if let Some(simd) = pulp::x86::V3::try_new() {
                    return Simd::vectorize(simd, kernel);
                }
            }
            Isa::Baseline => {}
        }
    }
    #[cfg(target_arch = "aarch64")]
    if let Some(simd) = pulp::aarch64::Neon::try_new() {
        return Simd::vectorize(simd, kernel);
    }
    Simd::vectorize(Scalar128b, kernel)
}

/// The instruction set is global to the process, and tests run concurrently.
#[cfg(test)]
pub(crate) mod tests {
    use super::Isa;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    static HELD: Mutex<()> = Mutex::new(());

    /// Prevents a change of the instruction set until the guard is dropped.
    pub fn held() -> MutexGuard<'static, ()> {
        HELD.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a test with each instruction set.
    pub fn on_each(mut test: impl FnMut(Isa)) {
        let (_held, best) = (held(), Isa::current());
        for isa in Isa::available() {
            assert!(isa.force());
            test(isa);
        }
        best.force();
    }
}
