//! A body that holds a permit.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::pipeline::Kept;

pin_project! {
    /// A response's body that gives a bulkhead's permit back when it has been read to its end, has
    /// failed, or is dropped; see [`Bulkhead::until_body_ends`](crate::Bulkhead::until_body_ends).
    #[derive(Debug)]
    pub struct PermitBody<B> {
        #[pin]
        body: B,
        permit: Option<Kept>,
    }
}

impl<B: Body> PermitBody<B> {
    /// Moves the permit of a response, if it has one, into its body.
    pub fn wrap(response: Response<B>) -> Response<Self> {
        let (mut parts, body) = response.into_parts();
        let permit = parts.extensions.remove::<Kept>();
        // One that has ended already needs none.
        let permit = permit.filter(|_| !body.is_end_stream());
        Response::from_parts(parts, Self { body, permit })
    }
}

impl<B: Body> Body for PermitBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) || this.body.is_end_stream() {
            *this.permit = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
