//! Bulkheads and rate limits on real threads, and in line.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use evenkeel::Clock;
use evenkeel::error::Reason;
use evenkeel::limit::{Aimd, Bulkhead, Change, Limit, RateLimit, Sample};
use evenkeel::{Key, Keyed};
use tokio::time::{advance, sleep, timeout};

const THREADS: usize = 4;
const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

#[test]
fn no_more_than_the_limit_are_ever_inside_and_everything_is_given_back() {
    let bulkhead = Bulkhead::new(2);
    let inside = AtomicU32::new(0);
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                start.wait();
                for _ in 0..20_000 {
                    if let Some(permit) = bulkhead.try_acquire() {
                        assert!(inside.fetch_add(1, Ordering::Relaxed) < 2);
                        inside.fetch_sub(1, Ordering::Relaxed);
                        drop(permit);
                    }
                }
            });
        }
    });
    assert_eq!(bulkhead.snapshot().in_flight, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_limit_holds_for_those_that_wait_try_and_give_up_on_many_threads() {
    let bulkhead = Bulkhead::new(3).queue(1_000);
    let (inside, done) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU64::new(0)));
    let tasks: Vec<_> = (0..24_u64)
        .map(|number| {
            let (bulkhead, inside, done) = (bulkhead.clone(), inside.clone(), done.clone());
            tokio::spawn(async move {
                let clock = Clock::default();
                for round in 0..400_u64 {
                    let permit = match (number + round) % 4 {
                        0 => bulkhead.try_acquire(),
                        // Dropped at once, after its first poll, wherever that leaves it.
                        1 => tokio::select! {
                            biased;
                            permit = bulkhead.acquire(&clock) => permit.ok(),
                            () = std::future::ready(()) => None,
                        },
                        _ => Some(bulkhead.acquire(&clock).await.unwrap()),
                    };
                    if let Some(permit) = permit {
                        assert!(inside.fetch_add(1, Ordering::Relaxed) < 3);
                        tokio::task::yield_now().await;
                        inside.fetch_sub(1, Ordering::Relaxed);
                        drop(permit);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let end = bulkhead.snapshot();
    assert_eq!((end.in_flight, end.waiting), (0, 0));
    // Those that waited to the end all came in.
    assert!(done.load(Ordering::Relaxed) >= 24 * 200);
}

#[test]
fn the_rate_holds_over_every_stretch_on_real_threads() {
    const TICKS: u32 = 10_000;
    let limit = RateLimit::new(1, Duration::from_micros(50)).burst(5);
    let (went, ticks) = (Mutex::new(Vec::new()), AtomicU32::new(0));
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let tick = ticks.fetch_add(1, Ordering::Relaxed);
                    if tick > TICKS {
                        break;
                    }
                    let now = begun + tick * Duration::from_micros(10);
                    if limit.try_acquire(now).is_ok() {
                        went.lock().unwrap().push(now);
                    }
                }
            });
        }
    });
    let mut went = went.into_inner().unwrap();
    went.sort();
    for (from, first) in went.iter().enumerate() {
        for (to, last) in went.iter().enumerate().skip(from) {
            let allowed = 5 + (*last - *first).as_nanos() / 50_000;
            assert!((to - from + 1) as u128 <= allowed);
        }
    }
    // Nothing is lost either, but what a thread that was stopped came too late for.
    assert!(went.len() > 1_900, "{} of 2005 went", went.len());
}

#[tokio::test(start_paused = true)]
async fn a_bulkhead_serves_those_that_wait_in_the_order_they_came() {
    let bulkhead = Bulkhead::new(1).queue(20);
    let served = Arc::new(Mutex::new(Vec::new()));
    let held = bulkhead.try_acquire().unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|number| {
            let (bulkhead, served) = (bulkhead.clone(), Arc::clone(&served));
            tokio::spawn(async move {
                sleep(number * MS).await;
                let _permit = bulkhead.acquire(&Clock::default()).await.unwrap();
                served.lock().unwrap().push(number);
                sleep(MS).await;
            })
        })
        .collect();
    sleep(50 * MS).await;
    assert_eq!(bulkhead.snapshot().waiting, 20);
    assert!(bulkhead.try_acquire().is_none());
    drop(held);
    for task in tasks {
        task.await.unwrap();
    }
    let expected: Vec<u32> = (0..20).collect();
    assert_eq!(*served.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_refused_wait_says_when_to_come_back() {
    let bulkhead = Bulkhead::new(2).queue(1);
    let clock = Clock::default();
    let now = clock.now();
    // Ten answers that took 100 ms each.
    for _ in 0..10 {
        let _ = bulkhead.try_acquire().unwrap().answered(100 * MS, now);
    }
    let _held = (bulkhead.try_acquire(), bulkhead.try_acquire());
    let mut waiting = Box::pin(bulkhead.acquire(&clock));
    assert!(timeout(MS, &mut waiting).await.is_err());
    let now = clock.now();
    let refused = bulkhead.acquire(&clock).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::QueueFull);
    // One place comes free each 50 ms, and one waits already.
    assert_eq!(refused.retry_at(), Some(now + 100 * MS));
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_its_longest_or_at_the_deadline_whichever_is_nearer() {
    let bulkhead = Bulkhead::new(1).max_wait(50 * MS);
    let clock = Clock::default();
    let _held = bulkhead.try_acquire();
    for (until, waited) in [(20, 20), (80, 50)] {
        let begun = clock.now();
        let waiting = bulkhead.acquire(&clock).until(begun + until * MS);
        let refused = waiting.await.unwrap_err();
        assert_eq!(refused.reason(), Reason::QueueTimeout);
        // Tokio's timer ticks in milliseconds.
        let took = clock.now() - begun;
        assert!(took >= waited * MS && took <= (waited + 1) * MS, "{took:?}");
        assert_eq!(bulkhead.snapshot().waiting, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lowered_limit_drains_and_a_raised_one_lets_those_go_that_wait() {
    let bulkhead = Bulkhead::new(2).queue(9);
    let (first, second) = (bulkhead.try_acquire(), bulkhead.try_acquire());
    bulkhead.set_limit(1);
    drop(first);
    assert!(bulkhead.try_acquire().is_none());
    drop(second);
    let held = bulkhead.try_acquire().unwrap();
    let tasks: Vec<_> = (0..3)
        .map(|_| {
            let bulkhead = bulkhead.clone();
            tokio::spawn(async move {
                let _permit = bulkhead.acquire(&Clock::default()).await.unwrap();
                sleep(10 * MS).await;
            })
        })
        .collect();
    sleep(MS).await;
    bulkhead.set_limit(4);
    sleep(MS).await;
    let now = bulkhead.snapshot();
    assert_eq!((now.in_flight, now.waiting, now.limit), (4, 0, 4));
    drop(held);
    for task in tasks {
        task.await.unwrap();
    }
}

#[test]
fn a_learned_limit_moves_and_says_so() {
    let bulkhead = Bulkhead::adaptive(Aimd::new().initial(10));
    let now = Instant::now();
    let permit = bulkhead.try_acquire().unwrap();
    let change = permit.failed(MS, now);
    assert_eq!(change, Some(Change::Moved { from: 10, to: 3 }));
    assert_eq!(bulkhead.snapshot().limit, 3);
    // One in flight is far from the limit: a good answer says nothing.
    for _ in 0..100 {
        assert_eq!(bulkhead.try_acquire().unwrap().answered(MS, now), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_serves_in_order_each_at_its_time() {
    let limit = RateLimit::per_second(100).burst(1);
    let (clock, went) = (Clock::default(), Arc::new(Mutex::new(Vec::new())));
    let begun = clock.now();
    let tasks: Vec<_> = (0..10_u32)
        .map(|number| {
            let (limit, went, clock) = (limit.clone(), Arc::clone(&went), clock.clone());
            tokio::spawn(async move {
                limit.acquire(&clock).await.unwrap();
                went.lock().unwrap().push((number, clock.now() - begun));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let expected: Vec<_> = (0..10).map(|number| (number, number * 10 * MS)).collect();
    assert_eq!(*went.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_comes_after_the_deadline_is_refused_at_once_with_its_moment() {
    let limit = RateLimit::per_second(10).burst(1);
    let clock = Clock::default();
    let now = clock.now();
    limit.try_acquire(now).unwrap();
    let refused = limit
        .acquire(&clock)
        .until(now + 99 * MS)
        .await
        .unwrap_err();
    assert_eq!(refused.reason(), Reason::RateLimited);
    assert_eq!(refused.retry_at(), Some(now + 100 * MS));
    assert_eq!(clock.now(), now);
    limit.acquire(&clock).until(now + 100 * MS).await.unwrap();
    assert_eq!(clock.now(), now + 100 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_everybody_refuses_who_cannot_wait_and_ends_at_its_pace() {
    let limit = RateLimit::per_second(10).burst(5);
    let clock = Clock::default();
    let now = clock.now();
    for _ in 0..5 {
        limit.try_acquire(now).unwrap();
    }
    let hurried = {
        let (limit, clock) = (limit.clone(), clock.clone());
        tokio::spawn(async move { limit.acquire(&clock).until(now + 900 * MS).await })
    };
    advance(MS).await;
    let length = Duration::from_secs(2);
    let told = clock.now();
    assert_eq!(limit.pause(length, told), Some(Change::Paused { length }));
    assert_eq!(limit.pause(length, told), None);
    let refused = hurried.await.unwrap().unwrap_err();
    assert_eq!(refused.retry_at(), Some(told + length));
    assert_eq!(clock.now(), told);

    limit.acquire(&clock).await.unwrap();
    assert_eq!(clock.now(), told + length);
    // No burst follows.
    let next = limit.try_acquire(clock.now()).unwrap_err();
    assert_eq!(next.retry_at(), Some(told + length + 100 * MS));
}

#[test]
fn what_a_service_says_is_left_is_spread_over_what_is_left_of_its_period() {
    let limit = RateLimit::per_second(100).burst(10);
    let start = Instant::now();
    limit.observe(4, Duration::from_secs(8), start);
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut went = Vec::new();
    for tenth in 0..80 {
        if limit.try_acquire(start + tenth * 100 * MS).is_ok() {
            went.push(tenth);
        }
    }
    assert_eq!(went, [0, 20, 40, 60]);
    // Its period is over: as many as configured.
    let burst = (0..20).filter(|_| limit.try_acquire(at(8)).is_ok());
    assert_eq!(burst.count(), 10);
}

#[test]
fn answers_in_disorder_never_raise_what_is_left() {
    let limit = RateLimit::per_second(1000).burst(10);
    let start = Instant::now();
    let period = Duration::from_secs(8);
    limit.observe(2, period, start);
    limit.observe(5, period, start);
    let went = (0..8_000).filter(|&ms| limit.try_acquire(start + ms * MS).is_ok());
    assert_eq!(went.count(), 2);
}

#[test]
fn nothing_left_is_a_pause_until_the_period_ends() {
    let limit = RateLimit::per_second(10);
    let now = Instant::now();
    limit.observe(0, Duration::from_secs(3), now);
    let refused = limit.try_acquire(now).unwrap_err();
    assert_eq!(refused.retry_at(), Some(now + Duration::from_secs(3)));
    assert!(limit.try_acquire(now + Duration::from_secs(3)).is_ok());
}

#[test]
fn a_generous_service_never_raises_the_rate() {
    let limit = RateLimit::per_second(10).burst(1);
    let now = Instant::now();
    limit.observe(1_000_000, Duration::from_secs(1), now);
    assert!(limit.try_acquire(now).is_ok());
    assert!(limit.try_acquire(now + 99 * MS).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_changed_quota_holds_for_those_that_wait() {
    let limit = RateLimit::per_second(1).burst(1);
    let clock = Clock::default();
    let now = clock.now();
    limit.try_acquire(now).unwrap();
    let waiting = {
        let (limit, clock) = (limit.clone(), clock.clone());
        tokio::spawn(async move { limit.acquire(&clock).await })
    };
    advance(100 * MS).await;
    // Nine tenths of a token are still to come: 9 ms of the new quota.
    limit
        .set_quota(100, Duration::from_secs(1), 1, clock.now())
        .unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(clock.now(), now + 109 * MS);
    let error = limit.set_quota(0, Duration::from_secs(1), 1, now);
    assert_eq!(error.unwrap_err().field(), "rate.count");
}

#[test]
fn moments_in_any_order_never_panic_and_never_give_more() {
    let limit = RateLimit::per_second(10).burst(3);
    let start = Instant::now() + Duration::from_secs(100);
    let mut went = 0;
    for seconds in [0, -99, -1, 0, -50, 0] {
        let offset = Duration::from_secs(i32::unsigned_abs(seconds).into());
        went += u32::from(
            limit
                .try_acquire(start.checked_sub(offset).unwrap())
                .is_ok(),
        );
    }
    assert_eq!(went, 3);
    let far = start + Duration::from_secs(3_000_000_000);
    assert!(limit.try_acquire(far).is_ok());
    assert_eq!(limit.snapshot(far).available, 2);
}

#[test]
fn one_answer_stops_nothing_for_longer_than_is_believed_and_it_is_told() {
    let limit = RateLimit::per_second(100).max_pause(30 * S);
    let now = Instant::now();
    let day = 86_400 * S;
    let paused = Some(Change::Paused { length: 30 * S });
    assert_eq!(limit.observe(0, day, now), paused);
    assert_eq!(limit.observe(0, day, now), None);
    let refused = limit.try_acquire(now).unwrap_err();
    assert_eq!(refused.retry_at(), Some(now + 30 * S));
    assert!(limit.try_acquire(now + 30 * S).is_ok());
    // Known to be used up only by the second answer.
    let now = now + 60 * S;
    assert_eq!(limit.observe(2, 9 * S, now), None);
    let paused = Some(Change::Paused { length: 9 * S });
    assert_eq!(limit.observe(0, 9 * S, now), paused);
}

#[test]
fn of_a_long_period_only_the_share_of_what_is_believed_is_used() {
    let limit = RateLimit::per_second(100).max_pause(60 * S);
    let start = Instant::now();
    // 10 a minute.
    assert_eq!(limit.observe(600, 3600 * S, start), None);
    let went = (0..600).filter(|tenth| limit.try_acquire(start + *tenth * 100 * MS).is_ok());
    assert_eq!(went.count(), 10);
}

#[test]
fn a_new_quota_forgets_what_the_service_said_is_left_but_not_a_pause() {
    let limit = RateLimit::per_second(100);
    let now = Instant::now();
    let _ = limit.observe(0, 60 * S, now);
    limit.set_quota(1000, S, 100, now).unwrap();
    assert!(limit.try_acquire(now).is_ok());
    let _ = limit.pause(60 * S, now);
    limit.set_quota(10, S, 1, now).unwrap();
    let refused = limit.try_acquire(now).unwrap_err();
    assert_eq!(refused.retry_at(), Some(now + 60 * S));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_nobody_polls_does_not_stall_the_others() {
    let bulkhead = Bulkhead::new(3).queue(10);
    let clock = Clock::default();
    let held: Vec<_> = (0..3).map(|_| bulkhead.try_acquire().unwrap()).collect();
    let mut cx = Context::from_waker(Waker::noop());
    let mut first = pin!(bulkhead.acquire(&clock));
    let mut second = pin!(bulkhead.acquire(&clock));
    assert!(first.as_mut().poll(&mut cx).is_pending());
    assert!(second.as_mut().poll(&mut cx).is_pending());
    drop(held);
    assert!(second.as_mut().poll(&mut cx).is_pending());
    advance(50 * MS).await;
    assert!(second.as_mut().poll(&mut cx).is_pending(), "a little slow");
    advance(MS).await;
    assert!(matches!(second.as_mut().poll(&mut cx), Poll::Ready(Ok(_))));
    // Nor those that come later; and it has its place all the time.
    assert!(bulkhead.acquire(&clock).await.is_ok());
    assert_eq!(bulkhead.snapshot().waiting, 1);
    assert!(matches!(first.as_mut().poll(&mut cx), Poll::Ready(Ok(_))));
    let end = bulkhead.snapshot();
    assert_eq!((end.waiting, end.in_flight), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn many_that_nobody_polls_do_not_stall_a_rate_limit() {
    let limit = RateLimit::per_second(1000).burst(1);
    let clock = Clock::default();
    limit.try_acquire(clock.now()).unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let mut idle: Vec<_> = (0..5).map(|_| Box::pin(limit.acquire(&clock))).collect();
    for it in &mut idle {
        assert!(it.as_mut().poll(&mut cx).is_pending());
    }
    timeout(2 * S, limit.acquire(&clock))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(limit.snapshot(clock.now()).waiting, 5);
}

#[test]
fn a_pause_that_a_thousand_answers_tell_is_one_event() {
    let limit = RateLimit::per_second(100);
    let now = Instant::now();
    let told = (0..1000).filter(|n| limit.pause(5 * S, now + *n * MS / 20).is_some());
    assert_eq!(told.count(), 1);
    // The last one's is kept to all the same.
    let end = now + 5 * S + 999 * MS / 20;
    assert_eq!(limit.try_acquire(now).unwrap_err().retry_at(), Some(end));
    let now = now + 101 * MS;
    assert_eq!(
        limit.pause(5 * S, now),
        Some(Change::Paused { length: 5 * S })
    );
}

#[test]
fn to_look_at_a_moment_of_the_future_changes_nothing() {
    for is_new in [false, true] {
        let (limit, now) = (RateLimit::per_second(10).burst(1), Instant::now());
        if is_new {
            assert_eq!(limit.snapshot(now + 3600 * S).available, 1);
        }
        limit.try_acquire(now).unwrap();
        let seen = limit.snapshot(now + 3600 * S);
        assert_eq!((seen.available, seen.next_at), (1, now + 3600 * S));
        assert_eq!(limit.snapshot(now).next_at, now + 100 * MS);
        let went = (1..=600).filter(|n| limit.try_acquire(now + *n * 100 * MS).is_ok());
        assert_eq!(went.count(), 600);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_refused_behind_plain_permits_says_when_too() {
    let bulkhead = Bulkhead::new(1).queue(0);
    let clock = Clock::default();
    for _ in 0..10 {
        let permit = bulkhead.acquire(&clock).await.unwrap();
        advance(S).await;
        drop(permit);
    }
    let _held = bulkhead.acquire(&clock).await.unwrap();
    let refused = bulkhead.acquire(&clock).await.unwrap_err();
    assert_eq!(refused.retry_at(), Some(clock.now() + S));
}

/// Somebody else decides.
#[derive(Debug)]
struct Remote(Arc<AtomicU32>);

impl Limit for Remote {
    fn limit(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    fn sample(&mut self, _: &Sample) {}

    fn fresh(&self) -> Box<dyn Limit> {
        Box::new(Self(Arc::clone(&self.0)))
    }
}

#[test]
fn a_limit_that_changes_by_itself_is_followed() {
    let limit = Arc::new(AtomicU32::new(10));
    let bulkhead = Bulkhead::adaptive(Remote(Arc::clone(&limit)));
    let answer = || bulkhead.try_acquire().unwrap().answered(MS, Instant::now());
    assert_eq!(answer(), None);
    limit.store(2, Ordering::Relaxed);
    assert_eq!(answer(), Some(Change::Moved { from: 10, to: 2 }));
    assert_eq!((answer(), bulkhead.snapshot().limit), (None, 2));
}

/// Walks over all entries, ten minutes and more apart.
fn idle_for_long<P: evenkeel::keyed::PerKey>(keyed: &Keyed<P>, now: Instant) -> Instant {
    for sweep in 0..3 {
        for _ in 0..64 * 64 {
            let _ = keyed.get(Key::of("busy"), || now + sweep * 660 * S);
        }
    }
    now + 2 * 660 * S
}

#[test]
fn a_used_up_quota_of_a_key_outlives_its_idle_time() {
    let keyed = Keyed::new(RateLimit::new(100, 86_400 * S).burst(100)).capacity(16);
    let (key, now) = (Key::of("api"), Instant::now());
    let go = |now| keyed.get(key, || now).policy().try_acquire(now).is_ok();
    assert_eq!((0..200).filter(|_| go(now)).count(), 100);
    let now = idle_for_long(&keyed, now);
    // One comes each 864 s.
    assert_eq!((0..100).filter(|_| go(now)).count(), 1);
}

#[test]
fn a_bulkhead_of_a_key_that_was_closed_by_hand_stays_closed() {
    let keyed = Keyed::new(Bulkhead::new(5)).capacity(16);
    let (key, now) = (Key::of("api"), Instant::now());
    keyed.get(key, || now).policy().set_limit(0);
    let now = idle_for_long(&keyed, now);
    assert!(keyed.get(key, || now).policy().try_acquire().is_none());
}

#[test]
fn what_is_left_is_spread_where_the_end_of_the_period_slides_with_each_answer() {
    // 3 (and one at once) for each minute from now on, however often it is said.
    for (max_pause, remaining, reset) in [(300, 3, 60 * S), (60, 180, 3600 * S)] {
        let limit = RateLimit::per_second(100).max_pause(max_pause * S);
        let (start, mut went) = (Instant::now(), 0);
        for tenth in 0..600 {
            let now = start + tenth * 100 * MS;
            let _ = limit.observe(remaining, reset, now);
            went += u32::from(limit.try_acquire(now).is_ok());
        }
        assert!((3..=4).contains(&went), "{went}");
    }
}
