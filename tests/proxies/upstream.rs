//! What stands behind the proxies, each part of it broken in its own way.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evenkeel::testing::{Received, Reply, Server};
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

/// Parts of a service, each at a port of its own.
pub(crate) struct Upstream {
    /// Does what the last segment of the path says.
    app: Server,
    /// Takes the request and answers what is no HTTP.
    garbage: Garbage,
    /// Bound, so that nobody else gets the port, but not listening.
    closed: [TcpSocket; 2],
    /// Has no room for another connection, so that attempts to connect get no answer.
    full: Full,
}

impl Upstream {
    pub(crate) async fn new() -> Self {
        Self {
            app: Server::with(answer).await.expect("a free port"),
            garbage: Garbage::new().await,
            closed: [bound(), bound()],
            full: Full::new().await,
        }
    }

    pub(crate) fn app(&self) -> SocketAddr {
        self.app.addr()
    }

    pub(crate) fn garbage(&self) -> SocketAddr {
        self.garbage.addr
    }

    pub(crate) fn closed(&self, which: usize) -> SocketAddr {
        self.closed[which].local_addr().expect("it is bound")
    }

    pub(crate) fn full(&self) -> SocketAddr {
        self.full.addr
    }

    /// How many of these requests arrived so far.
    pub(crate) fn arrived(&self, method: &Method, path: &str) -> usize {
        let received = self.app.received();
        let is_it = |it: &&Received| it.method() == method && it.path() == path;
        let line = format!("{method} {path} ").to_ascii_lowercase();
        let garbage = self.garbage.heads.lock().unwrap();
        received.iter().filter(is_it).count()
            + garbage.iter().filter(|it| it.starts_with(&line)).count()
    }
}

fn answer(request: &Received) -> Reply {
    let error = |status: u16| {
        Reply::status(status)
            .header("server", "gunicorn")
            .header("x-request-id", "7c9f0e2a")
            .header("content-type", "application/json")
            .body(r#"{"error":"not now"}"#)
    };
    match request.path().rsplit('/').next().unwrap_or_default() {
        "close" => Reply::close(),
        "ok" => Reply::status(200).body("here you are"),
        "reset" => Reply::reset(),
        "stall" => Reply::stall(),
        "503-empty" => Reply::status(503),
        "503-soon" => error(503).header("retry-after", "1"),
        "503-later" => error(503).header("retry-after", "900"),
        status => error(status.parse().expect("a status")),
    }
}

fn bound() -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .bind((Ipv4Addr::LOCALHOST, 0).into())
        .expect("a free port");
    socket
}

struct Garbage {
    addr: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Garbage {
    async fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let told = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let told = Arc::clone(&told);
                tokio::spawn(async move { babble(stream, &told).await });
            }
        });
        Self { addr, heads }
    }
}

async fn babble(mut stream: TcpStream, told: &Mutex<Vec<String>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    // What is left unread when it closes makes a reset of it.
    let length = head.split_once("\r\ncontent-length: ");
    let length = length.and_then(|(_, it)| it.split_once("\r\n")?.0.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    told.lock().unwrap().push(head);
    stream
        .write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
        .await
        .ok()
}

struct Full {
    addr: SocketAddr,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Full {
    async fn new() -> Self {
        let socket = bound();
        let addr = socket.local_addr().expect("it is bound");
        let listener = socket.listen(0).expect("it is bound");
        let mut waiting = Vec::new();
        // Nobody accepts, so before long the next one gets no answer. On loopback an answer is there
        // before `connect` returns.
        while let Ok(stream) = timeout(Duration::from_millis(500), TcpStream::connect(addr)).await {
            waiting.push(stream.expect("a port that listens"));
            assert!(
                waiting.len() < 64,
                "this system doesn't let a line get full"
            );
        }
        Self {
            addr,
            _listener: listener,
            _waiting: waiting,
        }
    }
}
