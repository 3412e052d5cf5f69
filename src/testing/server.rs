//! A misbehaving HTTP server on a loopback socket.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Method, Version, request};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{AbortHandle, JoinSet};

use super::connection::{self, WeakWire, Wire};
use super::reply::Reply;

/// An HTTP server that misbehaves to order, over real sockets.
///
/// What a client does when a connection is reset, half answered or no longer accepted is decided
/// deep inside it, so only a socket can show it. The server listens on a port of its own at
/// `127.0.0.1`, and speaks HTTP/1.1 and HTTP/2 (with prior knowledge, without TLS) there: the
/// client's first bytes tell which.
///
/// A request counts as arrived when its body has been read to the end, and only then gets its
/// [`Reply`]. One that is not valid HTTP is refused without the script.
///
/// Dropping the server closes its port and ends all its connections at once.
///
/// # Examples
///
/// ```
/// use evenkeel::testing::{Reply, Server};
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::scripted([
///     Reply::status(503).header("retry-after", "1"),
///     Reply::reset(),
///     Reply::status(200).body("back again"),
/// ])
/// .await?;
///
/// let client = Client::builder(TokioExecutor::new()).build_http::<String>();
/// let url = server.url("/orders?open").parse::<http::Uri>()?;
///
/// assert_eq!(client.get(url.clone()).await?.status(), 503);
/// assert!(client.get(url.clone()).await.is_err());
/// assert_eq!(client.get(url.clone()).await?.status(), 200);
/// assert_eq!(client.get(url).await?.status(), 200);
///
/// assert_eq!(server.received().len(), 4);
/// assert_eq!(server.received()[0].path(), "/orders");
/// assert_eq!(server.connections(), 2);
/// # Ok(())
/// # }
/// ```
#[must_use = "a server stops when it is dropped"]
pub struct Server {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl Server {
    /// Starts a server that gives `replies` in the order in which requests arrive, on whatever
    /// connection. The last reply is repeated for all requests after it.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if there is no reply at all; else why no
    /// port could be opened.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with IO enabled. A reply that [waits](Reply::after) also needs
    /// its time.
    pub async fn scripted(replies: impl IntoIterator<Item = Reply>) -> io::Result<Self> {
        let replies: Vec<_> = replies.into_iter().collect();
        let Some(last) = replies.last().cloned() else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a script needs at least one reply",
            ));
        };

        Self::with(move |request| {
            let index = request.number() - 1;
            replies.get(index).unwrap_or(&last).clone()
        })
        .await
    }

    /// Starts a server that asks `handler` what to do with each request.
    ///
    /// It is asked once per request, after the request was added to [`received`](Self::received)
    /// and before the reply's wait. Where it panics, the connection is closed.
    ///
    /// # Errors
    ///
    /// Why no port could be opened.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with IO enabled. A reply that [waits](Reply::after) also needs
    /// its time.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use evenkeel::testing::{Reply, Server};
    ///
    /// let server = Server::with(|request| match request.path() {
    ///     "/health" => Reply::status(200),
    ///     _ if request.connection() == 1 => Reply::go_away(),
    ///     _ => Reply::status(503),
    /// })
    /// .await?;
    /// # let _ = server;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn with(
        handler: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            received: Mutex::default(),
            door: Mutex::new(Door {
                port: Port::Open(listener),
                accepting: None,
                connections: 0,
                wires: Vec::new(),
            }),
        });
        let accepting = tokio::spawn(Arc::clone(&shared).run()).abort_handle();

        Ok(Self {
            addr,
            shared,
            accepting,
        })
    }

    /// Closes all connections on which no request is being answered (FIN, and for HTTP/2 no
    /// `GOAWAY` before it), as a server does that tires of keeping them.
    ///
    /// Connections that never carried a request are idle as well. A request that is on its way
    /// on an idle connection is lost, and not received.
    pub fn close_idle(&self) {
        for wire in self.shared.wires() {
            wire.close_if_idle();
        }
    }

    /// Closes the port: new connections are refused from now on, until [`accept`](Self::accept).
    ///
    /// Idle connections are closed as by [`close_idle`](Self::close_idle), so that clients have
    /// to come back to the port; those that are busy are left to finish. Connections that the
    /// server had no chance to accept yet are reset.
    pub fn refuse(&self) {
        let mut door = self.shared.door();
        if let Port::Open(_) = door.port {
            // Bound but not listening, the port can't be handed to anybody else meanwhile, not
            // even to the client's own end of a connection. Both can't be had at once.
            door.port = Port::Closed(None);
            door.port = Port::Closed(hold(self.addr).ok());
        }
        drop(door);

        self.close_idle();
    }

    /// Opens the port again after [`refuse`](Self::refuse). Does nothing if it is open.
    ///
    /// # Errors
    ///
    /// Why the port could not be opened.
    pub async fn accept(&self) -> io::Result<()> {
        let held = match &mut self.shared.door().port {
            Port::Open(_) => return Ok(()),
            Port::Closed(held) => held.take(),
        };
        let listener = match held {
            Some(socket) => socket.listen(BACKLOG)?,
            None => TcpListener::bind(self.addr).await?,
        };

        let mut door = self.shared.door();
        door.port = Port::Open(listener);
        let accepting = door.accepting.take();
        drop(door);
        if let Some(waker) = accepting {
            waker.wake();
        }
        Ok(())
    }

    /// The address it listens on; the same for as long as it lives.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The `http` URL of `path`, which may bring a query. A missing leading slash is added.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        let path = path.strip_prefix('/').unwrap_or(path);
        format!("http://{}/{path}", self.addr)
    }

    /// The requests that arrived so far, in the order of their numbers.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.shared.received().clone()
    }

    /// How many connections were accepted so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.door().connections
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The task owns the connections' tasks. An abort takes effect only when the runtime gets
        // to it, so the sockets are closed here.
        self.accepting.abort();
        self.shared.door().port = Port::Closed(None);
        for wire in self.shared.wires() {
            wire.abandon();
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("addr", &self.addr)
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}

/// A request that arrived at a [`Server`].
#[derive(Clone, Debug)]
pub struct Received {
    number: usize,
    connection: usize,
    at: Instant,
    head: request::Parts,
    body: Bytes,
}

impl Received {
    /// Its place in the order of arrival, from 1.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// The number of the connection it came on, from 1 in the order of accepting.
    #[must_use]
    pub fn connection(&self) -> usize {
        self.connection
    }

    /// When its last byte was read, on tokio's clock.
    #[must_use]
    pub fn at(&self) -> Instant {
        self.at
    }

    /// The version of HTTP it was sent with.
    #[must_use]
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// Its method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.head.method
    }

    /// Its path, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// Its query, without the question mark.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.head.uri.query()
    }

    /// Its headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// Its body. All of it was read, but only the first MiB is kept.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

type Handler = dyn Fn(&Received) -> Reply + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    received: Mutex<Vec<Received>>,
    door: Mutex<Door>,
}

impl Shared {
    /// Accepts connections and runs them, until it is dropped and they with it.
    async fn run(self: Arc<Self>) {
        let mut running = JoinSet::new();
        loop {
            match poll_fn(|cx| self.door().poll_accept(cx)).await {
                Ok((number, wire)) => {
                    let shared = Arc::clone(&self);
                    running.spawn(connection::serve(wire, move |head, body| {
                        shared.reply_to(number, head, body)
                    }));
                }
                // Out of file handles, say. They come back when a connection ends.
                Err(_) => tokio::task::yield_now().await,
            }
            while running.try_join_next().is_some() {}
        }
    }

    fn reply_to(&self, connection: usize, head: request::Parts, body: Bytes) -> Reply {
        let at = tokio::time::Instant::now().into_std();
        let mut all = self.received();
        let request = Received {
            number: all.len() + 1,
            connection,
            at,
            head,
            body,
        };
        all.push(request.clone());
        drop(all);

        (self.handler)(&request)
    }

    fn wires(&self) -> Vec<Wire> {
        self.door().wires.iter().filter_map(Wire::upgrade).collect()
    }

    fn received(&self) -> MutexGuard<'_, Vec<Received>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn door(&self) -> MutexGuard<'_, Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where connections come in. Under one lock, so that none slips in while the port is closed.
struct Door {
    port: Port,
    /// The task that waits for the next connection.
    accepting: Option<Waker>,
    connections: usize,
    wires: Vec<WeakWire>,
}

impl Door {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(usize, Wire)>> {
        self.accepting = Some(cx.waker().clone());
        let Port::Open(listener) = &self.port else {
            return Poll::Pending;
        };
        let (stream, _) = ready!(listener.poll_accept(cx))?;
        // Late answers would only slow tests down.
        let _ = stream.set_nodelay(true);

        let wire = Wire::new(stream);
        self.wires.retain(|wire| wire.strong_count() > 0);
        self.wires.push(wire.downgrade());
        self.connections += 1;
        Poll::Ready(Ok((self.connections, wire)))
    }
}

enum Port {
    Open(TcpListener),
    /// With a socket that keeps others from the port, if the system allowed it.
    Closed(Option<TcpSocket>),
}

fn hold(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Needed on Unix while old connections on the port linger; on Windows it means another thing.
    socket.set_reuseaddr(cfg!(unix))?;
    socket.bind(addr)?;
    Ok(socket)
}

/// What tokio's own `bind` asks for.
const BACKLOG: u32 = 1024;

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::mpsc;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn an_answer_brings_its_status_headers_and_body() {
        let reply = Reply::status(503).header("retry-after", 7).body("later");
        let server = Server::scripted([reply]).await.unwrap();
        let mut stream = connect(&server).await;

        let answer = get(&mut stream, "/").await;

        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("\r\nretry-after: 7\r\n"), "{answer}");
        assert!(answer.contains("\r\ncontent-length: 5\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nlater"), "{answer}");
    }

    #[tokio::test]
    async fn replies_follow_arrival_across_connections_and_the_last_is_repeated() {
        let script = [500, 429, 200].map(Reply::status);
        let server = Server::scripted(script).await.unwrap();
        let (mut one, mut two) = (connect(&server).await, connect(&server).await);

        assert!(get(&mut two, "/").await.contains(" 500 "));
        assert!(get(&mut one, "/").await.contains(" 429 "));
        assert!(get(&mut two, "/").await.contains(" 200 "));
        assert!(get(&mut one, "/").await.contains(" 200 "));
    }

    #[tokio::test]
    async fn requests_on_one_connection_are_received_as_sent() {
        let server = Server::scripted([Reply::status(200)]).await.unwrap();
        let mut stream = connect(&server).await;

        get(&mut stream, "/a").await;
        let post = "POST /b?c=d HTTP/1.1\r\nhost: h\r\nx-key: k\r\ncontent-length: 4\r\n\r\nbody";
        ask(&mut stream, post).await;

        assert_eq!(server.connections(), 1);
        let [first, second] = &server.received()[..] else {
            panic!("not two requests");
        };
        assert_eq!((first.number(), second.number()), (1, 2));
        assert_eq!((first.connection(), second.connection()), (1, 1));
        assert!(first.at() <= second.at());
        assert_eq!((first.path(), first.query()), ("/a", None));
        assert_eq!((second.path(), second.query()), ("/b", Some("c=d")));
        assert_eq!(second.method(), Method::POST);
        assert_eq!(second.version(), Version::HTTP_11);
        assert_eq!(second.headers()["x-key"], "k");
        assert_eq!(second.body(), b"body");
    }

    #[tokio::test]
    async fn a_reset_is_seen_as_one() {
        let server = Server::scripted([Reply::reset()]).await.unwrap();
        let mut stream = connect(&server).await;

        send(&mut stream, GET).await;
        let error = stream.read_u8().await.unwrap_err();

        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(server.received().len(), 1);
    }

    #[tokio::test]
    async fn close_and_what_only_http2_can_say_end_without_a_byte() {
        let script = [Reply::close(), Reply::refuse_stream(), Reply::go_away()];
        let server = Server::scripted(script).await.unwrap();
        for number in 1..=3 {
            let mut stream = connect(&server).await;

            send(&mut stream, GET).await;

            assert_eq!(rest(&mut stream).await, "");
            assert_eq!(server.received().len(), number);
        }
    }

    #[tokio::test]
    async fn a_close_is_orderly_even_if_the_client_said_more() {
        let server = Server::scripted([Reply::close()]).await.unwrap();
        let mut stream = connect(&server).await;

        send(&mut stream, &(GET.to_owned() + &"x".repeat(60_000))).await;

        assert_eq!(rest(&mut stream).await, "");
        // After a RST this would fail.
        send(&mut stream, GET).await;
        assert_eq!(server.received().len(), 1);
    }

    #[tokio::test]
    async fn a_cut_body_is_announced_whole_and_ends_short() {
        for (cut, sent) in [(0, ""), (4, "0123"), (9, "012345678"), (10, "0123456789")] {
            let reply = Reply::status(200).body("0123456789").cut_body_after(cut);
            let server = Server::scripted([reply]).await.unwrap();
            let mut stream = connect(&server).await;

            send(&mut stream, GET).await;
            let answer = rest(&mut stream).await;

            assert!(answer.contains("\r\ncontent-length: 10\r\n"), "{answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{sent}")), "{answer}");
        }
    }

    #[tokio::test]
    async fn then_close_closes_after_the_whole_answer_unannounced() {
        for body in [String::new(), "x".repeat(5_000_000)] {
            let reply = Reply::status(200).body(body.clone()).then_close();
            let server = Server::scripted([reply]).await.unwrap();
            let mut stream = connect(&server).await;

            send(&mut stream, GET).await;
            let answer = rest(&mut stream).await;

            let (head, got) = answer.split_once("\r\n\r\n").unwrap();
            assert!(!head.contains("connection:"), "{head}");
            assert_eq!(got.len(), body.len());
        }
    }

    #[tokio::test]
    async fn a_greater_content_length_is_announced_as_it_is_and_cut() {
        let reply = Reply::status(200).header("content-length", 9).body("short");
        let server = Server::scripted([reply]).await.unwrap();
        let mut stream = connect(&server).await;

        send(&mut stream, GET).await;
        let answer = rest(&mut stream).await;

        assert!(answer.contains("\r\ncontent-length: 9\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nshort"), "{answer}");
    }

    #[tokio::test]
    async fn what_has_no_body_in_http_sends_none_and_keeps_its_connection() {
        for (method, status) in [("HEAD", 200), ("GET", 204), ("GET", 304)] {
            let replies = [Reply::status(status).body("12345"), Reply::status(200)];
            let server = Server::scripted(replies).await.unwrap();
            let mut stream = connect(&server).await;

            let request = format!("{method} / HTTP/1.1\r\nhost: h\r\n\r\n");
            send(&mut stream, &request).await;
            let head = read_head(&mut stream).await;

            assert!(head.contains(&format!(" {status} ")), "{head}");
            assert!(get(&mut stream, "/").await.contains(" 200 "));
        }
    }

    #[tokio::test]
    async fn a_chunked_body_can_be_cut_as_well() {
        let chunked = Reply::status(200).header("transfer-encoding", "chunked");
        let whole = chunked.body("abc");
        let server = Server::scripted([whole.clone().then_close(), whole.cut_body_after(2)]);
        let server = server.await.unwrap();

        for end in [
            "\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            "\r\n1\r\na\r\n1\r\nb\r\n",
        ] {
            let mut stream = connect(&server).await;
            send(&mut stream, GET).await;
            let answer = rest(&mut stream).await;
            assert!(answer.ends_with(end), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_stalled_request_is_busy_until_the_server_is_dropped() {
        let (server, mut arrived) = server_that_tells(Reply::stall()).await;
        let mut stream = connect(&server).await;

        send(&mut stream, GET).await;
        arrived.recv().await.unwrap();
        server.close_idle();
        let nothing = stream.try_read(&mut [0]).unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);

        drop(server);
        assert_eq!(rest(&mut stream).await, "");
    }

    #[tokio::test(start_paused = true)]
    async fn after_waits_and_then_answers() {
        let reply = Reply::status(200).after(HOUR);
        let server = Server::scripted([reply]).await.unwrap();
        let mut stream = connect(&server).await;
        let before = tokio::time::Instant::now();

        assert!(get(&mut stream, "/").await.contains(" 200 "));

        assert!(before.elapsed() >= HOUR);
    }

    #[tokio::test]
    async fn close_idle_ends_idle_connections_and_no_others() {
        let server = Server::scripted([Reply::status(200)]).await.unwrap();
        let (mut used, mut fresh) = (connect(&server).await, connect(&server).await);
        get(&mut used, "/").await;
        while server.connections() < 2 {
            tokio::task::yield_now().await;
        }

        server.close_idle();

        assert_eq!(rest(&mut used).await, "");
        assert_eq!(rest(&mut fresh).await, "");
        assert!(
            get(&mut connect(&server).await, "/")
                .await
                .contains(" 200 ")
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn close_idle_right_after_an_answer_finds_its_connection_idle() {
        for body in [0, 1, 1_000_000] {
            let reply = Reply::status(200).body("x".repeat(body));
            let server = Server::scripted([reply]).await.unwrap();
            for _ in 0..20 {
                let mut stream = connect(&server).await;
                get(&mut stream, "/").await;
                server.close_idle();
                // Comes too late, so it must not be served any more.
                let _ = stream.write_all(GET.as_bytes()).await;
                assert_eq!(rest(&mut stream).await, "");
            }
            assert_eq!(server.received().len(), 20);
        }
    }

    #[tokio::test]
    async fn refuse_closes_the_port_and_accept_opens_it_again() {
        let server = Server::scripted([Reply::status(200)]).await.unwrap();
        let mut idle = connect(&server).await;
        get(&mut idle, "/").await;

        for _ in 0..3 {
            server.refuse();
            server.refuse();
            let refused = TcpStream::connect(server.addr()).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            assert_eq!(rest(&mut idle).await, "");

            server.accept().await.unwrap();
            server.accept().await.unwrap();
            idle = connect(&server).await;
            assert!(get(&mut idle, "/").await.contains(" 200 "));
        }
        assert_eq!(server.connections(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn refuse_lets_busy_connections_finish() {
        let (server, mut arrived) = server_that_tells(Reply::status(200).after(HOUR)).await;
        let mut busy = connect(&server).await;

        send(&mut busy, GET).await;
        arrived.recv().await.unwrap();
        server.refuse();

        assert!(read_answer(&mut busy).await.contains(" 200 "));
    }

    #[tokio::test]
    async fn dropping_the_server_ends_all_of_it_at_once() {
        let kept = Arc::new(());
        let held = Arc::clone(&kept);
        let server = Server::with(move |_| {
            let _ = &held;
            Reply::status(200)
        })
        .await
        .unwrap();
        let addr = server.addr();
        let mut stream = connect(&server).await;
        get(&mut stream, "/").await;

        drop(server);

        // This blocks the only thread, so no task can be what closes the connection.
        let mut stream = stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(HOUR / 60)).unwrap();
        assert_eq!(io::Read::read(&mut stream, &mut [0]).unwrap(), 0);
        let refused = std::net::TcpStream::connect(addr).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        while Arc::strong_count(&kept) > 1 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_not_http_is_refused_and_not_received() {
        let server = Server::scripted([Reply::status(200)]).await.unwrap();
        for nonsense in [
            "\0\0\0\0\r\n\r\n",
            "GET\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n!",
        ] {
            let mut stream = connect(&server).await;
            send(&mut stream, nonsense).await;
            stream.shutdown().await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
        }

        assert!(
            get(&mut connect(&server).await, "/")
                .await
                .contains(" 200 ")
        );
        assert_eq!(server.received().len(), 1);
        assert_eq!(server.connections(), 4);
    }

    #[tokio::test]
    async fn a_request_that_breaks_off_is_not_received() {
        let server = Server::scripted([Reply::status(200)]).await.unwrap();
        let mut stream = connect(&server).await;

        let half = "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\nbo";
        send(&mut stream, half).await;
        stream.shutdown().await.unwrap();

        assert_eq!(rest(&mut stream).await, "");
        assert_eq!(server.received().len(), 0);
    }

    #[tokio::test]
    async fn no_more_than_a_mebibyte_of_a_body_is_kept() {
        const MIB: usize = 1024 * 1024;
        let server = Server::scripted([Reply::status(200)]).await.unwrap();
        let mut stream = connect(&server).await;

        for length in [MIB, MIB + 1, 3 * MIB] {
            let body = "x".repeat(length);
            let head = format!("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n");
            ask(&mut stream, &(head + &body)).await;
        }

        for request in server.received() {
            assert_eq!(request.body().len(), MIB);
        }
        assert_eq!(server.received().len(), 3);
    }

    #[tokio::test]
    async fn a_handler_that_panics_loses_its_connection_only() {
        let server = Server::with(|request| {
            assert_ne!(request.path(), "/panic", "as scripted");
            Reply::status(200)
        })
        .await
        .unwrap();
        let mut stream = connect(&server).await;

        send(&mut stream, "GET /panic HTTP/1.1\r\nhost: h\r\n\r\n").await;

        assert_eq!(rest(&mut stream).await, "");
        assert!(
            get(&mut connect(&server).await, "/")
                .await
                .contains(" 200 ")
        );
    }

    #[tokio::test]
    async fn a_script_without_a_reply_is_an_error() {
        let error = Server::scripted([]).await.unwrap_err();

        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn a_url_names_the_port_and_starts_its_path_with_one_slash() {
        let server = Server::scripted([Reply::status(200)]).await.unwrap();
        let root = format!("http://{}/", server.addr());

        assert_eq!(server.url(""), root);
        assert_eq!(server.url("/"), root);
        assert_eq!(server.url("a?b"), format!("{root}a?b"));
        assert_eq!(server.url("/a?b"), format!("{root}a?b"));
    }

    #[test]
    fn a_server_and_its_futures_can_go_to_other_threads() {
        fn is_send<T: Send>(_: T) {}
        fn is_shared<T: Send + Sync>() {}

        is_shared::<Server>();
        is_shared::<Received>();
        is_send(Server::scripted([Reply::stall()]));
        is_send(async |server: &'static Server| server.accept().await);
    }

    const GET: &str = "GET / HTTP/1.1\r\nhost: h\r\n\r\n";

    async fn server_that_tells(reply: Reply) -> (Server, mpsc::UnboundedReceiver<()>) {
        let (tell, arrived) = mpsc::unbounded_channel();
        let server = Server::with(move |_| {
            let _ = tell.send(());
            reply.clone()
        });
        (server.await.unwrap(), arrived)
    }

    async fn connect(server: &Server) -> TcpStream {
        TcpStream::connect(server.addr()).await.unwrap()
    }

    async fn get(stream: &mut TcpStream, path: &str) -> String {
        ask(stream, &format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n")).await
    }

    async fn ask(stream: &mut TcpStream, request: &str) -> String {
        send(stream, request).await;
        read_answer(stream).await
    }

    async fn send(stream: &mut TcpStream, request: &str) {
        stream.write_all(request.as_bytes()).await.unwrap();
    }

    /// Reads one answer that says its length.
    async fn read_answer(stream: &mut TcpStream) -> String {
        let answer = read_head(stream).await;
        let (_, length) = answer.split_once("content-length: ").unwrap();
        let length = length.split_once("\r\n").unwrap().0.parse().unwrap();

        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        answer + std::str::from_utf8(&body).unwrap()
    }

    async fn read_head(stream: &mut TcpStream) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push(char::from(stream.read_u8().await.unwrap()));
        }
        head
    }

    /// Reads to the FIN; a RST fails the test.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        rest
    }
}
