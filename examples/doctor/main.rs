//! Why a service fails, asked of the service itself: a few requests, and the diagnosis with its evidence.
//!
//! `cargo run --example doctor --all-features -- URL` watches a URL for half a minute with twenty requests at
//! most, and says what is the matter, who says so, when to come back, what to look at, and what the client
//! should do. It never sends more than it may, sends nothing while the service asks for quiet, repeats
//! nothing, follows no redirect, and reads at most 4 KiB of each answer.
//!
//! `cargo run --example doctor --all-features -- --demo` watches a server on this machine that is well, then
//! overloaded, behind a gateway that gives up, and closed for maintenance; checks that it is told right each
//! time; and writes the report of it.
//!
//! | file | is |
//! |---|---|
//! | `args.rs` | what was asked for, and what is wrong with that |
//! | `client.rs` | one request, over HTTP or HTTPS, and what came of it |
//! | `watch.rs` | many of them, within their limits, and what they say together |
//! | `words.rs` | that, for people and for programs |
//! | `demo.rs` | the server that is ill |

mod args;
mod client;
mod demo;
mod watch;
mod words;

use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use evenkeel::Clock;
use evenkeel::incident::{Recorder, Report};

use args::{Args, Task};
use client::Client;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = match Args::read(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(wrong) => {
            eprintln!("{wrong}\n\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match run(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    if let Some(folder) = args.out.as_deref().filter(|it| holds_report(it)) {
        // Once the service is well there is no other record of why it wasn't.
        let folder = folder.display();
        return Err(format!("--out: {folder} holds a report already, name another folder").into());
    }
    match &args.task {
        Task::Help => print(args::USAGE),
        Task::Demo => demo::run(args).await?,
        Task::Watch(target, plan) => {
            let client = Client::new(target)?;
            let recorder = recorder(plan.length);
            let ask = || client.ask();
            let visit = watch::watch(target, plan, &Clock::tokio(), &recorder, ask).await?;
            print(&words::said(&visit, args.json));
            if let Some(folder) = &args.out {
                write(folder, &[words::json(&visit)], &recorder.incidents())?;
            }
        }
    }
    Ok(())
}

/// Who reads only the first lines wants no more of it.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A few requests make no large numbers: one failure in five is an incident already.
fn recorder(window: std::time::Duration) -> Recorder {
    Recorder::new().least(1).window(window).quiet_for(window)
}

/// Whether something would be lost by writing there.
fn holds_report(folder: &Path) -> bool {
    let names = [
        "doctor.json",
        "incident-1.md",
        "incident-1.json",
        "incident-1.html",
    ];
    names.iter().any(|it| folder.join(it).exists())
}

/// Writes what was found into a folder.
fn write(folder: &Path, visits: &[serde_json::Value], incidents: &[Report]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let visits = serde_json::to_string_pretty(visits)?;
    std::fs::write(folder.join("doctor.json"), visits)?;
    for report in incidents {
        let file = folder.join(format!("incident-{}", report.number));
        std::fs::write(file.with_extension("md"), report.markdown())?;
        std::fs::write(file.with_extension("json"), report.json())?;
        std::fs::write(file.with_extension("html"), report.page())?;
    }
    // Those of an earlier time would be taken for this one's.
    for number in incidents.len() + 1.. {
        let file = folder.join(format!("incident-{number}"));
        let gone = ["md", "json", "html"].map(|it| std::fs::remove_file(file.with_extension(it)));
        if gone.iter().all(Result::is_err) {
            break;
        }
    }
    eprintln!("wrote the report to {}", folder.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_report_of_an_earlier_time_is_not_written_over() {
        let folder = std::env::temp_dir().join(format!("evenkeel-doctor-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder of our own");
        let line = ["--demo", "--out"].map(str::to_owned);
        let line = line.into_iter().chain([folder.display().to_string()]);
        let args = Args::read(line).expect("right");
        assert!(!holds_report(&folder));
        let kept = folder.join("incident-1.md");
        std::fs::write(&kept, "of the outage").expect("a file of our own");
        let error = run(&args).await.expect_err("it is there");
        assert!(error.to_string().contains("another folder"), "{error}");
        assert_eq!(std::fs::read(&kept).expect("kept"), b"of the outage");
        std::fs::remove_dir_all(&folder).expect("a folder of our own");
    }
}
