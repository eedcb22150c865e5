//! Work shared out over threads.

use candle_core::utils::barrier_pool;
use std::any::Any;
use std::cell::RefCell;
use std::sync::Mutex;

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
    let jobs = Mutex::new(jobs);
    let run = || {
        let mut buffers: Box<B> = take_spare();
        loop {
            // The lock is held while the next job is taken, and not while it is done.
            let job = jobs.lock().map(|mut jobs| jobs.next());
            // Where another thread panicked, that is passed on below.
            let Ok(Some(job)) = job else { break };
            work(job, &mut buffers);
        }
        if small {
            SPARE.with_borrow_mut(|spare| spare.push(buffers));
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
