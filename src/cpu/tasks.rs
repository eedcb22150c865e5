//! Work shared out over the threads of the rayon pool in use.

use std::sync::Mutex;

/// Calls `work` with each of `jobs`, on as many threads as it says at most, this one among them: it
/// does not wait for the others to wake up. A thread takes the next job when it is done with one,
/// and has one `B` for all its jobs, whose memory is so touched once and not once a job.
pub(super) fn share_out<T: Send, B: Default>(
    jobs: impl ExactSizeIterator<Item = T> + Send,
    threads: usize,
    work: impl Fn(T, &mut B) + Sync,
) {
    let threads = threads.min(rayon::current_num_threads()).min(jobs.len());
    let jobs = Mutex::new(jobs);
    let run = || {
        let mut buffers = B::default();
        loop {
            // The lock is held while the next job is taken, and not while it is done.
            let job = jobs.lock().map(|mut jobs| jobs.next());
            // Where another thread panicked, the scope passes that on.
            let Ok(Some(job)) = job else { return };
            work(job, &mut buffers);
        }
    };
    if threads <= 1 {
        return run();
    }
    rayon::in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| run());
        }
        run();
    });
}
