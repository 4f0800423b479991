//! A call as the executable sees it: a connection goes in as systemd passes it, and what comes out
//! is an answer, one log record, an exit status and the command lines of `systemctl`.
//!
//! Both executables are real. In place of systemd, a thread starts `buildbtw-systemctl` for each
//! order. Every call, whatever it is about, is held to what must be true of all of them: see
//! [`Call::finish`], [`Answer::parse`] and [`Ended::new`].

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

pub use crate::wire::Transport::{self, Tcp, Unix};
pub use crate::wire::{Answer, OTHER, TOKEN};

pub const EXE: &str = env!("CARGO_BIN_EXE_buildbtw-hook");
pub const ROOT_SIDE: &str = env!("CARGO_BIN_EXE_buildbtw-systemctl");
pub const COMMANDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/bin");

pub const TRANSPORTS: [Transport; 2] = [Tcp, Unix];

pub const DEPLOY: &str = "/hooks/deploy-branch";
pub const UNDEPLOY: &str = "/hooks/undeploy-branch";
pub const STATUS: &str = "/hooks/branch-status";
pub const FORM: &str = "Content-Type: application/x-www-form-urlencoded";

pub const RESTART_X: &[&str] =
    &["[--no-ask-password][--job-mode=replace][restart][--][buildbtw@x.service]"];
pub const STOP_X: &[&str] =
    &["[--no-ask-password][--job-mode=replace][stop][--][buildbtw@x.service]"];
pub const NOT_RUN: &[&str] = &[];

/// What a caller is told of a fault of the host, and all of it.
pub const FAULT: &str = "this host cannot serve the call; its journal says why\n";

/// Nothing that is waited for takes as long; past it, the test fails and does not hang.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A host: a directory with a credential, a `systemctl` that writes down how it is called, and a
/// socket for orders.
pub struct Host {
    pub root: PathBuf,
    environment: Vec<(&'static str, String)>,
    orders: Arc<Orders>,
}

/// What systemd does with the socket for orders.
#[derive(Default)]
struct Orders {
    /// What the units would have in their environment.
    environment: Mutex<Vec<(&'static str, String)>>,
    /// How many orders are being carried out.
    running: AtomicUsize,
    is_over: AtomicBool,
    /// What the root side wrote to the journal.
    records: Mutex<String>,
}

impl Orders {
    fn serve(self: &Arc<Self>, socket: &Path) {
        let listener = UnixListener::bind(socket).expect("a socket for orders");
        let orders = Arc::clone(self);
        thread::spawn(move || {
            for connection in listener.incoming() {
                if orders.is_over.load(Ordering::SeqCst) {
                    break;
                }
                orders.running.fetch_add(1, Ordering::SeqCst);
                let (orders, connection) = (Arc::clone(&orders), connection.expect("an order"));
                thread::spawn(move || orders.carry_out(connection));
            }
        });
    }

    fn carry_out(&self, connection: UnixStream) {
        let environment = self.environment.lock().expect("an environment").clone();
        let mut command = Command::new(ROOT_SIDE);
        command.env_clear().envs(environment).stdin(OwnedFd::from(connection));
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        drop(command);
        let output = child.and_then(Child::wait_with_output).expect("the root side");
        let records = String::from_utf8_lossy(&output.stderr).into_owned();
        self.records.lock().expect("records").push_str(&records);
        assert!(output.status.success(), "{output:?}");
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Host {
    pub fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        // Not below target/: the path of a socket has at most 108 bytes, unix(7).
        let root = env::temp_dir().join(format!("buildbtw-hook-{}-{made}", process::id()));
        let text = |name: &str| root.join(name).to_str().expect("a path in UTF-8").to_owned();
        let environment = vec![
            ("PATH", format!("{}:/usr/bin:/bin", text("bin"))),
            ("CREDENTIALS_DIRECTORY", text("credentials")),
            ("BUILDBTW_ORDERS", text("orders")),
            ("STATE_DIRECTORY", text("state")),
            ("RUNTIME_DIRECTORY", text("runtime")),
        ];
        let host = Self { root, environment, orders: Arc::default() };
        for directory in ["bin", "credentials", "state", "runtime", "empty"] {
            fs::create_dir_all(host.root.join(directory)).expect("a directory of the host");
        }
        // Links, since to run a script that another thread's fork has open for writing fails.
        for name in ["systemctl", "journalctl"] {
            symlink(Path::new(COMMANDS).join(name), host.root.join("bin").join(name))
                .expect("a link to a command");
        }
        host.orders.serve(&host.root.join("orders"));
        host.file("bin/exit", "0\n").file("credentials/token", format!("{TOKEN}\n"))
    }

    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.root.join(name), content).expect("a file of the host");
        self
    }

    pub fn without_file(self, name: &str) -> Self {
        fs::remove_file(self.root.join(name)).expect("a file of the host to remove");
        self
    }

    pub fn set(mut self, name: &'static str, value: &str) -> Self {
        self.environment.retain(|(known, _)| *known != name);
        self.environment.push((name, value.to_owned()));
        self
    }

    pub fn unset(mut self, name: &str) -> Self {
        self.environment.retain(|(known, _)| *known != name);
        self
    }

    /// The names in the state directory.
    pub fn state(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.root.join("state"))
            .expect("the state directory")
            .map(|entry| entry.expect("a state file").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    }

    /// Runs the executable without a connection.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.run_as(EXE, arguments)
    }

    /// Runs one of the two executables without a connection.
    pub fn run_as(&self, executable: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(executable);
        command.args(arguments).env_clear().envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).output().expect("the executable")
    }

    /// Starts the executable as `sd_listen_fds(3)` has it, with what is passed as descriptor 3.
    pub fn start(&self, passed: OwnedFd) -> Hook {
        self.orders.environment.lock().expect("an environment").clone_from(&self.environment);
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", r#"exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$0""#, EXE])
            .env_clear()
            .envs(self.environment.iter().cloned())
            .stdin(passed)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Hook(command.spawn().expect("a shell"))
    }

    pub fn connect(&self, transport: Transport) -> Call<'_> {
        let (client, passed) = transport.pair().expect("a connection");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Call { host: self, client, hook: self.start(passed), head_only: false }
    }

    /// One whole call.
    pub fn call(&self, transport: Transport, request: impl AsRef<[u8]>) -> Outcome {
        let mut call = self.connect(transport);
        call.send(request);
        call.finish()
    }

    /// The answer alone, while other calls are under way.
    pub fn exchange(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut call = self.connect(Unix);
        call.send(request);
        call.answer()
    }

    /// The same call over either transport must come to the same.
    #[track_caller]
    pub fn answers(&self, request: impl AsRef<[u8]>, status: u16, words: &str, calls: &[&str]) {
        for transport in TRANSPORTS {
            let outcome = self.call(transport, &request);
            outcome.is(status, words, calls, &String::from_utf8_lossy(request.as_ref()));
        }
    }

    /// Gives an order, as the hook would: the connection on which its outcome comes.
    pub fn give(&self, line: impl AsRef<[u8]>) -> UnixStream {
        self.orders.environment.lock().expect("an environment").clone_from(&self.environment);
        let mut peer = UnixStream::connect(self.root.join("orders")).expect("a socket for orders");
        peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // Taken note of here, since the thread that accepts it may come later.
        let _ = peer.write_all(line.as_ref());
        peer
    }

    /// Waits until every order is carried out.
    pub fn idle(&self) {
        let end = Instant::now() + PATIENCE;
        while self.orders.running.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < end, "an order is not carried out");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// What the root side wrote to the journal since the last look.
    pub fn take_records(&self) -> String {
        self.idle();
        std::mem::take(&mut self.orders.records.lock().expect("records"))
    }

    /// The command lines of `systemctl` since the last look, but for those that only look; and
    /// nothing but PATH was passed.
    pub fn take_calls(&self) -> Vec<String> {
        self.idle();
        let take = |name: &str| -> Vec<String> {
            let path = self.root.join("bin").join(name);
            let lines = match fs::read_to_string(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
                read => read.expect("what systemctl wrote").lines().map(str::to_owned).collect(),
            };
            fs::remove_file(path).expect("what systemctl wrote");
            lines
        };
        let (calls, environment) = (take("calls"), take("environment"));
        let path = self.environment.iter().find(|(name, _)| *name == "PATH");
        let path = path.map(|(_, value)| format!("PATH={value}")).unwrap_or_default();
        assert_eq!(environment, vec![path; calls.len()]);
        calls
    }

    pub fn wait_for_systemctl(&self) {
        let end = Instant::now() + PATIENCE;
        // The environment is written after the command line.
        while !fs::read(self.root.join("bin/environment")).is_ok_and(|e| e.ends_with(b"\n")) {
            assert!(Instant::now() < end, "systemctl was not run");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.orders.is_over.store(true, Ordering::SeqCst);
        // To a thread that has ended already, and a directory that a failed test left: a second
        // panic would hide the first.
        let _ = UnixStream::connect(self.root.join("orders"));
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// The process; it does not outlive a failed test.
pub struct Hook(pub Child);

impl Hook {
    pub fn wait(mut self) -> Output {
        let end = Instant::now() + PATIENCE;
        while self.0.try_wait().expect("a child").is_none() {
            assert!(Instant::now() < end, "the process does not end");
            thread::sleep(Duration::from_millis(1));
        }
        // What it wrote fits into the pipes, or it would not have ended.
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        self.0.stdout.take().expect("a pipe").read_to_end(&mut stdout).expect("its stdout");
        self.0.stderr.take().expect("a pipe").read_to_end(&mut stderr).expect("its stderr");
        Output { status: self.0.wait().expect("a child"), stdout, stderr }
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        // Both fail where it has ended, as it should.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A call that is under way.
pub struct Call<'host> {
    pub host: &'host Host,
    pub client: TcpStream,
    pub hook: Hook,
    head_only: bool,
}

impl Call<'_> {
    /// Sends as much as the hook takes: one that refuses need not read to the end.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.head_only |= bytes.as_ref().starts_with(b"HEAD ");
        let _ = self.client.write_all(bytes.as_ref());
    }

    /// Sends the same over and over until it is that long, from a thread of its own.
    pub fn send_endlessly(&self, piece: &str, len: usize) {
        let mut client = self.client.try_clone().expect("a socket");
        let piece = piece.repeat(64 * 1024 / piece.len());
        thread::spawn(move || {
            for _ in 0..=len / piece.len() {
                if client.write_all(piece.as_bytes()).is_err() {
                    break;
                }
            }
        });
    }

    /// Sends no more.
    pub fn half_close(&self) {
        self.client.shutdown(Shutdown::Write).expect("a socket");
    }

    /// Reads the answer to its end, which must not be a reset.
    pub fn answer(&mut self) -> Answer {
        let mut bytes = Vec::new();
        if let Err(error) = self.client.read_to_end(&mut bytes) {
            panic!("{error} after {:?}", String::from_utf8_lossy(&bytes));
        }
        let answer =
            Answer::parse(&bytes, self.head_only).unwrap_or_else(|fault| panic!("{fault}"));
        no_token_in(&String::from_utf8_lossy(&bytes));
        answer
    }

    /// Reads the answer to its end, and goes.
    pub fn finish(mut self) -> Outcome {
        let answer = self.answer();
        let ended = self.go();
        ended.check(&answer);
        Outcome { answer, ended }
    }

    /// Goes without a look at the answer.
    pub fn go(self) -> Ended {
        let Self { host, client, hook, .. } = self;
        drop(client);
        Ended::new(host, &hook.wait())
    }

    /// Stays, and waits for the process to end by itself.
    pub fn stay(self) -> Ended {
        let Self { host, client, hook, .. } = self;
        let output = hook.wait();
        drop(client);
        Ended::new(host, &output)
    }
}

/// What a call left behind.
#[derive(Debug)]
pub struct Ended {
    pub level: String,
    /// The one record of the call, without its level.
    pub record: String,
    /// What `systemctl` was called with.
    pub calls: Vec<String>,
}

impl Ended {
    /// Every call ends like this.
    pub fn new(host: &Host, output: &Output) -> Self {
        let stderr = std::str::from_utf8(&output.stderr).expect("a log in UTF-8");
        no_token_in(stderr);
        assert!(output.status.success(), "{}: {stderr}", output.status);
        assert_eq!(output.stdout, b"", "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let (level, record) = stderr.trim_end_matches('\n').split_once(": ").expect("a level");
        Self { level: level.to_owned(), record: record.to_owned(), calls: host.take_calls() }
    }

    /// The record tells what the caller was told, or was not.
    pub fn check(&self, answer: &Answer) {
        assert_eq!(self.status(), answer.status, "{self:?}");
        if answer.status >= 400 && !answer.text.is_empty() {
            // But for what a unit wrote, which the journal has already.
            let text: Vec<_> = answer.text.lines().filter(|line| !line.starts_with("  ")).collect();
            let told = self.record.contains(&text.join("; "));
            assert_ne!(told, answer.text == FAULT, "{self:?}");
        }
        let level = match answer.status {
            503 if self.record.starts_with("branch-status") => "INFO",
            401 | 403 | 503 => "WARN",
            500 => "ERROR",
            _ => "INFO",
        };
        assert_eq!(self.level, level, "{self:?}");
    }

    pub fn status(&self) -> u16 {
        let (_, rest) = self.record.split_once(": ").expect("a status");
        rest.split(' ').next().and_then(|word| word.parse().ok()).expect("a status")
    }

    pub fn duration(&self) -> Duration {
        let (before, _) = self.record.split_once(" ms for ").expect("a duration");
        let digits = before.rsplit(' ').next().expect("a duration");
        Duration::from_millis(digits.parse().expect("milliseconds"))
    }

    pub fn caller(&self) -> &str {
        let (_, after) = self.record.split_once(" ms for ").expect("a caller");
        after.split_once(": ").map_or(after, |(caller, _)| caller)
    }
}

/// A call that was answered.
#[derive(Debug)]
pub struct Outcome {
    pub answer: Answer,
    pub ended: Ended,
}

impl Outcome {
    #[track_caller]
    pub fn is(&self, status: u16, words: &str, calls: &[&str], what: &str) {
        let what = what.get(..400).unwrap_or(what);
        assert_eq!(self.answer.status, status, "{what:?} came to {self:#?}");
        assert!(self.answer.text.contains(words), "{words:?} after {what:?}: {self:#?}");
        assert_eq!(self.ended.calls, calls, "{what:?} came to {self:#?}");
    }
}

/// A message with its body's length.
pub fn message(line: &str, fields: &[&str], body: &str) -> String {
    let length = format!("Content-Length: {}", body.len());
    let length = if body.is_empty() { None } else { Some(length.as_str()) };
    let lines = [line, "Host: hook"].into_iter().chain(fields.iter().copied()).chain(length);
    lines.collect::<Vec<_>>().join("\r\n") + "\r\n\r\n" + body
}

/// The same with the right token.
pub fn authorized(line: &str, fields: &[&str], body: &str) -> String {
    let authorization = format!("Authorization: Bearer {TOKEN}");
    message(line, &[&[authorization.as_str()], fields].concat(), body)
}

pub fn get(target: &str) -> String {
    authorized(&format!("GET {target} HTTP/1.1"), &[], "")
}

pub fn post(target: &str, content_type: &str, body: &str) -> String {
    authorized(&format!("POST {target} HTTP/1.1"), &[content_type], body)
}

pub fn deploy_x() -> String {
    get(&format!("{DEPLOY}?branch=x"))
}

/// A request whose head is that long.
pub fn with_head_of(len: usize) -> String {
    let padded = |pad: usize| {
        let pad = format!("Pad: {}", "x".repeat(pad));
        authorized(&format!("GET {DEPLOY}?branch=x HTTP/1.1"), &[&pad], "")
    };
    padded(len - padded(0).len())
}

#[track_caller]
pub fn no_token_in(text: &str) {
    for token in [TOKEN, OTHER] {
        assert!(!text.contains(token), "a token in {text}");
    }
}
