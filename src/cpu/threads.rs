//! Sharing work between threads.

use crate::problem::plan::{InputKind, Plan};
use candle_core::utils::barrier_pool;
use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The threads to use for a caller outside any rayon pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The threads of candle's own operations. They spin for about a millisecond after each operation, and would
    /// compete with others for the cores. The work must not itself wait for rayon: candle lends these threads to one
    /// caller at a time, and a thread that waits for rayon may take up another caller's work.
    Candle,
    /// The threads of rayon.
    Rayon,
}

/// Calls `work` with each of `jobs` on at most `count` threads, including this one, which does not wait for the others
/// to wake up. Each thread takes the next job when it finishes one, and reuses one `B` for all its jobs, so that its
/// memory is touched once rather than once per job.
///
/// If the caller is in a rayon pool, that pool does the work.
///
/// A panic in a job is resumed from this function once all threads are done.
///
/// With `reuse_scratch`, a thread keeps its `B` for the next call: allocating anew takes a tenth of the time of a small
/// call.
pub(crate) fn run_jobs<T: Send, B: Default + 'static>(
    jobs: impl ExactSizeIterator<Item = T> + Send,
    threads: Threads,
    count: usize,
    reuse_scratch: bool,
    work: impl Fn(T, &mut B) + Sync,
) {
    let in_pool = rayon::current_thread_index().is_some();
    let candles = threads == Threads::Candle && !in_pool;
    let available = if candles {
        barrier_pool().n_workers() + 1
    } else {
        rayon::current_num_threads()
    };
    let count = count.min(available).min(jobs.len());
    let shared = Mutex::new(Shared { jobs, panic: None });
    let run = || {
        let panic = catch_unwind(AssertUnwindSafe(|| {
            let mut buffers: Box<B> = take_spare();
            loop {
                // A separate statement, so that the lock is held only while a job is taken.
                let job = lock(&shared).next();
                let Some(job) = job else { break };
                work(job, &mut buffers);
            }
            // Not reached after a panic, which may leave the buffers half written.
            if reuse_scratch {
                SPARE.with_borrow_mut(|spare| spare.push(buffers));
            }
        }));
        if let Err(panic) = panic {
            lock(&shared).panic.get_or_insert(panic);
        }
    };
    if count <= 1 {
        run();
    } else if candles {
        barrier_pool().execute_chunked(count, |_| run());
    } else {
        rayon::in_place_scope(|scope| {
            for _ in 1..count {
                scope.spawn(|_| run());
            }
            run();
        });
    }
    let panic = lock(&shared).panic.take();
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
}

/// State shared by the threads of a call.
struct Shared<I> {
    jobs: I,
    /// The first panic, resumed once all threads are done. If it unwound through candle's pool, it would poison the
    /// pool's lock, and every later operation on that pool, including candle's own, would panic.
    panic: Option<Box<dyn Any + Send>>,
}

impl<I: Iterator> Shared<I> {
    /// The next job; none after a panic.
    fn next(&mut self) -> Option<I::Item> {
        match self.panic {
            Some(_) => None,
            None => self.jobs.next(),
        }
    }
}

/// A panic while the lock is held is handled like any other.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// Scratch memory of this thread: for each type, as many values as were in use at the same time.
    static SPARE: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

fn take_spare<B: Default + 'static>() -> Box<B> {
    SPARE.with_borrow_mut(|spare| {
        let at = spare.iter().position(|spare| spare.is::<B>());
        let taken = at.and_then(|at| spare.swap_remove(at).downcast().ok());
        taken.unwrap_or_default()
    })
}

/// The estimated work of a plan, roughly in nanoseconds.
pub(crate) struct Work(pub usize);

impl Work {
    pub fn of(plan: &Plan) -> Self {
        let row = match plan.input.kind {
            InputKind::LogProbs => 30,
            InputKind::Logits => 30 + plan.input.classes / 2,
        };
        let item = |n: usize| {
            plan.input_lengths[n].saturating_mul(plan.target_length(n).saturating_mul(3) + row)
        };
        Self(
            (0..plan.input.batch)
                .map(item)
                .fold(0, usize::saturating_add),
        )
    }

    /// Number of threads worth waking.
    pub fn threads(&self) -> usize {
        const WORTH_A_THREAD: usize = 1 << 14;
        (self.0 / WORTH_A_THREAD).max(1)
    }

    /// Whether the call is so small that allocating its scratch memory matters.
    pub fn is_small(&self) -> bool {
        self.0 <= 1 << 20
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    #[derive(Default)]
    struct Buffers {
        in_use: bool,
    }

    const JOBS: usize = 1 << 12;

    /// Runs all jobs, and panics in one of them.
    fn share(threads: Threads, count: usize, panics: Option<usize>) -> usize {
        let done = AtomicUsize::new(0);
        let work = |job, buffers: &mut Buffers| {
            assert!(!buffers.in_use, "buffers of a job that panicked");
            buffers.in_use = true;
            if Some(job) == panics {
                panic!("job {job}");
            }
            buffers.in_use = false;
            done.fetch_add(1, Ordering::Relaxed);
        };
        run_jobs(0..JOBS, threads, count, true, work);
        done.into_inner()
    }

    /// Work for candle's pool: a candle operation and a custom job.
    fn use_pool() -> candle_core::Result<()> {
        barrier_pool().execute(|_| {});
        let ones = Tensor::ones((512, 512), DType::F32, &Device::Cpu)?;
        let product = ones.matmul(&ones)?.exp()?.recip()?.sum_all()?;
        assert!(product.to_scalar::<f32>()?.is_finite());
        Ok(())
    }

    #[test]
    fn a_panic_in_a_job_is_passed_on_and_leaves_the_pools_usable() {
        for threads in [Threads::Candle, Threads::Rayon] {
            for count in [1, usize::MAX] {
                for job in [0, 1, JOBS - 1] {
                    let shared = catch_unwind(|| share(threads, count, Some(job)));
                    let panic = shared.expect_err("a job panicked");
                    let message = panic.downcast_ref::<String>().map(String::as_str);
                    assert_eq!(message, Some(format!("job {job}").as_str()));
                    use_pool().unwrap();
                    assert_eq!(share(threads, count, None), JOBS);
                }
            }
        }
    }

    #[test]
    fn jobs_are_done_at_the_same_time() {
        for threads in [Threads::Candle, Threads::Rayon] {
            let available = match threads {
                Threads::Candle => barrier_pool().n_workers() + 1,
                Threads::Rayon => rayon::current_num_threads(),
            };
            if available < 2 {
                continue;
            }
            let begun = AtomicUsize::new(0);
            run_jobs(0..2, threads, 2, false, |_, _: &mut ()| {
                begun.fetch_add(1, Ordering::Relaxed);
                let start = Instant::now();
                while begun.load(Ordering::Relaxed) < 2 {
                    let waited = start.elapsed();
                    assert!(
                        waited < Duration::from_secs(20),
                        "the other job waits for this one"
                    );
                    std::thread::yield_now();
                }
            });
        }
    }

    #[test]
    fn no_job_is_taken_after_a_panic() {
        let done = AtomicUsize::new(0);
        let shared = catch_unwind(AssertUnwindSafe(|| {
            run_jobs(0..JOBS, Threads::Candle, 1, false, |job, _: &mut ()| {
                done.fetch_add(1, Ordering::Relaxed);
                assert!(job < 5);
            });
        }));
        assert!(shared.is_err());
        assert_eq!(done.into_inner(), 6);
    }

    #[test]
    fn a_panic_between_two_jobs_is_passed_on() {
        for threads in [Threads::Candle, Threads::Rayon] {
            let jobs = (0..JOBS).map(|job| assert!(job < 9, "there is no job {job}"));
            let shared = catch_unwind(AssertUnwindSafe(|| {
                run_jobs(jobs, threads, usize::MAX, false, |(), _: &mut ()| {});
            }));
            assert!(shared.is_err());
            use_pool().unwrap();
        }
    }
}
