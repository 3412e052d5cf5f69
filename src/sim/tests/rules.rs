//! What hosts, queues, networks and faults do, one rule at a time.

use std::time::Duration;

use crate::budget::Ratio;
use crate::error::Reason;
use crate::report::{Stop, WaitReason};
use crate::retry::Retry;
use crate::sim::{
    Cause, Fault, Load, Policy, Queue, Report, Request, Scenario, Service, ServiceTime,
};
use crate::verdict::Label;
use crate::window::Window;

#[test]
fn a_full_queue_is_answered_503_at_once_and_a_free_one_is_not() {
    // One works, two wait, the fourth is refused.
    let refused = |requests| {
        let service = slow().queue(Queue::first_come(2));
        let report = burst(service, requests);
        (report.counts().rejected, report.counts().won)
    };
    assert_eq!(refused(3), (0, 3));
    assert_eq!(refused(4), (1, 3));
}

#[test]
fn a_refusal_costs_the_host_its_price_in_worker_time() {
    let service = slow()
        .queue(Queue::first_come(1))
        .refusal_cost(Duration::from_millis(10));
    let report = burst(service, 5);
    // Three were refused: the second to be served takes 30 ms longer.
    assert_eq!(latencies(&report), [ms(2), ms(2), ms(2), ms(102), ms(232)]);
    assert_eq!(report.counts().work, ms(230));
}

#[test]
fn the_order_of_the_queue_says_who_is_served_next() {
    let order = |queue| {
        let report = burst(slow().queue(queue), 3);
        let requests = report.requests().iter();
        requests.map(|it| it.latency().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(order(Queue::first_come(9)), [ms(102), ms(202), ms(302)]);
    assert_eq!(order(Queue::newest_first(9)), [ms(102), ms(302), ms(202)]);
}

#[test]
fn what_waited_too_long_is_shed_when_its_turn_comes() {
    let won = |limit| {
        let queue = Queue::first_come(9).shed_after(ms(limit));
        burst(slow().queue(queue).refusal_cost(Duration::ZERO), 3)
            .counts()
            .won
    };
    // The third waits for 200 ms.
    assert_eq!(won(200), 3);
    assert_eq!(won(199), 2);
    // The second waits for 100 ms; the third has its turn at the same moment.
    assert_eq!(won(99), 1);
}

#[test]
fn hosts_work_for_those_that_gave_up_unless_they_hear_of_it() {
    let dead = |cancels| {
        let scenario = burst_of(slow(), 3)
            .attempt_timeout(ms(150))
            .cancels(cancels);
        let counts = scenario.run(&Policy::none(), 1).unwrap().counts();
        assert_eq!(counts.won, 1);
        (counts.work, counts.dead)
    };
    // The second is at work for 49 ms when its client gives up; nobody begins the third.
    assert_eq!(dead(false), (ms(300), ms(200)));
    assert_eq!(dead(true), (ms(150), ms(50)));
}

#[test]
fn an_outage_loses_what_was_in_hand_and_unavailability_does_not() {
    let (from, to) = (ms(50), ms(60));
    let won = |fault: Fault| {
        let scenario = burst_of(slow(), 2).fault(fault.between(from, to));
        scenario.run(&Policy::none(), 1).unwrap()
    };
    let lost = won(Fault::outage());
    assert_eq!(lost.counts().won, 0);
    assert_eq!(latencies(&lost), [ms(51), ms(51)]);
    assert_eq!(count(&lost, Cause::Failed(Label::Status(503))), 2);
    let reset = won(Fault::unreachable());
    assert_eq!(count(&reset, Cause::Failed(Label::Name("reset"))), 2);
    for fault in [Fault::unavailable(), Fault::maintenance(), Fault::stall()] {
        assert_eq!(won(fault).counts().won, 2);
    }
}

#[test]
fn each_fault_fails_what_arrives_in_its_own_way() {
    let label = |fault: Fault| {
        let scenario = burst_of(slow(), 1).fault(fault.between(ms(0), ms(50)));
        let report = scenario.run(&Policy::none(), 1).unwrap();
        assert_eq!(report.counts().won, 0);
        report.causes()[0].0
    };
    let status = |code| Cause::Failed(Label::Status(code));
    assert_eq!(label(Fault::outage()), status(503));
    assert_eq!(label(Fault::unavailable()), status(503));
    assert_eq!(label(Fault::maintenance()), status(503));
    assert_eq!(label(Fault::errors(Ratio::percent(100))), status(503));
    assert_eq!(label(Fault::quota(0)), status(429));
    assert_eq!(
        label(Fault::unreachable()),
        Cause::Failed(Label::Name("connect"))
    );
    assert_eq!(label(Fault::stall()), Cause::Failed(Label::Name("timeout")));
}

#[test]
fn a_quota_lets_so_many_in_each_second_and_no_more() {
    let scenario = Scenario::new("quota")
        .clients(1)
        .load(Load::open(50.0))
        .until(ms(3000))
        .fault(Fault::quota(7).between(ms(0), ms(3000)));
    let report = scenario.run(&Policy::none(), 1).unwrap();
    assert_eq!(report.counts().won, 3 * 7);
}

#[test]
fn a_slow_host_takes_longer_and_only_for_what_begins_then() {
    let fault = Fault::speed(Ratio::percent(50)).between(ms(50), ms(150));
    let scenario = burst_of(slow(), 3).fault(fault);
    let report = scenario.run(&Policy::none(), 1).unwrap();
    assert_eq!(latencies(&report), [ms(102), ms(302), ms(402)]);
}

#[test]
fn where_two_faults_name_a_speed_the_slower_one_holds() {
    let slower = |percent| Fault::speed(Ratio::percent(percent)).between(ms(0), ms(50));
    let scenario = burst_of(slow(), 1).fault(slower(50)).fault(slower(25));
    let report = scenario.run(&Policy::none(), 1).unwrap();
    assert_eq!(latencies(&report), [ms(402)]);
}

#[test]
fn a_fault_of_some_hosts_leaves_the_others_alone() {
    let service = Service::new().hosts(2);
    let bad = Fault::unavailable().hosts(1).between(ms(0), ms(2000));
    let scenario = Scenario::new("it")
        .service(service)
        .load(Load::open(100.0))
        .fault(bad)
        .until(ms(2000));
    let share = scenario.run(&Policy::none(), 1).unwrap().during().share();
    assert!((0.45..0.55).contains(&share), "{share}");
    // A retry goes to the other host.
    let retry =
        |client: crate::sim::Client| client.retry(Retry::constant(Duration::ZERO).max_attempts(2));
    let report = scenario.run(&Policy::new("twice", retry), 1).unwrap();
    assert_eq!(report.counts().won, report.counts().arrived);
}

#[test]
fn a_closed_loop_asks_again_only_after_its_answer() {
    let scenario = burst_of(slow(), 1).load(Load::closed(1, Duration::ZERO));
    let report = scenario.until(ms(1000)).run(&Policy::none(), 1).unwrap();
    // One every 102 ms, from the first moment on.
    assert_eq!(report.counts().arrived, 10);
}

#[test]
fn tens_of_thousands_of_calls_are_under_way_at_once() {
    let scenario = Scenario::new("it")
        .clients(100)
        .load(Load::once(300))
        .fault(Fault::stall().between(ms(0), ms(6000)))
        .attempt_timeout(ms(4000))
        .until(ms(6000));
    let report = scenario.run(&Policy::none(), 1).unwrap();
    assert_eq!(report.seconds()[0].attempts, 30_000);
    assert_eq!(report.seconds()[4].failed, 30_000);
}

#[test]
fn every_cause_is_counted_where_it_was_met() {
    let outage = Fault::outage().between(ms(1000), ms(3000));
    let scenario = Scenario::new("it").clients(1).until(ms(6000)).fault(outage);
    let window = |client: crate::sim::Client| {
        let retry = Retry::constant(ms(10)).max_attempts(2);
        client.retry(retry).window(Window::new().fail_fast())
    };
    let report = scenario.run(&Policy::new("it", window), 1).unwrap();
    let failed = Cause::Failed(Label::Status(503));
    let per_second: Vec<_> = report
        .causes()
        .iter()
        .filter(|(cause, _)| *cause == failed)
        .flat_map(|(_, counts)| counts.clone())
        .collect();
    assert_eq!(per_second[0], 0);
    assert!(per_second[1] > 0 && per_second[2] > 0);
    let failures = u64::from(count(&report, failed));
    assert_eq!(failures, report.counts().attempts - report.counts().won);
    assert!(count(&report, Cause::Refused(Reason::WindowFull)) > 0);
    assert!(count(&report, Cause::Retried(WaitReason::Backoff)) > 0);
    let stopped = count(&report, Cause::Stopped(Stop::AttemptsExhausted));
    assert!(stopped > 0);
}

#[test]
fn seconds_and_requests_add_up_to_the_counts() {
    let scenario = crate::sim::scenarios::s1().until(Duration::from_secs(70));
    let report = scenario.run(&Policy::evenkeel(), 1).unwrap();
    let sum = |of: fn(&crate::sim::Second) -> u32| -> u64 {
        report.seconds().iter().map(|it| u64::from(of(it))).sum()
    };
    let counts = report.counts();
    assert_eq!(sum(|it| it.arrived), counts.arrived);
    assert_eq!(sum(|it| it.won), counts.won);
    assert_eq!(sum(|it| it.answered), counts.won);
    assert_eq!(sum(|it| it.attempts), counts.attempts);
    assert_eq!(sum(|it| it.rejected), counts.rejected);
    assert_eq!(sum(|it| it.answered + it.failed), counts.arrived);
    let parked = report.seconds()[40].parked;
    assert!(parked > 0 && report.seconds()[40].limited == 100);
    assert_eq!(report.seconds()[20].limited, 0);
    assert!(report.seconds()[40].extra() < 0);
}

#[test]
fn a_policy_of_ones_own_pipeline_has_the_limits_of_the_scenario() {
    let policy = Policy::of("ours", || {
        crate::Pipeline::http()
            .deadline(ms(1))
            .timeout(ms(1))
            .no_window()
    });
    let report = burst_of(slow(), 1).run(&policy, 1).unwrap();
    assert_eq!(report.counts().won, 1);
}

#[test]
fn a_mixed_fleet_has_a_policy_for_each_client() {
    let policy = Policy::mixed("half", |client, index| match index {
        0 => client,
        _ => client.retry(Retry::constant(Duration::ZERO).max_attempts(3)),
    });
    let outage = Fault::outage().between(ms(0), ms(1000));
    let scenario = burst_of(slow(), 1).clients(2).fault(outage);
    assert_eq!(scenario.run(&policy, 1).unwrap().counts().attempts, 1 + 3);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let scenario = Scenario::new("it").clients(0);
    let error = scenario.run(&Policy::none(), 1).unwrap_err();
    assert_eq!(error.field(), "scenario.clients");
    assert_eq!(scenario.oracle(1).unwrap_err(), error);
    let policy = Policy::new("it", |client| {
        client.retry(Retry::default().max_attempts(0))
    });
    let error = Scenario::new("it").run(&policy, 1).unwrap_err();
    assert_eq!(error.field(), "retry.max_attempts");
}

/// One worker, a tenth of a second.
fn slow() -> Service {
    Service::new()
        .hosts(1)
        .workers(1)
        .time(ServiceTime::constant(ms(100)))
}

/// One client that sends so many at once, and waits.
fn burst(service: Service, requests: usize) -> Report {
    let scenario = burst_of(service, requests);
    scenario.run(&Policy::none(), 1).unwrap()
}

fn burst_of(service: Service, requests: usize) -> Scenario {
    Scenario::new("burst")
        .clients(1)
        .load(Load::once(requests))
        .service(service)
        .until(ms(1000))
}

fn latencies(report: &Report) -> Vec<Duration> {
    let mut latencies: Vec<_> = report
        .requests()
        .iter()
        .filter_map(Request::latency)
        .collect();
    latencies.sort_unstable();
    latencies
}

fn count(report: &Report, cause: Cause) -> u32 {
    let counts = report.causes().iter().filter(|(it, _)| *it == cause);
    counts.flat_map(|(_, counts)| counts).sum()
}

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}
