//! A server that is ill in several ways, one after the other, and whether it is told right.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use evenkeel::Clock;
use evenkeel::diagnosis::{Cause, Diagnosis, Origin, Persistence};
use evenkeel::testing::{Reply, Server};
use http::Method;

use crate::args::{Args, Target};
use crate::client::Client;
use crate::watch::{End, Plan, watch};
use crate::words;

/// How the server is for a while, and what should be said of it.
struct Phase {
    name: &'static str,
    reply: fn() -> Reply,
    requests: u32,
    length: Duration,
    sent: usize,
    end: End,
    expected: Option<(Cause, Origin, Option<Persistence>)>,
}

const PHASES: [Phase; 5] = [
    Phase {
        name: "well",
        reply: || Reply::status(200).body("three lamps"),
        requests: 8,
        length: Duration::from_millis(800),
        sent: 8,
        end: End::AllSent,
        expected: None,
    },
    Phase {
        name: "overloaded, and back in a second each time",
        reply: || {
            Reply::status(503)
                .header("content-type", "application/json")
                .header("retry-after", "1")
                .body(r#"{"error": "too many requests in flight, try again later"}"#)
        },
        requests: 3,
        length: Duration::from_millis(2400),
        sent: 3,
        end: End::AllSent,
        expected: Some((Cause::Overload, Origin::Application, None)),
    },
    Phase {
        name: "behind a gateway that gives up",
        reply: || {
            Reply::status(504)
                .header("server", "nginx/1.22.1")
                .header("content-type", "text/html")
                .body(
                    "<html>\r\n<head><title>504 Gateway Time-out</title></head>\r\n<body>\r\n\
                     <center><h1>504 Gateway Time-out</h1></center>\r\n<hr><center>nginx/1.22.1</center>\r\n\
                     </body>\r\n</html>\r\n",
                )
                .after(Duration::from_millis(50))
        },
        requests: 8,
        length: Duration::from_millis(800),
        sent: 8,
        end: End::AllSent,
        expected: Some((Cause::GatewayTimeout, Origin::Proxy("nginx"), None)),
    },
    Phase {
        name: "closed for maintenance",
        reply: || {
            Reply::status(503)
                .header("content-type", "text/html")
                .header("retry-after", "600")
                .body("<h1>We are down for planned maintenance, and will be back soon.</h1>")
        },
        requests: 8,
        length: Duration::from_millis(800),
        // It asks for quiet, and gets it.
        sent: 1,
        end: End::Quiet,
        expected: Some((
            Cause::Maintenance,
            Origin::Unknown,
            Some(Persistence::Announced(Duration::from_secs(600))),
        )),
    },
    Phase {
        name: "well again",
        reply: || Reply::status(200).body("three lamps"),
        requests: 24,
        length: Duration::from_millis(2400),
        sent: 24,
        end: End::AllSent,
        expected: None,
    },
];

pub(crate) async fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let now = Arc::new(AtomicUsize::new(0));
    let phase = Arc::clone(&now);
    let server = Server::with(move |_| (PHASES[phase.load(Ordering::SeqCst)].reply)()).await?;
    let target = Target {
        method: Method::GET,
        uri: server.url("/stock").parse()?,
    };
    let client = Client::new(&target)?;
    let recorder = crate::recorder(Duration::from_secs(2));
    let mut visits = Vec::new();
    for (number, phase) in PHASES.iter().enumerate() {
        // So that they are apart in the report.
        tokio::time::sleep(Duration::from_millis(300)).await;
        now.store(number, Ordering::SeqCst);
        let before = server.received().len();
        let plan = Plan {
            requests: phase.requests,
            length: phase.length,
        };
        let visit = watch(&target, &plan, &Clock::tokio(), &recorder, || client.ask()).await?;
        if !args.json {
            let said = words::said(&visit, false);
            crate::print(&format!("===== The server is {}.\n\n{said}", phase.name));
        }

        let received = server.received().split_off(before);
        assert_eq!(received.len(), visit.looks.len(), "{}", phase.name);
        assert!(received.len() <= phase.requests as usize);
        // On a machine that is busy the time may be up first, but never are there more.
        if visit.end == phase.end {
            assert_eq!(received.len(), phase.sent, "{}", phase.name);
        }
        let told = visit.diagnosis.as_ref().map(Diagnosis::cause);
        assert_eq!(told, phase.expected.map(|it| it.0), "{}", phase.name);
        if let (Some(diagnosis), Some((_, origin, lasts))) = (&visit.diagnosis, phase.expected) {
            assert_eq!(diagnosis.origin(), origin, "{}", phase.name);
            assert!(
                lasts.is_none_or(|it| it == diagnosis.persistence()),
                "{}",
                phase.name
            );
        }
        if phase.expected.is_some_and(|it| it.0 == Cause::Overload) {
            for pair in received.windows(2) {
                assert!(pair[1].at() - pair[0].at() >= Duration::from_secs(1));
            }
        }
        visits.push(words::json(&visit));
    }
    if args.json {
        crate::print(&format!("{:#}", serde_json::Value::from(visits.clone())));
    }
    let folder = args
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from("target/doctor"));
    let incidents = recorder.incidents();
    assert!(!incidents.is_empty());
    crate::write(&folder, &visits, &incidents)?;
    Ok(())
}
