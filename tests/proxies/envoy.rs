//! Envoy.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use evenkeel::diagnosis::{Cause, Origin};
use http::Version;

use crate::condition::{Row, passed_on, row};
use crate::program::{Page, Proxy, Setup};

pub(crate) const PROXY: Proxy = Proxy {
    name: "envoy",
    variable: "EVENKEEL_ENVOY",
    command,
    // Its check has found that out.
    ready: &[Page(ADMIN, "/clusters", "/failed_active_hc")],
    // There is no phrase to go by.
    version: Version::HTTP_2,
    rows,
};

const ADMIN: usize = 1;

/// Here it also has a `Proxy-Status`.
const TOLD: usize = 2;

/// Here it does both that and says how often it tried.
const COUNTED: usize = 3;

const OWN: Origin = Origin::Proxy("envoy");

/// `Proxy-Status` weighs most, and any proxy can say it.
const TELLS: Origin = Origin::Proxy("a proxy");

fn rows() -> Vec<Row> {
    let mut rows = plain();
    rows.extend(passed_on("via_upstream", Origin::Application));
    rows.extend(told());
    rows.extend(counted());
    rows
}

fn plain() -> Vec<Row> {
    let empty = "an empty 503 of Envoy's own may be anything";
    vec![
        row("/refused/ok", 503, Cause::UpstreamUnavailable)
            .log("flags=UF ")
            .by(OWN)
            .not_sent(),
        row("/full/ok", 503, Cause::UpstreamUnavailable)
            .log("flags=UF ")
            .by(OWN)
            .not_sent(),
        row("/slow/stall", 504, Cause::GatewayTimeout)
            .log("flags=UT ")
            .by(OWN),
        row("/app/close", 503, Cause::UpstreamUnavailable)
            .log("flags=UC ")
            .by(OWN),
        row("/app/reset", 503, Cause::UpstreamUnavailable)
            .log("flags=UC ")
            .by(OWN),
        row("/garbage/ok", 502, Cause::BadUpstreamAnswer)
            .or(
                Cause::UpstreamUnavailable,
                "what talks like that is no upstream",
            )
            .log("flags=UPE ")
            .by(OWN),
        row("/sick/ok", 503, Cause::UpstreamUnavailable)
            .log("flags=UH ")
            .by(OWN)
            .not_sent(),
        row("/nobody/ok", 503, Cause::UpstreamUnavailable)
            .log("flags=UH ")
            .by(OWN)
            .not_sent(),
        row("/busy/ok", 503, Cause::Overload)
            .beside("/busy/stall")
            .log("flags=UO ")
            .by(OWN)
            .not_sent(),
        row("/rate/ok", 429, Cause::RateLimit)
            .after(&["/rate/first/ok"])
            .log("flags=RL ")
            .by(OWN)
            .not_sent(),
        row("/maintained/ok", 503, Cause::Maintenance)
            .unread(Cause::Overload, "x-envoy-overloaded comes with both")
            .log("maintenance_mode")
            .by(OWN)
            .not_sent(),
        // The first try of each attempt was sent; for a second one there is no room.
        row("/pressed/503-empty", 503, Cause::Overload)
            .beside("/pressed/first/503-empty")
            .until(Page(ADMIN, "/stats?filter=pressed", "pending_active: 1"))
            .log("flags=UO ")
            .by(OWN),
        row("/off-page/ok", 503, Cause::Maintenance)
            .unread(
                Cause::UpstreamUnavailable,
                "made by Envoy, and nothing more",
            )
            .log("direct_response")
            .by(OWN)
            .never_arrives(),
        row("/off-empty/ok", 503, Cause::Maintenance)
            .same_as(Cause::UpstreamUnavailable, empty)
            .log("direct_response")
            .by(OWN)
            .never_arrives(),
        row("/off-later/ok", 503, Cause::Maintenance)
            .later(900)
            .log("direct_response")
            .by(OWN)
            .never_arrives(),
        row("/no-such-route/ok", 404, Cause::Configuration)
            .unread(
                Cause::ApplicationError,
                "HTTP/2 need not say that it is empty",
            )
            .permanent()
            .log("flags=NR ")
            .by(OWN)
            .not_sent(),
        row("/no-such-cluster/ok", 503, Cause::Configuration)
            .same_as(Cause::UpstreamUnavailable, empty)
            .log("flags=NC ")
            .by(OWN)
            .never_arrives(),
    ]
}

/// With `Proxy-Status`, which is no proof, for it doesn't tell of tries before the last.
fn told() -> Vec<Row> {
    let row = |path, status, cause| row(path, Some(status), cause).by(TELLS).at(TOLD);
    vec![
        row("/told/refused/ok", 503, Cause::UpstreamUnavailable)
            .log("flags=UF ")
            .not_sent(),
        row("/told/full/ok", 503, Cause::UpstreamUnavailable)
            .log("flags=UF ")
            .not_sent(),
        row("/told/slow/stall", 504, Cause::GatewayTimeout).log("flags=UT "),
        row("/told/app/close", 503, Cause::UpstreamUnavailable).log("flags=UC "),
        row("/told/app/reset", 503, Cause::UpstreamUnavailable).log("flags=UC "),
        row("/told/garbage/ok", 502, Cause::BadUpstreamAnswer)
            .or(
                Cause::UpstreamUnavailable,
                "what talks like that is no upstream",
            )
            .log("flags=UPE "),
        row("/told/nobody/ok", 503, Cause::UpstreamUnavailable)
            .log("flags=UH ")
            .not_sent(),
        row("/told/rate/ok", 429, Cause::RateLimit)
            .after(&["/told/rate/first/ok"])
            .log("flags=RL ")
            .not_sent(),
        row("/told/no-such-route/ok", 404, Cause::Configuration)
            .permanent()
            .log("flags=NR ")
            .not_sent(),
        row("/told/no-such-cluster/ok", 503, Cause::Configuration)
            .log("flags=NC ")
            .by(OWN)
            .not_sent(),
        // Of each attempt the first try was sent and the last one refused.
        row("/told/twice/close", 503, Cause::UpstreamUnavailable).log("flags=URX,UF "),
        row("/told/twice/503", 503, Cause::UpstreamUnavailable).log("flags=URX,UF "),
        row("/told/twice-if-503/503", 503, Cause::UpstreamUnavailable).log("flags=UF "),
    ]
}

/// With `Proxy-Status` and `X-Envoy-Attempt-Count`, which together are.
fn counted() -> Vec<Row> {
    let row = |path, status, cause| row(path, Some(status), cause).by(TELLS).at(COUNTED);
    vec![
        row("/counted/refused/ok", 503, Cause::UpstreamUnavailable)
            .log("flags=UF ")
            .proven(),
        row("/counted/full/ok", 503, Cause::UpstreamUnavailable)
            .log("flags=UF ")
            .proven(),
        row("/counted/nobody/ok", 503, Cause::UpstreamUnavailable)
            .log("flags=UH ")
            .proven(),
        row("/counted/app/close", 503, Cause::UpstreamUnavailable).log("flags=UC "),
        row("/counted/busy/ok", 503, Cause::Overload)
            .beside("/counted/busy/stall")
            .log("flags=UO ")
            .proven(),
        row("/counted/twice/close", 503, Cause::UpstreamUnavailable).log("flags=URX,UF "),
        row("/counted/twice-if-503/503", 503, Cause::UpstreamUnavailable).log("flags=UF "),
    ]
}

fn command(envoy: &Path, setup: &Setup<'_>) -> Command {
    let config = setup.write("envoy.yaml", &config(setup));
    let mut command = Command::new(envoy);
    command.arg("-c").arg(config);
    command.args(["--use-dynamic-base-id", "--concurrency", "1"]);
    command.args(["--file-flush-interval-msec", "20", "--log-level", "warning"]);
    command
}

fn config(setup: &Setup<'_>) -> String {
    let [port, admin, told, counted] = setup.ports;
    let upstream = setup.upstream;
    let (app, closed) = (upstream.app(), upstream.closed(0));
    let mut text = format!(
        "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}\n\
         layered_runtime:\n  layers:\n  - name: fixed\n    static_layer:\n      \
         upstream.maintenance_mode.maintained: 100\n\
         static_resources:\n  listeners:\n",
    );
    text += &listener(setup, "", port, "", "");
    let status =
        "proxy_status_config: {remove_details: false, set_recommended_response_code: false}";
    text += &listener(setup, "/told", told, status, "");
    let count = "include_attempt_count_in_response: true";
    text += &listener(setup, "/counted", counted, status, count);
    text += "  clusters:\n";
    let one = [Some(app), None];
    text += &cluster("app", one, "");
    text += &cluster("refused", [Some(closed), None], "");
    text += &cluster("full", [Some(upstream.full()), None], "");
    text += &cluster("garbage", [Some(upstream.garbage()), None], "");
    text += &cluster("nobody", [None, None], "");
    text += &cluster("maintained", one, "");
    text += &cluster("twice", [Some(app), Some(closed)], "");
    text += &cluster(
        "pressed",
        [Some(app), Some(upstream.full())],
        "circuit_breakers: {thresholds: [{max_pending_requests: 1}]}",
    );
    text += &cluster(
        "sick",
        [Some(closed), None],
        "common_lb_config: {healthy_panic_threshold: {value: 0}}\n    health_checks: [{timeout: 1s, interval: 0.1s, no_traffic_interval: 0.1s, \
         unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {}}]",
    );
    for name in ["busy", "told-busy", "counted-busy"] {
        let breaker = "circuit_breakers: {thresholds: [{max_requests: 1}]}";
        text += &cluster(name, one, breaker);
    }
    text
}

fn listener(setup: &Setup<'_>, prefix: &str, port: u16, more: &str, of_host: &str) -> String {
    let (folder, token) = (setup.folder.display(), setup.token);
    let name = prefix.trim_start_matches('/');
    let mut routes = format!(
        "              - {{match: {{path: /ready}}, direct_response: {{status: 200, body: {{inline_string: {token}}}}}}}\n"
    );
    let mut route = |path: &str, action: &str| {
        writeln!(
            routes,
            "              - {{match: {{prefix: {prefix}/{path}/}}, {action}}}"
        )
        .unwrap();
    };
    for cluster in ["refused", "full", "garbage", "nobody", "maintained", "sick"] {
        route(
            cluster,
            &format!("route: {{cluster: {cluster}, timeout: 60s}}"),
        );
    }
    route("app", "route: {cluster: app, timeout: 60s}");
    route("slow", "route: {cluster: app, timeout: 1s}");
    let busy = format!("{name}-busy");
    let busy = busy.trim_start_matches('-');
    route("busy", &format!("route: {{cluster: {busy}, timeout: 60s}}"));
    route("no-such-cluster", "route: {cluster: nowhere}");
    let if_503 = "retry_on: retriable-status-codes, retriable_status_codes: [503]";
    for (path, cluster, policy) in [
        ("pressed", "pressed", if_503),
        ("twice", "twice", "retry_on: 5xx"),
        ("twice-if-503", "twice", if_503),
    ] {
        let other = "retry_priority: {name: other, typed_config: {\"@type\": \
            type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig, \
            update_frequency: 1}}";
        let policy = format!("retry_policy: {{{policy}, num_retries: 1, {other}}}");
        let action = format!("route: {{cluster: {cluster}, timeout: 60s, {policy}}}");
        route(path, &action);
    }
    route(
        "off-page",
        "direct_response: {status: 503, body: {inline_string: Down for maintenance}}",
    );
    route("off-empty", "direct_response: {status: 503}");
    route(
        "off-later",
        "direct_response: {status: 503, body: {inline_string: Down for maintenance}}, \
         response_headers_to_add: [{header: {key: retry-after, value: '900'}}]",
    );
    let limit = "typed_per_filter_config: {limit: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit, \
        stat_prefix: limit, token_bucket: {max_tokens: 1, tokens_per_fill: 1, fill_interval: 600s}, \
        filter_enabled: {default_value: {numerator: 100}}, filter_enforced: {default_value: {numerator: 100}}}}";
    route("rate", &format!("route: {{cluster: app}}, {limit}"));
    format!(
        r#"  - name: "at{port}"
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    enable_reuse_port: false
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          {more}
          access_log:
          - name: file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {folder}/access.log
              log_format: {{text_format_source: {{inline_string: "%REQ(:PATH)% status=%RESPONSE_CODE% flags=%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n"}}}}
          http_filters:
          - name: limit
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: limit}}
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            validate_clusters: false
            virtual_hosts:
            - name: all
              domains: ["*"]
              {of_host}
              routes:
{routes}"#
    )
}

/// One whose second server is asked only in place of the first.
fn cluster(name: &str, servers: [Option<SocketAddr>; 2], more: &str) -> String {
    let patience = if name == "full" { "1s" } else { "60s" };
    let mut endpoints = Vec::new();
    for (priority, server) in servers.into_iter().enumerate() {
        let Some(server) = server else {
            continue;
        };
        let (ip, port) = (server.ip(), server.port());
        endpoints.push(format!(
            "{{priority: {priority}, lb_endpoints: [{{endpoint: {{address: {{socket_address: \
             {{address: {ip}, port_value: {port}}}}}}}}}]}}"
        ));
    }
    format!(
        "  - name: {name}\n    connect_timeout: {patience}\n    load_assignment: {{cluster_name: {name}, \
         endpoints: [{}]}}\n    {more}\n",
        endpoints.join(", ")
    )
}
