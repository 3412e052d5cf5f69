//! One scripted answer, and the ways in which a server can fail to give it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// What a scripted server does with one request.
///
/// A reply is an answer with a status, begun with [`Reply::status`], or a failure to answer:
/// [`stall`](Reply::stall), [`close`](Reply::close), [`reset`](Reply::reset),
/// [`refuse_stream`](Reply::refuse_stream) and [`go_away`](Reply::go_away). Any of them can be
/// put off with [`after`](Reply::after).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use evenkeel::testing::Reply;
///
/// let script = [
///     Reply::status(503).header("retry-after", "2").body("down for maintenance"),
///     Reply::reset().after(Duration::from_millis(10)),
///     Reply::status(200).body("back again").then_close(),
/// ];
/// # assert_eq!(script.len(), 3);
/// ```
#[must_use = "a reply does nothing until it is given to a server"]
#[derive(Clone, Debug)]
pub struct Reply {
    after: Duration,
    play: Play,
}

impl Reply {
    /// Answers with `code`, without a body, and keeps the connection open.
    ///
    /// # Panics
    ///
    /// If `code` is not an HTTP status (100 to 999, both included), or is an informational one
    /// (1xx): those announce an answer and can't be one.
    #[track_caller]
    pub fn status(code: impl TryInto<StatusCode>) -> Self {
        let Ok(status) = code.try_into() else {
            panic!("a reply's status must be a number from 100 to 999");
        };
        assert!(
            !status.is_informational(),
            "a reply's status can't be informational, but it is {status}"
        );

        Self::playing(Play::Answer(Answer {
            status,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            ending: Ending::KeepOpen,
        }))
    }

    /// Never answers, and keeps the connection open until the client gives up.
    pub fn stall() -> Self {
        Self::playing(Play::Stall)
    }

    /// Closes the connection in an orderly way (FIN) before any header is sent.
    ///
    /// On HTTP/2 this ends all requests that share the connection.
    pub fn close() -> Self {
        Self::playing(Play::Close)
    }

    /// Resets the connection (RST) before any header is sent, as a crash or a firewall does.
    ///
    /// On HTTP/2 this ends all requests that share the connection.
    pub fn reset() -> Self {
        Self::playing(Play::Reset)
    }

    /// Refuses this request alone, with HTTP/2's `REFUSED_STREAM`: the server says that it did
    /// nothing with it. The connection stays open.
    ///
    /// HTTP/1.1 has no such word; there it does the same as [`Reply::close`].
    pub fn refuse_stream() -> Self {
        Self::playing(Play::RefuseStream)
    }

    /// Sends an HTTP/2 `GOAWAY` without an error: this request was not processed, and no later
    /// one on the connection will be.
    ///
    /// Requests that came earlier on the same connection get their replies; then it is closed.
    ///
    /// HTTP/1.1 has no such word; there it does the same as [`Reply::close`].
    pub fn go_away() -> Self {
        Self::playing(Play::GoAway)
    }

    /// Adds a header to an answer. A name may be added more than once.
    ///
    /// A `content-length` given here is sent in place of the body's own; one that is greater cuts
    /// the body as [`cut_body_after`](Self::cut_body_after) does. A reply that is not an answer
    /// stays as it is.
    ///
    /// # Panics
    ///
    /// If `name` or `value` is not allowed in HTTP.
    #[track_caller]
    pub fn header(
        mut self,
        name: impl TryInto<HeaderName>,
        value: impl TryInto<HeaderValue>,
    ) -> Self {
        let Ok(name) = name.try_into() else {
            panic!("a reply's header has a name that HTTP doesn't allow");
        };
        let Ok(value) = value.try_into() else {
            panic!("a reply's header {name} has a value that HTTP doesn't allow");
        };

        if let Play::Answer(answer) = &mut self.play {
            answer.headers.append(name, value);
        }
        self
    }

    /// Sets the body of an answer, in place of one set before. A reply that is not an answer
    /// stays as it is. Default: empty.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        if let Play::Answer(answer) = &mut self.play {
            answer.body = body.into();
        }
        self
    }

    /// Waits for `delay` before doing anything. Default: no wait.
    pub fn after(mut self, delay: Duration) -> Self {
        self.after = delay;
        self
    }

    /// Closes the connection (FIN) once the answer is written, without a word of it in the
    /// answer. It takes the place of [`cut_body_after`](Self::cut_body_after), and leaves a
    /// reply that is not an answer as it is.
    ///
    /// A client that keeps connections thinks that it can use this one again. On HTTP/2 this
    /// ends all requests that share the connection.
    pub fn then_close(self) -> Self {
        self.ending(Ending::Close)
    }

    /// Announces the whole body of an answer, but closes the connection (FIN) after `sent`
    /// bytes of it. It takes the place of [`then_close`](Self::then_close), and leaves a reply
    /// that is not an answer as it is.
    ///
    /// With `0` only the headers arrive. If the body has no more than `sent` bytes, or HTTP allows
    /// none, as in the answer to a `HEAD`, this does the same as `then_close`. On HTTP/2 it ends
    /// all requests that share the connection.
    pub fn cut_body_after(self, sent: usize) -> Self {
        self.ending(Ending::Cut(sent))
    }

    fn ending(mut self, ending: Ending) -> Self {
        if let Play::Answer(answer) = &mut self.play {
            answer.ending = ending;
        }
        self
    }

    fn playing(play: Play) -> Self {
        Self {
            after: Duration::ZERO,
            play,
        }
    }

    /// How long to wait, and what to do then.
    pub(crate) fn into_parts(self) -> (Duration, Play) {
        (self.after, self.play)
    }
}

/// What a server does once the wait is over.
#[derive(Clone, Debug)]
pub(crate) enum Play {
    Answer(Answer),
    Close,
    GoAway,
    RefuseStream,
    Reset,
    Stall,
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) ending: Ending,
}

/// What becomes of the connection with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It closes once the answer is written.
    Close,
    /// It closes after so many bytes of the body.
    Cut(usize),
    KeepOpen,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_carries_what_was_set() {
        let (after, play) = Reply::status(429)
            .header("retry-after", 7)
            .header("x-twice", "a")
            .header("x-twice", "b")
            .body("first")
            .body("second")
            .after(Duration::from_secs(1))
            .into_parts();
        let Play::Answer(answer) = play else {
            panic!("not an answer: {play:?}");
        };

        assert_eq!(after, Duration::from_secs(1));
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(answer.headers["retry-after"], "7");
        assert_eq!(answer.headers.get_all("x-twice").iter().count(), 2);
        assert_eq!(answer.body, "second");
        assert_eq!(answer.ending, Ending::KeepOpen);
    }

    #[test]
    fn the_last_ending_counts() {
        let ending = |reply: Reply| match reply.into_parts().1 {
            Play::Answer(answer) => answer.ending,
            play => panic!("not an answer: {play:?}"),
        };

        let ok = || Reply::status(StatusCode::OK);
        assert_eq!(ending(ok().cut_body_after(3).then_close()), Ending::Close);
        assert_eq!(ending(ok().then_close().cut_body_after(3)), Ending::Cut(3));
    }

    #[test]
    fn a_failure_stays_one_whatever_is_set() {
        let (after, play) = Reply::reset()
            .header("a", "b")
            .body("c")
            .then_close()
            .cut_body_after(1)
            .after(Duration::from_millis(3))
            .into_parts();

        assert_eq!(after, Duration::from_millis(3));
        assert!(matches!(play, Play::Reset), "{play:?}");
    }

    #[test]
    fn the_edges_of_statuses_are_200_and_999() {
        let _ = (Reply::status(200), Reply::status(999));
        for code in [0, 99, 100, 199, 1000] {
            assert!(std::panic::catch_unwind(|| Reply::status(code)).is_err());
        }
    }

    #[test]
    #[should_panic(expected = "a value that HTTP doesn't allow")]
    fn a_header_that_would_split_the_answer_panics() {
        let _ = Reply::status(200).header("a", "b\r\nc: d");
    }
}
