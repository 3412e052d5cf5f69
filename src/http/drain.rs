//! Reading the rest of a response that nobody wants, so that its connection can be used again.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http_body::Body;
use pin_project_lite::pin_project;

pin_project! {
    /// Reads a body to its end or to a bound, whichever comes first, and throws it away.
    #[must_use = "futures do nothing unless you .await or poll them"]
    pub struct Drain<B> {
        #[pin]
        body: Option<B>,
        left: u64,
    }
}

impl<B: Body> Drain<B> {
    /// Reads at most `limit` bytes. A body that says that it is longer isn't read at all: its
    /// connection is lost either way.
    pub fn new(body: B, limit: u64) -> Self {
        let fits = body.size_hint().lower() <= limit;
        Self {
            body: fits.then_some(body),
            left: limit,
        }
    }
}

impl<B: Body> Future for Drain<B> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        while let Some(body) = this.body.as_mut().as_pin_mut() {
            let frame = ready!(body.poll_frame(cx));
            let Some(Ok(frame)) = frame else { break };
            let length = frame.data_ref().map_or(0, |data| data.remaining() as u64);
            // An empty frame counts too, or a stream of them would never end.
            let Some(left) = this.left.checked_sub(length.max(1)) else {
                break;
            };
            *this.left = left;
        }
        this.body.set(None);
        Poll::Ready(())
    }
}

impl<B> fmt::Debug for Drain<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").finish_non_exhaustive()
    }
}
