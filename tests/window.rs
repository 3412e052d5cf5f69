//! The congestion window in one process: timers of a millisecond, cold starts, pools of workers, and
//! answers that mislead. (Fleets are in `outages`.) The time is tokio's, and stands still but where
//! everybody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use evenkeel::verdict::{Hint, Kind, Verdict, by};
use evenkeel::{Pipeline, Retry, Window};
use tokio::time::{Instant, sleep, sleep_until};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A service that can be down, and those that it answered well.
#[derive(Clone, Default)]
struct Service {
    down: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
}

impl Service {
    async fn answer(&self, latency: Duration) -> Result<(), ()> {
        self.asked.fetch_add(1, Relaxed);
        sleep(latency).await;
        if self.down.load(Relaxed) {
            return Err(());
        }
        self.good.fetch_add(1, Relaxed);
        Ok(())
    }

    /// How many good answers it gave since `last`, which is brought up to date.
    fn since(&self, last: &mut u64) -> u64 {
        let good = self.good.load(Relaxed);
        good - std::mem::replace(last, good)
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_client_is_back_in_a_second_though_its_timers_are_of_a_millisecond() {
    for rate in [200, 1000, 3000] {
        let (window, service) = (Window::new(), Service::default());
        let pipeline = Pipeline::new()
            .deadline(2 * SECOND)
            .timeout(SECOND)
            .window(window.clone());
        let (began, mut sent, mut last) = (Instant::now(), 0, 0);
        for ms in 0..6000 {
            sleep_until(began + MS * ms).await;
            service.down.store((2000..2500).contains(&ms), Relaxed);
            while sent < u64::from(ms) * rate / 1000 {
                sent += 1;
                let (pipeline, service) = (pipeline.clone(), service.clone());
                tokio::spawn(async move {
                    let _ = pipeline.run(|_| service.answer(5 * MS)).await;
                });
            }
            if ms == 4000 {
                let _ = service.since(&mut last);
            }
        }
        let good = service.since(&mut last);
        assert!(
            good > 2 * rate * 97 / 100,
            "{rate}/s: {good} in two seconds"
        );
        assert!(window.snapshot().window.is_none(), "{rate}/s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cold_start_against_a_healthy_service_is_not_limited() {
    for (rate, seeds) in [(20, 0..20), (200, 0..20), (1000, 0..5)] {
        for seed in seeds {
            let (window, service) = (Window::new(), Service::default());
            let pipeline = Pipeline::new()
                .deadline(30 * SECOND)
                .timeout(10 * SECOND)
                .window(window.clone());
            for call in 0..rate * 5_u64 {
                let (pipeline, service) = (pipeline.clone(), service.clone());
                let latency = erlang(seed * 1_000_003 + call, 100.0);
                tokio::spawn(async move { pipeline.run(|_| service.answer(latency)).await });
                sleep(SECOND / u32::try_from(rate).expect("small")).await;
                assert!(window.snapshot().window.is_none(), "{rate}/s, seed {seed}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pool_of_workers_that_wait_for_each_answer_comes_back_within_seconds() {
    let service = Service::default();
    let pipeline = Pipeline::new()
        .deadline(30 * SECOND)
        .timeout(10 * SECOND)
        .retry(Retry::default().max_attempts(4))
        .window(Window::new());
    for _ in 0..100 {
        let (pipeline, service) = (pipeline.clone(), service.clone());
        tokio::spawn(async move {
            loop {
                let _ = pipeline.run(|_| service.answer(100 * MS)).await;
            }
        });
    }
    sleep(20 * SECOND).await;
    service.down.store(true, Relaxed);
    sleep(60 * SECOND).await;
    service.down.store(false, Relaxed);
    sleep(3 * SECOND).await;
    let mut last = 0;
    let _ = service.since(&mut last);
    sleep(5 * SECOND).await;
    assert!(service.since(&mut last) > 4800);
}

#[tokio::test(start_paused = true)]
async fn quick_refusals_of_the_requests_own_fault_teach_no_latency() {
    let window = Window::new();
    let pipeline = Pipeline::new()
        .classify(by(|outcome: Result<&(), &()>| match outcome {
            Ok(()) => Verdict::success(),
            Err(()) => Verdict::new(Kind::RequestFault),
        }))
        .deadline(5 * SECOND)
        .timeout(10 * SECOND)
        .window(window.clone());
    // A token that has run out: for twenty seconds all are refused at once.
    for call in 0..4000_u64 {
        let refused = (1000..3000).contains(&call);
        let pipeline = pipeline.clone();
        tokio::spawn(async move {
            let call = pipeline.run(|_| async move {
                sleep(if refused { 2 * MS } else { 300 * MS }).await;
                if refused { Err(()) } else { Ok(()) }
            });
            let _ = call.await;
        });
        sleep(10 * MS).await;
        assert!(window.snapshot().window.is_none(), "after {call} calls");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hint_of_a_millisecond_does_not_open_the_way_to_a_dead_service() {
    let mut sent = Vec::new();
    for hint in [None, Some(MS)] {
        let pipeline = Pipeline::new()
            .classify(by(move |_: Result<&(), &()>| {
                let verdict = Verdict::new(Kind::Overloaded);
                hint.map_or(verdict, |hint| verdict.hint(Hint::After(hint)))
            }))
            .deadline(5 * SECOND)
            .timeout(SECOND)
            .retry(Retry::default().max_attempts(4))
            .window(Window::new());
        let service = Service::default();
        service.down.store(true, Relaxed);
        for _ in 0..20 * 30 {
            let (pipeline, service) = (pipeline.clone(), service.clone());
            tokio::spawn(async move { pipeline.run(|_| service.answer(20 * MS)).await });
            sleep(50 * MS).await;
        }
        sent.push(service.asked.load(Relaxed));
    }
    assert!(sent.iter().all(|sent| *sent < 20 * 30 / 3), "{sent:?}");
}

#[tokio::test(start_paused = true)]
async fn a_sequential_client_with_one_broken_address_is_hardly_slower_than_without() {
    let mut took = Vec::new();
    for window in [false, true] {
        let pipeline = Pipeline::new()
            .deadline(30 * SECOND)
            .timeout(10 * SECOND)
            .retry(Retry::default().max_attempts(4))
            .rng(evenkeel::Rng::seeded(1));
        let pipeline = if window {
            pipeline.window(Window::new())
        } else {
            pipeline
        };
        let (began, failed) = (Instant::now(), AtomicU32::new(0));
        for call in 0..200 {
            let answer = pipeline.run(|_| async {
                sleep(50 * MS).await;
                if call % 20 == 10 { Err(()) } else { Ok(()) }
            });
            failed.fetch_add(answer.await.is_err().into(), Relaxed);
        }
        assert_eq!(failed.load(Relaxed), 10);
        took.push(began.elapsed());
    }
    assert!(took[1] < took[0] * 2, "{took:?}");
}

/// The sum of two exponential draws, as of two steps of work, in milliseconds.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // small and positive
fn erlang(number: u64, mean: f64) -> Duration {
    let product = (1.0 - draw(2 * number)) * (1.0 - draw(2 * number + 1));
    MS * (-product.ln() * mean / 2.0).max(1.0) as u32
}

/// Uniform from 0 to 1, by `SplitMix64`.
#[allow(clippy::cast_precision_loss)] // 53 bits fit
fn draw(number: u64) -> f64 {
    let mut bits = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((bits ^ bits >> 31) >> 11) as f64 / (1_u64 << 53) as f64
}
