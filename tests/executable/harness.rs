//! A call as the executable sees it: a connection goes in as systemd passes it, and what comes out
//! is an answer, one log record, an exit status and the command lines of `systemctl`.
//!
//! Both executables are real. In place of systemd, a thread starts `buildbtw-systemctl` for each
//! order. Every call, whatever it is about, is held to what must be true of all of them: see
//! [`Call::finish`], [`Answer::parse`] and [`Ended::new`].

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

pub use crate::wire::Transport::{self, Tcp, Unix};
use crate::wire::scratch;
pub use crate::wire::{Answer, OTHER, TOKEN};

pub const EXE: &str = env!("CARGO_BIN_EXE_buildbtw-hook");
pub const ROOT_SIDE: &str = env!("CARGO_BIN_EXE_buildbtw-systemctl");
const COMMANDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/bin");

pub const TRANSPORTS: [Transport; 2] = [Tcp, Unix];

pub const DEPLOY: &str = "/hooks/deploy-branch";
pub const UNDEPLOY: &str = "/hooks/undeploy-branch";
pub const STATUS: &str = "/hooks/branch-status";
pub const LIST: &str = "/hooks/list-branches";
/// Links to what the next boot starts.
pub const WANTS: &str = "etc/systemd/system/buildbtw.target.wants";
pub const FORM: &str = "Content-Type: application/x-www-form-urlencoded";

/// How `systemctl` is run, `; ` in between.
pub const RESTART_X: &str = "restart buildbtw@x.service";
pub const STOP_X: &str = "stop buildbtw@x.service";
pub const NOT_RUN: &str = "";

/// What a caller is told of a fault of the host, and all of it.
pub const FAULT: &str = "this host cannot serve the call; its journal says why\n";

/// Nothing that is waited for takes as long; past it, the test fails and does not hang.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that must come.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

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
    /// What the root side wrote to the journal.
    records: Mutex<String>,
}

impl Orders {
    fn serve(self: &Arc<Self>, socket: &Path) {
        let listener = UnixListener::bind(socket).expect("a socket for orders");
        let orders = Arc::clone(self);
        thread::spawn(move || {
            for connection in listener.incoming() {
                orders.running.fetch_add(1, Ordering::SeqCst);
                let (orders, connection) = (Arc::clone(&orders), connection.expect("an order"));
                thread::spawn(move || orders.carry_out(connection));
            }
        });
    }

    fn carry_out(&self, connection: UnixStream) {
        let environment = self.environment.lock().expect("an environment").clone();
        let child = root_side(environment, connection);
        let output = child.wait_with_output().expect("the root side");
        let records = String::from_utf8_lossy(&output.stderr).into_owned();
        self.records.lock().expect("records").push_str(&records);
        assert!(output.status.success(), "{output:?}");
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Starts the root side on a connection.
fn root_side(environment: Vec<(&'static str, String)>, connection: UnixStream) -> Child {
    let mut command = Command::new(ROOT_SIDE);
    command.env_clear().envs(environment).stdin(OwnedFd::from(connection));
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the root side")
}

impl Host {
    pub fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let root = scratch(&made.to_string());
        let text = |name: &str| root.join(name).to_str().expect("a path in UTF-8").to_owned();
        let environment = vec![
            ("PATH", format!("{}:/usr/bin:/bin", text("bin"))),
            ("CREDENTIALS_DIRECTORY", text("credentials")),
            ("BUILDBTW_ORDERS", text("orders")),
            ("BUILDBTW_ROOT", text("")),
        ];
        let host = Self { root, environment, orders: Arc::default() };
        let of_units = ["var/lib/buildbtw-hook", "run/buildbtw-pull"];
        for directory in ["bin", "credentials", "empty"].iter().chain(&of_units) {
            fs::create_dir_all(host.root.join(directory)).expect("a directory of the host");
        }
        // Links, since to run a script that another thread's fork has open for writing fails.
        for name in ["systemctl", "journalctl"] {
            symlink(Path::new(COMMANDS).join(name), host.root.join("bin").join(name))
                .expect("a link to a command");
        }
        host.orders.serve(&host.root.join("orders"));
        host.file("credentials/token", format!("{TOKEN}\n"))
    }

    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.write(name, content);
        self
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.root.join(name), content).expect("a file of the host");
    }

    /// What systemd says of a unit, whatever is done.
    pub fn show(self, unit: &str, properties: &str) -> Self {
        self.file(&format!("bin/show-buildbtw{unit}"), properties)
    }

    /// Has such a run of `systemctl` wait until it is released.
    pub fn hold(self, run: &str) -> Self {
        self.file(&format!("bin/hold-{}", run.replace(' ', "-")), "")
    }

    pub fn release(&self, run: &str) {
        self.remove(&format!("bin/hold-{}", run.replace(' ', "-")));
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.root.join(name)).expect("a file of the host to remove");
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.root.join(name)).unwrap_or_default()
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

    /// The names in a directory.
    pub fn names(&self, directory: &str) -> String {
        let entries = fs::read_dir(self.root.join(directory)).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().expect("UTF-8"));
        names.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join("; ")
    }

    /// Runs one of the two executables without a connection.
    pub fn run(&self, executable: &str, arguments: &[&str]) -> Output {
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

    /// A call of which this much is sent.
    pub fn begin(&self, transport: Transport, request: impl AsRef<[u8]>) -> Call<'_> {
        let (client, passed) = transport.pair().expect("a connection");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut call = Call { host: self, client, hook: self.start(passed), head_only: false };
        call.send(request);
        call
    }

    /// One whole call.
    pub fn call(&self, request: impl AsRef<[u8]>) -> Outcome {
        self.begin(Unix, request).finish()
    }

    /// The answer alone, while other calls are under way.
    pub fn exchange(&self, request: impl AsRef<[u8]>) -> Answer {
        self.begin(Unix, request).answer()
    }

    /// One whole call, and what must come of it.
    #[track_caller]
    pub fn answers(&self, request: &str, status: u16, words: &str, calls: &str) {
        self.call(request).is(status, words, calls, request);
    }

    /// Gives an order, as the hook would: the connection on which its outcome comes.
    pub fn give(&self, line: impl AsRef<[u8]>) -> UnixStream {
        self.orders.environment.lock().expect("an environment").clone_from(&self.environment);
        let mut peer = UnixStream::connect(self.root.join("orders")).expect("a socket for orders");
        peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let _ = peer.write_all(line.as_ref());
        peer
    }

    /// Gives an order, and waits until it has `systemctl` run like that.
    pub fn give_until(&self, line: &str, run: &str) -> UnixStream {
        let peer = self.give(line);
        self.wait_for(run);
        peer
    }

    /// What comes back for an order.
    pub fn order(&self, line: impl AsRef<[u8]>) -> String {
        outcome(self.give(line))
    }

    /// Gives an order to a root side that is killed once it has systemctl run.
    pub fn cut_off(&self, line: &str, run: &str) {
        let (mut peer, its) = UnixStream::pair().expect("a connection");
        let mut child = root_side(self.environment.clone(), its);
        peer.write_all(line.as_bytes()).expect("an order");
        self.wait_for(run);
        child.kill().and_then(|()| child.wait()).expect("a child");
        assert_eq!(outcome(peer), "");
    }

    /// Waits until every order is carried out.
    pub fn idle(&self) {
        wait_until("an order's end", || self.orders.running.load(Ordering::SeqCst) == 0);
    }

    /// What the root side wrote to the journal since the last look.
    pub fn take_records(&self) -> String {
        self.idle();
        std::mem::take(&mut self.orders.records.lock().expect("records"))
    }

    /// How `systemctl` was run since the last look, but for looks and the images that are removed in the
    /// background; and nothing but PATH was passed.
    pub fn take_calls(&self) -> String {
        self.idle();
        let take = |name: &str| {
            let lines = self.read(name);
            let _ = fs::remove_file(self.root.join(name));
            lines.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let calls = take("bin/calls");
        let path = self.environment.iter().find(|(name, _)| *name == "PATH");
        let path = path.map(|(_, value)| format!("PATH={value}")).unwrap_or_default();
        assert_eq!(take("bin/environment"), vec![path; calls.len()]);
        calls.iter().map(|line| without_brackets(line)).collect::<Vec<_>>().join("; ")
    }

    /// Waits until `systemctl` has been run like that.
    pub fn wait_for(&self, run: &str) {
        let is_run = |line: &str| without_brackets(line) == run;
        wait_until(run, || self.read("bin/calls").lines().any(is_run));
    }
}

/// The words of a command line of `systemctl`, which all begin alike.
fn without_brackets(line: &str) -> String {
    let words = line.trim_end().strip_prefix("[--no-ask-password][--job-mode=replace][");
    let words = words.and_then(|words| words.strip_suffix("]")).unwrap_or(line);
    words.replace("--show-transaction][", "").replacen("][--][", " ", 1).replace("][", " ")
}

/// What comes for an order; a reset where it was not read to its end.
pub fn outcome(mut peer: UnixStream) -> String {
    let mut outcome = String::new();
    match peer.read_to_string(&mut outcome) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => outcome,
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A second panic would hide the first.
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// The process; it does not outlive a failed test.
pub struct Hook(pub Child);

impl Hook {
    pub fn wait(mut self) -> Output {
        wait_until("the process's end", || self.0.try_wait().expect("a child").is_some());
        // What it wrote fits into the pipes, otherwise it would still run.
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
}

/// What a call left behind.
#[derive(Debug)]
pub struct Ended {
    pub level: String,
    /// The one record of the call, without its level.
    pub record: String,
    /// What `systemctl` was called with.
    pub calls: String,
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
            500 | 502 => "ERROR",
            424 if self.record.starts_with("deploy") => "ERROR",
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
}

/// A call that was answered.
#[derive(Debug)]
pub struct Outcome {
    pub answer: Answer,
    pub ended: Ended,
}

impl Outcome {
    #[track_caller]
    pub fn is(&self, status: u16, words: &str, calls: &str, what: &str) {
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

#[track_caller]
pub fn no_token_in(text: &str) {
    for token in [TOKEN, OTHER] {
        assert!(!text.contains(token), "a token in {text}");
    }
}
