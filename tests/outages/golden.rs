//! The world is the right one: it gives the numbers of the reference runs, to the last microsecond.

use crate::random::{Purpose, Stream, micros};
use crate::scenarios::{S0, S1, S2, S3, S6, Scenario};
use crate::timeline::SECOND;
use crate::world::Counts;
use crate::{fleet, model, oracle, policies};

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
    let services = [(); 5].map(|()| micros(stream.erlang() * 1e5));
    assert_eq!(services, [19_041, 212_696, 172_668, 135_419, 145_651]);

    let mut stream = Stream::new(1, Purpose::Balancer, 0);
    let hosts = [(); 8].map(|()| stream.below(10));
    assert_eq!(hosts, [7, 9, 9, 4, 9, 6, 9, 2]);
}

#[test]
fn the_world_gives_the_counts_of_the_reference() {
    for (scenario, retries, counts) in RUNS {
        let got = model::run(&scenario, 1, retries);
        assert_eq!(got, of(counts), "{} with {retries} retries", scenario.name);
    }
}

#[test]
fn the_oracle_gives_the_counts_of_the_reference() {
    let all = [(1, 41_832), (2, 41_711), (3, 41_886)];
    for (scenario, won) in [
        (S1, [24_335, 24_128, 24_251]),
        (S2, [38_915, 38_630, 38_893]),
    ] {
        for ((seed, offered), won) in all.into_iter().zip(won) {
            assert_eq!(
                oracle::run(&scenario, seed),
                (won, offered),
                "{}",
                scenario.name
            );
        }
    }
    for scenario in [S3, S6] {
        let (won, offered) = oracle::run(&scenario, 1);
        assert_eq!(won, offered, "{}", scenario.name);
    }
}

/// Without retries a pipeline draws nothing, so both have to agree in everything.
#[test]
fn a_pipeline_without_retries_is_the_model_client() {
    for scenario in [S0, S1, S2, S3] {
        let run = fleet::run(&scenario, 1, &policies::none());
        assert_eq!(run.counts, model::run(&scenario, 1, 0), "{}", scenario.name);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let blip = S1.fault_at(30 * SECOND, 32 * SECOND);
    let digest = |seed| fleet::run(&blip, seed, &policies::budget(10)).digest();
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(2));
}

const fn of(counts: [u64; 6]) -> Counts {
    let [arrived, won, attempts, rejected, dead_us, work_us] = counts;
    Counts {
        arrived,
        won,
        attempts,
        rejected,
        dead_us,
        work_us,
    }
}

const RUNS: [(Scenario, u32, [u64; 6]); 8] = [
    (S0, 0, [86_881, 86_881, 86_881, 0, 0, 8_712_515_796]),
    (S0, 3, [86_881, 86_881, 86_881, 0, 0, 8_712_515_796]),
    (S1, 0, [104_434, 83_627, 104_434, 20_730, 0, 8_384_247_963]),
    (S1, 3, [104_434, 83_846, 166_733, 82_810, 0, 8_405_885_107]),
    (
        S2,
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
        S2,
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
    (S3, 0, [104_626, 99_272, 104_626, 5354, 0, 9_972_233_518]),
    (S3, 3, [104_626, 104_626, 113_297, 8671, 0, 10_499_484_021]),
];
