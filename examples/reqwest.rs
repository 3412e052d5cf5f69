//! reqwest under a pipeline: one request at a time, or the whole client.
//!
//! `cargo run --example reqwest --all-features`

use std::error::Error;

use evenkeel::client::reqwest::SendWith;
use evenkeel::report::Stop;
use evenkeel::testing::{Reply, Server};
use evenkeel::{Pipeline, Report};
use reqwest::{Client, Method, Request};
use tower::{Service, ServiceBuilder, ServiceExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // The servers are on this machine; without a proxy they can be reached wherever this runs.
    let client = Client::builder().no_proxy().build()?;
    one_request(&client).await?;
    orders(&client).await?;
    whole_client(client).await
}

/// A request goes through a pipeline by `send_with` in place of `send`.
async fn one_request(client: &Client) -> Result<(), Box<dyn Error>> {
    let server = Server::scripted([
        Reply::status(503).header("retry-after", 1),
        Reply::reset(),
        Reply::status(200).body("three lamps"),
    ])
    .await?;

    // One pipeline for all calls: they share its budget, and its window for each service.
    let pipeline = Pipeline::http();
    let stock = client.get(server.url("/stock"));
    let response = stock.send_with(&pipeline).await?;
    println!("GET /stock: {}", response.status());

    // The last response is the caller's, unchanged. If it wasn't the first one it has a report.
    let report = response.extensions().get::<Report>();
    let report = report.expect("it took three attempts");
    tell(report);
    assert_eq!(report.attempts(), 3);
    assert!(report.waited().as_secs() >= 1, "the server asked for that");
    assert_eq!(response.text().await?, "three lamps");
    Ok(())
}

/// What may have been carried out isn't sent again, unless that does no harm.
async fn orders(client: &Client) -> Result<(), Box<dyn Error>> {
    let server = Server::with(|request| match request.number() {
        // The second and the fourth request are the retries that this is about.
        2 | 4 => Reply::status(201),
        _ => Reply::status(503),
    })
    .await?;
    let pipeline = Pipeline::http();

    // The server recognises a repeated order by its key, ..
    let order = client.post(server.url("/orders")).body("a lamp");
    let order = order.header("idempotency-key", "8e03978e");
    let response = order.send_with(&pipeline).await?;
    println!("POST /orders with a key: {}", response.status());
    assert_eq!(response.status(), 201);

    // .. the caller knows that a search does no harm, ..
    let search = client.post(server.url("/search")).body("lamps");
    let response = search.send_with(&pipeline).idempotent(true).await?;
    println!("POST /search, said to be idempotent: {}", response.status());
    assert_eq!(response.status(), 201);

    // .. and for any other POST a failure is the answer.
    let order = client.post(server.url("/orders")).body("a lamp");
    let response = order.send_with(&pipeline).await?;
    println!("POST /orders without a key: {}", response.status());
    let report = response.extensions().get::<Report>();
    tell(report.expect("it is a failure"));
    assert_eq!(response.status(), 503);
    assert_eq!(server.received().len(), 5);
    Ok(())
}

/// The client is a tower service, and the pipeline is a layer.
async fn whole_client(client: Client) -> Result<(), Box<dyn Error>> {
    let server = Server::scripted([Reply::reset(), Reply::status(200)]).await?;
    let pipeline = Pipeline::http();
    let mut client = ServiceBuilder::new().layer(pipeline).service(client);

    let request = Request::new(Method::GET, server.url("/stock").parse()?);
    let response = client.ready().await?.call(request).await?;
    println!("GET /stock through tower: {}", response.status());
    let report = response.extensions().get::<Report>();
    tell(report.expect("it took two attempts"));
    assert_eq!(response.status(), 200);

    // Nobody listens any more. The error is reqwest's own, with a report around it. There were three
    // extra attempts at hand, half a one comes with each call, and the call before took one: two
    // are left, though a call may make four attempts.
    let request = Request::new(Method::GET, server.url("/stock").parse()?);
    server.refuse();
    let error = client.ready().await?.call(request).await;
    let error = error.expect_err("the port is closed");
    println!("GET /stock with nobody there: {error}");
    tell(error.report());
    assert_eq!(error.attempts(), 3);
    assert_eq!(error.report().stop(), Some(Stop::BudgetExhausted));
    assert!(error.operation().is_some_and(reqwest::Error::is_connect));
    Ok(())
}

/// How long the call stood in line for its service's window, and each failed attempt with what
/// followed it.
fn tell(report: &Report) {
    if !report.parked().is_zero() {
        println!("    in line for {:.2?}", report.parked());
    }
    for failure in report.failures() {
        let number = failure.number();
        let meant = failure.verdict().error_type();
        match (failure.wait(), report.stop()) {
            (Some(wait), _) => {
                let (length, reason) = (wait.length(), wait.reason());
                println!("    attempt {number}: {meant}, waited {length:.2?} ({reason})");
            }
            (None, Some(stop)) => println!("    attempt {number}: {meant}, {stop}"),
            (None, None) => println!("    attempt {number}: {meant}"),
        }
    }
}
