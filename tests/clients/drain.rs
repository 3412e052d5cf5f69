//! What becomes of the connection of a response that was rejected.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Version};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Door, every_way, every_way_over, ok, status};

#[tokio::test]
async fn promise_8_a_rejected_body_is_drained_so_that_its_connection_is_used_again() {
    every_way_over(Version::HTTP_11, async |way| {
        if way.door == Door::ReqwestInClosure {
            // A response that a closure returns is a value like any other, and only dropped.
            return;
        }
        for length in [10_000, 16 * 1024] {
            let page = status(503).body(vec![b'x'; length]);
            let scene = way.against([page.clone(), page, ok()]).await;
            assert_eq!(scene.get().await.status(), 200);
            assert_eq!(scene.requests(), 3);
            assert_eq!(scene.server.connections(), 1);
        }
    })
    .await;
}

#[tokio::test]
async fn promise_8_a_rejected_body_that_is_too_long_costs_its_connection_and_not_the_call() {
    every_way(async |way| {
        let page = status(503).body(vec![b'x'; 1024 * 1024]);
        let scene = way.against([page, ok()]).await;
        let outcome = scene.get().await;
        assert_eq!(
            (outcome.status(), outcome.body()),
            (200, &b"here you are"[..])
        );
        assert_eq!(scene.requests(), 2);
    })
    .await;
}

#[tokio::test]
async fn promise_8_a_rejected_body_is_waited_for_so_that_its_connection_is_used_again() {
    every_way_over(Version::HTTP_11, async |way| {
        if way.door == Door::ReqwestInClosure {
            return;
        }
        let connections = Arc::new(AtomicUsize::new(0));
        let addr = answers_in_two_parts(Arc::clone(&connections)).await;
        let request = Request::get(format!("http://{addr}/")).body(Bytes::new());
        let scene = way.against([ok()]).await;
        let outcome = scene.send(request.unwrap()).await;
        assert_eq!(outcome.status(), 503);
        assert_eq!(outcome.retries(), 2);
        assert_eq!(connections.load(Ordering::Relaxed), 1);
    })
    .await;
}

/// A server whose every answer is a 503, the body of which comes after its head.
async fn answers_in_two_parts(connections: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(answer_in_two_parts(stream));
        }
    });
    addr
}

async fn answer_in_two_parts(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufStream::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        if line == "\r\n" {
            let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 10000\r\n\r\n";
            stream.write_all(head.as_bytes()).await?;
            stream.flush().await?;
            // What a client does with the head alone, it has done by then.
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            stream.write_all(&[b'x'; 10_000]).await?;
            stream.flush().await?;
        }
        line.clear();
    }
    Ok(())
}
