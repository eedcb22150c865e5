//! Work shared out over threads.

use candle_core::utils::barrier_pool;
use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Whose threads share the work of a caller that is not in a rayon pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// Those of candle's own operations. They wait awake for about a millisecond after each, and would
    /// so be in the way of others. The work must not itself wait for rayon: candle lets one caller at a
    /// time have these threads, and a thread that waits for rayon may take up another caller's work.
    Candle,
    /// Those of rayon.
    Rayon,
}

/// Calls `work` with each of `jobs`, on `count` threads at most, this one among them: it does not wait
/// for the others to wake up. A thread takes the next job when it is done with one, and has one `B`
/// for all its jobs, whose memory is so touched once and not once a job.
///
/// A caller in a rayon pool has its work done by that pool.
///
/// A panic in a job becomes one of this function, once all threads are done.
///
/// With `small` a thread keeps its `B` for the next call: to ask for memory anew takes a tenth of the work of
/// a small one.
pub(super) fn share_out<T: Send, B: Default + 'static>(
    jobs: impl ExactSizeIterator<Item = T> + Send,
    threads: Threads,
    count: usize,
    small: bool,
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
                // A statement of its own: the lock is held while a job is taken, and not while it is done.
                let job = lock(&shared).next();
                let Some(job) = job else { break };
                work(job, &mut buffers);
            }
            // Not reached after a panic, which may leave the buffers half written.
            if small {
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

/// What the threads of a call share.
struct Shared<I> {
    jobs: I,
    /// The first panic, passed on once all threads are done. If one unwound through candle's pool, the pool's lock
    /// would be poisoned, and every later operation that uses it, candle's own too, would panic.
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

/// A panic with the lock held is one like any other.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// The working memory of this thread: of each type as much as was in use at the same time.
    static SPARE: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

fn take_spare<B: Default + 'static>() -> Box<B> {
    SPARE.with_borrow_mut(|spare| {
        let at = spare.iter().position(|spare| spare.is::<B>());
        let taken = at.and_then(|at| spare.swap_remove(at).downcast().ok());
        taken.unwrap_or_default()
    })
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
        share_out(0..JOBS, threads, count, true, work);
        done.into_inner()
    }

    /// Work for candle's pool, by candle and by hand.
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
            share_out(0..2, threads, 2, false, |_, _: &mut ()| {
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
            share_out(0..JOBS, Threads::Candle, 1, false, |job, _: &mut ()| {
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
                share_out(jobs, threads, usize::MAX, false, |(), _: &mut ()| {});
            }));
            assert!(shared.is_err());
            use_pool().unwrap();
        }
    }
}
