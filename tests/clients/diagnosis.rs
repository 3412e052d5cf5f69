//! What real clients let a diagnosis see: the reason phrase, which `Server` can't choose.

use std::net::{Ipv4Addr, SocketAddr};

use evenkeel::Report;
use evenkeel::client::reqwest::SendWith;
use evenkeel::diagnosis::{Cause, Diagnosis, Origin};
use http::{Request, Version};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};

use crate::support::{Clients, pipeline};

#[tokio::test]
async fn the_phrase_tells_nginxs_own_503_from_one_that_it_passed_on() {
    for (phrase, cause, origin) in [
        (
            "Service Temporarily Unavailable",
            Cause::RateLimit,
            Origin::Proxy("nginx"),
        ),
        (
            "Service Unavailable",
            Cause::ApplicationError,
            Origin::Application,
        ),
    ] {
        let head = format!(
            "HTTP/1.1 503 {phrase}\r\nServer: nginx\r\nX-Should-Retry: false\r\n\
             X-Page: 1\r\nContent-Length: 4\r\n\r\npage"
        );
        let addr = answers(head).await;
        for diagnosis in diagnoses(addr).await {
            assert_eq!(diagnosis.origin(), origin, "{phrase}: {diagnosis}");
            assert_eq!(diagnosis.cause(), cause, "{phrase}: {diagnosis}");
        }
    }
}

#[tokio::test]
async fn what_is_no_http_is_told_from_a_closed_connection() {
    let ssh = answers("SSH-2.0-OpenSSH_9.2\r\n".to_owned()).await;
    for diagnosis in failures(ssh).await {
        assert_eq!(diagnosis.cause(), Cause::BadUpstreamAnswer, "{diagnosis}");
    }
    let closed = answers(String::new()).await;
    for diagnosis in failures(closed).await {
        assert_eq!(diagnosis.cause(), Cause::ConnectionFailure, "{diagnosis}");
        assert_eq!(diagnosis.origin(), Origin::Network);
    }
}

/// Through reqwest and through hyper.
async fn diagnoses(addr: SocketAddr) -> [Diagnosis; 2] {
    let Clients { hyper, reqwest } = Clients::new(Version::HTTP_11);
    let url = format!("http://{addr}/");
    let response = reqwest.get(&url).send_with(&pipeline()).await.unwrap();
    let of_reqwest = of(response.extensions().get());
    let request = Request::get(url).body(Full::default()).unwrap();
    let service = ServiceBuilder::new().layer(pipeline()).service(hyper);
    let response = service.oneshot(request).await.unwrap();
    [of_reqwest, of(response.extensions().get())]
}

async fn failures(addr: SocketAddr) -> [Diagnosis; 2] {
    let Clients { hyper, reqwest } = Clients::new(Version::HTTP_11);
    let url = format!("http://{addr}/");
    let error = reqwest.get(&url).send_with(&pipeline()).await.unwrap_err();
    let of_reqwest = of(Some(error.report()));
    let request = Request::get(url).body(Full::default()).unwrap();
    let service = ServiceBuilder::new().layer(pipeline()).service(hyper);
    let error = service.oneshot(request).await.unwrap_err();
    [of_reqwest, of(Some(error.report()))]
}

fn of(report: Option<&Report>) -> Diagnosis {
    let report = report.expect("a report");
    report.diagnosis().expect("a failure").clone()
}

/// Says this to whoever asks, and closes.
async fn answers(bytes: String) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let bytes = bytes.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(bytes.as_bytes()).await;
            });
        }
    });
    addr
}
