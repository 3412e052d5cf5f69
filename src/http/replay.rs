//! Sending a body twice that can't be cloned.

use std::error::Error as StdError;
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http::{Extensions, Request};
use http_body::{Body, Frame, SizeHint};

/// A body that keeps what it sent, so that it can be sent again.
///
/// The first copy streams the body through and remembers it, up to a cap; every clone begins from
/// the start. A body that turns out to be longer than the cap is not kept and not failed either:
/// it is sent once, and the call isn't repeated. Nor are more chunks kept than one for every 64
/// bytes of the cap, so that a stream of single bytes stays bounded too.
///
/// One copy is read at a time. A server may answer before it has read the whole request, and the
/// connection goes on sending while the next attempt has begun: as soon as a newer copy is read,
/// older ones end with an error.
///
/// # Examples
///
/// ```
/// use evenkeel::http::Replay;
/// use http::Request;
///
/// # fn streamed() -> String { "body".to_owned() }
/// let request = Request::post("/orders").body(streamed()).unwrap();
/// let request = Replay::wrap(request, Replay::<String>::DEFAULT_LIMIT);
/// let again: Request<Replay<String>> = request.clone();
/// # let _ = again;
/// ```
///
/// In a tower stack `evenkeel::tower::ReplayLayer` does it for every request.
pub struct Replay<B> {
    shared: Arc<Shared<B>>,
    place: Place,
}

impl<B> Replay<B> {
    /// 64 KiB: most API calls, and a bound on what a thousand waiting calls hold.
    pub const DEFAULT_LIMIT: usize = 64 * 1024;

    /// Makes a request's body replayable if it is no longer than `limit` bytes.
    pub fn wrap(request: Request<B>, limit: usize) -> Request<Self>
    where
        B: Body,
    {
        let (mut parts, body) = request.into_parts();
        let size = body.size_hint();
        // A body that says it is too long isn't even begun to be kept.
        let too_long = usize::try_from(size.lower()).map_or(true, |size| size > limit);
        let lost = Lost(Arc::new(AtomicU8::new(if too_long { LOST } else { KEPT })));
        parts.extensions.insert(lost.clone());
        let rest = if body.is_end_stream() {
            Rest::Ended
        } else {
            Rest::Body(Box::pin(body))
        };
        let tape = Tape {
            limit,
            rest,
            frames: Vec::new(),
            size: 0,
            over: too_long,
            lost,
            newest: 0,
            unread: 1,
            waker: None,
        };
        let shared = Shared {
            size,
            tape: Mutex::new(tape),
        };
        let body = Self {
            shared: Arc::new(shared),
            place: Place::default(),
        };
        Request::from_parts(parts, body)
    }
}

impl<B> Clone for Replay<B> {
    /// Another copy, from the start.
    fn clone(&self) -> Self {
        self.shared.tape().unread += 1;
        Self {
            shared: Arc::clone(&self.shared),
            place: Place::default(),
        }
    }
}

impl<B> Drop for Replay<B> {
    fn drop(&mut self) {
        // The waker is dropped after the lock is given back: it may own a task, and that a copy.
        let _waker = self.shared.tape().leave(&self.place);
    }
}

impl<B> Body for Replay<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.place.generation == 0 {
            let older = this.shared.tape().begin(&mut this.place)?;
            older.into_iter().for_each(Waker::wake);
        }
        // Each line takes the lock and gives it back; only then is anything woken or dropped.
        let turn = this.shared.tape().turn(&mut this.place, cx.waker());
        let turn = match turn {
            Turn::Read(body) => this.read(body, cx),
            turn => turn,
        };
        match turn {
            Turn::Fail(error) => Poll::Ready(Some(Err(error))),
            Turn::Give(frame, passed) => {
                drop(passed);
                let data = frame.as_ref().and_then(Frame::data_ref);
                this.place.given += data.map_or(0, |data| data.len() as u64);
                Poll::Ready(frame.map(Ok))
            }
            Turn::Read(_) => unreachable!("it was just read"),
            Turn::Wait(stale) => {
                drop(stale);
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.shared.tape().is_ended_at(&self.place)
    }

    /// The same for every copy, however much of the body is known by then: a retry is framed like
    /// the first attempt.
    fn size_hint(&self) -> SizeHint {
        let (size, given) = (&self.shared.size, self.place.given);
        let mut left = SizeHint::new();
        if let Some(upper) = size.upper() {
            left.set_upper(upper.saturating_sub(given));
        }
        left.set_lower(size.lower().saturating_sub(given));
        left
    }
}

impl<B> Replay<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    /// Reads on where nobody has read yet.
    fn read(&mut self, mut body: Pin<Box<B>>, cx: &mut Context<'_>) -> Turn<B> {
        let on_panic = OnPanic(&self.shared);
        let polled = body.as_mut().poll_frame(cx).map_err(Into::into);
        let polled =
            polled.map_ok(|frame| frame.map_data(|mut it| it.copy_to_bytes(it.remaining())));
        let ended = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => true,
            _ => body.is_end_stream(),
        };
        let rest = if ended { Rest::Ended } else { Rest::Body(body) };
        mem::forget(on_panic);

        let mut tape = self.shared.tape();
        // A newer copy's, which began meanwhile and waits for the rest; or this one's own, of old.
        let waker = tape.waker.take();
        let superseded = tape.newest != self.place.generation;
        let pending = polled.is_pending();
        tape.put_back(rest, polled);
        let turn = if pending && !superseded {
            // The body will wake this copy, and so will a newer one.
            tape.waker = Some(cx.waker().clone());
            Turn::Wait(None)
        } else {
            tape.turn(&mut self.place, cx.waker())
        };
        drop(tape);
        if superseded {
            waker.into_iter().for_each(Waker::wake);
        }
        turn
    }
}

impl<B> fmt::Debug for Replay<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost = self.shared.tape().lost.is_lost();
        f.debug_struct("Replay")
            .field("lost", &lost)
            .finish_non_exhaustive()
    }
}

struct Shared<B> {
    /// What the body said of its size before anything was read.
    size: SizeHint,
    tape: Mutex<Tape<B>>,
}

impl<B> Shared<B> {
    fn tape(&self) -> MutexGuard<'_, Tape<B>> {
        // Whole at every step; see `crate::sync::lock`.
        self.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves an error where a panic would leave a body that never comes back.
struct OnPanic<'a, B>(&'a Shared<B>);

impl<B> Drop for OnPanic<'_, B> {
    fn drop(&mut self) {
        let mut tape = self.0.tape();
        tape.rest = Rest::Failed(None);
        tape.lost.0.store(LOST, Ordering::Release);
        let waker = tape.waker.take();
        drop(tape);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// Where a copy is.
#[derive(Debug, Default)]
struct Place {
    /// Copies are numbered from 1 in the order in which they are first read. 0 wasn't read yet.
    generation: u64,
    /// The next frame of the tape.
    next: usize,
    /// How many bytes it gave.
    given: u64,
}

/// What was read of a body, and the rest of it.
struct Tape<B> {
    limit: usize,
    rest: Rest<B>,
    frames: Vec<Frame<Bytes>>,
    size: usize,
    /// More was read than is kept.
    over: bool,
    lost: Lost,
    /// The newest copy that was read. It alone may go on.
    newest: u64,
    /// How many copies weren't read yet.
    unread: usize,
    /// The newest copy's, while it waits.
    waker: Option<Waker>,
}

enum Rest<B> {
    Body(Pin<Box<B>>),
    Ended,
    /// With what, until that was told.
    Failed(Option<BoxError>),
    /// Some copy polls it, so that no lock is held meanwhile.
    TakenOut,
}

/// What a copy does next. What is to be dropped goes along, until the lock has been given back.
enum Turn<B> {
    Fail(BoxError),
    /// A frame or the end; and what is no longer kept.
    Give(Option<Frame<Bytes>>, Vec<Frame<Bytes>>),
    Read(Pin<Box<B>>),
    /// And a waker of old.
    Wait(Option<Waker>),
}

impl<B> Tape<B> {
    /// A copy is read for the first time, and supersedes all others. Returns whom to tell.
    fn begin(&mut self, place: &mut Place) -> Result<Option<Waker>, NotKept> {
        // Of a body that is never kept, whoever reads first reads all.
        if self.newest > 0 && self.lost.is_lost() {
            return Err(NotKept);
        }
        self.lost.begin();
        self.unread -= 1;
        self.newest += 1;
        place.generation = self.newest;
        Ok(self.waker.take())
    }

    fn turn(&mut self, place: &mut Place, waker: &Waker) -> Turn<B> {
        if place.generation != self.newest {
            return Turn::Fail(Box::new(Superseded));
        }
        if let Some(frame) = self.frames.get(place.next) {
            place.next += 1;
            if !self.over || place.next < self.frames.len() {
                return Turn::Give(Some(copy_of(frame)), Vec::new());
            }
            return self.pass_the_cap(place);
        }
        match mem::replace(&mut self.rest, Rest::TakenOut) {
            Rest::Body(body) => Turn::Read(body),
            Rest::Ended => {
                self.rest = Rest::Ended;
                Turn::Give(None, Vec::new())
            }
            Rest::Failed(error) if self.lost.lose(self.unread) => {
                self.rest = Rest::Failed(None);
                Turn::Fail(error.unwrap_or_else(|| Box::new(Broken)))
            }
            Rest::Failed(error) => {
                self.rest = Rest::Failed(error);
                self.give_way()
            }
            Rest::TakenOut => Turn::Wait(self.waker.replace(waker.clone())),
        }
    }

    /// The newest copy has read more than is kept: it goes on alone.
    fn pass_the_cap(&mut self, place: &mut Place) -> Turn<B> {
        if !self.lost.lose(self.unread) {
            return self.give_way();
        }
        place.next = 0;
        let frame = self.frames.pop();
        Turn::Give(frame, mem::take(&mut self.frames))
    }

    /// Leaves what there is to a copy that was promised it and is about to be read.
    fn give_way(&mut self) -> Turn<B> {
        self.newest += 1;
        Turn::Fail(Box::new(Superseded))
    }

    fn put_back(&mut self, rest: Rest<B>, polled: Poll<Option<Result<Frame<Bytes>, BoxError>>>) {
        self.rest = rest;
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                let data = frame.data_ref().map(Bytes::len);
                self.frames.push(frame);
                if let Some(len) = data {
                    let most_chunks = (self.limit / CHUNK_COST).max(1);
                    self.size = self.size.saturating_add(len);
                    self.over |= self.size > self.limit || self.frames.len() > most_chunks;
                }
            }
            Poll::Ready(Some(Err(error))) => self.rest = Rest::Failed(Some(error)),
            Poll::Ready(None) | Poll::Pending => {}
        }
    }

    fn is_ended_at(&self, place: &Place) -> bool {
        let has_tape = place.generation == self.newest || !self.lost.is_lost();
        has_tape && place.next >= self.frames.len() && matches!(self.rest, Rest::Ended)
    }

    /// A copy is dropped.
    fn leave(&mut self, place: &Place) -> Option<Waker> {
        if place.generation == 0 {
            self.unread -= 1;
        }
        (place.generation == self.newest).then(|| self.waker.take())?
    }
}

fn copy_of(frame: &Frame<Bytes>) -> Frame<Bytes> {
    match frame.trailers_ref() {
        Some(trailers) => Frame::trailers(trailers.clone()),
        None => Frame::data(frame.data_ref().cloned().unwrap_or_default()),
    }
}

/// In the extensions of a request with a [`Replay`] body: whether it can be sent again.
#[derive(Clone, Debug)]
struct Lost(Arc<AtomicU8>);

const KEPT: u8 = 0;
/// Kept, and somebody who relies on it has been told so since the newest copy began.
const PROMISED: u8 = 1;
const LOST: u8 = 2;

impl Lost {
    fn is_lost(&self) -> bool {
        self.0.load(Ordering::Acquire) == LOST
    }

    fn promise(&self) -> bool {
        self.change(KEPT, PROMISED) != LOST
    }

    fn begin(&self) {
        self.change(PROMISED, KEPT);
    }

    /// Whether it is lost now. Not if that was promised to one of the `unread` copies.
    fn lose(&self, unread: usize) -> bool {
        if unread == 0 {
            self.0.store(LOST, Ordering::Release);
            return true;
        }
        self.change(KEPT, LOST) != PROMISED
    }

    /// What it was before.
    fn change(&self, from: u8, to: u8) -> u8 {
        let done = (self.0).compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        done.unwrap_or_else(|was| was)
    }
}

/// Asked when an attempt has failed. A yes is a promise: while a copy is there that wasn't read
/// yet, the failed attempt, if its connection still sends, can't use up what the next one needs.
pub(super) fn is_replayable(extensions: &Extensions) -> bool {
    extensions.get::<Lost>().is_none_or(Lost::promise)
}

type BoxError = Box<dyn StdError + Send + Sync>;

/// A copy was read though the body had not been kept.
#[derive(Debug)]
struct NotKept;

impl fmt::Display for NotKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("request body was longer than what is kept for replay")
    }
}

impl StdError for NotKept {}

/// An older copy was read on.
#[derive(Debug)]
struct Superseded;

impl fmt::Display for Superseded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("superseded by a newer attempt")
    }
}

impl StdError for Superseded {}

/// A copy was read on after the body panicked or failed.
#[derive(Debug)]
struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("request body is broken")
    }
}

impl StdError for Broken {}

/// About what keeping a chunk costs beside its bytes.
const CHUNK_COST: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;
    use std::thread;

    use http::HeaderMap;

    use super::*;

    type Slot<T> = Arc<Mutex<Option<T>>>;

    /// Chunks one by one, with a pause before each.
    struct Slow {
        chunks: VecDeque<&'static str>,
        paused: bool,
        trailers: Option<HeaderMap>,
    }

    impl Body for Slow {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.paused = !self.paused;
            if self.paused {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(chunk) = self.chunks.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from(chunk)))));
            }
            Poll::Ready(self.trailers.take().map(|it| Ok(Frame::trailers(it))))
        }
    }

    fn slow(chunks: &[&'static str], limit: usize) -> Request<Replay<Slow>> {
        let body = Slow {
            chunks: chunks.iter().copied().collect(),
            paused: false,
            trailers: Some(HeaderMap::new()),
        };
        Replay::wrap(Request::new(body), limit)
    }

    /// Reads at most `polls` polls' worth; the data, and whether it ended well.
    fn read(body: &mut Replay<Slow>, polls: usize) -> (String, Option<bool>) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut data = String::new();
        for _ in 0..polls {
            match Pin::new(&mut *body).poll_frame(&mut cx) {
                Poll::Pending => {}
                Poll::Ready(None) => return (data, Some(true)),
                Poll::Ready(Some(Err(_))) => return (data, Some(false)),
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(chunk) = frame.data_ref() {
                        data.push_str(std::str::from_utf8(chunk).expect("text"));
                    }
                }
            }
        }
        (data, None)
    }

    const ALL: usize = 100;

    #[test]
    fn every_copy_gives_the_whole_body_wherever_the_last_one_was_dropped() {
        for polls in 0..12 {
            let request = slow(&["one ", "two ", "three"], 1000);
            let mut first = request.clone().into_body();
            let _ = read(&mut first, polls);
            drop(first);
            assert!(is_replayable(request.extensions()));
            for _ in 0..2 {
                let mut again = request.clone().into_body();
                assert_eq!(
                    read(&mut again, ALL),
                    ("one two three".to_owned(), Some(true))
                );
            }
        }
    }

    #[test]
    fn a_body_at_the_cap_is_kept_and_one_past_it_is_sent_once() {
        let long: &'static str = "x".repeat(100).leak();
        for (limit, kept) in [(200, true), (199, false)] {
            let request = slow(&[long, long], limit);
            let mut first = request.clone().into_body();
            let (data, end) = read(&mut first, ALL);
            assert_eq!((data.len(), end), (200, Some(true)));
            assert_eq!(is_replayable(request.extensions()), kept);
            let mut again = request.into_body();
            assert_eq!(read(&mut again, ALL).1, Some(kept));
        }
    }

    #[test]
    fn a_body_that_says_it_is_too_long_is_sent_once_without_being_kept() {
        let request = Replay::wrap(Request::new("x".repeat(101)), 100);
        assert!(!is_replayable(request.extensions()));
        let mut body = request.into_body();
        let mut cx = Context::from_waker(Waker::noop());
        let frame = Pin::new(&mut body).poll_frame(&mut cx);
        assert!(matches!(frame, Poll::Ready(Some(Ok(_)))));
        assert!(body.shared.tape().frames.is_empty());
    }

    #[test]
    fn the_size_is_told_before_and_after_the_first_reading() {
        let request = Replay::wrap(Request::new("four".to_owned()), 100);
        assert_eq!(request.body().size_hint().exact(), Some(4));
        let mut cx = Context::from_waker(Waker::noop());
        let mut first = request.clone().into_body();
        assert!(Pin::new(&mut first).poll_frame(&mut cx).is_ready());
        assert_eq!(first.size_hint().exact(), Some(0));
        assert!(first.is_end_stream());
        assert_eq!(request.body().size_hint().exact(), Some(4));
    }

    #[test]
    fn a_flood_of_single_bytes_stays_bounded() {
        let request = slow(&["x"; 40], 32 * CHUNK_COST);
        let (data, _) = read(&mut request.clone().into_body(), 1000);
        assert_eq!(data.len(), 40);
        assert!(!is_replayable(request.extensions()));
    }

    #[test]
    fn every_copy_gives_the_trailers_even_if_the_first_stopped_at_them() {
        let request = slow(&["one"], 1000);
        let mut first = request.clone().into_body();
        while !matches!(poll(&mut first), Poll::Ready(Some(Ok(frame))) if frame.is_trailers()) {}
        assert!(first.is_end_stream());
        drop(first);
        for _ in 0..2 {
            let mut again = request.clone().into_body();
            assert_eq!(text(poll(&mut again)), "one");
            assert!(!again.is_end_stream());
            let Poll::Ready(Some(Ok(frame))) = poll(&mut again) else {
                panic!("no trailers");
            };
            assert!(frame.is_trailers() && again.is_end_stream());
            assert!(matches!(poll(&mut again), Poll::Ready(None)));
        }
    }

    #[test]
    fn an_older_copy_ends_with_an_error_and_is_woken_to_see_it() {
        let (hand, request) = by_hand(1000);
        let (mut old, mut new) = (request.clone().into_body(), request.into_body());
        let (told_old, told_new) = (Told::new(), Told::new());
        hand.give("one");
        assert_eq!(text(told_old.poll(&mut old)), "one");
        assert!(told_old.poll(&mut old).is_pending());

        assert_eq!(text(told_new.poll(&mut new)), "one");
        assert_eq!(told_old.times(), 1);
        assert!(error(told_old.poll(&mut old)).is::<Superseded>());
        assert!(!old.is_end_stream());

        assert!(told_new.poll(&mut new).is_pending());
        drop(old);
        hand.give("two");
        assert_eq!(told_new.times(), 1);
        assert_eq!(text(told_new.poll(&mut new)), "two");
        hand.end();
        assert!(matches!(told_new.poll(&mut new), Poll::Ready(None)));
    }

    #[test]
    fn a_copy_that_begins_while_another_reads_is_woken_and_gets_what_that_one_read() {
        // The inner body lets the newer copy begin in the middle of its own poll.
        struct Meddling(Slot<(Replay<Self>, Arc<Told>)>, Poll<&'static str>);
        impl Body for Meddling {
            type Data = Bytes;
            type Error = Infallible;
            fn poll_frame(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
                let Some((mut new, told)) = self.0.lock().unwrap().take() else {
                    return Poll::Ready(None);
                };
                assert!(told.poll(&mut new).is_pending());
                *self.0.lock().unwrap() = Some((new, told));
                self.1.map(|it| Some(Ok(Frame::data(Bytes::from(it)))))
            }
        }
        for polled in [Poll::Ready("one"), Poll::Pending] {
            let slot = Arc::new(Mutex::new(None));
            // The chunk is over the cap, and kept all the same: the newer copy needs it.
            let request = Replay::wrap(Request::new(Meddling(Arc::clone(&slot), polled)), 2);
            let told = Told::new();
            *slot.lock().unwrap() = Some((request.clone().into_body(), Arc::clone(&told)));

            assert!(error(poll(&mut request.clone().into_body())).is::<Superseded>());
            assert_eq!(told.times(), 1);
            let (mut new, _) = slot.lock().unwrap().take().expect("put back");
            if polled.is_ready() {
                assert!(!request.body().shared.tape().lost.is_lost());
                assert_eq!(text(told.poll(&mut new)), "one");
            }
            assert!(matches!(told.poll(&mut new), Poll::Ready(None)));
        }
    }

    #[test]
    fn dropping_the_copy_that_waits_drops_its_waker() {
        let (_hand, request) = by_hand(1000);
        let told = Told::new();
        let mut copy = request.clone().into_body();
        assert!(told.poll(&mut copy).is_pending());
        drop(copy);
        assert!(request.body().shared.tape().waker.is_none());
    }

    #[test]
    fn the_newest_copy_passes_the_cap_and_goes_on_alone() {
        let (hand, request) = by_hand(5);
        let (mut old, mut new) = (request.clone().into_body(), request.clone().into_body());
        hand.give("one ");
        assert_eq!(text(poll(&mut old)), "one ");
        assert_eq!(text(poll(&mut new)), "one ");
        hand.give("two ");
        assert!(error(poll(&mut old)).is::<Superseded>());
        assert_eq!(text(poll(&mut new)), "two ");
        assert!(!is_replayable(request.extensions()));
        assert!(request.body().shared.tape().frames.is_empty());
        hand.give("three");
        hand.end();
        assert_eq!(text(poll(&mut new)), "three");
        assert!(new.is_end_stream());
        let mut late = request.into_body();
        assert!(!late.is_end_stream());
        assert!(error(poll(&mut late)).is::<NotKept>());
    }

    #[test]
    fn what_was_called_replayable_stays_so_until_the_next_copy_is_read() {
        let (hand, request) = by_hand(5);
        let (mut old, mut new) = (request.clone().into_body(), request.clone().into_body());
        hand.give("one ");
        assert_eq!(text(poll(&mut old)), "one ");
        assert!(is_replayable(request.extensions()));

        hand.give("two ");
        assert!(error(poll(&mut old)).is::<Superseded>());
        assert!(is_replayable(request.extensions()));
        hand.end();
        assert_eq!(text(poll(&mut new)), "one ");
        assert_eq!(text(poll(&mut new)), "two ");
        assert!(matches!(poll(&mut new), Poll::Ready(None)));
        assert!(!is_replayable(request.extensions()));
    }

    #[test]
    fn a_promise_to_nobody_does_not_break_the_copy_that_is_read() {
        let (hand, request) = by_hand(5);
        let (parts, mut only) = request.into_parts();
        hand.give("one ");
        assert_eq!(text(poll(&mut only)), "one ");
        assert!(is_replayable(&parts.extensions));
        hand.give("two ");
        assert_eq!(text(poll(&mut only)), "two ");
    }

    #[test]
    fn a_panic_of_the_body_is_an_error_for_the_copy_that_waits() {
        struct Panicking;
        impl Body for Panicking {
            type Data = Bytes;
            type Error = Infallible;
            fn poll_frame(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
                panic!("on purpose");
            }
        }
        let request = Replay::wrap(Request::new(Panicking), 1000);
        let mut first = request.clone().into_body();
        let caught = catch_unwind(AssertUnwindSafe(|| poll(&mut first).is_ready()));
        assert!(caught.is_err());
        assert!(!is_replayable(request.extensions()));
        assert!(!first.is_end_stream());
        assert!(error(poll(&mut first)).is::<Broken>());
        assert!(error(poll(&mut request.into_body())).is::<NotKept>());
    }

    #[test]
    fn the_body_s_own_error_reaches_the_copy_that_is_read() {
        struct Failing;
        impl Body for Failing {
            type Data = Bytes;
            type Error = fmt::Error;
            fn poll_frame(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, fmt::Error>>> {
                Poll::Ready(Some(Err(fmt::Error)))
            }
        }
        let request = Replay::wrap(Request::new(Failing), 1000);
        let mut first = request.clone().into_body();
        assert!(error(poll(&mut first)).is::<fmt::Error>());
        assert!(!is_replayable(request.extensions()));
        assert!(error(poll(&mut first)).is::<Broken>());
    }

    #[test]
    fn copies_on_two_threads_never_mix() {
        let chunks = ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "6 ", "7 ", "8 ", "9 "];
        let whole = chunks.concat();
        for round in 0..2000 {
            // Now and then the cap is in the middle.
            let limit = if round % 4 == 0 { 5 } else { 20 * CHUNK_COST };
            let request = slow(&chunks, limit);
            let (mut a, mut b) = (request.clone().into_body(), request.clone().into_body());
            let other = thread::spawn(move || (read(&mut a, usize::MAX), a.place.generation));
            let ours = (read(&mut b, usize::MAX), b.place.generation);
            let mut both = [ours, other.join().unwrap()];
            both.sort_by_key(|(_, generation)| *generation);
            for ((data, end), _) in &both {
                assert!(whole.starts_with(data), "{data}");
                assert!(*end == Some(false) || *data == whole, "{data}");
            }
            // A generation of 0: it came after all was lost.
            let newest = both.iter().max_by_key(|(_, generation)| *generation);
            assert_eq!(newest.unwrap().0.1, Some(true));
            if is_replayable(request.extensions()) {
                let third = read(&mut request.into_body(), usize::MAX);
                assert_eq!(third, (whole.clone(), Some(true)));
            }
        }
    }

    #[test]
    fn every_copy_is_framed_like_the_first() {
        let (hand, request) = by_hand(1000);
        let mut first = request.clone().into_body();
        hand.give("four");
        hand.end();
        assert_eq!(text(poll(&mut first)), "four");
        assert!(matches!(poll(&mut first), Poll::Ready(None)));
        let hint = request.body().size_hint();
        assert_eq!((hint.lower(), hint.upper()), (0, None));
        assert!(!request.body().is_end_stream() && first.is_end_stream());
    }

    /// A body of what the test gives, which remembers one waker only.
    #[derive(Clone, Default)]
    struct Hand(Arc<Mutex<Fed>>);

    /// What is to come, whether that is all, and who waits for it.
    type Fed = (VecDeque<&'static str>, bool, Option<Waker>);

    impl Hand {
        fn give(&self, chunk: &'static str) {
            self.0.lock().unwrap().0.push_back(chunk);
            self.wake();
        }

        fn end(&self) {
            self.0.lock().unwrap().1 = true;
            self.wake();
        }

        fn wake(&self) {
            let waker = self.0.lock().unwrap().2.take();
            waker.into_iter().for_each(Waker::wake);
        }
    }

    impl Body for Hand {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let mut state = self.0.lock().unwrap();
            if let Some(chunk) = state.0.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from(chunk)))));
            }
            if state.1 {
                return Poll::Ready(None);
            }
            state.2 = Some(cx.waker().clone());
            Poll::Pending
        }

        fn is_end_stream(&self) -> bool {
            let state = self.0.lock().unwrap();
            state.0.is_empty() && state.1
        }
    }

    fn by_hand(limit: usize) -> (Hand, Request<Replay<Hand>>) {
        let hand = Hand::default();
        (hand.clone(), Replay::wrap(Request::new(hand), limit))
    }

    /// Counts how often it was woken.
    struct Told(AtomicUsize);

    impl Told {
        fn new() -> Arc<Self> {
            Arc::new(Self(AtomicUsize::new(0)))
        }

        fn times(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }

        fn poll<B>(self: &Arc<Self>, body: &mut Replay<B>) -> Polled
        where
            B: Body,
            B::Error: Into<BoxError>,
        {
            let waker = Waker::from(Arc::clone(self));
            Pin::new(body).poll_frame(&mut Context::from_waker(&waker))
        }
    }

    impl Wake for Told {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

    fn poll<B>(body: &mut Replay<B>) -> Polled
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    #[track_caller]
    fn text(polled: Polled) -> String {
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                let data = frame.into_data().expect("data");
                String::from_utf8(data.into()).expect("text")
            }
            other => panic!("no data: {other:?}"),
        }
    }

    #[track_caller]
    fn error(polled: Polled) -> BoxError {
        match polled {
            Poll::Ready(Some(Err(error))) => error,
            other => panic!("no error: {other:?}"),
        }
    }
}
