//! Sending a body twice that can't be cloned.

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http::{Extensions, HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};

/// A body that keeps what it sent, so that it can be sent again.
///
/// The first copy streams the body through and remembers it, up to a cap; every clone begins from
/// the start. A body that turns out to be longer than the cap is not kept and not failed either:
/// it is sent once, and the call isn't repeated. Nor are more chunks kept than one for every 64
/// bytes of the cap, so that a stream of single bytes stays bounded too.
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
    /// The next remembered chunk to give.
    next: usize,
    /// This copy was at the end of what was remembered when remembering ended.
    leads: bool,
    gave_trailers: bool,
}

struct Shared<B> {
    limit: usize,
    /// Nothing can be sent again. Also in the request's extensions.
    lost: Arc<AtomicBool>,
    tape: Mutex<Tape<B>>,
}

struct Tape<B> {
    /// What hasn't been read yet. Taken out while it is polled, so that no lock is held then.
    rest: Rest<B>,
    chunks: Vec<Bytes>,
    size: usize,
    trailers: Option<HeaderMap>,
    /// Copies that found the rest taken out.
    waiting: Vec<Waker>,
}

enum Rest<B> {
    Body(Pin<Box<B>>),
    Ended,
    TakenOut,
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
        let body = Self::new(body, limit);
        parts.extensions.insert(Lost(Arc::clone(&body.shared.lost)));
        Request::from_parts(parts, body)
    }

    fn new(body: B, limit: usize) -> Self
    where
        B: Body,
    {
        // A body that says it is too long isn't even begun to be kept.
        let lost = usize::try_from(body.size_hint().lower()).map_or(true, |size| size > limit);
        let rest = if body.is_end_stream() {
            Rest::Ended
        } else {
            Rest::Body(Box::pin(body))
        };
        let tape = Tape {
            rest,
            chunks: Vec::new(),
            size: 0,
            trailers: None,
            waiting: Vec::new(),
        };
        let shared = Shared {
            limit,
            lost: Arc::new(AtomicBool::new(lost)),
            tape: Mutex::new(tape),
        };
        Self {
            shared: Arc::new(shared),
            next: 0,
            leads: lost,
            gave_trailers: false,
        }
    }
}

impl<B> Shared<B> {
    fn tape(&self) -> MutexGuard<'_, Tape<B>> {
        // Whole at every step; see `crate::sync::lock`.
        self.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    fn lose(&self) {
        self.lost.store(true, Ordering::Release);
    }
}

impl<B> Clone for Replay<B> {
    /// Another copy, from the start.
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            next: 0,
            // Of a body that is never kept, whoever reads first reads all.
            leads: self.leads && self.next == 0,
            gave_trailers: false,
        }
    }
}

impl<B> Body for Replay<B>
where
    B: Body,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let mut tape = this.shared.tape();
        if this.shared.is_lost() && !this.leads {
            return Poll::Ready(Some(Err(Box::new(NotKept))));
        }
        if let Some(chunk) = tape.chunks.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        let mut body = match std::mem::replace(&mut tape.rest, Rest::TakenOut) {
            Rest::Body(body) => body,
            Rest::Ended => {
                tape.rest = Rest::Ended;
                if this.gave_trailers {
                    return Poll::Ready(None);
                }
                this.gave_trailers = true;
                let trailers = tape.trailers.clone();
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            }
            Rest::TakenOut => {
                tape.waiting.push(cx.waker().clone());
                return Poll::Pending;
            }
        };
        drop(tape);

        let polled = body.as_mut().poll_frame(cx);
        let ended = matches!(polled, Poll::Ready(None)) || body.is_end_stream();
        let mut tape = this.shared.tape();
        tape.rest = if ended { Rest::Ended } else { Rest::Body(body) };
        let waiting = std::mem::take(&mut tape.waiting);
        drop(tape);
        waiting.into_iter().for_each(Waker::wake);

        match ready!(polled) {
            Some(Ok(frame)) => Poll::Ready(Some(Ok(this.keep(frame)))),
            Some(Err(error)) => {
                this.shared.lose();
                this.leads = true;
                Poll::Ready(Some(Err(error.into())))
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        let tape = self.shared.tape();
        let trailers = tape.trailers.is_some() && !self.gave_trailers;
        self.next >= tape.chunks.len() && matches!(tape.rest, Rest::Ended) && !trailers
    }

    fn size_hint(&self) -> SizeHint {
        let tape = self.shared.tape();
        let kept = tape.chunks.iter().skip(self.next);
        let kept: u64 = kept.map(|chunk| chunk.len() as u64).sum();
        let rest = match &tape.rest {
            Rest::Body(body) => body.size_hint(),
            Rest::Ended => SizeHint::with_exact(0),
            Rest::TakenOut => SizeHint::new(),
        };
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(kept));
        }
        hint.set_lower(rest.lower().saturating_add(kept));
        hint
    }
}

impl<B> Replay<B> {
    /// Remembers a frame that was just read from the body.
    fn keep<D: Buf>(&mut self, frame: Frame<D>) -> Frame<Bytes> {
        let frame = frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
        if self.shared.is_lost() {
            return frame;
        }
        let mut tape = self.shared.tape();
        if let Some(data) = frame.data_ref() {
            let size = tape.size + data.len();
            let most_chunks = (self.shared.limit / CHUNK_COST).max(1);
            if size > self.shared.limit || tape.chunks.len() == most_chunks {
                self.leads = true;
                self.shared.lose();
                tape.chunks = Vec::new();
                self.next = 0;
            } else {
                tape.size = size;
                tape.chunks.push(data.clone());
                self.next = tape.chunks.len();
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            tape.trailers = Some(trailers.clone());
            self.gave_trailers = true;
        }
        frame
    }
}

impl<B> fmt::Debug for Replay<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("lost", &self.shared.is_lost())
            .finish_non_exhaustive()
    }
}

/// A copy was read though the body had not been kept.
#[derive(Debug, thiserror::Error)]
#[error("request body was longer than what is kept for replay")]
struct NotKept;

/// In the extensions of a request with a [`Replay`] body: whether it can't be sent again.
#[derive(Clone, Debug)]
struct Lost(Arc<AtomicBool>);

pub(super) fn is_replayable(extensions: &Extensions) -> bool {
    let lost = extensions.get::<Lost>();
    !lost.is_some_and(|lost| lost.0.load(Ordering::Acquire))
}

/// About what keeping a chunk costs beside its bytes.
const CHUNK_COST: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use super::*;

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
        assert!(body.shared.tape().chunks.is_empty());
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
}
