//! A scripted HTTP service in memory.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::clock::{Sleep, Why};
use crate::deadline::later;
use crate::testing::ManualClock;
use crate::testing::reply::{Ending, Play, Reply};

/// A tower service that answers from a script, without sockets and without time passing by itself.
/// Clones play one script. The last reply is repeated for all requests after it.
///
/// It takes any `http::Request`, whose body it doesn't read. Broken connections are
/// [`io::Error`]s: closed is `UnexpectedEof`, reset is `ConnectionReset`; a refused stream and a
/// `GOAWAY`, which prove that nothing was processed, are `ConnectionRefused`.
///
/// # Examples
///
/// ```
/// use evenkeel::testing::{ManualClock, Reply, ScriptedService, block_on};
/// use evenkeel::{Pipeline, Rng};
/// use http::Request;
/// use tower::{ServiceBuilder, ServiceExt};
///
/// let clock = ManualClock::new();
/// let service = ScriptedService::new(&clock, [
///     Reply::status(503).header("retry-after", "2"),
///     Reply::reset(),
///     Reply::status(200),
/// ]);
/// let pipeline = Pipeline::http().clock(clock.clock()).rng(Rng::seeded(1));
/// let client = ServiceBuilder::new().layer(pipeline).service(service.clone());
///
/// let request = Request::get("http://service/orders").body(String::new()).unwrap();
/// let response = block_on(&clock, client.oneshot(request)).unwrap();
///
/// assert_eq!(response.status(), 200);
/// assert_eq!(service.seen().len(), 3);
/// assert!(clock.waits()[0].as_secs() >= 2);
/// ```
#[derive(Clone)]
pub struct ScriptedService {
    clock: ManualClock,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    replies: VecDeque<Reply>,
    seen: Vec<Seen>,
}

/// A request that a [`ScriptedService`] was called with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Seen {
    /// When, counted from the making of the clock.
    pub at: Duration,
    /// Its method.
    pub method: Method,
    /// Its target.
    pub uri: Uri,
    /// Its headers.
    pub headers: HeaderMap,
}

impl ScriptedService {
    /// Answers with `replies` in order; their delays are timed by `clock`.
    ///
    /// # Panics
    ///
    /// If there is no reply at all.
    pub fn new(clock: &ManualClock, replies: impl IntoIterator<Item = Reply>) -> Self {
        let replies: VecDeque<_> = replies.into_iter().collect();
        assert!(!replies.is_empty(), "a script has at least one reply");
        let seen = Vec::new();
        Self {
            clock: clock.clone(),
            shared: Arc::new(Mutex::new(Shared { replies, seen })),
        }
    }

    /// The requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.shared().seen.clone()
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Service<Request<B>> for ScriptedService {
    type Response = Response<ScriptedBody>;
    type Error = io::Error;
    type Future = Scripted;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Scripted {
        let at = self.clock.elapsed();
        let (parts, _) = request.into_parts();
        let mut shared = self.shared();
        shared.seen.push(Seen {
            at,
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
        });
        let reply = if shared.replies.len() > 1 {
            shared.replies.pop_front()
        } else {
            shared.replies.front().cloned()
        };
        drop(shared);
        let (delay, play) = reply.expect("there is always a last reply").into_parts();
        let end = later(self.clock.now(), delay);
        Scripted {
            delay: (!delay.is_zero()).then(|| self.clock.clock().sleep_until(end, Why::Other)),
            play: Some(play),
        }
    }
}

impl fmt::Debug for ScriptedService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedService")
            .field("seen", &self.shared().seen.len())
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// The future of a [`ScriptedService`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless you .await or poll them"]
    pub struct Scripted {
        #[pin]
        delay: Option<Sleep>,
        play: Option<Play>,
    }
}

impl Future for Scripted {
    type Output = io::Result<Response<ScriptedBody>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(delay) = this.delay.as_mut().as_pin_mut() {
            ready!(delay.poll(cx));
            this.delay.set(None);
        }
        let kind = match this.play.take() {
            Some(Play::Answer(answer)) => {
                let (cut, data) = match answer.ending {
                    Ending::Cut(sent) if sent < answer.body.len() => {
                        (true, answer.body.slice(..sent))
                    }
                    _ => (false, answer.body),
                };
                let data = (!data.is_empty()).then_some(data);
                let mut response = Response::new(ScriptedBody { data, cut });
                *response.status_mut() = answer.status;
                *response.headers_mut() = answer.headers;
                return Poll::Ready(Ok(response));
            }
            Some(Play::Stall) | None => {
                *this.play = Some(Play::Stall);
                return Poll::Pending;
            }
            Some(Play::Close) => io::ErrorKind::UnexpectedEof,
            Some(Play::GoAway | Play::RefuseStream) => io::ErrorKind::ConnectionRefused,
            Some(Play::Reset) => io::ErrorKind::ConnectionReset,
        };
        Poll::Ready(Err(kind.into()))
    }
}

/// The body of a [`ScriptedService`]'s response.
#[derive(Clone, Debug)]
pub struct ScriptedBody {
    data: Option<Bytes>,
    cut: bool,
}

impl Body for ScriptedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(data) = self.data.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let cut = std::mem::take(&mut self.cut);
        Poll::Ready(cut.then(|| Err(io::ErrorKind::UnexpectedEof.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && !self.cut
    }

    fn size_hint(&self) -> SizeHint {
        match &self.data {
            Some(data) if !self.cut => SizeHint::with_exact(data.len() as u64),
            None if !self.cut => SizeHint::with_exact(0),
            _ => SizeHint::new(),
        }
    }
}
