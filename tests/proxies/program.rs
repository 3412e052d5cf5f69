//! A proxy that runs for as long as a test.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use http::Version;

use crate::condition::Row;
use crate::upstream::Upstream;

/// One program, how it is started, and what is done to it.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    /// The variable that may say where it is.
    pub(crate) variable: &'static str,
    /// Writes its configuration into the set-up's folder.
    pub(crate) command: fn(&Path, &Setup<'_>) -> Command,
    /// It is ready when these pages have these words.
    pub(crate) ready: &'static [Page<'static>],
    /// Of HTTP, for POSTs.
    pub(crate) version: Version,
    pub(crate) rows: fn() -> Vec<Row>,
}

/// Which port of the set-up's, which path, and what stands there.
pub(crate) struct Page<'a>(
    pub(crate) usize,
    pub(crate) &'static str,
    pub(crate) &'a str,
);

/// What a configuration is made of.
pub(crate) struct Setup<'a> {
    /// Free ones; what each is for is up to the proxy. The first has a page `/ready`, which says
    /// [`token`](Self::token).
    pub(crate) ports: [u16; 4],
    pub(crate) folder: &'a Path,
    /// Nobody else says it, so whoever does is the proxy that was started.
    pub(crate) token: &'a str,
    pub(crate) upstream: &'a Upstream,
}

impl Setup<'_> {
    /// Writes a file, and says where it is.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, text).expect("a folder of our own");
        path
    }
}

impl Proxy {
    /// Where it is. Says so and gives `None` if it is nowhere and needn't be.
    pub(crate) fn find(&self) -> Option<PathBuf> {
        if let Some(path) = std::env::var_os(self.variable) {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "{}: no such file", self.variable);
            return Some(path);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Daemons are seldom on the path of those who aren't root.
        let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
        let mut all = std::env::split_paths(&path).chain(more);
        let found = all.find_map(|folder| Some(folder.join(self.name)).filter(|it| it.is_file()));
        if found.is_none() {
            let wanted = std::env::var("EVENKEEL_PROXIES").unwrap_or_default();
            let mut wanted = wanted.split([',', ' ']);
            let is_wanted = wanted.any(|it| it == "required" || it == self.name);
            assert!(
                !is_wanted,
                "no {} on the path, and it is asked for",
                self.name
            );
            // Past the test harness, which keeps what a test that passes prints.
            let name = self.name;
            let line = format!("skipped: no {name} on the path; .ci/run installs it\n");
            let _ = io::stderr().write_all(line.as_bytes());
        }
        found
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(&self, path: &Path, upstream: &Upstream) -> Running {
        for _ in 0..STARTS {
            let folder = Folder::new();
            let token = folder.token();
            let setup = Setup {
                ports: free_ports(),
                folder: &folder.0,
                token: &token,
                upstream,
            };
            let out = || {
                File::options()
                    .append(true)
                    .create(true)
                    .open(folder.0.join("out.log"))
            };
            let child = (self.command)(path, &setup)
                .stdin(Stdio::null())
                .stdout(out().expect("a folder of our own"))
                .stderr(out().expect("a folder of our own"))
                .spawn()
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let ports = setup.ports;
            let mut running = Running {
                child,
                ports,
                folder,
            };
            if running.is_ready(self.ready, &token).await {
                return running;
            }
            // Somebody took one of the ports meanwhile.
            eprintln!("{} ended early: {}", self.name, running.log());
        }
        panic!("{} doesn't start", self.name);
    }
}

/// A process that ends with this value, and its folder with it.
pub(crate) struct Running {
    child: Child,
    ports: [u16; 4],
    folder: Folder,
}

impl Running {
    pub(crate) fn url(&self, port: usize, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ports[port])
    }

    /// All that it wrote into its logs so far.
    pub(crate) fn log(&self) -> String {
        let entries = fs::read_dir(&self.folder.0).expect("a folder of our own");
        let paths = entries.map(|entry| entry.expect("a file of our own").path());
        let logs = paths.filter(|path| path.extension().is_some_and(|it| it == "log"));
        let read = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        logs.map(read).collect()
    }

    /// Waits until this stands there.
    pub(crate) async fn wait_for(&self, page: &Page<'_>) {
        let begun = Instant::now();
        while !self.shows(page).await {
            assert!(begun.elapsed() < PATIENCE, "no {:?} at {}", page.2, page.1);
            tokio::time::sleep(GLANCE).await;
        }
    }

    async fn shows(&self, Page(port, path, words): &Page<'_>) -> bool {
        let client = reqwest::Client::builder().no_proxy().build();
        let client = client.expect("nothing to go wrong");
        match client.get(self.url(*port, path)).send().await {
            Ok(response) => response.text().await.is_ok_and(|it| it.contains(words)),
            Err(_) => false,
        }
    }

    /// False if it ended instead.
    async fn is_ready(&mut self, pages: &[Page<'_>], token: &str) -> bool {
        let own = Page(0, "/ready", "");
        for Page(port, path, words) in pages.iter().chain([&own]) {
            let words = if words.is_empty() { token } else { words };
            let page = Page(*port, path, words);
            let begun = Instant::now();
            loop {
                if self.child.try_wait().expect("a child of ours").is_some() {
                    return false;
                }
                if self.shows(&page).await {
                    break;
                }
                let in_time = begun.elapsed() < PATIENCE;
                assert!(in_time, "no {words:?} at {path}: {}", self.log());
                tokio::time::sleep(GLANCE).await;
            }
        }
        true
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder that is removed with this value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("proxy-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        // Of a process of this number that was killed.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a folder of our own");
        Self(path)
    }

    fn token(&self) -> String {
        let name = self.0.file_name().expect("just given");
        name.to_string_lossy().into_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Free for the moment: whoever starts on them has to see whether they still are. So a configuration
/// has to say that no port is shared with another process, as some do unless they are told.
fn free_ports() -> [u16; 4] {
    let open = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let all = [open(), open(), open(), open()];
    all.map(|it| it.local_addr().expect("it is bound").port())
}

/// Whether this comes true, in much more time than it takes.
pub(crate) async fn soon(is_so: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !is_so() {
        if begun.elapsed() > PATIENCE {
            return false;
        }
        tokio::time::sleep(GLANCE).await;
    }
    true
}

/// For something that takes a moment on an idle machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at whether it is there.
const GLANCE: Duration = Duration::from_millis(20);

const STARTS: usize = 5;
