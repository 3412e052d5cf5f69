//! What can cross threads, and what can be an object: part of the interface.

use evenkeel::{
    Attempt, Budget, Chaos, Clock, Deadline, Error, Event, Key, Pipeline, Report, Retry, Rng,
    Verdict,
};

fn thread_safe<T: Send + Sync + Unpin + 'static>() {}
fn send<T: Send>(_: &T) {}

#[test]
fn every_handle_and_value_can_cross_threads() {
    thread_safe::<(Attempt, Budget, Clock, Deadline, Event, Key, Report)>();
    thread_safe::<(
        Pipeline,
        Pipeline<evenkeel::http::Http>,
        Retry,
        Rng,
        Verdict,
    )>();
    thread_safe::<Error<std::io::Error>>();
    thread_safe::<(evenkeel::Endpoints, evenkeel::endpoints::Pick)>();
    thread_safe::<(evenkeel::event::Described<'_>, evenkeel::event::End)>();
    thread_safe::<evenkeel::budget::Withdrawal>();
    thread_safe::<evenkeel::backoff::Delays>();
    thread_safe::<(evenkeel::incident::Recorder, evenkeel::incident::Report)>();
    thread_safe::<(Chaos, evenkeel::Keyed<Chaos>)>();
    thread_safe::<evenkeel::check::Check>();
    thread_safe::<(
        evenkeel::chaos::Effect,
        evenkeel::chaos::Fault,
        evenkeel::chaos::Injected,
        evenkeel::chaos::Injection,
        evenkeel::chaos::Rule,
        evenkeel::chaos::Snapshot,
    )>();
}

#[cfg(feature = "metrics")]
#[test]
fn metrics_can_be_shared() {}

#[test]
fn a_call_is_send_if_its_operation_is() {
    let pipeline = Pipeline::new();
    send(&pipeline.run(|_| async { Ok::<_, ()>(()) }));
}

#[test]
fn checks_are_send_and_outlive_their_pipeline_if_their_operation_does() {
    fn spawned<T: Send + 'static>(_: &T) {}

    let check = evenkeel::check::Check::every(std::time::Duration::from_secs(1));
    let checks = Pipeline::new().checks(None, check, |_| async { Ok::<_, ()>(()) });
    spawned(&checks.expect("it makes sense"));
}

#[test]
fn traits_for_users_are_object_safe() {
    fn _takes(
        _: &dyn evenkeel::verdict::Classify<u8, u8>,
        _: &dyn evenkeel::clock::Runtime,
        _: &dyn evenkeel::event::Observer,
    ) {
    }
}

#[cfg(feature = "tower")]
#[test]
fn a_service_and_its_future_can_cross_threads() {
    use tower::{Layer, Service, service_fn};

    let mut service = Pipeline::new().layer(service_fn(|(): ()| async { Ok::<_, ()>(()) }));
    let check = evenkeel::check::Check::every(std::time::Duration::from_secs(1));
    send(&service.checks(check, || ()).expect("it makes sense"));
    send(&service);
    send(&service.call(()));
}
