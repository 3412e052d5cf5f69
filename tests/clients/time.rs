//! Attempts and calls that run out of time.

use std::time::Duration;

use evenkeel::error::Limit;
use evenkeel::report::Stop;
use evenkeel::testing::Reply;
use evenkeel::verdict::{Label, Processed};

use crate::support::{every_way, ms, ok};

#[tokio::test]
async fn promise_7_a_get_that_was_not_answered_in_time_goes_again() {
    every_way(async |way| {
        let scene = way.against([Reply::stall(), ok()]).await;
        // On a machine that stalls itself a later attempt may be late too.
        let patient = evenkeel::Retry::constant(ms(2)).max_attempts(50);
        let scene = scene.with(|pipeline| pipeline.timeout(ms(50)).retry(patient));
        let outcome = scene.get().await;
        assert_eq!(outcome.status(), 200);
        assert!(scene.requests() >= 2);
        assert_eq!(outcome.first_verdict().error_type(), Label::Name("timeout"));
    })
    .await;
}

#[tokio::test]
async fn promise_7_a_post_that_was_not_answered_in_time_does_not_go_again() {
    every_way(async |way| {
        let scene = way.against([Reply::stall(), ok()]).await;
        let scene = scene.with(|pipeline| pipeline.timeout(ms(50)));
        let outcome = scene.post().await;
        assert_eq!(outcome.timeout(), Limit::Attempt);
        assert_eq!(outcome.stop(), Some(Stop::NotSafe(Processed::Maybe)));
        assert!(scene.requests() <= 1);
        let report = outcome.report.expect("every error has one");
        assert_eq!(report.attempts(), 1);
    })
    .await;
}

#[tokio::test]
async fn promise_2_a_call_ends_at_its_deadline() {
    every_way(async |way| {
        let scene = way.against([Reply::stall()]).await;
        let scene = scene.with(|pipeline| pipeline.deadline(ms(100)));
        let outcome = scene.get().await;
        assert_eq!(outcome.timeout(), Limit::Deadline);
        let report = outcome.report.expect("every error has one");
        assert_eq!(report.attempts(), 1);
        assert!(report.elapsed() >= ms(100), "{report:?}");
        assert!(report.elapsed() < BOUND, "{report:?}");
    })
    .await;
}

#[tokio::test]
async fn promise_2_attempts_share_one_deadline() {
    every_way(async |way| {
        let scene = way.against([Reply::stall()]).await;
        let patient = evenkeel::Retry::constant(ms(1)).max_attempts(1000);
        let scene = scene.with(|pipeline| {
            pipeline
                .no_window()
                .deadline(ms(100))
                .timeout(ms(30))
                .retry(patient)
        });
        let outcome = scene.get().await;
        let report = outcome.report.as_ref().expect("every error has one");
        // Whichever of the two the last attempt met: no other could follow it.
        match outcome.timeout() {
            Limit::Attempt => assert_eq!(outcome.stop(), Some(Stop::DeadlineTooClose)),
            Limit::Deadline => assert!(report.elapsed() >= ms(100), "{report:?}"),
        }
        assert!(report.attempts() <= 4, "{report:?}");
        assert!(report.elapsed() < BOUND, "{report:?}");
    })
    .await;
}

/// A generous upper bound: only what never ends fails it.
const BOUND: Duration = Duration::from_secs(10);
