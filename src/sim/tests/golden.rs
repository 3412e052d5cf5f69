//! The world gives the numbers of the reference runs, to the last microsecond.

use crate::sim::draws::{Purpose, Stream, micros};
use crate::sim::play::play_on;
use crate::sim::scenarios::{s0, s1, s2, s3, s6};
use crate::sim::tests::model;
use crate::sim::{Attainable, Fault, Job, Policy, Scenario};
use std::time::Duration;

#[test]
fn the_draws_are_those_of_the_reference() {
    let mut stream = Stream::new(1, Purpose::Arrivals, 0);
    let first = [(); 3].map(|()| stream.next_u64());
    assert_eq!(
        first,
        [
            0x75d3_37d0_1b68_4e1f,
            0xd3f4_f58a_4bb9_9017,
            0xa469_0557_cde8_91cd
        ]
    );

    let mut stream = Stream::new(1, Purpose::Arrivals, 0);
    let mut at = 0;
    let arrivals = [(); 5].map(|()| {
        at += micros(stream.exponential() * 1e8 / 700.0);
        at
    });
    assert_eq!(arrivals, [88_093, 339_522, 486_358, 595_287, 755_402]);

    let mut stream = Stream::new(1, Purpose::Service, 0);
    let services = [(); 5].map(|()| micros(stream.erlang(2) * 1e5));
    assert_eq!(services, [19_041, 212_696, 172_668, 135_419, 145_651]);

    let mut stream = Stream::new(1, Purpose::Balancer, 0);
    let hosts = [(); 8].map(|()| stream.below(10));
    assert_eq!(hosts, [7, 9, 9, 4, 9, 6, 9, 2]);
}

#[test]
fn the_world_gives_the_counts_of_the_reference() {
    for (scenario, retries, counts) in RUNS {
        let scenario = scenario();
        let got = model::run(&scenario, 1, retries);
        let name = scenario.name();
        assert_eq!(got, model::counts(counts), "{name}, {retries} retries");
    }
}

#[test]
fn the_oracle_gives_the_counts_of_the_reference() {
    let all = [(1, 41_832), (2, 41_711), (3, 41_886)];
    for (scenario, won) in [
        (s1(), [24_335, 24_128, 24_251]),
        (s2(), [38_915, 38_630, 38_893]),
    ] {
        for ((seed, offered), won) in all.into_iter().zip(won) {
            let got = scenario.oracle(seed).unwrap();
            assert_eq!(
                got,
                Some(Attainable { won, offered }),
                "{}",
                scenario.name()
            );
        }
    }
    for scenario in [s3(), s6()] {
        let Attainable { won, offered } = scenario.oracle(1).unwrap().unwrap();
        assert_eq!(won, offered, "{}", scenario.name());
    }
}

/// Without retries a pipeline draws nothing, so both have to agree in everything.
#[test]
fn a_pipeline_without_retries_is_the_model_client() {
    for scenario in [s0(), s1(), s2(), s3()] {
        let run = scenario.run(&Policy::none(), 1).unwrap();
        let model = model::run(&scenario, 1, 0);
        assert_eq!(run.counts(), model, "{}", scenario.name());
    }
}

/// On whatever machine, and on any number of threads.
#[test]
fn the_same_seed_gives_the_same_run() {
    let until = Duration::from_secs(40);
    let blip = Fault::outage().between(Duration::from_secs(20), Duration::from_secs(22));
    let scenario = Scenario::new("blip").fault(blip).until(until);
    let policies = [Policy::none(), Policy::budget(10), Policy::evenkeel()];
    let jobs: Vec<_> = policies
        .iter()
        .flat_map(|policy| [1, 2].map(|seed| (policy.clone(), seed)))
        .map(|(policy, seed)| Job {
            scenario: scenario.clone(),
            policy,
            seed,
        })
        .collect();
    let digests = |threads| play_on(threads, &jobs, |it| it.digest()).unwrap();
    let alone = digests(1);
    assert_eq!(digests(4), alone);
    let distinct: std::collections::HashSet<_> = alone.iter().collect();
    assert_eq!(distinct.len(), jobs.len());
    // Of the first policy, which no change of a policy's rules touches.
    assert_eq!(alone[0], 0x0ae9_6a32_05af_a064, "{:016x}", alone[0]);
}

type Run = (fn() -> Scenario, u32, [u64; 6]);

const RUNS: [Run; 8] = [
    (s0, 0, [86_881, 86_881, 86_881, 0, 0, 8_712_515_796]),
    (s0, 3, [86_881, 86_881, 86_881, 0, 0, 8_712_515_796]),
    (s1, 0, [104_434, 83_627, 104_434, 20_730, 0, 8_384_247_963]),
    (s1, 3, [104_434, 83_846, 166_733, 82_810, 0, 8_405_885_107]),
    (
        s2,
        0,
        [
            104_434,
            82_670,
            104_434,
            3821,
            3_187_334_220,
            11_615_932_107,
        ],
    ),
    (
        s2,
        3,
        [
            104_434,
            22_468,
            350_996,
            232_051,
            12_058_918_532,
            14_437_592_110,
        ],
    ),
    (s3, 0, [104_626, 99_272, 104_626, 5354, 0, 9_972_233_518]),
    (s3, 3, [104_626, 104_626, 113_297, 8671, 0, 10_499_484_021]),
];
