//! Many runs on many threads.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::error::ConfigError;
use crate::sim::{Policy, Report, Scenario};

/// One run: a scenario, a policy and a seed.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_structs)] // these three make a run
pub struct Job {
    /// What is played.
    pub scenario: Scenario,
    /// What the clients do.
    pub policy: Policy,
    /// What chance is drawn from.
    pub seed: u64,
}

/// Plays all of these, on as many threads as there are cores, and gives what `keep` makes of each
/// report, in the order of the jobs. `keep` runs on the thread of the run, so that of thousands of runs
/// only what is wanted stays in memory.
///
/// # Errors
///
/// The settings of the first job that make no sense.
///
/// # Panics
///
/// If `keep` or a policy panics.
///
/// # Examples
///
/// ```
/// use evenkeel::sim::{Job, Policy, play, scenarios};
/// use std::time::Duration;
///
/// let jobs: Vec<_> = (1..=2)
///     .map(|seed| Job {
///         scenario: scenarios::s1().until(Duration::from_secs(62)),
///         policy: Policy::none(),
///         seed,
///     })
///     .collect();
/// let shares = play(&jobs, |report| report.during().share())?;
/// assert_eq!(shares.len(), 2);
/// # Ok::<(), evenkeel::ConfigError>(())
/// ```
pub fn play<T: Send>(
    jobs: &[Job],
    keep: impl Fn(Report) -> T + Sync,
) -> Result<Vec<T>, ConfigError> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    play_on(cores, jobs, keep)
}

pub(super) fn play_on<T: Send>(
    threads: usize,
    jobs: &[Job],
    keep: impl Fn(Report) -> T + Sync,
) -> Result<Vec<T>, ConfigError> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(jobs.len()));
    thread::scope(|scope| {
        for _ in 0..threads.min(jobs.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { return };
                    let kept = job.scenario.run(&job.policy, job.seed).map(&keep);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((index, kept));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, kept)| kept).collect()
}
