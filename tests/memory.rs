//! What a policy per key takes in memory.

use std::time::{Duration, Instant};

use evenkeel::keyed::PerKey;
use evenkeel::{
    Breaker, Budget, Bulkhead, Chaos, Endpoints, Key, Keyed, RateLimit, Throttle, Window,
};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

#[test]
fn a_key_takes_a_few_hundred_bytes() {
    let _counting = dhat::Profiler::builder().testing().build();
    // The table's slot included. A window of time has ten buckets.
    for (name, bytes, most) in [
        ("budget", per_key(Budget::default()), 320),
        ("breaker", per_key(Breaker::new()), 400),
        ("window", per_key(Window::new()), 720),
        ("bulkhead", per_key(Bulkhead::new(10)), 480),
        ("rate limit", per_key(RateLimit::per_second(10)), 560),
        ("chaos", per_key(Chaos::new()), 400),
        ("ten endpoints", per_key(Endpoints::numbered(10)), 3400),
        ("throttle", per_key(Throttle::new()), 320),
    ] {
        println!("{name}: {bytes} bytes per key");
        assert!(bytes <= most, "{name}: {bytes}");
    }
}

fn per_key<P: PerKey>(policy: P) -> usize {
    const KEYS: usize = 10_000;
    let policies = Keyed::new(policy).idle_after(Duration::from_secs(600));
    let now = Instant::now();
    let before = dhat::HeapStats::get().curr_bytes;
    for key in 0..KEYS {
        let _ = policies.get(Key::of(key), || now);
    }
    assert_eq!(policies.len(), KEYS);
    (dhat::HeapStats::get().curr_bytes - before) / KEYS
}
