//! One row of the table: a marker, whose it is, what it points to, and who says so.

use std::cell::Cell;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};

use super::text::Text;
use super::{Cause, Origin, Persistence, Symptoms};
use crate::http::evidence::{contains, proxy_error};
use crate::http::hints::list;
use crate::verdict::Processed;

/// A marker of a failure, and what it points to.
///
/// All of it is plain data that lives as long as the program, so a row can be a `const` or be made
/// at run time of constants. Weights are in decibans: 10 make a cause ten times as likely against
/// all others, 3 twice, and negative ones the less.
///
/// # Examples
///
/// ```
/// use evenkeel::diagnosis::{Cause, Origin, Signature, Signatures, Symptoms, Test};
/// use http::{HeaderMap, HeaderValue, StatusCode};
///
/// let shed = Signature::new("acme gateway: shed", "our runbook, page 7")
///     .by(Origin::Proxy("acme"))
///     .on(&[503])
///     .when(&[Test::HeaderIs("x-acme-why", "shed")])
///     .says(&[(Cause::Overload, 25)]);
/// let signatures = Signatures::new().with(shed);
///
/// let mut headers = HeaderMap::new();
/// headers.insert("x-acme-why", HeaderValue::from_static("shed"));
/// let symptoms = Symptoms::response(StatusCode::SERVICE_UNAVAILABLE, &headers);
/// let diagnosis = signatures.diagnose(&symptoms);
/// assert_eq!(diagnosis.cause(), Cause::Overload);
/// assert_eq!(diagnosis.origin(), Origin::Proxy("acme"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "a signature does nothing until it is in a table"]
pub struct Signature {
    pub(super) name: &'static str,
    pub(super) source: &'static str,
    pub(super) origin: Origin,
    pub(super) statuses: &'static [u16],
    pub(super) tests: &'static [Test],
    /// What its tests need to be there; see [`Facts::there`].
    needs: u64,
    pub(super) says: &'static [(Cause, i8)],
    pub(super) processed: Option<Processed>,
    pub(super) persistence: Persistence,
    pub(super) constant_hint: bool,
}

impl Signature {
    /// A row that says nothing yet. One without statuses and tests never holds.
    ///
    /// The name is what [`Evidence`](super::Evidence) shows; the source is for whoever doubts it.
    pub const fn new(name: &'static str, source: &'static str) -> Self {
        Self {
            name,
            source,
            origin: Origin::Unknown,
            statuses: &[],
            tests: &[],
            needs: 0,
            says: &[],
            processed: None,
            persistence: Persistence::Unknown,
            constant_hint: false,
        }
    }

    /// Who makes answers like this. Default: the row doesn't tell.
    pub const fn by(mut self, origin: Origin) -> Self {
        self.origin = origin;
        self
    }

    /// The only statuses it comes with. Default: any from 400.
    pub const fn on(mut self, statuses: &'static [u16]) -> Self {
        self.statuses = statuses;
        self
    }

    /// What has to hold, all of it.
    pub const fn when(mut self, tests: &'static [Test]) -> Self {
        self.tests = tests;
        self.needs = 0;
        let mut at = 0;
        while at < tests.len() {
            self.needs |= tests[at].needs();
            at += 1;
        }
        self
    }

    /// Which causes it speaks for, or against, and how much.
    pub const fn says(mut self, says: &'static [(Cause, i8)]) -> Self {
        self.says = says;
        self
    }

    /// Whether the application may have acted on the request. Default: the row doesn't tell.
    pub const fn processed(mut self, processed: Processed) -> Self {
        self.processed = Some(processed);
        self
    }

    /// How long it lasts. Default: the row doesn't tell.
    pub const fn lasts(mut self, persistence: Persistence) -> Self {
        self.persistence = persistence;
        self
    }

    /// Its `Retry-After` is the same whatever happened, so that it doesn't tell how
    /// [long it lasts](super::Diagnosis::persistence). The wait is kept all the same. Default: it tells.
    pub const fn constant_hint(mut self) -> Self {
        self.constant_hint = true;
        self
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Where it is known from.
    #[must_use]
    pub const fn source(&self) -> &'static str {
        self.source
    }

    /// Who makes answers like this.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// The causes it speaks for or against, in decibans.
    #[must_use]
    pub const fn weights(&self) -> &'static [(Cause, i8)] {
        self.says
    }

    /// Whether all is there that it asks for. Most rows ask for what isn't, and this is all that they cost.
    #[inline]
    pub(super) const fn may_match(&self, facts: &Facts<'_>) -> bool {
        self.needs & !facts.there == 0
    }

    pub(super) fn matches(&self, facts: &Facts<'_>) -> bool {
        if !self.may_match(facts) {
            return false;
        }
        let symptoms = facts.symptoms;
        let fits = match symptoms.status {
            // Where an answer broke off the status says nothing; see `Test::BrokenOff`.
            Some(status) if status.as_u16() < 400 => {
                symptoms.broken_off && self.tests.contains(&Test::BrokenOff)
            }
            Some(status) if self.statuses.is_empty() => {
                !self.tests.is_empty() && status.as_u16() >= 400
            }
            Some(status) => self.statuses.contains(&status.as_u16()),
            None => self.statuses.is_empty() && !self.tests.is_empty(),
        };
        fits && self.tests.iter().all(|test| test.holds(facts))
    }

    /// Whether this row, if its headers are there, is enough to end retries: what only somebody's
    /// hand can mend, said in a header.
    pub(super) fn ends_retries(&self) -> bool {
        let by_header = |test: &Test| {
            matches!(
                test,
                Test::Header(_)
                    | Test::HeaderAny(_)
                    | Test::HeaderHasNone(..)
                    | Test::HeaderHasOne(..)
                    | Test::NoHeader(_)
                    | Test::HeaderIs(..)
                    | Test::HeaderHas(..)
                    | Test::ProxyError(_)
            )
        };
        let certain =
            |(cause, weight): &(Cause, i8)| *cause == Cause::Configuration && *weight >= EXPLICIT;
        self.persistence == Persistence::Persistent
            && self.says.iter().any(certain)
            && !self.tests.is_empty()
            && self.tests.iter().all(by_header)
    }
}

/// What a row asks of a failure.
///
/// Header names and all texts that are looked for in bodies are written in lower case. White space in
/// a body is one space, at its beginning none.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Test {
    /// There may be a body: it isn't known that there is none.
    Body,
    /// The body begins with this, in whatever case.
    BodyBegins(&'static str),
    /// One of these stands in the body, in whatever case.
    BodyHas(&'static [&'static str]),
    /// The answer began and broke off.
    BrokenOff,
    /// The client's own error is of this kind: a label of
    /// [`classify_error`](crate::http::classify_error), or empty for one that nobody understands.
    Failed(&'static str),
    /// The header is there.
    Header(&'static str),
    /// One of these headers is there.
    HeaderAny(&'static [&'static str]),
    /// One of its values contains this text, in whatever case.
    HeaderHas(&'static str, &'static str),
    /// One of its values contains one of these texts, in whatever case.
    HeaderHasOne(&'static str, &'static [&'static str]),
    /// None of its values contains any of these texts, in whatever case.
    HeaderHasNone(&'static str, &'static [&'static str]),
    /// One of its values is this text, in whatever case.
    HeaderIs(&'static str, &'static str),
    /// Quota headers say that nothing is left.
    LimitUsedUp,
    /// It is known that there is no body.
    NoBody,
    /// The body doesn't have this, or isn't known.
    NoBodyHas(&'static str),
    /// The header isn't there.
    NoHeader(&'static str),
    /// The first error in `Proxy-Status` is one of these (RFC 9209).
    ProxyError(&'static [&'static str]),
    /// The reason phrase of HTTP/1, in whatever case. It is never there with HTTP/2.
    Reason(&'static str),
    /// The server asked for a wait of this many seconds, both ends included.
    RetryAfter(u64, u64),
    /// `Retry-After` is a date.
    RetryAfterDate,
    /// The failure came after about one of these times, in milliseconds.
    Waited(&'static [u32]),
    /// The failure came no sooner than this, in milliseconds.
    WaitedAtLeast(u32),
}

impl Test {
    /// What has to be there, or the test can't hold.
    const fn needs(&self) -> u64 {
        match *self {
            Self::BodyBegins(_) | Self::BodyHas(_) | Self::NoBody => BODY,
            Self::BrokenOff => BROKEN_OFF,
            Self::Failed(_) => FAILED,
            Self::Header(name)
            | Self::HeaderHas(name, _)
            | Self::HeaderHasOne(name, _)
            | Self::HeaderIs(name, _) => mark(name),
            Self::ProxyError(_) => mark("proxy-status"),
            Self::Reason(_) => REASON,
            Self::RetryAfter(..) => HINT,
            Self::RetryAfterDate => mark("retry-after"),
            Self::Waited(_) | Self::WaitedAtLeast(_) => ELAPSED,
            // One of several, or what isn't there.
            Self::Body
            | Self::HeaderAny(_)
            | Self::HeaderHasNone(..)
            | Self::LimitUsedUp
            | Self::NoBodyHas(_)
            | Self::NoHeader(_) => 0,
        }
    }

    fn holds(&self, facts: &Facts<'_>) -> bool {
        let symptoms = facts.symptoms;
        let body = facts.text.as_ref();
        match *self {
            Self::Body => !body.is_some_and(Text::is_empty),
            Self::BodyBegins(text) => body.is_some_and(|it| it.begins(text)),
            Self::BodyHas(texts) => body.is_some_and(|it| texts.iter().any(|text| it.has(text))),
            Self::BrokenOff => symptoms.broken_off,
            Self::Failed(label) => symptoms.failed == Some(label),
            Self::Header(name) => facts.has(name),
            Self::HeaderAny(names) => names.iter().any(|name| facts.has(name)),
            Self::HeaderHas(name, text) => facts.values(name).any(|it| contains(it, text)),
            Self::HeaderHasOne(name, texts) => {
                let has = |it| texts.iter().any(|text| contains(it, text));
                facts.values(name).any(has)
            }
            Self::HeaderHasNone(name, texts) => {
                let has = |it| texts.iter().any(|text| contains(it, text));
                !facts.values(name).any(has)
            }
            Self::HeaderIs(name, text) => facts
                .values(name)
                .any(|it| it.trim_ascii().eq_ignore_ascii_case(text.as_bytes())),
            Self::LimitUsedUp => symptoms.limit_used_up(),
            Self::NoBody => body.is_some_and(Text::is_empty),
            Self::NoBodyHas(text) => !body.is_some_and(|it| it.has(text)),
            Self::NoHeader(name) => !facts.has(name),
            Self::ProxyError(known) => {
                let error = facts.proxy_error;
                error.is_some_and(|error| known.iter().any(|it| error == it.as_bytes()))
            }
            Self::Reason(text) => symptoms
                .reason
                .is_some_and(|it| it.eq_ignore_ascii_case(text.as_bytes())),
            Self::RetryAfter(from, to) => facts
                .hint
                .is_some_and(|it| (from..=to).contains(&it.as_secs())),
            Self::RetryAfterDate => facts.values("retry-after").any(|it| {
                let it = it.trim_ascii();
                it.first().is_some_and(u8::is_ascii_alphabetic) && it.ends_with(b"GMT")
            }),
            Self::Waited(times) => symptoms.elapsed.is_some_and(|elapsed| {
                let is_about = |&time: &u32| is_about(elapsed.as_millis(), u128::from(time));
                times.iter().any(is_about)
            }),
            Self::WaitedAtLeast(least) => symptoms
                .elapsed
                .is_some_and(|elapsed| elapsed.as_millis() >= u128::from(least)),
        }
    }
}

/// Symptoms, and what is found out of them once for all rows.
pub(super) struct Facts<'a> {
    pub(super) symptoms: &'a Symptoms<'a>,
    /// The [marks](mark) of the headers that are there, and a bit for each other thing that is.
    there: u64,
    /// The name that was looked up last, and what was found: neighbouring rows ask for the same.
    looked_up: Cell<(&'static str, Found<'a>)>,
    /// The first error in `Proxy-Status`.
    proxy_error: Option<&'a [u8]>,
    /// What can be read of the body.
    pub(super) text: Option<Text>,
    /// What the server asked for, as a length of time from now.
    pub(super) hint: Option<Duration>,
}

impl<'a> Facts<'a> {
    pub(super) fn of(symptoms: &'a Symptoms<'a>) -> Self {
        let mut facts = Self::of_headers(symptoms);
        facts.text = symptoms.text();
        facts.hint = symptoms.hint();
        for (is_there, what) in [
            (facts.text.is_some(), BODY),
            (facts.hint.is_some(), HINT),
            (symptoms.broken_off, BROKEN_OFF),
            (symptoms.elapsed.is_some(), ELAPSED),
            (symptoms.failed.is_some(), FAILED),
            (symptoms.reason.is_some(), REASON),
        ] {
            facts.there |= if is_there { what } else { 0 };
        }
        facts
    }

    /// Of headers alone: nothing else is looked at.
    fn of_headers(symptoms: &'a Symptoms<'a>) -> Self {
        let names = symptoms.headers.iter().flat_map(|it| it.keys());
        let mut facts = Self {
            symptoms,
            there: names.fold(0, |there, name| there | mark(name.as_str())),
            looked_up: Cell::default(),
            proxy_error: None,
            text: None,
            hint: None,
        };
        facts.proxy_error = proxy_error(facts.fields("proxy-status"));
        facts
    }

    fn has(&self, name: &'static str) -> bool {
        self.find(name).first.is_some()
    }

    fn find(&self, name: &'static str) -> Found<'a> {
        if !self.may_have(name) {
            return Found::default();
        }
        let (last, found) = self.looked_up.get();
        if last == name {
            return found;
        }
        let all = self.symptoms.headers.map(|it| it.get_all(name));
        let mut all = all.into_iter().flatten();
        let found = Found {
            first: all.next(),
            several: all.next().is_some(),
        };
        self.looked_up.set((name, found));
        found
    }

    fn may_have(&self, name: &str) -> bool {
        self.there & mark(name) != 0
    }

    /// What stands in a header. Longer values are ignored unread, as everywhere, and so are those after
    /// the first few of one name: a hundred rows may look at each.
    fn values(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.fields(name).take(MOST_VALUES).filter_map(list)
    }

    fn fields(&self, name: &'static str) -> impl Iterator<Item = &'a HeaderValue> {
        let found = self.find(name);
        let headers = self.symptoms.headers.filter(|_| found.several);
        let others = headers.map(|it| it.get_all(name).iter().skip(1));
        found.first.into_iter().chain(others.into_iter().flatten())
    }
}

/// The values of one header.
#[derive(Clone, Copy, Default)]
struct Found<'a> {
    first: Option<&'a HeaderValue>,
    several: bool,
}

/// One bit out of 56 for the name of a header. Hundreds of rows ask for headers that aren't there, and
/// to look one up costs far more than this. The other bits are for what isn't a header.
#[inline]
const fn mark(name: &str) -> u64 {
    let bytes = name.as_bytes();
    if bytes.is_empty() {
        return 1;
    }
    // The middle and the end differ most: many begin with "x-".
    let middle = bytes[bytes.len() / 2].to_ascii_lowercase() as usize;
    let end = bytes[bytes.len() - 1].to_ascii_lowercase() as usize;
    1 << ((bytes.len() * 5 + middle * 3 + end) % 56)
}

const BODY: u64 = 1 << 56;
const BROKEN_OFF: u64 = 1 << 57;
const ELAPSED: u64 = 1 << 58;
const FAILED: u64 = 1 << 59;
const HINT: u64 = 1 << 60;
const REASON: u64 = 1 << 61;

/// Whether a failure after `elapsed` may be a time limit of `limit`, both in milliseconds.
///
/// It comes a little late by the way there and back and by timers that tick; hardly ever early, but
/// the clock that it is measured by starts a little later than the other.
pub(super) const fn is_about(elapsed: u128, limit: u128) -> bool {
    let (elapsed, limit) = (elapsed * 100, limit * 100);
    elapsed >= limit - limit / 100 && elapsed <= limit + limit / 100 + 2_500
}

/// Of one name: more than proxies in a row add.
const MOST_VALUES: usize = 8;

/// The weight of what a server says on purpose.
pub(super) const EXPLICIT: i8 = 30;

/// Whether a header says what only somebody's hand can mend.
pub(crate) fn ends_retries(
    rows: &mut dyn Iterator<Item = &Signature>,
    status: StatusCode,
    headers: &HeaderMap,
) -> bool {
    let symptoms = Symptoms::response(status, headers);
    let facts = Facts::of_headers(&symptoms);
    rows.filter(|row| row.may_match(&facts) && row.ends_retries())
        .any(|row| row.matches(&facts))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use proptest::prelude::*;

    use super::*;
    use crate::diagnosis::signatures::TABLE;

    proptest! {
        #[test]
        fn a_header_is_found_wherever_it_is(
            there in prop::collection::vec("[a-c-]{1,3}", 0..9),
            asked in prop::collection::vec("[a-cA-C-]{0,3}", 1..4),
        ) {
            let mut headers = HeaderMap::new();
            for (value, name) in there.iter().enumerate() {
                headers.append(name.parse::<HeaderName>().unwrap(), value.into());
            }
            let symptoms = Symptoms::response(StatusCode::BAD_GATEWAY, &headers);
            let facts = Facts::of_headers(&symptoms);
            for asked in asked {
                let asked: &'static str = asked.leak();
                prop_assert_eq!(facts.has(asked), headers.contains_key(asked));
                let fields = headers.get_all(asked).iter().take(MOST_VALUES);
                let fields: Vec<_> = fields.map(HeaderValue::as_bytes).collect();
                prop_assert_eq!(facts.values(asked).collect::<Vec<_>>(), fields);
            }
        }

        #[test]
        fn a_row_is_passed_over_only_if_one_of_its_tests_does_not_hold(
            status in prop_oneof![Just(429_u16), Just(500), Just(502), Just(503), Just(504)],
            row in 0_usize..300,
            body in prop::option::of(prop_oneof![Just(String::new()), "[ -~]{0,20}"]),
            elapsed in prop::option::of(0..70_000_u64),
            reason in any::<bool>(),
            broken_off in any::<bool>(),
        ) {
            // The headers that some row asks for, so that its tests come close to hold.
            let rows: Vec<_> = TABLE.iter().copied().flatten().collect();
            let wanted = rows[row % rows.len()];
            let mut headers = HeaderMap::new();
            let mut page = body.map(String::into_bytes);
            for test in wanted.tests {
                let (name, value) = match *test {
                    Test::Header(name) => (name, "x"),
                    Test::HeaderAny(names) => (names[0], "x"),
                    Test::HeaderHas(name, text) | Test::HeaderIs(name, text) => (name, text),
                    Test::HeaderHasOne(name, texts) => (name, texts[0]),
                    Test::RetryAfter(0, _) => ("retry-after", "0"),
                    Test::RetryAfterDate => ("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"),
                    Test::BodyBegins(text) => {
                        page = Some(text.into());
                        continue;
                    }
                    Test::BodyHas(texts) => {
                        page = Some(texts[0].into());
                        continue;
                    }
                    _ => continue,
                };
                headers.insert(
                    name.parse::<HeaderName>().unwrap(),
                    HeaderValue::from_static(value),
                );
            }
            let status = StatusCode::from_u16(status).unwrap();
            let mut symptoms = Symptoms::response(status, &headers);
            symptoms.broken_off = broken_off;
            symptoms.elapsed = elapsed.map(Duration::from_millis);
            symptoms.reason = reason.then_some(b"Service Unavailable".as_slice());
            if let Some(page) = &page {
                symptoms = symptoms.body(page);
            }
            let facts = Facts::of(&symptoms);
            for row in rows {
                let holds = row.tests.iter().all(|test| test.holds(&facts));
                prop_assert!(row.may_match(&facts) || !holds, "{}", row.name);
            }
        }
    }
}
