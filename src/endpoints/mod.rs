//! Chooses who answers: a healthy endpoint of several, for each attempt anew.
//!
//! A service is often many hosts, and one of them may be slow, broken or gone while the others are
//! well. A client that asks them in turn fails every tenth call because of one bad host in ten, and
//! a retry that ends up at the same host fails again. So each attempt goes to one of two endpoints
//! drawn at random, most likely the one that is less busy and quicker to answer (the power of two
//! choices); a retry goes to another one than those the call already failed on; and an endpoint that
//! fails notably more than the others is asked no more for a while.
//!
//! The pipeline chooses as late as it can, when the attempt really begins: what was right before a
//! wait in line may no longer be.
//!
//! # Example
//!
//! ```
//! use evenkeel::endpoints::Endpoints;
//! use evenkeel::{Pipeline, Retry};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let replicas = ["well", "well too", "broken"];
//! let endpoints = Endpoints::new(replicas);
//! let pipeline = Pipeline::new()
//!     .retry(Retry::constant(Duration::ZERO))
//!     .endpoints(endpoints.clone());
//!
//! let mut asked_broken = 0;
//! for _ in 0..100 {
//!     let got = pipeline.run(|attempt| {
//!         let replica = replicas[attempt.endpoint().expect("one of three").index()];
//!         asked_broken += u32::from(replica == "broken");
//!         async move { if replica == "broken" { Err("broken") } else { Ok(()) } }
//!     });
//!     assert_eq!(got.await, Ok(()));
//! }
//! assert!(asked_broken < 10); // a third without the choice
//! # }
//! ```
//!
//! HTTP requests through the tower, hyper or reqwest doors are directed by themselves; see
//! [below](#http).
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | [`consecutive_failures`](Endpoints::consecutive_failures) | 3, and so many that it is no chance | one failed call and its retry prove nothing |
//! | [`failure_share`](Endpoints::failure_share) | 25 points above the others, of 20 calls within 10 s at least | for the host that fails half of the time; of fewer calls a share is chance |
//! | [`most_ejected`](Endpoints::most_ejected) | half, and at least one of two | if most fail it is the service |
//! | [`cooldown`](Endpoints::cooldown) | 1 s, then twice as long each time, ± 50 %, at most 30 s | a broken host costs a call per probe, and clients are not to probe together |
//! | [`forget_after`](Endpoints::forget_after) | 60 s healthy | the next fault is another one |
//! | [`max_hint`](Endpoints::max_hint) | 5 min | a server may be believed, not obeyed for ever |
//! | [`probe_timeout`](Endpoints::probe_timeout) | 10 s | the attempt timeout of the presets |
//! | [`ramp`](Endpoints::ramp) | 5 s | caches and connections are cold |
//!
//! # What counts
//!
//! | outcome | means for the endpoint |
//! |---|---|
//! | success | it answered, and its latency is learned |
//! | the request's own fault | it answered; its latency says nothing |
//! | overloaded, transient, the target's fault, a timeout | it failed |
//! | rate-limited | it is asked less; it isn't ejected, and a probe decides nothing |
//! | cut short by the deadline | it failed if that took half of the attempt timeout, or of the whole call where that is shorter, and else nothing |
//! | dropped, or never begun | nothing |
//!
//! Failing makes no endpoint attractive, however quick it is about it: only good answers make it
//! quicker, and one that fails all the time costs as much as one that takes ten times as long. What is
//! known of an idle endpoint is forgotten within some tens of seconds, so that it is tried again.
//!
//! # Ejection
//!
//! An endpoint is held against the others *in the same time*: those failures in a row must come less
//! often than once in 10,000 by chance, at the rate at which the others failed since the first of
//! them. Where the others answer three are enough; where a tenth of all calls fails anyway, five; where
//! all fail, none are. So an outage of the whole service ejects nobody, and with it an overload, in
//! which ejecting only crowds the rest. The bound on how many are ejected is a second net. Envoy has the
//! like of both: outlier detection by success rates held against the mean of all hosts,
//! `max_ejection_percent`, and a panic threshold, below which it asks the unhealthy ones again.
//!
//! When the time is over the next first attempt of a call is the probe, and no other goes there
//! meanwhile. Retries don't probe unless they failed everywhere else: a call that failed once is not to
//! be risked again. A probe that is answered lets the endpoint in, with a tenth of its share and more by
//! and by; one that fails, or isn't back in time, ejects it for longer; one that is dropped leaves its
//! place to the next. Outcomes of attempts that began before an ejection decide nothing after it.
//!
//! # HTTP
//!
//! [`Http`](crate::http::Http) sends a request to the chosen endpoint by giving its URI that endpoint's
//! scheme, if it has one, and authority. What the pipeline keeps per key stays that of the URI as it
//! was: windows and budgets are for the service, whatever hosts it has. A `Host` header of the request's
//! own stays. Where it has none:
//!
//! | endpoint | `Host` | why |
//! |---|---|---|
//! | `http` | stays what the URI said | virtual hosts and gateways go by it |
//! | `https` | follows the endpoint | the client takes the name for TLS from the URI, and a server may refuse a request whose names differ (421) |
//! | HTTP/2 requests | none is added | the client makes `:authority` of the URI, and another `Host` beside it is malformed (RFC 9113, 8.3.1) |
//!
//! [`Http::endpoint_host`](crate::http::Http::endpoint_host) asks for the one or the other. An HTTP/2
//! client that is given HTTP/1.1 requests, as hyper-util's and reqwest's are unless told otherwise, is
//! not known for one: for plain `http` ask that `Host` follow the endpoint there.
//!
//! For TLS each endpoint has to be named in its certificate. Where all are addresses of *one* name keep
//! a client for each address (reqwest's `ClientBuilder::resolve`), and choose among them in a closure
//! by [`Attempt::endpoint`](crate::Attempt::endpoint), with endpoints that are only
//! [numbered](Endpoints::numbered).
//!
//! # Changes
//!
//! [`Change`]: ejected, probing, returned. Exactly one caller is told of each; in a pipeline the observer.
//! What [`update`](Endpoints::update) changes is told to nobody.
//!
//! # What it composes with
//!
//! Retries: an endpoint that fails costs a retry until it is ejected. The congestion
//! [`window`](crate::window) stays one per service: it looks at what the service can answer, and this at
//! which host. A window per host would see a tenth of the answers and learn ten times as slowly. A
//! server's hint holds the call that was told, wherever it goes next, and keeps an ejected endpoint out
//! at least as long.
//!
//! # What it costs
//!
//! A choice and a record take one lock each, some 60 ns each on the machine of the benchmarks, however
//! many endpoints there are; nothing is allocated, and nothing is searched but when an endpoint is
//! ejected or probed: then the ejected ones. All calls of a set share that lock. A pipeline with
//! endpoints also reads the clock when an attempt begins and when it ends. One without pays for a
//! branch. An endpoint takes some 300 bytes.
//!
//! # What it does not do
//!
//! It sends no probes of its own: a call has to come. It doesn't resolve names or watch a registry:
//! [`update`](Endpoints::update) is for whoever does. It knows no weights and no zones.

mod endpoint;
mod health;
mod load;
mod report;
mod set;
mod settings;

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::budget::Ratio;
use crate::error::ConfigError;
use crate::keyed::{PerKey, sealed::Sealed};
use crate::rng::Rng;
use crate::sync::{Arc, Mutex, MutexGuard, lock};
use crate::verdict::{Hint, Verdict};

pub use endpoint::{Endpoint, Id};
pub use report::{Change, Snapshot, State, Why};

pub(crate) use set::Ended;
use set::{REMEMBERED, Set, Ticket};
use settings::Settings;

/// A shared set of endpoints. Clones are one set.
///
/// The setters start afresh with the same endpoints: set it up before it is cloned or used.
#[derive(Clone)]
pub struct Endpoints {
    shared: Arc<Shared>,
}

type List = Vec<std::sync::Arc<Endpoint>>;

struct Shared {
    /// What is wrong with the list.
    invalid: Option<ConfigError>,
    state: Mutex<Guarded>,
}

/// The settings, and what they are for.
struct Guarded {
    settings: Settings,
    set: Set,
}

impl Endpoints {
    /// A set of these, all healthy.
    ///
    /// [`check`](Self::check) refuses an empty list, one that names an endpoint twice, and addresses
    /// that aren't one: those with a path, with credentials, or without a host.
    #[must_use]
    pub fn new<I>(list: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<Endpoint>,
    {
        let (list, invalid) = read(list);
        Self::of(Settings::default(), &list, invalid)
    }

    /// So many endpoints that are only numbers, from 0: for closures that know what they stand for.
    #[must_use]
    pub fn numbered(count: u32) -> Self {
        Self::new((0..count).map(|number| Endpoint::named(number.to_string())))
    }

    /// No endpoints, and none wanted: attempts go wherever they go. For the prototype of a
    /// [`Keyed`](crate::Keyed) set, where only some services have endpoints.
    #[must_use]
    pub fn none() -> Self {
        Self::of(Settings::default(), &[], None)
    }

    /// Ejects an endpoint after so many failures in a row, or more where the others fail as well; see
    /// the [module](self#ejection). At least 1. `None`: not for that. Default: 3.
    #[must_use]
    pub fn consecutive_failures(self, failures: impl Into<Option<u32>>) -> Self {
        let failures = failures.into();
        self.change(|it| it.in_row = failures)
    }

    /// Ejects an endpoint whose share of failures is at least so much above the others', by more than
    /// chance, of 20 calls or more within 10 s. Above 0, and at most 1. `None`: not for that.
    /// Default: 25 %.
    #[must_use]
    pub fn failure_share(self, above: impl Into<Option<Ratio>>) -> Self {
        let above = above.into();
        self.change(|it| it.excess = above.map(f64::from))
    }

    /// How much of the set is ejected at most, rounded down; but one of two or more may always be, and
    /// never all. Above 0, and at most 1. Default: 50 %.
    #[must_use]
    pub fn most_ejected(self, share: Ratio) -> Self {
        self.change(|it| it.most_ejected = share.in_millionths())
    }

    /// How long an endpoint is ejected: the first delay, and the next each time that it fails again.
    /// Not custom. Default: exponential from 1 s to 30 s, ± 50 %.
    #[must_use]
    pub fn cooldown(self, cooldown: Backoff) -> Self {
        self.change(|it| it.cooldown = cooldown)
    }

    /// After how long without ejection the cooldown starts from its beginning again. Zero: each time.
    /// Default: 60 s.
    #[must_use]
    pub fn forget_after(self, health: Duration) -> Self {
        self.change(|it| it.forget_after = health)
    }

    /// The longest a server's hint keeps an endpoint ejected. Zero: hints are ignored. Default: 5 min.
    #[must_use]
    pub fn max_hint(self, longest: Duration) -> Self {
        self.change(|it| it.max_hint = longest)
    }

    /// How long a probe may be out until it counts as failed. Not zero. Default: 10 s.
    #[must_use]
    pub fn probe_timeout(self, length: Duration) -> Self {
        self.change(|it| it.probe_timeout = length)
    }

    /// Over how long an endpoint that came back, or that came new with an update, gets to its whole
    /// share, beginning with a tenth. Zero: at once. Default: 5 s.
    #[must_use]
    pub fn ramp(self, length: Duration) -> Self {
        self.change(|it| it.ramp = length)
    }

    /// Checks the list and the settings.
    ///
    /// # Errors
    ///
    /// The first that makes no sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.shared.invalid.map_or(Ok(()), Err)?;
        self.shared.lock().settings.check()
    }

    /// Chooses an endpoint for an attempt that begins now, by none of those that the call already
    /// failed on if there are others; of a longer list only the last 16 are heeded. `None` only for
    /// a set without endpoints.
    ///
    /// # Examples
    ///
    /// ```
    /// use evenkeel::endpoints::Endpoints;
    /// use evenkeel::{Rng, Verdict};
    /// use std::time::{Duration, Instant};
    ///
    /// let (endpoints, rng, now) = (Endpoints::numbered(2), Rng::default(), Instant::now());
    /// let first = endpoints.pick(&[], now, &rng).unwrap();
    /// let failed_on = first.id();
    /// first.record(Verdict::transient(), Duration::from_millis(1), now, &rng);
    ///
    /// let second = endpoints.pick(&[failed_on], now, &rng).unwrap();
    /// assert_ne!(second.id(), failed_on);
    /// ```
    #[must_use]
    pub fn pick(&self, tried: &[Id], now: Instant, rng: &Rng) -> Option<Pick> {
        let (hold, id, change) = self.hold(tried, now, rng)?;
        Some(Pick { hold, id, change })
    }

    /// Makes these the endpoints, at once. Those that stay keep all that is known of them, and those
    /// that go may end what is under way. Gives the ids in the order of the list.
    ///
    /// Takes time in proportion to the list, under the lock of the set.
    ///
    /// # Errors
    ///
    /// As of [`check`](Self::check); then nothing changes.
    pub fn update<I>(&self, list: I, now: Instant) -> Result<Vec<Id>, ConfigError>
    where
        I: IntoIterator,
        I::Item: Into<Endpoint>,
    {
        let (list, invalid) = read(list);
        invalid.map_or(Ok(()), Err)?;
        let Guarded { settings, set } = &mut *self.shared.lock();
        Ok(set.update(&list, settings, now))
    }

    /// What an id stands for, as long as the endpoint is in the set or something is under way there.
    #[must_use]
    pub fn get(&self, id: Id) -> Option<std::sync::Arc<Endpoint>> {
        self.shared.lock().set.get(id).cloned()
    }

    /// How many endpoints there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.lock().set.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every endpoint as it is now, by index.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Vec<Snapshot> {
        let Guarded { settings, set } = &*self.shared.lock();
        set.snapshot(settings, now)
    }

    /// When an ejected endpoint may be probed, if one is ejected.
    pub(crate) fn probe_at(&self) -> Option<Instant> {
        self.shared.lock().set.probe_at()
    }

    /// The same as [`pick`](Self::pick), for the engine.
    pub(crate) fn hold(
        &self,
        tried: &[Id],
        now: Instant,
        rng: &Rng,
    ) -> Option<(Hold, Id, Option<Change>)> {
        let mut draws = rng.draws();
        let mut state = self.shared.lock();
        let Guarded { settings, set } = &mut *state;
        let (ticket, change) = set.pick(tried, settings, now, &mut draws)?;
        let id = set.id_of(ticket);
        drop(state);
        let hold = Hold {
            shared: Arc::clone(&self.shared),
            ticket: Some(ticket),
        };
        Some((hold, id, change))
    }

    fn of(
        settings: Settings,
        list: &[std::sync::Arc<Endpoint>],
        invalid: Option<ConfigError>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                invalid,
                state: Mutex::new(Guarded {
                    settings,
                    set: Set::new(list),
                }),
            }),
        }
    }

    fn change(self, change: impl FnOnce(&mut Settings)) -> Self {
        let (mut settings, list) = self.shared.copy();
        change(&mut settings);
        Self::of(settings, &list, self.shared.invalid)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Guarded> {
        lock(&self.state)
    }

    fn copy(&self) -> (Settings, List) {
        let state = self.lock();
        (state.settings.clone(), state.set.list())
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (settings, list) = self.shared.copy();
        f.debug_struct("Endpoints")
            .field("list", &list)
            .field("settings", &settings)
            .finish_non_exhaustive()
    }
}

impl Sealed for Endpoints {
    /// Those that stay keep all that is known of them.
    fn reconfigure(&self, to: &Self, now: Instant) -> bool {
        let (settings, list) = to.shared.copy();
        let mut state = self.shared.lock();
        state.settings = settings;
        let Guarded { settings, set } = &mut *state;
        if set.list() != list {
            set.update(&list, settings, now);
        }
        true
    }
}

impl PerKey for Endpoints {
    /// With the same endpoints, all healthy.
    fn fresh(&self) -> Self {
        self.clone().change(|_| ())
    }

    /// Whether nobody else holds it, and it has the list that a fresh one would have.
    fn is_idle(&self, _: Instant) -> bool {
        Arc::strong_count(&self.shared) == 1 && !self.shared.lock().set.is_updated()
    }

    fn check(&self) -> Result<(), ConfigError> {
        Self::check(self)
    }
}

/// An endpoint chosen for one attempt; see [`Endpoints::pick`]. Dropped, it says nothing of the
/// endpoint, and a probe gives its place back.
#[derive(Debug)]
#[must_use = "dropping the pick gives it back"]
pub struct Pick {
    hold: Hold,
    id: Id,
    change: Option<Change>,
}

impl Pick {
    /// Which endpoint.
    #[must_use]
    pub const fn id(&self) -> Id {
        self.id
    }

    /// What it is called, and where it is.
    #[must_use]
    #[allow(clippy::missing_panics_doc)] // only `record` takes the ticket
    pub fn endpoint(&self) -> std::sync::Arc<Endpoint> {
        self.hold.endpoint().expect("a pick has a ticket")
    }

    /// Whether this attempt decides if an ejected endpoint comes back.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        let ticket = self.hold.ticket;
        ticket.is_some_and(|ticket| self.hold.shared.lock().set.is_probing(ticket))
    }

    /// The change that the choice made: it probes an endpoint, or an earlier probe was found to be lost.
    #[must_use]
    pub const fn change(&self) -> Option<Change> {
        self.change
    }

    /// The attempt took `latency`, if that is known, and ended `now` with this verdict. Of hints only
    /// [`Hint::After`] is read.
    #[allow(clippy::must_use_candidate)] // it is told for its own sake
    pub fn record(
        self,
        verdict: Verdict,
        latency: impl Into<Option<Duration>>,
        now: Instant,
        rng: &Rng,
    ) -> Option<Change> {
        let hint = match verdict.server_hint() {
            Some(Hint::After(length)) => Some(length),
            _ => None,
        };
        let ended = Ended {
            kind: verdict.kind(),
            hint,
            latency: latency.into(),
        };
        self.hold.record(ended, now, rng).0
    }
}

/// What an attempt holds of its endpoint: two words.
pub(crate) struct Hold {
    shared: Arc<Shared>,
    /// Gone once it was told how the attempt ended.
    ticket: Option<Ticket>,
}

impl Hold {
    pub(crate) fn id(&self) -> Option<Id> {
        Some(self.shared.lock().set.id_of(self.ticket?))
    }

    pub(crate) fn endpoint(&self) -> Option<std::sync::Arc<Endpoint>> {
        let state = self.shared.lock();
        Some(std::sync::Arc::clone(state.set.endpoint(self.ticket?.slot)))
    }

    /// The attempt ended. Says whether a hint that came with it is this endpoint's own affair.
    pub(crate) fn record(
        mut self,
        ended: Ended,
        now: Instant,
        rng: &Rng,
    ) -> (Option<Change>, bool) {
        let Some(ticket) = self.ticket.take() else {
            return (None, false);
        };
        let Guarded { settings, set } = &mut *self.shared.lock();
        set.record(ticket, ended, settings, now, || rng.draws())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.shared.lock().set.abandon(ticket);
        }
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold")
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}

/// The endpoints that a call already failed on, as far as they are remembered.
#[derive(Debug, Default)]
pub(crate) struct Tried(Vec<Id>);

impl Tried {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn push(&mut self, id: Id) {
        if self.0.len() == REMEMBERED {
            self.0.remove(0);
        }
        self.0.push(id);
    }

    pub(crate) fn ids(&self) -> &[Id] {
        &self.0
    }
}

/// Reads a list, and says what is wrong with it.
fn read<I>(list: I) -> (List, Option<ConfigError>)
where
    I: IntoIterator,
    I::Item: Into<Endpoint>,
{
    let list = list.into_iter().map(|it| std::sync::Arc::new(it.into()));
    let list: List = list.collect();
    let mut names = BTreeSet::new();
    let problem = if list.is_empty() {
        Some(ConfigError::new("endpoints.list", "must not be empty"))
    } else if let Some(error) = list.iter().find_map(|it| it.check().err()) {
        Some(error)
    } else if list.iter().any(|it| !names.insert(it.name())) {
        let problem = "must not name an endpoint twice";
        Some(ConfigError::new("endpoints.list", problem))
    } else {
        None
    };
    (list, problem)
}
