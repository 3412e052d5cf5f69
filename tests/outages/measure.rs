//! What a run came to, in the words of the table.

use std::ops::Range;

use crate::fleet::{Request, Run};
use crate::timeline::{SECOND, Time};

#[derive(Clone, Debug, Default)]
pub(crate) struct Measures {
    /// Successes of those that the fault may have touched.
    pub(crate) won: u64,
    /// Shares of success of those that arrived in the fault, and in the minute after it.
    pub(crate) during: f64,
    pub(crate) after: f64,
    /// Seconds from the end of the fault; infinite if it never came.
    pub(crate) recovery: f64,
    /// Attempts per request in the fault, and in the worst second from its beginning on.
    pub(crate) attempts: f64,
    pub(crate) worst: f64,
    /// Attempts in the second with the most of them after the fault.
    pub(crate) worst_after: u32,
    /// The share of worker time that was spent for clients that had given up.
    pub(crate) wasted: f64,
    /// Of successes that the fault may have touched, in seconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Of all ends, good or bad, of what arrived in the fault.
    pub(crate) told_p99: f64,
}

#[allow(clippy::cast_precision_loss)]
pub(crate) fn measure(run: &Run) -> Measures {
    let scenario = &run.scenario;
    let (from, to) = (scenario.from, scenario.to);
    let fault = from..to;
    let last = scenario.arrivals_until;
    let won = run.of(scenario.measured()).filter(|it| it.won);
    let mut latencies: Vec<_> = won.map(latency).collect();
    latencies.sort_unstable();
    let mut told: Vec<_> = run.of(fault.clone()).map(latency).collect();
    told.sort_unstable();
    let arrived = |range: Range<Time>| run.of(range).count().max(1) as f64;
    let sent = |range: Range<Time>| f64::from(run.sent_in(range).iter().sum::<u32>());
    let seconds = (from / SECOND..last / SECOND).map(|it| it * SECOND..(it + 1) * SECOND);
    let per_second = arrivals_per_second(run);
    let worst = seconds.map(|range| {
        let index = usize::try_from(range.start / SECOND).expect("fits");
        f64::from(run.sent[index]) / f64::from(per_second[index].0.max(1))
    });
    Measures {
        won: latencies.len() as u64,
        during: share(run, fault.clone()),
        after: share(run, to..(to + 60 * SECOND).min(last)),
        recovery: recovery(run, &per_second),
        attempts: sent(fault.clone()) / arrived(fault),
        worst: worst.fold(0.0, f64::max),
        worst_after: *run.sent_in(to..last).iter().max().expect("a second"),
        wasted: run.counts.dead_us as f64 / run.counts.work_us.max(1) as f64,
        p50: quantile(&latencies, 0.5),
        p99: quantile(&latencies, 0.99),
        told_p99: quantile(&told, 0.99),
    }
}

/// The first second after the fault from which on five cohorts in a row come to 95 % of the share
/// that was usual before it.
fn recovery(run: &Run, per_second: &[(u32, u32)]) -> f64 {
    let scenario = &run.scenario;
    let usual = if scenario.from == 0 {
        1.0
    } else {
        share(run, 0..scenario.from)
    };
    let good = |(arrived, won): &(u32, u32)| f64::from(*won) >= 0.95 * usual * f64::from(*arrived);
    let second = |at: Time| usize::try_from(at / SECOND).expect("fits");
    let cohorts = &per_second[second(scenario.to)..second(scenario.arrivals_until)];
    let first = cohorts.windows(5).position(|five| five.iter().all(good));
    #[allow(clippy::cast_precision_loss)]
    first.map_or(f64::INFINITY, |second| second as f64)
}

/// Arrived, and won of them.
fn arrivals_per_second(run: &Run) -> Vec<(u32, u32)> {
    let mut seconds = vec![(0, 0); run.sent.len()];
    for request in &run.requests {
        let second = &mut seconds[usize::try_from(request.arrived / SECOND).expect("fits")];
        second.0 += 1;
        second.1 += u32::from(request.won);
    }
    seconds
}

#[allow(clippy::cast_precision_loss)]
fn share(run: &Run, range: Range<Time>) -> f64 {
    let (arrived, won) = run.of(range).fold((0_u32, 0_u32), |(arrived, won), it| {
        (arrived + 1, won + u32::from(it.won))
    });
    f64::from(won) / f64::from(arrived.max(1))
}

const fn latency(request: &Request) -> Time {
    request.over - request.arrived
}

/// In seconds; of sorted times.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
#[allow(clippy::cast_sign_loss)]
fn quantile(times: &[Time], q: f64) -> f64 {
    let rank = (times.len() as f64 * q).ceil() as usize;
    let time = times.get(rank.saturating_sub(1));
    time.map_or(f64::NAN, |time| *time as f64 / SECOND as f64)
}
