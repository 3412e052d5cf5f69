//! `HAProxy`.

use std::path::Path;
use std::process::Command;

use evenkeel::diagnosis::{Cause, Origin};
use http::Version;

use crate::condition::{Row, passed_on, row};
use crate::program::{Page, Proxy, Setup};

pub(crate) const PROXY: Proxy = Proxy {
    name: "haproxy",
    variable: "EVENKEEL_HAPROXY",
    command,
    // Its check has found that out.
    ready: &[Page(ADMIN, "/stats;csv", "L4CON")],
    version: Version::HTTP_11,
    rows,
};

const ADMIN: usize = 1;

const OWN: Origin = Origin::Proxy("haproxy");

fn rows() -> Vec<Row> {
    let page = "one page for servers that are down, full and switched off";
    let mut rows = vec![
        row("/refused/ok", 503, Cause::UpstreamUnavailable)
            .same_as(Cause::Overload, page)
            .log("state=SC ")
            .by(OWN)
            .not_sent(),
        row("/full/ok", 503, Cause::UpstreamUnavailable)
            .or(
                Cause::GatewayTimeout,
                "a connection in time is an answer in time",
            )
            .same_as(Cause::Overload, page)
            .log("state=sC ")
            .by(OWN)
            .not_sent(),
        row("/slow/stall", 504, Cause::GatewayTimeout)
            .log("state=sH ")
            .by(OWN),
        row("/app/close", 502, Cause::UpstreamUnavailable)
            .log("state=SH ")
            .by(OWN),
        row("/app/reset", 502, Cause::UpstreamUnavailable)
            .log("state=SH ")
            .by(OWN),
        row("/garbage/ok", 502, Cause::BadUpstreamAnswer)
            .or(
                Cause::UpstreamUnavailable,
                "what talks like that is no upstream",
            )
            .log("state=PH ")
            .by(OWN),
        row("/sick/ok", 503, Cause::UpstreamUnavailable)
            .same_as(Cause::Overload, page)
            .log("server=<NOSRV> state=SC ")
            .by(OWN)
            .not_sent(),
        row("/disabled/ok", 503, Cause::Maintenance)
            .same_as(Cause::UpstreamUnavailable, page)
            .same_as(Cause::Overload, page)
            .log("server=<NOSRV> state=SC ")
            .by(OWN)
            .not_sent(),
        row("/queue/ok", 503, Cause::Overload)
            .same_as(Cause::UpstreamUnavailable, page)
            .beside("/queue/stall")
            .log("state=sQ ")
            .by(OWN)
            .not_sent(),
        row("/rate/ok", 429, Cause::RateLimit)
            .after(&["/rate/first/ok"])
            .log("state=PR ")
            .by(OWN)
            .not_sent(),
        row("/rate-503/ok", 503, Cause::RateLimit)
            .same_as(Cause::UpstreamUnavailable, page)
            .same_as(Cause::Overload, page)
            .after(&["/rate-503/first/ok"])
            .log("state=PR ")
            .by(OWN)
            .not_sent(),
        row("/off/ok", 503, Cause::Maintenance)
            .same_as(Cause::UpstreamUnavailable, page)
            .same_as(Cause::Overload, page)
            .log("state=PR ")
            .by(OWN)
            .not_sent(),
        row("/off-later/ok", 503, Cause::Maintenance)
            .later(900)
            .log("state=LR ")
            .by(Origin::Unknown)
            .never_arrives(),
    ];
    rows.extend(passed_on("server=one state=-- ", Origin::Unknown));
    rows
}

fn command(haproxy: &Path, setup: &Setup<'_>) -> Command {
    let upstream = setup.upstream;
    let [port, admin, ..] = setup.ports;
    let text = format!(
        r"
global
    log stdout format raw local0
    maxconn 128
    noreuseport

defaults
    mode http
    log global
    log-format path=%HP\ status=%ST\ server=%s\ state=%ts\ .
    timeout connect 60s
    timeout client 60s
    timeout server 60s
    retries 0

frontend front
    bind 127.0.0.1:{port}
    http-request return status 200 content-type text/plain string {token} if {{ path /ready }}
    use_backend %[path,field(2,/)]

frontend admin
    bind 127.0.0.1:{admin}
    stats enable
    stats uri /stats

backend app
    server one {app}

backend slow
    timeout server 1s
    server one {app}

backend refused
    server one {refused}

backend full
    timeout connect 1s
    server one {full}

backend garbage
    server one {garbage}

backend sick
    server one {refused} check inter 50ms fall 1

backend disabled
    server one {app} disabled

backend queue
    timeout queue 1s
    server one {app} maxconn 1

backend rate
    stick-table type string len 8 size 10 expire 10m store http_req_rate(10m)
    http-request track-sc0 str(all)
    http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt 1 }}
    server one {app}

backend rate-503
    stick-table type string len 8 size 10 expire 10m store http_req_rate(10m)
    http-request track-sc0 str(all)
    http-request deny deny_status 503 if {{ sc_http_req_rate(0) gt 1 }}
    server one {app}

backend off
    http-request deny deny_status 503

backend off-later
    http-request return status 503 hdr Retry-After 900 content-type text/html string <h1>Maintenance</h1>
",
        app = upstream.app(),
        refused = upstream.closed(0),
        full = upstream.full(),
        garbage = upstream.garbage(),
        token = setup.token,
    );
    let config = setup.write("haproxy.cfg", &text);
    let mut command = Command::new(haproxy);
    command.arg("-db").arg("-f").arg(config);
    command
}
