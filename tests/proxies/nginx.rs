//! nginx.

use std::path::Path;
use std::process::Command;

use evenkeel::diagnosis::{Cause, Origin};
use http::Version;

use crate::condition::{Row, passed_on, row};
use crate::program::{Proxy, Setup};

pub(crate) const PROXY: Proxy = Proxy {
    name: "nginx",
    variable: "EVENKEEL_NGINX",
    command,
    ready: &[],
    version: Version::HTTP_11,
    rows,
};

const OWN: Origin = Origin::Proxy("nginx");

fn rows() -> Vec<Row> {
    let phrase = "without the page the phrase alone tells that it is nginx's own";
    let mut rows = vec![
        row("/refused/ok", 502, Cause::UpstreamUnavailable)
            .log("Connection refused")
            .by(OWN)
            .never_arrives(),
        row("/full/ok", 504, Cause::UpstreamUnavailable)
            .or(
                Cause::GatewayTimeout,
                "a connection in time is an answer in time",
            )
            .log("timed out) while connecting")
            .by(OWN)
            .never_arrives(),
        row("/slow/stall", 504, Cause::GatewayTimeout)
            .log("timed out) while reading")
            .by(OWN),
        row("/app/close", 502, Cause::UpstreamUnavailable)
            .log("prematurely closed connection")
            .by(OWN),
        row("/app/reset", 502, Cause::UpstreamUnavailable)
            .log("reset by peer")
            .by(OWN),
        row("/garbage/ok", None, Cause::BadUpstreamAnswer)
            .log("sent no valid HTTP/1")
            .by(Origin::Network),
        row("/dead/ok", 502, Cause::UpstreamUnavailable)
            .after(&["/dead/first/ok"])
            .log("no live upstreams")
            .by(OWN)
            .never_arrives(),
        row("/busy/ok", 502, Cause::Overload)
            .or(Cause::UpstreamUnavailable, "no upstream is left for it")
            .beside("/busy/stall")
            .log("no live upstreams")
            .by(OWN)
            .never_arrives(),
        row("/rate/ok", 503, Cause::RateLimit)
            .same_as(Cause::Overload, "limit_conn has the same page")
            .after(&["/rate/first/ok"])
            .log("limiting requests")
            .by(OWN)
            .not_sent(),
        row("/rate-429/ok", 429, Cause::RateLimit)
            .after(&["/rate-429/first/ok"])
            .log("limiting requests")
            .by(OWN)
            .not_sent(),
        row("/connections/ok", 503, Cause::Overload)
            .same_as(Cause::RateLimit, "limit_req has the same page")
            .beside("/connections/stall")
            .log("limiting connections")
            .by(OWN)
            .not_sent(),
        row("/off/ok", 503, Cause::Maintenance)
            .same_as(Cause::RateLimit, "limit_req has the same page")
            .log("status=503 upstream=- ")
            .by(OWN)
            .not_sent(),
        row("/off-later/ok", 503, Cause::Maintenance)
            .unread(Cause::RateLimit, phrase)
            .log("status=503 upstream=- ")
            .later(900)
            .by(OWN)
            .not_sent(),
        row("/off-page/ok", 503, Cause::Maintenance)
            .unread(Cause::RateLimit, phrase)
            .log("status=503 upstream=- ")
            .by(OWN)
            .never_arrives(),
    ];
    rows.extend(passed_on("answered=yes", Origin::Application));
    rows
}

fn command(nginx: &Path, setup: &Setup<'_>) -> Command {
    let upstream = setup.upstream;
    let (app, garbage, full) = (upstream.app(), upstream.garbage(), upstream.full());
    let closed = [0, 1].map(|which| upstream.closed(which));
    let [port, ..] = setup.ports;
    let (folder, token) = (setup.folder.display(), setup.token);
    let text = format!(
        r#"
daemon off;
master_process off; # one process, so that it can be ended
pid {folder}/pid;
error_log {folder}/error.log info;
events {{ worker_connections 128; }}
http {{
    map $upstream_header_time $answered {{ "" no; "-" no; default yes; }}
    log_format plain "$request_uri status=$status upstream=$upstream_status answered=$answered";
    access_log {folder}/access.log plain;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;

    limit_req_zone all zone=rate:32k rate=1r/m;
    limit_req_zone all zone=rate-429:32k rate=1r/m;
    limit_conn_zone all zone=connections:32k;

    upstream dead {{
        server {dead} max_fails=1 fail_timeout=60s;
        server {refused} max_fails=1 fail_timeout=60s;
    }}
    upstream busy {{ zone busy 64k; server {app} max_conns=1; }}

    server {{
        listen 127.0.0.1:{port};
        location = /ready {{ return 200 {token}; }}
        location /app/ {{ proxy_pass http://{app}; }}
        location /refused/ {{ proxy_pass http://{refused}; }}
        location /slow/ {{ proxy_pass http://{app}; proxy_read_timeout 1s; }}
        location /full/ {{ proxy_connect_timeout 1s; proxy_pass http://{full}; }}
        location /garbage/ {{ proxy_pass http://{garbage}; }}
        location /dead/ {{ proxy_pass http://dead; }}
        location /busy/ {{ proxy_pass http://busy; }}
        location /rate/ {{ limit_req zone=rate; proxy_pass http://{app}; }}
        location /rate-429/ {{
            limit_req zone=rate-429;
            limit_req_status 429;
            proxy_pass http://{app};
        }}
        location /connections/ {{
            limit_conn connections 1;
            proxy_pass http://{app};
        }}
        location /off/ {{ return 503; }}
        location /off-later/ {{ add_header Retry-After 900 always; return 503; }}
        location /off-page/ {{ error_page 503 /off.html; return 503; }}
        location = /off.html {{ internal; root {folder}; }}
    }}
}}
"#,
        dead = closed[1],
        refused = closed[0],
    );
    setup.write(
        "off.html",
        "<h1>Down for maintenance</h1><p>We will be back soon.</p>",
    );
    let config = setup.write("nginx.conf", &text);
    let mut command = Command::new(nginx);
    command.arg("-p").arg(setup.folder).arg("-c").arg(config);
    command.arg("-e").arg(setup.folder.join("error.log"));
    command
}
