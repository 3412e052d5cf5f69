//! What was asked for, and what is wrong with that.

use std::path::PathBuf;
use std::time::Duration;

use http::{Method, Uri};

use crate::watch::Plan;

pub(crate) const USAGE: &str = "\
usage: doctor [options] URL     watches a URL, and says why it fails
       doctor --demo [options]  watches a server that misbehaves, on this machine

  --requests N       never sends more, whatever happens: 1 to 100; 20 by itself
  --for LENGTH       for so long, such as 30s or 5m: 1 s to 10 min, at most 10 requests a second; 30s by itself
  --method GET|HEAD  GET tells more, for error pages are read; HEAD costs the service less
  --json             for programs
  --out FOLDER       writes the report there as Markdown, JSON and a page, unless one is there already;
                     the demo's by itself is target/doctor";

/// The command line.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) task: Task,
    pub(crate) json: bool,
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug)]
pub(crate) enum Task {
    Demo,
    Help,
    Watch(Target, Plan),
}

/// What to ask for.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
}

/// What is wrong with a command line.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum Wrong {
    #[error("--for: a length from 1 s to 10 min, such as 30s or 5m")]
    For,
    #[error("--method: GET or HEAD; nothing else is sure to change nothing")]
    Method,
    #[error("{0} needs a value")]
    NeedsValue(String),
    #[error("a URL is missing, or --demo")]
    NoUrl,
    #[error("{0}: no such option")]
    Option(String),
    #[error("--requests: a number from 1 to {MOST_REQUESTS}")]
    Requests,
    #[error("at most {MOST_PER_SECOND} requests a second: fewer --requests, or a longer --for")]
    TooFast,
    #[error("one URL, please")]
    TwoUrls,
    #[error("the URL has to begin with http:// or https://, and to name a host")]
    Url,
    #[error("the URL holds a user's name or password, which would end up in logs: leave it out")]
    UrlSecret,
}

impl Args {
    pub(crate) fn read(args: impl IntoIterator<Item = String>) -> Result<Self, Wrong> {
        let mut args = args.into_iter();
        let (mut requests, mut length) = (20, Duration::from_secs(30));
        let (mut method, mut url) = (Method::GET, None);
        let (mut demo, mut help, mut json, mut out) = (false, false, false, None);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| Wrong::NeedsValue(arg.clone()));
            match arg.as_str() {
                "--demo" => demo = true,
                "--for" => length = read_length(&value()?)?,
                "--help" | "-h" => help = true,
                "--json" => json = true,
                "--method" => method = read_method(&value()?)?,
                "--out" => out = Some(PathBuf::from(value()?)),
                "--requests" => requests = read_requests(&value()?)?,
                _ if arg.starts_with('-') => return Err(Wrong::Option(arg)),
                _ if url.is_some() => return Err(Wrong::TwoUrls),
                _ => url = Some(read_url(&arg)?),
            }
        }
        let task = match url {
            _ if help => Task::Help,
            None if demo => Task::Demo,
            None => return Err(Wrong::NoUrl),
            Some(_) if demo => return Err(Wrong::TwoUrls),
            Some(uri) => {
                if f64::from(requests) > length.as_secs_f64() * f64::from(MOST_PER_SECOND) {
                    return Err(Wrong::TooFast);
                }
                Task::Watch(Target { method, uri }, Plan { requests, length })
            }
        };
        Ok(Self { task, json, out })
    }
}

impl Target {
    /// The service: host and port.
    pub(crate) fn service(&self) -> &str {
        self.uri.authority().map_or("", |it| it.as_str())
    }

    /// The URL without its query, which may hold secrets.
    pub(crate) fn shown(&self) -> String {
        let scheme = self.uri.scheme_str().unwrap_or("http");
        format!("{scheme}://{}{}", self.service(), self.uri.path())
    }
}

fn read_length(value: &str) -> Result<Duration, Wrong> {
    let length = humantime::parse_duration(value).map_err(|_| Wrong::For)?;
    let allowed = Duration::from_secs(1)..=Duration::from_secs(600);
    if allowed.contains(&length) {
        Ok(length)
    } else {
        Err(Wrong::For)
    }
}

fn read_method(value: &str) -> Result<Method, Wrong> {
    match value.to_ascii_uppercase().as_str() {
        "GET" => Ok(Method::GET),
        "HEAD" => Ok(Method::HEAD),
        _ => Err(Wrong::Method),
    }
}

fn read_requests(value: &str) -> Result<u32, Wrong> {
    let requests = value.parse().map_err(|_| Wrong::Requests)?;
    if (1..=MOST_REQUESTS).contains(&requests) {
        Ok(requests)
    } else {
        Err(Wrong::Requests)
    }
}

fn read_url(value: &str) -> Result<Uri, Wrong> {
    let uri: Uri = value.parse().map_err(|_| Wrong::Url)?;
    let authority = uri.authority().ok_or(Wrong::Url)?;
    match uri.scheme_str() {
        Some("http" | "https") if authority.host().is_empty() => Err(Wrong::Url),
        Some("http" | "https") if authority.as_str().contains('@') => Err(Wrong::UrlSecret),
        Some("http" | "https") => Ok(uri),
        _ => Err(Wrong::Url),
    }
}

/// Nobody's service minds so few.
const MOST_REQUESTS: u32 = 100;

const MOST_PER_SECOND: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Args, Wrong> {
        Args::read(line.split_whitespace().map(str::to_owned))
    }

    fn plan(line: &str) -> (Target, Plan) {
        match read(line).expect("right").task {
            Task::Watch(target, plan) => (target, plan),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_url_alone_is_twenty_requests_in_half_a_minute() {
        let (target, plan) = plan("https://example.test/a?token=7");
        assert_eq!((plan.requests, plan.length.as_secs()), (20, 30));
        assert_eq!(target.method, Method::GET);
        assert_eq!(target.shown(), "https://example.test/a");
    }

    #[test]
    fn every_option_is_read_in_any_order() {
        let line = "--json http://h --method head --for 2m --requests 100 --out x";
        let (target, plan) = plan(line);
        assert_eq!((plan.requests, plan.length.as_secs()), (100, 120));
        assert_eq!(target.method, Method::HEAD);
        let args = read(line).expect("right");
        assert!(args.json && args.out.is_some_and(|it| it.ends_with("x")));
        assert!(matches!(read("--demo").expect("right").task, Task::Demo));
        assert!(matches!(read("x --help"), Err(Wrong::Url)));
    }

    #[test]
    fn limits_hold_on_both_sides_of_their_edges() {
        assert_eq!(plan("--requests 1 http://h").1.requests, 1);
        assert_eq!(plan("--requests 10 --for 1s http://h").1.requests, 10);
        for (line, wrong) in [
            ("--requests 0 http://h", Wrong::Requests),
            ("--requests 101 --for 10m http://h", Wrong::Requests),
            ("--requests many http://h", Wrong::Requests),
            ("--requests 11 --for 1s http://h", Wrong::TooFast),
            ("--for 999ms http://h", Wrong::For),
            ("--for 601s http://h", Wrong::For),
            ("--for ever http://h", Wrong::For),
            ("--method POST http://h", Wrong::Method),
            ("--method", Wrong::NeedsValue("--method".into())),
            ("--fast http://h", Wrong::Option("--fast".into())),
            ("", Wrong::NoUrl),
            ("http://h http://i", Wrong::TwoUrls),
            ("--demo http://h", Wrong::TwoUrls),
            ("ftp://h/", Wrong::Url),
            ("/path", Wrong::Url),
            ("h", Wrong::Url),
            ("http://user:word@h/", Wrong::UrlSecret),
        ] {
            assert_eq!(read(line).expect_err(line), wrong, "{line}");
        }
    }
}
