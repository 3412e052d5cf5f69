//! GOAWAY frames that leave open what became of a request.
//!
//! `Server` says goodbye in an orderly way. A server that dies says so too, with an error, of
//! requests that it has begun to work on: those frames are written by hand here.

use std::net::{Ipv4Addr, SocketAddr};

use evenkeel::report::Stop;
use evenkeel::verdict::Processed;
use http::{Method, Version};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{ServiceBuilder, ServiceExt};

use crate::support::{Clients, pipeline};

#[tokio::test]
async fn promise_7_a_post_that_a_goaway_counts_as_begun_does_not_go_again() {
    for reason in [NO_ERROR, INTERNAL_ERROR, ENHANCE_YOUR_CALM] {
        let addr = says_goodbye(1, reason).await;
        let (reqwest, hyper) = post(addr).await;
        assert_eq!(
            reqwest,
            (1, Some(Stop::NotSafe(Processed::Maybe))),
            "{reason}"
        );
        assert_eq!(
            hyper,
            (1, Some(Stop::NotSafe(Processed::Maybe))),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn promise_7_a_post_that_a_goaway_left_out_goes_again_whatever_its_reason() {
    for reason in [NO_ERROR, INTERNAL_ERROR, ENHANCE_YOUR_CALM] {
        let addr = says_goodbye(0, reason).await;
        let (reqwest, hyper) = post(addr).await;
        assert_eq!(reqwest, (3, Some(Stop::AttemptsExhausted)), "{reason}");
        assert_eq!(hyper, (3, Some(Stop::AttemptsExhausted)), "{reason}");
    }
}

/// The attempts and the reason for stopping, of both clients.
async fn post(addr: SocketAddr) -> ((u32, Option<Stop>), (u32, Option<Stop>)) {
    let Clients { hyper, reqwest } = Clients::new(Version::HTTP_2);
    let url = format!("http://{addr}/");

    let request = reqwest::Request::new(Method::POST, url.parse().unwrap());
    let service = ServiceBuilder::new().layer(pipeline()).service(reqwest);
    let error = service.oneshot(request).await.unwrap_err();
    let of_reqwest = (error.attempts(), error.report().stop());

    let request = http::Request::post(url).body(Full::default()).unwrap();
    let service = ServiceBuilder::new().layer(pipeline()).service(hyper);
    let error = service.oneshot(request).await.unwrap_err();
    (of_reqwest, (error.attempts(), error.report().stop()))
}

/// A server that answers each connection's first request with a GOAWAY, and closes.
async fn says_goodbye(last_stream: u32, reason: u32) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(say_goodbye(stream, last_stream, reason));
        }
    });
    addr
}

async fn say_goodbye(mut stream: TcpStream, last_stream: u32, reason: u32) -> std::io::Result<()> {
    stream.read_exact(&mut [0; PREFACE]).await?;
    stream.write_all(&head(0, SETTINGS)).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await?;
        if head[3] == HEADERS {
            break;
        }
    }
    let mut goodbye = head(8, GOAWAY).to_vec();
    goodbye.extend(last_stream.to_be_bytes());
    goodbye.extend(reason.to_be_bytes());
    stream.write_all(&goodbye).await?;
    stream.shutdown().await?;
    // Whatever still comes is read, or closing would reset the connection and lose the frame.
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(())
}

/// The head of a frame of the whole connection (RFC 9113, 4.1).
const fn head(length: u8, kind: u8) -> [u8; 9] {
    [0, 0, length, kind, 0, 0, 0, 0, 0]
}

const PREFACE: usize = 24;

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const ENHANCE_YOUR_CALM: u32 = 11;
