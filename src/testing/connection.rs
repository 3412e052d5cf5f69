//! One connection of the misbehaving server: hyper speaks HTTP on it, and the [`Wire`] between
//! hyper and the socket does what hyper would not.

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::reply::{Answer, Ending, Play, Reply};

/// Serves `wire` until either side ends it. `reply_to` says what to do with a request, whose body
/// has been read.
pub(super) async fn serve<F>(wire: Wire, reply_to: F)
where
    F: Fn(http::request::Parts, Bytes) -> Reply + Clone + Send + 'static,
{
    let service = {
        let wire = wire.clone();
        service_fn(move |request| {
            // Here and not in the future: HTTP/2 calls in the order of stream ids, but polls as
            // it likes, and `go_away` relies on the count.
            let begun = wire.begin();
            let reply_to = reply_to.clone();
            async move {
                match begun {
                    Some(in_flight) => answer(in_flight, request, reply_to).await,
                    None => pending().await,
                }
            }
        })
    };

    let (streams, arrived) = Streams::new();
    let mut connection = Box::pin(
        auto::Builder::new(streams)
            .serve_connection(TokioIo::new(wire.clone()), service)
            .into_owned(),
    );

    // All of a connection runs in one task, and its HTTP/2 streams before the connection itself.
    // So at the end of a pass what the streams gave to hyper has been written, as far as the
    // socket took it, up to the end of a frame: the one moment at which the wire may interfere.
    let mut running = Vec::new();
    let shared = wire.clone();
    poll_fn(move |cx| {
        shared.begin_pass();
        loop {
            running.retain_mut(|stream: &mut Stream| stream.as_mut().poll(cx).is_pending());
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }

            let before = running.len();
            running.extend(arrived.try_iter());
            if running.len() == before {
                break;
            }
        }
        shared.end_pass()
    })
    .await;

    wire.drain().await;
}

/// An error is how hyper is told to reset an HTTP/2 stream, and with which reason.
async fn answer<F>(
    mut in_flight: InFlight,
    request: Request<Incoming>,
    reply_to: F,
) -> Result<Response<Body>, h2::Error>
where
    F: Fn(http::request::Parts, Bytes) -> Reply,
{
    let (head, body) = request.into_parts();
    let method = head.method.clone();
    let is_http2 = head.version == Version::HTTP_2;

    let Ok(body) = read_whole(body).await else {
        return Err(h2::Reason::CANCEL.into());
    };
    let (delay, play) = reply_to(head, body).into_parts();
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }

    match play {
        Play::Answer(answer) => return Ok(respond(answer, &method, in_flight)),
        Play::GoAway if is_http2 => in_flight.go_away(),
        Play::RefuseStream if is_http2 => {
            return Err(h2::Reason::REFUSED_STREAM.into());
        }
        Play::Close | Play::GoAway | Play::RefuseStream => in_flight.wire.close(),
        Play::Reset => in_flight.wire.reset(),
        Play::Stall => return pending().await,
    }

    // The wire is about to end, and hyper must not say anything more about this request.
    drop(in_flight);
    pending().await
}

fn respond(answer: Answer, method: &Method, mut in_flight: InFlight) -> Response<Body> {
    let Answer {
        status,
        mut headers,
        body: mut data,
        ending,
    } = answer;

    // hyper takes a length from the headers as it is, as long as the body doesn't tell its own.
    if !data.is_empty() && !headers.contains_key(header::TRANSFER_ENCODING) {
        headers
            .entry(header::CONTENT_LENGTH)
            .or_insert_with(|| HeaderValue::from(data.len()));
    }

    // RFC 9110, 6.4.1: these have none, whatever their headers say.
    let has_body = method != Method::HEAD
        && status != StatusCode::NO_CONTENT
        && status != StatusCode::NOT_MODIFIED;
    if !has_body {
        data.clear();
    }

    let announced = announced_length(&headers).unwrap_or(data.len());
    if let Ending::Cut(sent) = ending {
        data.truncate(sent);
    }
    let is_cut = has_body && data.len() < announced;
    in_flight.then_close = is_cut || ending != Ending::KeepOpen;

    let mut response = Response::new(Body {
        data,
        is_cut,
        in_flight: Some(in_flight),
    });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn announced_length(headers: &HeaderMap) -> Option<usize> {
    let length = headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// Reads a body to its end, and keeps no more of it than [`MAX_BODY`].
async fn read_whole(body: Incoming) -> hyper::Result<Bytes> {
    let mut body = pin!(body);
    let mut kept = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        if let Ok(data) = frame?.into_data() {
            let room = MAX_BODY.saturating_sub(kept.len());
            kept.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    Ok(kept.freeze())
}

/// The body of an answer; it may stop short of what the headers announce.
struct Body {
    data: Bytes,
    is_cut: bool,
    in_flight: Option<InFlight>,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    /// Gives the last byte on its own. hyper queues a piece as soon as HTTP/2's flow control lets
    /// through any of it, and drops the body after the last: of a single byte, and so of all
    /// before it, nothing is held back then.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match self.data.len() {
            0 if self.is_cut => {
                drop(self.in_flight.take());
                return Poll::Pending;
            }
            0 => return Poll::Ready(None),
            1 => mem::take(&mut self.data),
            length => self.data.split_to(length - 1),
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && !self.is_cut
    }
}

/// A request that has begun and is not yet answered.
struct InFlight {
    wire: Wire,
    /// How many requests came before it on the same connection.
    earlier: u32,
    then_close: bool,
}

impl InFlight {
    fn go_away(&mut self) {
        let mut line = self.wire.lock();
        // Clients number their streams 1, 3, 5, ..; one that skips numbers has higher ones.
        let last = self.earlier.saturating_mul(2).saturating_sub(1);
        line.last_stream = line.last_stream.min(last);
        line.owes_go_away = true;
        line.plan = line.plan.max(Plan::Leave);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut line = self.wire.lock();
        line.in_flight = line.in_flight.saturating_sub(1);
        if self.then_close {
            line.plan = Plan::Close;
        }
    }
}

/// The socket below hyper, shared with whoever wants to end it.
#[derive(Clone)]
pub(super) struct Wire(Arc<Mutex<Line>>);

pub(super) type WeakWire = Weak<Mutex<Line>>;

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(Mutex::new(Line {
            socket: Socket::Open(stream),
            plan: Plan::Stay,
            is_in_pass: false,
            is_blocked: false,
            begun: 0,
            in_flight: 0,
            last_stream: u32::MAX,
            owes_go_away: false,
        })))
    }

    pub(super) fn downgrade(&self) -> WeakWire {
        Arc::downgrade(&self.0)
    }

    pub(super) fn upgrade(wire: &WeakWire) -> Option<Self> {
        wire.upgrade().map(Self)
    }

    /// Closes the connection if nothing is being answered on it.
    pub(super) fn close_if_idle(&self) {
        let mut line = self.lock();
        line.plan = line.plan.max(Plan::CloseIfIdle);
        // Within a pass the last answer may wait to be written: the end of the pass decides.
        if !line.is_in_pass {
            line.settle();
        }
    }

    /// Sends a FIN.
    pub(super) fn close(&self) {
        self.lock().close();
    }

    /// Sends a RST.
    fn reset(&self) {
        let mut line = self.lock();
        if let Socket::Open(stream) | Socket::Closing(stream) = &line.socket {
            // Deprecated because a linger that waits blocks the thread; zero doesn't wait. The
            // name without that trap, `set_zero_linger`, is younger than the tokio we ask for.
            #[allow(deprecated)]
            let _ = stream.set_linger(Some(Duration::ZERO));
        }
        line.socket = Socket::Gone;
    }

    /// Lets go of the socket, whatever is going on.
    pub(super) fn abandon(&self) {
        self.lock().socket = Socket::Gone;
    }

    /// Admits a request, unless the connection is ending.
    fn begin(&self) -> Option<InFlight> {
        let mut line = self.lock();
        let is_open = matches!(line.socket, Socket::Open(_));
        let is_admitting = match line.plan {
            Plan::Stay => true,
            Plan::CloseIfIdle => line.in_flight > 0,
            Plan::Leave | Plan::Close => false,
        };
        if !is_open || !is_admitting {
            return None;
        }

        let earlier = line.begun;
        line.begun = earlier.saturating_add(1);
        line.in_flight += 1;
        Some(InFlight {
            wire: self.clone(),
            earlier,
            then_close: false,
        })
    }

    fn begin_pass(&self) {
        self.lock().is_in_pass = true;
    }

    /// Carries out what was planned, and is ready if hyper is no longer needed.
    fn end_pass(&self) -> Poll<()> {
        let mut line = self.lock();
        line.is_in_pass = false;
        line.settle();
        match line.socket {
            Socket::Open(_) => Poll::Pending,
            Socket::Closing(_) | Socket::Gone => Poll::Ready(()),
        }
    }

    /// Sends a FIN and reads on until the client's. To close a socket that has unread bytes
    /// would send a RST after the FIN.
    async fn drain(&self) {
        self.close();
        poll_fn(|cx| {
            let mut line = self.lock();
            let mut bytes = [0; 1024];
            while let Socket::Closing(stream) = &mut line.socket {
                let mut unread = ReadBuf::new(&mut bytes);
                let read = ready!(Pin::new(stream).poll_read(cx, &mut unread));
                if read.is_err() || unread.filled().is_empty() {
                    line.socket = Socket::Gone;
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.lock().socket {
            Socket::Open(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Closing(_) | Socket::Gone => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut line = self.lock();
        let Socket::Open(stream) = &mut line.socket else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let written = Pin::new(stream).poll_write(cx, buf);
        line.is_blocked = written.is_pending();
        written
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close();
        Poll::Ready(Ok(()))
    }
}

pub(super) struct Line {
    socket: Socket,
    plan: Plan,
    is_in_pass: bool,
    /// The socket took no more of what hyper has to write.
    is_blocked: bool,
    begun: u32,
    in_flight: usize,
    /// The last stream that was processed, as a GOAWAY says; a second one may not say more.
    last_stream: u32,
    owes_go_away: bool,
}

impl Line {
    fn settle(&mut self) {
        let is_idle = self.in_flight == 0 && !self.is_blocked;
        if self.is_blocked {
            // What is half written is not idle. The other plans wait until it is written.
            if self.plan == Plan::CloseIfIdle {
                self.plan = Plan::Stay;
            }
            return;
        }

        if mem::take(&mut self.owes_go_away) {
            self.write_go_away();
        }
        match self.plan {
            Plan::Close => self.close(),
            Plan::CloseIfIdle | Plan::Leave if is_idle => self.close(),
            Plan::CloseIfIdle => self.plan = Plan::Stay,
            Plan::Leave | Plan::Stay => {}
        }
    }

    fn write_go_away(&mut self) {
        let mut frame = GO_AWAY;
        frame[9..13].copy_from_slice(&self.last_stream.to_be_bytes());
        if let Socket::Open(stream) = &self.socket {
            // If the client reads nothing there may be no room; then it gets the FIN alone.
            if !matches!(stream.try_write(&frame), Ok(n) if n == frame.len()) {
                self.plan = Plan::Close;
            }
        }
    }

    fn close(&mut self) {
        self.socket = match mem::replace(&mut self.socket, Socket::Gone) {
            Socket::Open(mut stream) => {
                // Does not wait: a socket's shutdown is one call into the system.
                let mut cx = Context::from_waker(std::task::Waker::noop());
                let _ = Pin::new(&mut stream).poll_shutdown(&mut cx);
                Socket::Closing(stream)
            }
            other => other,
        };
    }
}

enum Socket {
    Open(TcpStream),
    /// The FIN is sent; the client's is awaited.
    Closing(TcpStream),
    Gone,
}

/// What is to become of a connection, from the weakest wish to the strongest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Plan {
    Stay,
    /// Close at the end of this pass, if nothing is being answered then.
    CloseIfIdle,
    /// Begin nothing more, and close when all is answered.
    Leave,
    /// Begin nothing more, and close when what was said is written.
    Close,
}

type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Hands HTTP/2 streams to the task that runs their connection.
#[derive(Clone)]
struct Streams(mpsc::Sender<Stream>);

impl Streams {
    fn new() -> (Self, mpsc::Receiver<Stream>) {
        let (sender, arrived) = mpsc::channel();
        (Self(sender), arrived)
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        // Fails if the connection is gone; then so is the stream.
        let _ = self.0.send(Box::pin(stream));
    }
}

/// The most that is kept of a request's body. Enough for any test; a bound because a client that
/// goes wrong should fail its test rather than eat the memory.
const MAX_BODY: usize = 1024 * 1024;

/// RFC 9113, 6.8: eight bytes of type 7 on stream 0; the last stream id and `NO_ERROR`.
const GO_AWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// HTTP/1.1 is tested in `server.rs`, with bytes written by hand.
#[cfg(test)]
mod tests {
    use std::error::Error;

    use http_body_util::BodyExt;
    use hyper::client::conn::http2::{self, SendRequest};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::testing::Server;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn one_port_speaks_both_versions() {
        let server = Server::scripted([Reply::status(204)]).await.unwrap();

        for is_http2 in [false, true] {
            let client = Client::builder(TokioExecutor::new())
                .http2_only(is_http2)
                .build_http::<String>();
            let url = server.url("/a?b").parse().unwrap();
            assert_eq!(client.get(url).await.unwrap().status(), 204);
        }

        let versions: Vec<_> = server
            .received()
            .iter()
            .map(super::super::server::Received::version)
            .collect();
        assert_eq!(versions, [Version::HTTP_11, Version::HTTP_2]);
        assert_eq!(server.received()[1].path(), "/a");
    }

    #[tokio::test]
    async fn requests_share_a_connection_and_are_received_as_sent() {
        let reply = Reply::status(503).header("retry-after", 1).body("later");
        let server = Server::scripted([reply]).await.unwrap();
        let (mut client, _connection) = connect(&server).await;

        for number in 1..=2 {
            let (status, body) = get(&mut client).await.unwrap();
            assert_eq!((status.as_u16(), &body[..]), (503, &b"later"[..]));

            let request = server.received().pop().unwrap();
            assert_eq!((request.number(), request.connection()), (number, 1));
            assert_eq!(request.body(), b"ping");
        }
        assert_eq!(server.connections(), 1);
    }

    #[tokio::test]
    async fn a_refused_stream_says_so_and_spares_the_connection() {
        let script = [Reply::refuse_stream(), Reply::status(200)];
        let server = Server::scripted(script).await.unwrap();
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http::<String>();
        let url: http::Uri = server.url("/").parse().unwrap();

        let error = client.get(url.clone()).await.unwrap_err();
        let cause = find::<h2::Error>(&error).expect("an h2 error");
        assert_eq!(cause.reason(), Some(h2::Reason::REFUSED_STREAM));
        assert!(cause.is_reset() && cause.is_remote(), "{cause:?}");

        assert_eq!(client.get(url).await.unwrap().status(), 200);
        assert_eq!(server.connections(), 1);
    }

    #[tokio::test]
    async fn going_away_leaves_the_request_unprocessed_and_closes() {
        let server = Server::scripted([Reply::go_away()]).await.unwrap();
        let (mut client, connection) = connect(&server).await;

        let error = get(&mut client).await.unwrap_err();

        let cause = find::<h2::Error>(&*error).expect("an h2 error");
        assert!(cause.is_go_away() && cause.is_remote(), "{cause:?}");
        assert_eq!(cause.reason(), Some(h2::Reason::NO_ERROR));
        let _ = connection.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn going_away_lets_earlier_requests_finish() {
        let script = [
            Reply::status(200).body("early").after(HOUR),
            Reply::go_away().after(HOUR / 2),
            Reply::go_away().after(HOUR / 4),
            Reply::go_away().after(HOUR / 3),
        ];
        let (server, mut arrived) = server_that_tells(script).await;
        let (client, connection) = connect(&server).await;

        let mut asked = Vec::new();
        for _ in 0..4 {
            let mut client = client.clone();
            asked.push(tokio::spawn(async move {
                get(&mut client).await.map_err(|e| is_go_away(&*e))
            }));
            arrived.recv().await.unwrap();
        }

        let mut got = Vec::new();
        for asked in asked {
            got.push(asked.await.unwrap().map(|(status, _)| status.as_u16()));
        }
        assert_eq!(got, [Ok(200), Err(true), Err(true), Err(true)]);
        let _ = connection.await.unwrap();
    }

    #[tokio::test]
    async fn a_reset_breaks_the_connection() {
        let script = [Reply::status(200), Reply::reset()];
        let server = Server::scripted(script).await.unwrap();
        let (mut client, connection) = connect(&server).await;

        // Once the settings are exchanged the client has nothing to write. Else it may be a write
        // that meets the RST, and that h2 reports as a broken pipe.
        get(&mut client).await.unwrap();
        let error = get(&mut client).await.unwrap_err();

        let cause = find::<io::Error>(&*error).expect("an IO error");
        assert_eq!(cause.kind(), io::ErrorKind::ConnectionReset);
        assert!(connection.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_close_ends_the_connection_without_an_answer() {
        let server = Server::scripted([Reply::close()]).await.unwrap();
        let (mut client, connection) = connect(&server).await;

        let error = get(&mut client).await.unwrap_err();

        assert!(!is_go_away(&*error), "{error:?}");
        let _ = connection.await.unwrap();
        assert_eq!(server.received().len(), 1);
    }

    #[tokio::test]
    async fn a_cut_body_ends_in_an_error() {
        for (length, sent) in [(10, 0), (10, 4), (500_000, 300_000)] {
            let reply = Reply::status(200).body("x".repeat(length));
            let server = Server::scripted([reply.cut_body_after(sent)])
                .await
                .unwrap();
            let (mut client, connection) = connect(&server).await;

            let mut response = client.send_request(request()).await.unwrap();
            assert_eq!(response.headers()["content-length"], length.to_string());
            let mut got = 0;
            let error = loop {
                match response.frame().await.expect("an error") {
                    Ok(frame) => got += frame.into_data().unwrap().len(),
                    Err(error) => break error,
                }
            };

            assert_eq!(got, sent, "{error}");
            let _ = connection.await.unwrap();
        }
    }

    #[tokio::test]
    async fn then_close_closes_after_the_whole_answer() {
        // The last is more than the client lets a server send without being asked for more.
        for length in [0, 1, 65_535, 9_000_000] {
            let reply = Reply::status(200).body("x".repeat(length)).then_close();
            let server = Server::scripted([reply]).await.unwrap();
            let (mut client, connection) = connect(&server).await;

            let (status, body) = get(&mut client).await.unwrap();

            assert_eq!((status.as_u16(), body.len()), (200, length));
            let _ = connection.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_stalled_request_keeps_its_connection_busy_and_usable() {
        let script = [Reply::stall(), Reply::status(200)];
        let (server, mut arrived) = server_that_tells(script).await;
        let (client, connection) = connect(&server).await;

        let mut other = client.clone();
        let stalled = tokio::spawn(async move { get(&mut other).await.is_err() });
        arrived.recv().await.unwrap();
        server.close_idle();
        let (status, _) = get(&mut client.clone()).await.unwrap();

        assert_eq!(status, 200);
        assert!(!stalled.is_finished());
        drop(server);
        assert!(stalled.await.unwrap());
        let _ = connection.await.unwrap();
    }

    #[tokio::test]
    async fn giving_up_on_a_stalled_request_makes_its_connection_idle() {
        let script = [Reply::stall(), Reply::status(200)];
        let (server, mut arrived) = server_that_tells(script).await;
        let (mut client, connection) = connect(&server).await;

        let mut other = client.clone();
        let stalled = tokio::spawn(async move { get(&mut other).await.is_err() });
        arrived.recv().await.unwrap();
        stalled.abort();
        let _ = stalled.await;
        // Its RST_STREAM goes out before this request.
        get(&mut client).await.unwrap();
        server.close_idle();

        let _ = connection.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn close_idle_right_after_an_answer_finds_its_connection_idle() {
        for length in [0, 1, 300_000] {
            let reply = Reply::status(200).body("x".repeat(length));
            let server = Server::scripted([reply]).await.unwrap();
            for _ in 0..20 {
                let (mut client, connection) = connect(&server).await;
                get(&mut client).await.unwrap();
                server.close_idle();
                let _ = connection.await.unwrap();
            }
            assert_eq!(server.received().len(), 20);
        }
    }

    async fn server_that_tells(
        script: impl IntoIterator<Item = Reply>,
    ) -> (Server, UnboundedReceiver<()>) {
        let script: Vec<_> = script.into_iter().collect();
        let (tell, arrived) = unbounded_channel();
        let server = Server::with(move |request| {
            let _ = tell.send(());
            script[request.number() - 1].clone()
        });
        (server.await.unwrap(), arrived)
    }

    async fn connect(server: &Server) -> (SendRequest<String>, JoinHandle<hyper::Result<()>>) {
        let stream = TcpStream::connect(server.addr()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        (client, tokio::spawn(connection))
    }

    async fn get(client: &mut SendRequest<String>) -> Result<(StatusCode, Bytes), Box<dyn Error>> {
        let response = client.send_request(request()).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    fn request() -> Request<String> {
        let mut request = Request::new("ping".to_owned());
        *request.uri_mut() = http::Uri::from_static("http://localhost/");
        request
    }

    fn is_go_away(error: &(dyn Error + 'static)) -> bool {
        find::<h2::Error>(error).is_some_and(h2::Error::is_go_away)
    }

    fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
        std::iter::successors(Some(error), |&error| error.source())
            .find_map(<dyn Error>::downcast_ref)
    }
}
