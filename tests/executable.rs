//! The executable from outside: a connection goes in as systemd passes it, and what comes out is
//! an answer, one log record, an exit status and the command lines of `systemctl`.
//!
//! Every call, whatever it is about, is held to what must be true of all of them: see
//! [`Call::finish`], [`Answer::parse`] and [`Ended::new`].

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use Transport::{Tcp, Unix};

const EXE: &str = env!("CARGO_BIN_EXE_buildbtw-hook");
const SYSTEMCTL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/systemctl");

/// What the hosts here let in; every character that a token may have beside letters and digits.
const TOKEN: &str = "The-First.T0ken_of~this+host/==";
/// The second line of a host with several.
const OTHER: &str = "the-second-token";

const DEPLOY: &str = "/hooks/deploy-branch";
const UNDEPLOY: &str = "/hooks/undeploy-branch";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded";

const RESTART_X: &[&str] = &["[--no-ask-password][restart][--][buildbtw@x.service]"];
const STOP_X: &[&str] = &["[--no-ask-password][stop][--][buildbtw@x.service]"];
const SHOW_X: &str =
    "[--no-ask-password][--property=ActiveState,SubState,Result][show][--][buildbtw@x.service]";
const NOT_RUN: &[&str] = &[];

/// What a caller is told of a fault of the host, and all of it.
const FAULT: &str = "this host cannot serve the call; its journal says why\n";

/// Nothing that is waited for takes as long; past it, the test fails and does not hang.
const PATIENCE: Duration = Duration::from_secs(20);

/// A host: a directory with a credential and a `systemctl` that writes down how it is called.
struct Host {
    root: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Host {
    fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let root =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("host-{}-{made}", process::id()));
        let text = |name: &str| root.join(name).to_str().expect("a path in UTF-8").to_owned();
        let environment = vec![
            ("PATH", format!("{}:/usr/bin:/bin", text("bin"))),
            ("CREDENTIALS_DIRECTORY", text("credentials")),
        ];
        let host = Self { root, environment };
        for directory in ["bin", "credentials", "state", "empty"] {
            fs::create_dir_all(host.root.join(directory)).expect("a directory of the host");
        }
        // A link, since to run a script that another thread's fork has open for writing fails.
        symlink(SYSTEMCTL, host.root.join("bin/systemctl")).expect("a link to systemctl");
        host.file("bin/exit", "0\n")
            .file("bin/show", "")
            .file("credentials/token", format!("{TOKEN}\n"))
    }

    fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.root.join(name), content).expect("a file of the host");
        self
    }

    fn without_file(self, name: &str) -> Self {
        fs::remove_file(self.root.join(name)).expect("a file of the host to remove");
        self
    }

    fn set(mut self, name: &'static str, value: &str) -> Self {
        self.environment.retain(|(known, _)| *known != name);
        self.environment.push((name, value.to_owned()));
        self
    }

    fn unset(mut self, name: &str) -> Self {
        self.environment.retain(|(known, _)| *known != name);
        self
    }

    /// With a directory for what is deployed.
    fn with_state(self) -> Self {
        let state = self.root.join("state").to_str().expect("a path in UTF-8").to_owned();
        self.set("STATE_DIRECTORY", &state)
    }

    /// The names in the state directory.
    fn state(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.root.join("state"))
            .expect("the state directory")
            .map(|entry| entry.expect("a state file").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    }

    /// Runs the executable without a connection.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(EXE);
        command.args(arguments).env_clear().envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).output().expect("the executable")
    }

    /// Starts the executable as `sd_listen_fds(3)` has it, with what is passed as descriptor 3.
    fn start(&self, passed: OwnedFd) -> Hook {
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

    fn connect(&self, transport: Transport) -> Call<'_> {
        let (client, passed) = transport.pair().expect("a connection");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Call { host: self, client, hook: self.start(passed), head_only: false }
    }

    /// One whole call.
    fn call(&self, transport: Transport, request: impl AsRef<[u8]>) -> Outcome {
        let mut call = self.connect(transport);
        call.send(request);
        call.finish()
    }

    /// The same call over either transport must come to the same.
    #[track_caller]
    fn answers(&self, request: impl AsRef<[u8]>, status: u16, words: &str, calls: &[&str]) {
        for transport in TRANSPORTS {
            let outcome = self.call(transport, &request);
            outcome.is(status, words, calls, &String::from_utf8_lossy(request.as_ref()));
        }
    }

    /// The command lines of `systemctl` since the last look, and nothing but PATH was passed.
    fn take_calls(&self) -> Vec<String> {
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

    fn wait_for_systemctl(&self) {
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
        // A second panic would hide the first; what is left is in the build's own directory.
        let _ = fs::remove_dir_all(&self.root);
    }
}

#[derive(Clone, Copy, Debug)]
enum Transport {
    Tcp,
    Unix,
}

const TRANSPORTS: [Transport; 2] = [Tcp, Unix];

impl Transport {
    /// The client's end, and the one that systemd accepted. A `TcpStream` reads, writes, times
    /// and shuts down either.
    fn pair(self) -> io::Result<(TcpStream, OwnedFd)> {
        match self {
            Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                let client = TcpStream::connect(listener.local_addr()?)?;
                client.set_nodelay(true)?;
                Ok((client, listener.accept()?.0.into()))
            }
            Unix => {
                let (client, passed) = UnixStream::pair()?;
                Ok((OwnedFd::from(client).into(), passed.into()))
            }
        }
    }
}

/// The process; it does not outlive a failed test.
struct Hook(Child);

impl Hook {
    fn wait(mut self) -> Output {
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
struct Call<'host> {
    host: &'host Host,
    client: TcpStream,
    hook: Hook,
    head_only: bool,
}

impl Call<'_> {
    /// Sends as much as the hook takes: one that refuses need not read to the end.
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.head_only |= bytes.as_ref().starts_with(b"HEAD ");
        let _ = self.client.write_all(bytes.as_ref());
    }

    /// Sends the same over and over until it is that long, from a thread of its own.
    fn send_endlessly(&self, piece: &str, len: usize) {
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
    fn half_close(&self) {
        self.client.shutdown(Shutdown::Write).expect("a socket");
    }

    /// Reads the answer to its end, which must not be a reset, and goes.
    fn finish(mut self) -> Outcome {
        let mut bytes = Vec::new();
        if let Err(error) = self.client.read_to_end(&mut bytes) {
            panic!("{error} after {:?}", String::from_utf8_lossy(&bytes));
        }
        let answer = Answer::parse(&bytes, self.head_only);
        let ended = self.go();
        ended.check(&answer);
        Outcome { answer, ended }
    }

    /// Goes without a look at the answer.
    fn go(self) -> Ended {
        let Self { host, client, hook, .. } = self;
        drop(client);
        Ended::new(host, &hook.wait())
    }

    /// Stays, and waits for the process to end by itself.
    fn stay(self) -> Ended {
        let Self { host, client, hook, .. } = self;
        let output = hook.wait();
        drop(client);
        Ended::new(host, &output)
    }
}

/// What the caller got.
#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    text: String,
}

impl Answer {
    /// Every answer has this form.
    fn parse(bytes: &[u8], head_only: bool) -> Self {
        let answer = std::str::from_utf8(bytes).expect("an answer in UTF-8");
        no_token_in(answer);
        let (head, text) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
        let (status_line, fields) = head.split_once("\r\n").expect("headers");
        let (status, reason) = status_line
            .strip_prefix("HTTP/1.0 ")
            .and_then(|rest| rest.split_once(' '))
            .unwrap_or_else(|| panic!("{answer:?}"));
        assert!(!reason.is_empty(), "{answer:?}");
        let fields = fields.split("\r\n").map(|line| line.split_once(": ").expect("a header"));
        let parsed = Self {
            status: status.parse().expect("a status"),
            // The one thing that differs between two equal answers.
            headers: fields
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .filter(|(name, _)| name != "date")
                .collect(),
            text: text.to_owned(),
        };
        assert_eq!(parsed.header("content-type"), Some("text/plain; charset=UTF-8"), "{answer}");
        assert_eq!(parsed.header("cache-control"), Some("no-store"), "{answer}");
        assert_eq!(parsed.header("transfer-encoding"), None, "{answer}");
        let len: usize = parsed.header("content-length").map(str::parse).unwrap().unwrap();
        if head_only {
            assert_eq!(text, "");
            assert_ne!(len, 0);
        } else {
            assert_eq!(len, text.len(), "{answer}");
            assert!(text.ends_with('\n'), "{answer:?}");
        }
        // Each belongs to one status.
        for (name, status) in
            [("www-authenticate", 401), ("allow", 405), ("preference-applied", 202)]
        {
            assert_eq!(parsed.header(name).is_some(), parsed.status == status, "{answer}");
        }
        parsed
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "two of {name}");
        value
    }
}

/// What a call left behind.
#[derive(Debug)]
struct Ended {
    level: String,
    /// The one record of the call, without its level.
    record: String,
    /// What `systemctl` was called with.
    calls: Vec<String>,
}

impl Ended {
    /// Every call ends like this.
    fn new(host: &Host, output: &Output) -> Self {
        let stderr = std::str::from_utf8(&output.stderr).expect("a log in UTF-8");
        no_token_in(stderr);
        assert!(output.status.success(), "{}: {stderr}", output.status);
        assert_eq!(output.stdout, b"", "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let (level, record) = stderr.trim_end_matches('\n').split_once(": ").expect("a level");
        Self { level: level.to_owned(), record: record.to_owned(), calls: host.take_calls() }
    }

    /// The record tells what the caller was told, or was not.
    fn check(&self, answer: &Answer) {
        assert_eq!(self.status(), answer.status, "{self:?}");
        if answer.status >= 400 && !answer.text.is_empty() {
            let text = answer.text.replace('\n', "; ");
            let told = self.record.contains(text.trim_end_matches([';', ' ']));
            assert_ne!(told, answer.text == FAULT, "{self:?}");
        }
        let level = match answer.status {
            401 | 403 => "WARN",
            500 => "ERROR",
            _ => "INFO",
        };
        assert_eq!(self.level, level, "{self:?}");
    }

    fn status(&self) -> u16 {
        let (_, rest) = self.record.split_once(": ").expect("a status");
        rest.split(' ').next().and_then(|word| word.parse().ok()).expect("a status")
    }

    fn duration(&self) -> Duration {
        let (before, _) = self.record.split_once(" ms for ").expect("a duration");
        let digits = before.rsplit(' ').next().expect("a duration");
        Duration::from_millis(digits.parse().expect("milliseconds"))
    }

    fn caller(&self) -> &str {
        let (_, after) = self.record.split_once(" ms for ").expect("a caller");
        after.split_once(": ").map_or(after, |(caller, _)| caller)
    }
}

/// A call that was answered.
#[derive(Debug)]
struct Outcome {
    answer: Answer,
    ended: Ended,
}

impl Outcome {
    #[track_caller]
    fn is(&self, status: u16, words: &str, calls: &[&str], what: &str) {
        let what = what.get(..400).unwrap_or(what);
        assert_eq!(self.answer.status, status, "{what:?} came to {self:#?}");
        assert!(self.answer.text.contains(words), "{words:?} after {what:?}: {self:#?}");
        assert_eq!(self.ended.calls, calls, "{what:?} came to {self:#?}");
    }
}

#[track_caller]
fn no_token_in(text: &str) {
    for token in [TOKEN, OTHER] {
        assert!(!text.contains(token), "a token in {text}");
    }
}

/// A message with its body's length.
fn message(line: &str, fields: &[&str], body: &str) -> String {
    let length = format!("Content-Length: {}", body.len());
    let length = if body.is_empty() { None } else { Some(length.as_str()) };
    let lines = [line, "Host: hook"].into_iter().chain(fields.iter().copied()).chain(length);
    lines.collect::<Vec<_>>().join("\r\n") + "\r\n\r\n" + body
}

/// The same with the right token.
fn authorized(line: &str, fields: &[&str], body: &str) -> String {
    let authorization = format!("Authorization: Bearer {TOKEN}");
    message(line, &[&[authorization.as_str()], fields].concat(), body)
}

fn get(target: &str) -> String {
    authorized(&format!("GET {target} HTTP/1.1"), &[], "")
}

fn post(target: &str, content_type: &str, body: &str) -> String {
    authorized(&format!("POST {target} HTTP/1.1"), &[content_type], body)
}

fn deploy_x() -> String {
    get(&format!("{DEPLOY}?branch=x"))
}

/// A request whose head is that long.
fn with_head_of(len: usize) -> String {
    let padded = |pad: usize| {
        let pad = format!("Pad: {}", "x".repeat(pad));
        authorized(&format!("GET {DEPLOY}?branch=x HTTP/1.1"), &[&pad], "")
    };
    padded(len - padded(0).len())
}

// What is done.

#[test]
fn deploys_and_undeploys_the_branch_of_a_query_or_a_form() {
    let host = Host::new();
    let deployed = "branch x is deployed (restart of buildbtw@x.service)\n";
    let gone = "branch x is not deployed any more (stop of buildbtw@x.service)\n";
    for (hook, words, calls) in [(DEPLOY, deployed, RESTART_X), (UNDEPLOY, gone, STOP_X)] {
        let with = |query: &str| format!("{hook}?{query}");
        for request in [
            get(&with("branch=x")),
            get(&with("image-tag=x")),
            get(&with("a=1&branch=x&b=%ff&c")),
            get(&with("branch=%78")),
            get(&with("%62ranch=x")),
            get(&with("&&branch=x&")),
            post(&with("branch=x"), "Accept: */*", ""),
            post(&with("branch=x"), "Content-Type: application/json", r#"{"branch":"y"}"#),
            post(&with("branch=x"), FORM, "a=b"),
            post(hook, FORM, "branch=x"),
            post(hook, FORM, "image-tag=x"),
            post(hook, FORM, "a=1&branch=x&b=%ff&c"),
            post(hook, "content-type: application/x-www-form-urlencoded;charset=UTF-8", "branch=x"),
            post(
                hook,
                "CONTENT-TYPE:APPLICATION/X-WWW-FORM-URLENCODED ; charset=utf-8",
                "branch=x",
            ),
            post(&with("a=b"), FORM, "branch=x"),
            // A body that is no form of a POST is no concern of ours.
            authorized(&format!("GET {hook}?branch=x HTTP/1.1"), &[FORM], "branch=y"),
            authorized(&format!("GET {hook}?branch=x HTTP/1.0"), &[], ""),
            get(&with("branch=x")).replace("Host: hook\r\n", "").replace("/1.1", "/1.0"),
            get(&with("branch=x")).replace("Host: hook\r\n", "Host:\r\n"),
            authorized(&format!("GET {hook}?branch=x HTTP/1.1"), &["Connection: keep-alive"], ""),
            authorized(
                &format!("POST {hook} HTTP/1.1"),
                &["Connection: upgrade", FORM],
                "branch=x",
            ),
        ] {
            host.answers(request, 200, words, calls);
        }
    }
}

#[test]
fn takes_no_two_branches_and_not_none() {
    let host = Host::new();
    for request in [
        get(DEPLOY),
        get(&format!("{DEPLOY}?")),
        get(&format!("{DEPLOY}?branc=x&Branch=x&branch[]=x")),
        get(&format!("{DEPLOY}?x")),
        get(&format!("{DEPLOY}?&&a=branch=x")),
        post(DEPLOY, FORM, ""),
        post(DEPLOY, FORM, "x"),
        post(DEPLOY, "Content-Type: text/plain", "branch=x"),
        post(DEPLOY, "Content-Type: application/x-www-form-urlencodedx", "branch=x"),
        post(DEPLOY, "Content-Type: multipart/form-data; boundary=b", "branch=x"),
        post(DEPLOY, "Accept: application/x-www-form-urlencoded", "branch=x"),
        authorized(&format!("GET {DEPLOY} HTTP/1.1"), &[FORM], "branch=x"),
    ] {
        host.answers(request, 400, "no branch: add ?branch=BRANCH", NOT_RUN);
    }
    for request in [
        get(&format!("{DEPLOY}?branch=x&branch=x")),
        get(&format!("{DEPLOY}?branch=x&branch=")),
        get(&format!("{DEPLOY}?branch=x&image-tag=x")),
        get(&format!("{DEPLOY}?image-tag=x&image-tag=y")),
        post(&format!("{DEPLOY}?branch=x"), FORM, "branch=x"),
        post(&format!("{DEPLOY}?branch=x"), FORM, "image-tag=x"),
        post(DEPLOY, FORM, "branch=x&branch=y"),
    ] {
        host.answers(request, 400, "more than one branch: send one\n", NOT_RUN);
    }
}

#[test]
fn takes_slugs_alone_and_tells_what_gitlab_makes_of_the_rest() {
    let host = Host::new();
    let (longest, longer) = ("a".repeat(63), "a".repeat(64));
    for (branch, unit) in [
        ("x", "buildbtw@x.service"),
        ("0", "buildbtw@0.service"),
        ("a--b", "buildbtw@a--b.service"),
        ("1-2-3", "buildbtw@1-2-3.service"),
        (&longest, &format!("buildbtw@{longest}.service")),
    ] {
        let call = format!("[--no-ask-password][restart][--][{unit}]");
        host.answers(get(&format!("{DEPLOY}?branch={branch}")), 200, unit, &[&call]);
    }
    for (branch, slug) in [
        ("", None),
        ("-", None),
        ("..", None),
        ("@", None),
        ("%0a", None),
        ("%00", None),
        ("%ff", None),
        ("%F0%9F%A6%80", None),
        ("Feature/X", Some("feature-x")),
        ("feature_x", Some("feature-x")),
        ("UPPER", Some("upper")),
        ("-x", Some("x")),
        ("x-", Some("x")),
        ("--now", Some("now")),
        ("a/b", Some("a-b")),
        ("a%2Fb", Some("a-b")),
        ("a%2fb", Some("a-b")),
        ("../x", Some("x")),
        ("x%0a", Some("x")),
        ("x%0d%0aERROR:%20y", Some("x--error--y")),
        ("x%00", Some("x")),
        ("x%20", Some("x")),
        ("x+y", Some("x-y")),
        ("x%20y.service", Some("x-y-service")),
        ("x@y", Some("x-y")),
        ("a.service", Some("a-service")),
        ("x%25i", Some("x-i")),
        ("%24(id)", Some("id")),
        ("f%C3%BCr", Some("f-r")),
        // U+212A, the sign of the unit Kelvin: its lower case is an ASCII letter.
        ("%E2%84%AAelvin", Some("kelvin")),
        ("x%EF%BC%90", Some("x")),
        (&longer, Some(longest.as_str())),
        (&"a".repeat(10_000), Some(longest.as_str())),
        (&format!("{}-b", "a".repeat(62)), Some(&longest[..62])),
    ] {
        let request = get(&format!("{DEPLOY}?branch={branch}"));
        host.answers(
            &request,
            400,
            "is no slug: send CI_COMMIT_REF_SLUG, 1 to 63 of 0-9 a-z -",
            NOT_RUN,
        );
        let text = host.call(Unix, &request).answer.text;
        let hint = text.trim_end().split_once("; GitLab's slug of it is ").map(|(_, slug)| slug);
        assert_eq!(hint, slug, "{branch:?}: {text}");
        assert!(text.len() < 500 && text.lines().count() == 1, "{text}");
    }
    host.answers(
        post(DEPLOY, FORM, "branch=Feature%2FX"),
        400,
        "slug of it is feature-x\n",
        NOT_RUN,
    );
    host.answers(get(&format!("{UNDEPLOY}?image-tag=X")), 400, "\"X\" is no slug", NOT_RUN);
}

#[test]
fn takes_the_branches_that_the_host_allows() {
    for (allowed, branch, taken) in [
        ("main", "main", true),
        ("main", "x", false),
        ("main", "mai", false),
        ("main", "main2", false),
        (" main\tx ", "x", true),
        ("a-x x-b", "x", false),
        ("*", "x", false),
        ("", "x", false),
        (" ", "x", false),
    ] {
        let host = Host::new().set("BUILDBTW_BRANCHES", allowed);
        for (hook, verb) in [(DEPLOY, "restart"), (UNDEPLOY, "stop")] {
            let request = get(&format!("{hook}?branch={branch}"));
            if taken {
                let call = format!("[--no-ask-password][{verb}][--][buildbtw@{branch}.service]");
                host.answers(request, 200, branch, &[&call]);
            } else {
                let words = format!("branch {branch} is not allowed on this host");
                host.answers(request, 403, &words, NOT_RUN);
            }
        }
        host.answers(get(&format!("{DEPLOY}?branch=X")), 400, "is no slug", NOT_RUN);
    }
}

#[test]
fn queues_where_the_caller_would_not_wait() {
    let host = Host::new();
    let call = |verb| format!("[--no-ask-password][--no-block][{verb}][--][buildbtw@x.service]");
    for (hook, verb) in [(DEPLOY, "restart"), (UNDEPLOY, "stop")] {
        let line = format!("POST {hook}?branch=x HTTP/1.1");
        for fields in [
            &["Prefer: respond-async"][..],
            &["prefer:RESPOND-Async"],
            &["Prefer: wait=10, respond-async"],
            &["Prefer: respond-async ; a=b,wait=10"],
            &["Prefer: wait=10", "Prefer: respond-async"],
        ] {
            let request = authorized(&line, fields, "");
            let words = format!("{verb} of buildbtw@x.service is queued\n");
            host.answers(&request, 202, &words, &[&call(verb)]);
            let answer = host.call(Tcp, &request).answer;
            assert_eq!(answer.header("preference-applied"), Some("respond-async"));
        }
        let calls = if hook == DEPLOY { RESTART_X } else { STOP_X };
        for field in [
            "Prefer: wait=10",
            "Prefer: respond-asynchronously",
            "Prefer: respond async",
            "Prefer: a=respond-async; respond-async",
            "Prefer:",
            "X-Prefer: respond-async",
        ] {
            host.answers(authorized(&line, &[field], ""), 200, "branch x is", calls);
        }
        let host = Host::new().file("bin/exit", "1\n").file("bin/show", "Result=success\n");
        let request = authorized(&line, &["Prefer: respond-async"], "");
        host.answers(request, 500, "of buildbtw@x.service failed", &[&call(verb), SHOW_X]);
    }
}

#[test]
fn tells_what_systemd_could_not_do() {
    let state = "ActiveState=failed\nSubState=failed\nResult=exit-code\n";
    let failing = |exit: &str| {
        Host::new().file("bin/exit", exit).file("bin/show", state).file(
            "bin/stderr",
            "Job for buildbtw@x.service failed.\nSee \"systemctl status buildbtw@x.service\".\n",
        )
    };
    let (deploy, undeploy) = (deploy_x(), get(&format!("{UNDEPLOY}?branch=x")));
    for exit in ["1\n", "4\n", "5\n", "200\n"] {
        let host = failing(exit);
        let code = format!("restart of buildbtw@x.service failed: exit status: {}: ", exit.trim());
        for words in [
            code.as_str(),
            "Job for buildbtw@x.service failed.\nSee \"systemctl status",
            "\nActiveState=failed SubState=failed Result=exit-code\n",
        ] {
            host.answers(&deploy, 500, words, &[RESTART_X[0], SHOW_X]);
        }
    }
    let host = failing("1\n");
    host.answers(&undeploy, 500, "stop of buildbtw@x.service failed", &[STOP_X[0], SHOW_X]);
    // systemctl(1): 5 where the unit is not loaded, which is what undeploy is for.
    let host = failing("5\n");
    host.answers(&undeploy, 200, "branch x was not deployed\n", STOP_X);
    let host = failing("0\n").file("bin/signal", "KILL");
    host.answers(&deploy, 500, "signal: 9 (SIGKILL)", &[RESTART_X[0], SHOW_X]);
    host.answers(&undeploy, 500, "signal: 9 (SIGKILL)", &[STOP_X[0], SHOW_X]);
    // Not every word of systemctl's need be UTF-8, and `show` may fail too.
    let host = failing("1\n").file("bin/stderr", b"\xffno\n").without_file("bin/show");
    host.answers(&deploy, 500, "exit status: 1: \u{fffd}no\n", &[RESTART_X[0], SHOW_X]);
    let host = Host::new();
    let empty = host.root.join("empty").to_str().expect("a path in UTF-8").to_owned();
    let host = host.set("PATH", &empty);
    host.answers(&deploy, 500, "systemctl did not run: No such file or directory", NOT_RUN);
    host.answers(&undeploy, 500, "systemctl did not run: No such file or directory", NOT_RUN);
}

#[test]
fn an_answer_has_no_empty_lines() {
    let host = Host::new().file("bin/exit", "1\n").without_file("bin/show");
    let text = host.call(Unix, deploy_x()).answer.text;
    assert!(text.lines().all(|line| !line.trim().is_empty()), "{text:?}");
}

#[test]
fn notes_what_is_deployed_and_restores_it() {
    let host = Host::new().with_state();
    let undeploy = get(&format!("{UNDEPLOY}?branch=x"));
    host.answers(deploy_x(), 200, "is deployed", RESTART_X);
    assert_eq!(host.state(), ["x"]);
    host.answers(get(&format!("{DEPLOY}?branch=X")), 400, "is no slug", NOT_RUN);
    host.answers(message(&format!("GET {UNDEPLOY}?branch=x HTTP/1.1"), &[], ""), 401, "", NOT_RUN);
    let host = host.file("bin/exit", "1\n").file("bin/show", "Result=success\n");
    host.answers(
        get(&format!("{DEPLOY}?branch=y")),
        500,
        "failed",
        &["[--no-ask-password][restart][--][buildbtw@y.service]", &SHOW_X.replace("@x", "@y")],
    );
    host.answers(&undeploy, 500, "failed", &[STOP_X[0], SHOW_X]);
    assert_eq!(host.state(), ["x"]);

    let queued = "[--no-ask-password][--no-block][restart][--][buildbtw@x.service]";
    let host = host.file("bin/exit", "0\n").file("state/No.slug", "");
    let restored = host.run(&["--restore"]);
    assert_eq!(restored.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&restored.stderr).contains("\"No.slug\" is no slug"));
    assert_eq!(host.take_calls(), [queued]);
    let host = host.file("bin/exit", "1\n").file("bin/stderr", "systemctl's words\n");
    let restored = host.run(&["--restore"]);
    assert_eq!(restored.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&restored.stderr).contains("systemctl's words"));
    assert_eq!(host.take_calls(), [queued]);

    let host = host.without_file("state/No.slug").file("bin/exit", "0\n");
    host.answers(&undeploy, 200, "is not deployed any more", STOP_X);
    assert!(host.state().is_empty());
    assert_eq!(host.run(&["--restore"]).status.code(), Some(0));
    assert_eq!(host.take_calls(), NOT_RUN);
    fs::remove_dir(host.root.join("state")).expect("the state directory");
    host.answers(deploy_x(), 500, "is done, but a reboot will undo it", RESTART_X);
    assert_eq!(host.run(&["--restore"]).status.code(), Some(1));
}

#[test]
fn is_at_work_in_a_slot_and_waits_for_one() {
    // Two systemctl, so that each call's can be told, and one directory of slots.
    let [one, other] = [Host::new(), Host::new()];
    let directory = one.root.join("empty");
    let slots: Vec<_> = (0..64)
        .map(|slot| File::create(directory.join(format!("slot-{slot}"))).expect("a slot"))
        .collect();
    for slot in &slots {
        slot.lock().expect("a lock");
    }
    let [one, other] = [one, other]
        .map(|host| host.set("RUNTIME_DIRECTORY", directory.to_str().expect("a path in UTF-8")));
    let mut waiting = [one.connect(Unix), other.connect(Tcp)];
    for call in &mut waiting {
        call.send(deploy_x());
    }
    thread::sleep(Duration::from_millis(200));
    assert_eq!([one.take_calls(), other.take_calls()].concat(), NOT_RUN);
    // Who is refused waits for no one.
    let without = message(&format!("GET {DEPLOY}?branch=x HTTP/1.1"), &[], "");
    one.answers(without, 401, "send Authorization", NOT_RUN);

    // One slot is enough for both, one after the other.
    slots[63].unlock().expect("a lock");
    for call in waiting {
        call.finish().is(200, "is deployed", RESTART_X, "a slot that is free again");
    }
}

// Who is let in.

#[test]
fn lets_in_who_has_a_token_of_the_file() {
    for file in [
        TOKEN.to_owned(),
        format!("{TOKEN}\n"),
        format!("{TOKEN}\r\n"),
        format!("\n\r\n \n{TOKEN}\n\n"),
        format!(" \t{TOKEN} \t\r\n"),
        format!("{OTHER}\n{TOKEN}\n"),
        format!("{TOKEN}\r\n{OTHER}\r\n"),
        format!("not a token\n{TOKEN}\n"),
    ] {
        let host = Host::new().file("credentials/token", &file);
        host.answers(deploy_x(), 200, "is deployed", RESTART_X);
        let other = deploy_x().replace(TOKEN, OTHER);
        let (status, words, calls) = if file.contains(OTHER) {
            (200, "is deployed", RESTART_X)
        } else {
            (401, "send Authorization", NOT_RUN)
        };
        host.answers(other, status, words, calls);
        host.answers(deploy_x().replace(TOKEN, "not a token"), 401, "", NOT_RUN);
        host.answers(deploy_x().replace(TOKEN, "not"), 401, "", NOT_RUN);
        host.answers(deploy_x().replace(TOKEN, ""), 401, "", NOT_RUN);
    }
    let host = Host::new();
    for authorization in [
        format!("authorization: bearer {TOKEN}"),
        format!("AUTHORIZATION:BEARER {TOKEN}"),
        format!("Authorization: Bearer  {TOKEN} "),
    ] {
        let line = format!("GET {DEPLOY}?branch=x HTTP/1.1");
        host.answers(message(&line, &[&authorization], ""), 200, "is deployed", RESTART_X);
    }
}

#[test]
fn lets_no_one_else_in_and_tells_them_nothing() {
    let host = Host::new()
        .file("credentials/token", format!("{TOKEN}\n{OTHER}\n"))
        .set("BUILDBTW_BRANCHES", "main");
    let short = &TOKEN[..TOKEN.len() - 1];
    let mut answers = Vec::new();
    for field in [
        "Accept: */*".to_owned(),
        "Authorization:".to_owned(),
        "Authorization: Bearer".to_owned(),
        "Authorization: Bearer ".to_owned(),
        "Authorization: Bearer wrong".to_owned(),
        format!("Authorization: {TOKEN}"),
        format!("Authorization: Bearer{TOKEN}"),
        format!("Authorization: Bearer\t{TOKEN}"),
        format!("Authorization: Bearer \t{TOKEN}"),
        format!("Authorization: Basic {TOKEN}"),
        format!("Authorization: Token {TOKEN}"),
        format!("Authorization: Bearer {short}"),
        format!("Authorization: Bearer {TOKEN}="),
        format!("Authorization: Bearer {TOKEN}x"),
        format!("Authorization: Bearer {TOKEN} x"),
        format!("Authorization: Bearer {TOKEN},{TOKEN}"),
        format!("Authorization: Bearer \"{TOKEN}\""),
        format!("Authorization: Bearer {}", TOKEN.to_lowercase()),
        format!("Authorization: Bearer {TOKEN}{OTHER}"),
        format!("Proxy-Authorization: Bearer {TOKEN}"),
        format!("Cookie: token={TOKEN}"),
    ] {
        let request = message(&format!("GET {DEPLOY}?branch=main HTTP/1.1"), &[&field], "");
        host.answers(&request, 401, "send Authorization: Bearer TOKEN", NOT_RUN);
        answers.push(host.call(Unix, request).answer);
    }
    for line in [
        format!("GET {UNDEPLOY}?branch=main HTTP/1.1"),
        format!("GET {DEPLOY}?branch=main&token={TOKEN} HTTP/1.1"),
        format!("GET {DEPLOY}?branch=not-allowed HTTP/1.1"),
        format!("GET {DEPLOY}?branch=No.Slug HTTP/1.1"),
        format!("GET {DEPLOY} HTTP/1.0"),
        format!("PUT {DEPLOY}?branch=main HTTP/1.1"),
        format!("POST {DEPLOY}/ HTTP/1.1"),
        "GET /hooks/ HTTP/1.1".to_owned(),
        "GET /hooks/? HTTP/1.1".to_owned(),
        "GET /hooks/unknown HTTP/1.1".to_owned(),
        "GET /hooks/../x HTTP/1.1".to_owned(),
        "BREW /hooks//deploy-branch HTTP/1.1".to_owned(),
    ] {
        let request = message(&line, &["Prefer: respond-async"], "");
        host.answers(&request, 401, "send Authorization: Bearer TOKEN", NOT_RUN);
        answers.push(host.call(Unix, request).answer);
    }
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    let head = host.call(Tcp, message(&format!("HEAD {DEPLOY} HTTP/1.1"), &[], "")).answer;
    assert_eq!((head.status, head.headers), (401, answers.remove(0).headers));

    let line = format!("GET {DEPLOY}?branch=main HTTP/1.1");
    let right = format!("authorization: Bearer {TOKEN}");
    for other in [right.as_str(), "Authorization: Bearer x", "Authorization:"] {
        for fields in [[&right, other], [other, &right]] {
            let request = message(&line, &fields, "");
            host.answers(request, 400, "send one Authorization header\n", NOT_RUN);
        }
    }
}

#[test]
fn lets_no_one_in_where_the_host_has_no_token() {
    let none = "the token file is missing, or no line of it is a token";
    let tokens = |text: &[u8]| Host::new().file("credentials/token", text);
    let directory = Host::new().without_file("credentials/token");
    fs::create_dir(directory.root.join("credentials/token")).expect("a directory");
    for (host, reason) in [
        (tokens(b""), none),
        (tokens(b"\n \r\n\t\n"), none),
        (tokens(b"(none)"), none),
        (tokens(b"=\n==\n"), none),
        (tokens(b"two words\na=b\n\"quoted\"\n# comment\n\xc3\xbc\n"), none),
        (tokens(b"\xff\n"), none),
        (Host::new().without_file("credentials/token"), "cannot read "),
        (directory, "cannot read "),
        (Host::new().unset("CREDENTIALS_DIRECTORY"), "CREDENTIALS_DIRECTORY is not set"),
    ] {
        let line = format!("GET {DEPLOY}?branch=x HTTP/1.1");
        for field in [
            "Accept: */*",
            "Authorization: Bearer",
            "Authorization: Bearer (none)",
            "Authorization: Bearer =",
        ] {
            let request = message(&line, &[field], "");
            let outcome = host.call(Tcp, &request);
            outcome.is(500, FAULT, NOT_RUN, &request);
            assert_eq!(outcome.answer.text, FAULT);
            let record = format!(" ms for local: no one gets in: {reason}");
            assert!(outcome.ended.record.contains(&record), "{outcome:?}");
        }
        host.answers(deploy_x(), 500, FAULT, NOT_RUN);
        host.answers(message("GET / HTTP/1.1", &[], ""), 404, "nothing at \"/\"", NOT_RUN);
    }
}

// What there is.

#[test]
fn knows_two_paths_and_two_methods() {
    let host = Host::new();
    for target in [
        "/",
        "/hooks",
        "/hooks?branch=x",
        "/favicon.ico",
        "//hooks/deploy-branch",
        "*",
        "/Hooks/x",
        "/%68ooks/deploy-branch",
        "/x/hooks/deploy-branch",
        "/\"'\\",
    ] {
        for method in ["GET", "POST", "PUT", "OPTIONS"] {
            let request = message(&format!("{method} {target} HTTP/1.1"), &[], "");
            host.answers(request, 404, "nothing at ", NOT_RUN);
        }
    }
    for target in [
        "/hooks/",
        "/hooks/unknown",
        "/hooks/deploy-branch/",
        "/hooks//deploy-branch",
        "/hooks/./deploy-branch",
        "/hooks/x/../deploy-branch",
        "/hooks/deploy%2Dbranch",
        "/hooks/deploy-branch;",
        "/hooks/Deploy-Branch",
        "/hooks/deploy-branch%3Fbranch=x",
        "/hooks/redeploy-branch",
        "/hooks/deploy",
    ] {
        let request = get(&format!("{target}?branch=x"));
        let words = format!("nothing at {target:?}: there are {DEPLOY} and {UNDEPLOY}\n");
        host.answers(request, 404, &words, NOT_RUN);
    }
    for method in
        ["PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "Post", "BREW"]
    {
        for hook in [DEPLOY, UNDEPLOY] {
            let request = authorized(&format!("{method} {hook}?branch=x HTTP/1.1"), &[], "");
            let words = if method == "HEAD" { "" } else { "is not for hooks: send GET or POST\n" };
            host.answers(&request, 405, words, NOT_RUN);
            assert_eq!(host.call(Tcp, request).answer.header("allow"), Some("GET, POST"));
        }
    }
    let head = message("HEAD / HTTP/1.1", &[], "");
    host.answers(head, 404, "", NOT_RUN);
}

// What is malformed, or too much.

#[test]
fn refuses_what_is_no_http() {
    let host = Host::new();
    let target = format!("{DEPLOY}?branch=x");
    let right = deploy_x();
    let line = |line: &str| right.replacen(&format!("GET {target} HTTP/1.1"), line, 1);
    let field = |field: &str| authorized(&format!("POST {target} HTTP/1.1"), &[field, FORM], "");
    for (request, words) in [
        // Line ends.
        (right.replace("\r\n", "\n"), "a line end that is not CRLF"),
        (right.replacen("\r\n", "\n", 1), "a line end that is not CRLF"),
        (right.replacen("\r\n", "\r", 1), "a line end that is not CRLF"),
        (right.replacen("\r\n", "\r\r\n", 1), "a line end that is not CRLF"),
        (right.replacen("\r\n", "\n\r\n", 1), "a line end that is not CRLF"),
        (right.replacen("\r\n\r\n", "\r\n\n", 1), "a line end that is not CRLF"),
        (right.replacen("hook\r\n", "hook\rX-Y: z\r\n", 1), "a line end that is not CRLF"),
        (right.replacen("hook\r\n", "hook\nX-Y: z\r\n", 1), "a line end that is not CRLF"),
        ("\n".to_owned() + &right, "a line end that is not CRLF"),
        // Bytes.
        (field("X-Y: \0"), "the byte 0x00"),
        (field("X-Y: \u{1b}[31m"), "the byte 0x1b"),
        (field("X-Y: \x7f"), "the byte 0x7f"),
        (field("X-Y: \u{e9}"), "the byte 0xc3"),
        (get(&format!("{DEPLOY}?branch=\0")), "the byte 0x00"),
        (get(&format!("{DEPLOY}?branch=f\u{fc}r")), "the byte 0xc3"),
        ("\0".to_owned() + &right, "the byte 0x00"),
        // First lines.
        (line(&format!("GET {target}&a=\tb HTTP/1.1")), "its first line"),
        ("\r\n".to_owned() + &right, "its first line"),
        ("\r\n\r\n".to_owned(), "its first line"),
        (line(&format!("GET {target}")), "its first line"),
        (line(&format!("GET {target} ")), "its first line"),
        (line(&format!("GET {target} x HTTP/1.1")), "its first line"),
        (line(&format!("GET  {target} HTTP/1.1")), "its first line"),
        (line(&format!("GET {target}  HTTP/1.1")), "its first line"),
        (line(&format!("GET {target} HTTP/1.1 ")), "its first line"),
        (line(&format!("GET\t{target}\tHTTP/1.1")), "its first line"),
        (line(&format!("GET {target} HTTP/0.9")), "its first line"),
        (line(&format!("GET {target} HTTP/1.2")), "its first line"),
        (line(&format!("GET {target} HTTP/2.0")), "its first line"),
        (line(&format!("GET {target} HTTP/2")), "its first line"),
        (line(&format!("GET {target} http/1.1")), "its first line"),
        (line(&format!("GET {target} HTTPS/1.1")), "its first line"),
        (line("GET"), "its first line"),
        (format!("GET {target}\r\n\r\n"), "its first line"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "its first line"),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_owned() + &right, "its first line"),
        // Header lines.
        (field("Accept: x\r\n folded"), "a header line"),
        (field("Accept: x\r\n\tfolded"), "a header line"),
        (field("Accept: x\r\n folded: y"), "a header line"),
        (field(" Accept: x"), "a header line"),
        (field("Accept : x"), "a header line"),
        (field("Accept\t: x"), "a header line"),
        (field("Content-Length : 5"), "a header line"),
        (field("Transfer-Encoding : chunked"), "a header line"),
        (field("X Y: z"), "a header line"),
        (field("X(Y): z"), "a header line"),
        (field(": z"), "a header line"),
        (field("no colon"), "a header line"),
        // Hosts.
        (right.replacen("Host: hook\r\n", "", 1), "its Host"),
        (right.replacen("Host: hook", "X-Host: hook", 1), "its Host"),
        (field("Host: hook"), "its Host"),
        (field("host:"), "its Host"),
        (field("Host: x").replacen("HTTP/1.1", "HTTP/1.0", 1), "its Host"),
        // Lengths.
        (field("Content-Length: five"), "its Content-Length"),
        (field("Content-Length:"), "its Content-Length"),
        (field("Content-Length: -1"), "its Content-Length"),
        (field("Content-Length: +0"), "its Content-Length"),
        (field("Content-Length: 0x0"), "its Content-Length"),
        (field("Content-Length: 0.0"), "its Content-Length"),
        (field("Content-Length: 0 0"), "its Content-Length"),
        (field("Content-Length: 0, 0"), "its Content-Length"),
        (field("Content-Length: 0\r\nContent-Length: 0"), "its Content-Length"),
        (field("Content-Length: 0\r\ncontent-length: 9"), "its Content-Length"),
    ] {
        host.answers(&request, 400, "malformed request: ", NOT_RUN);
        host.answers(&request, 400, words, NOT_RUN);
    }
    // What other protocols begin with.
    for bytes in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(),
        b"\x80\x2e\x01\x00\x02",
        b"\r\n\r\n\x00\r\nQUIT\n",
        b"EHLO x\n",
        b"\x05\x01\x00",
    ] {
        host.answers(bytes, 400, "malformed request: ", NOT_RUN);
    }
    for encoding in ["chunked", "identity", "gzip, chunked", "", "xchunked"] {
        let request = post(
            &target,
            &format!("Transfer-Encoding: {encoding}\r\n{FORM}"),
            "5\r\nbranch=y\r\n0\r\n\r\n",
        );
        host.answers(request, 411, "send a Content-Length", NOT_RUN);
    }
    for expectation in ["nonsense", "100-continues", "", "100-continue, nonsense"] {
        let request = field(&format!("Expect: {expectation}"));
        let outcome = host.call(Tcp, &request);
        // RFC 9110 section 10.1.1 has 417 for it, and does not demand it.
        assert!([400, 417].contains(&outcome.answer.status), "{outcome:?}");
        assert_eq!(outcome.ended.calls, NOT_RUN);
    }
}

#[test]
fn refuses_an_empty_method() {
    let request = deploy_x().replacen("GET ", " ", 1);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let host = Host::new();
                for _ in 0..100 {
                    let outcome = host.call(Unix, &request);
                    outcome.is(400, "malformed request: ", NOT_RUN, &request);
                }
            });
        }
    });
}

#[test]
fn takes_heads_and_bodies_of_16_kib_and_no_more() {
    let host = Host::new();
    let max = 16 * 1024;
    host.answers(with_head_of(max), 200, "is deployed", RESTART_X);
    host.answers(with_head_of(max + 1), 431, "the head is over 16384 bytes\n", NOT_RUN);
    let short = "a: b\r\n".repeat(1000);
    let line = format!("GET {DEPLOY}?branch=x HTTP/1.1");
    host.answers(authorized(&line, &[short.trim_end()], ""), 200, "is deployed", RESTART_X);
    let long = "ab: cdefghijklmn\r\n".repeat(1000);
    host.answers(authorized(&line, &[long.trim_end()], ""), 431, "the head is over", NOT_RUN);
    let target = format!("/{}", "x".repeat(max));
    host.answers(get(&target), 431, "the head is over", NOT_RUN);
    // Nothing more is to be waited for.
    host.answers("x".repeat(max + 1), 431, "the head is over", NOT_RUN);

    let form = |len: usize| format!("branch=x&{}", "y".repeat(len - 9));
    host.answers(post(DEPLOY, FORM, &form(1024)), 200, "is deployed", RESTART_X);
    host.answers(post(DEPLOY, FORM, &form(1025)), 200, "is deployed", RESTART_X);
    host.answers(post(DEPLOY, FORM, &form(max)), 200, "is deployed", RESTART_X);
    host.answers(
        post(DEPLOY, FORM, &form(max + 1)),
        413,
        "the body is over 16384 bytes\n",
        NOT_RUN,
    );
    // The answer does not wait for the body.
    for len in ["16385", "52428800", "4294967296", "18446744073709551615", "18446744073709551616"] {
        let request = post(DEPLOY, &format!("{FORM}\r\nContent-Length: {len}"), "");
        host.answers(request, 413, "the body is over 16384 bytes\n", NOT_RUN);
    }
    let len = "9".repeat(1000);
    let request = post(DEPLOY, &format!("{FORM}\r\nContent-Length: {len}"), "");
    host.answers(request, 413, "the body is over 16384 bytes\n", NOT_RUN);
    let len = "0".repeat(1000);
    let request = post(DEPLOY, &format!("{FORM}\r\nContent-Length: {len}8"), "") + "branch=x";
    host.answers(request, 200, "is deployed", RESTART_X);
}

#[test]
fn answers_who_goes_on_sending() {
    let host = Host::new();
    let huge = 50_000_000;
    let line = format!("POST {DEPLOY}?branch=x HTTP/1.1");
    let length = format!("Content-Length: {huge}");
    for (start, piece, status) in [
        (format!("GET /{}", "x".repeat(100)), "x", 431),
        (authorized(&line, &["X-Y: z"], "").replacen("\r\n\r\n", "", 1), "x", 431),
        (authorized(&line, &[], "").replacen("\r\n\r\n", "\r\n", 1), "a: b\r\n", 431),
        (authorized(&line, &[&length, FORM], ""), "x", 413),
        (authorized(&line, &["Transfer-Encoding: chunked"], ""), "1\r\nx\r\n", 411),
        ("\n".to_owned(), "x", 400),
    ] {
        for transport in TRANSPORTS {
            let mut call = host.connect(transport);
            call.send(&start);
            call.send_endlessly(piece, huge);
            call.finish().is(status, "", NOT_RUN, &start);
        }
    }
}

#[test]
fn waits_a_second_for_who_was_refused() {
    let refused = "GET / HTTP/9\r\n\r\n";
    thread::scope(|scope| {
        for transport in TRANSPORTS {
            // A client that writes all it has before it reads, in its own time.
            scope.spawn(move || {
                let host = Host::new();
                let mut call = host.connect(transport);
                for _ in 0..20 {
                    call.send(refused);
                    thread::sleep(Duration::from_millis(20));
                }
                call.finish().is(400, "its first line", NOT_RUN, "20 requests");
            });
            // A client that will not go, whether or not it sends.
            for sends in [false, true] {
                scope.spawn(move || {
                    let host = Host::new();
                    let begin = Instant::now();
                    let mut call = host.connect(transport);
                    call.send(refused);
                    let mut client = call.client.try_clone().expect("a socket");
                    let sender = thread::spawn(move || {
                        while sends && client.write_all(b"x").is_ok() {
                            thread::sleep(Duration::from_millis(10));
                        }
                    });
                    // It has the whole answer before that second is over.
                    call.client.read_to_end(&mut Vec::new()).expect("an answer");
                    thread::sleep(Duration::from_millis(100));
                    assert!(call.hook.0.try_wait().expect("a child").is_none());
                    let ended = call.stay();
                    assert!(begin.elapsed() < Duration::from_secs(5), "{ended:?}");
                    assert_eq!((ended.status(), ended.calls.len()), (400, 0));
                    sender.join().expect("a sender");
                });
            }
        }
    });
}

// How it arrives.

#[test]
fn answers_what_arrives_in_pieces() {
    let request = post(&format!("{DEPLOY}?a=b"), FORM, "branch=x");
    let mut places: Vec<_> = (0..request.len()).step_by(23).collect();
    for (at, _) in request.match_indices("\r\n") {
        places.extend([at, at + 1, at + 2]);
    }
    places.push(request.len() - 1);
    thread::scope(|scope| {
        for (at, transport) in places.into_iter().zip(TRANSPORTS.into_iter().cycle()) {
            let (first, second) = request.split_at(at);
            scope.spawn(move || {
                let host = Host::new();
                let mut call = host.connect(transport);
                call.send(first);
                // Long enough for the process to have read the first piece.
                thread::sleep(Duration::from_millis(500));
                call.send(second);
                call.finish().is(200, "is deployed", RESTART_X, first);
            });
        }
        for transport in TRANSPORTS {
            let request = &request;
            scope.spawn(move || {
                let host = Host::new();
                let mut call = host.connect(transport);
                for byte in request.as_bytes() {
                    call.send([*byte]);
                    thread::sleep(Duration::from_millis(3));
                }
                call.finish().is(200, "is deployed", RESTART_X, "single bytes");
            });
        }
    });
}

#[test]
fn answers_the_first_request_alone() {
    let host = Host::new();
    let first = post(DEPLOY, FORM, "branch=x");
    for more in
        ["\r\n", "\0\u{ff}garbage", &get(&format!("{UNDEPLOY}?branch=y")), &"x".repeat(100_000)]
    {
        host.answers(first.clone() + more, 200, "is deployed", RESTART_X);
        host.answers(deploy_x() + more, 200, "is deployed", RESTART_X);
        // tiny_http would read the body of an upgrade to the connection's end.
        let upgrade = first.replacen("Host:", "Connection: upgrade\r\nHost:", 1);
        host.answers(upgrade + more, 200, "is deployed", RESTART_X);
    }
    // A length that is too short leaves a branch that is too short.
    let short = post(DEPLOY, &format!("{FORM}\r\nContent-Length: 8"), "") + "branch=xyz";
    host.answers(short, 200, "is deployed", RESTART_X);
    // What follows is no part of the head, however it ends.
    host.answers(deploy_x() + "Prefer: respond-async\r\n\r\n", 200, "is deployed", RESTART_X);
}

#[test]
fn tells_who_waits_for_it_to_send_the_body() {
    let host = Host::new();
    let form = "branch=x";
    for transport in TRANSPORTS {
        let mut call = host.connect(transport);
        let request = post(DEPLOY, &format!("{FORM}\r\nExpect: 100-Continue"), form);
        call.send(request.strip_suffix(form).expect("a body"));
        let expected = b"HTTP/1.1 100 Continue\r\n\r\n";
        let mut interim = [0; 25];
        call.client.read_exact(&mut interim).expect("an interim answer");
        assert_eq!(&interim, expected);
        call.send(form);
        call.finish().is(200, "is deployed", RESTART_X, "the body");
    }
    // Not where the body is here, there is none, or it is refused.
    let expecting =
        |field: &str, body| post(DEPLOY, &format!("{FORM}\r\nExpect: 100-continue{field}"), body);
    host.answers(expecting("", form), 200, "is deployed", RESTART_X);
    host.answers(expecting("", ""), 400, "no branch", NOT_RUN);
    host.answers(expecting("\r\nContent-Length: 16385", ""), 413, "the body is over", NOT_RUN);
}

#[test]
fn tells_no_one_else_to_send_the_body() {
    let host = Host::new();
    for (line, expectation) in [
        (format!("POST {DEPLOY} HTTP/1.0"), "100-continue"),
        (format!("POST {DEPLOY} HTTP/1.1"), "nonsense"),
    ] {
        let fields = [FORM, &format!("Expect: {expectation}"), "Content-Length: 8"];
        let mut call = host.connect(Unix);
        call.send(authorized(&line, &fields, ""));
        thread::sleep(Duration::from_millis(300));
        call.send("branch=x");
        let outcome = call.finish();
        if expectation == "nonsense" {
            assert!([400, 417].contains(&outcome.answer.status), "{outcome:?}");
        } else {
            outcome.is(200, "is deployed", RESTART_X, "HTTP/1.0");
        }
    }
}

#[test]
fn answers_who_sends_more_while_it_waits() {
    for transport in TRANSPORTS {
        let host = Host::new().file("bin/hold", "");
        let mut call = host.connect(transport);
        call.send(deploy_x());
        host.wait_for_systemctl();
        call.send(get(&format!("{UNDEPLOY}?branch=y")));
        fs::remove_file(host.root.join("bin/hold")).expect("the hold");
        // The process must have ended before the reset, if there is one, can be seen.
        thread::sleep(Duration::from_millis(300));
        call.finish().is(200, "is deployed", RESTART_X, "one request and then another");
    }
}

#[test]
fn answers_head_without_a_body_however_early() {
    let host = Host::new();
    for field in ["Content-Length: 99999", "Transfer-Encoding: chunked", "Content-Length: x"] {
        let mut call = host.connect(Tcp);
        call.send(authorized("HEAD / HTTP/1.1", &[field], ""));
        let answer = call.finish().answer;
        assert!(answer.status >= 400 && answer.text.is_empty(), "{answer:?}");
    }
}

#[test]
fn survives_who_goes_early() {
    let host = Host::new();
    for transport in TRANSPORTS {
        let request = post(DEPLOY, FORM, "branch=x");
        for sent in ["", "G", "GET / HTTP/1.1\r\n", &request[..request.len() - 1]] {
            let mut call = host.connect(transport);
            call.send(sent);
            call.half_close();
            let outcome = call.finish();
            outcome.is(400, "the connection ended before the request was whole\n", NOT_RUN, sent);
            let mut call = host.connect(transport);
            call.send(sent);
            let ended = call.go();
            assert_eq!((ended.status(), ended.calls.len()), (400, 0), "{ended:?}");
        }
        let mut call = host.connect(transport);
        call.send(&request);
        call.half_close();
        call.finish().is(200, "is deployed", RESTART_X, &request);
        // An unread interim answer makes it a reset.
        let mut call = host.connect(transport);
        call.send(post(
            DEPLOY,
            &format!("{FORM}\r\nExpect: 100-continue\r\nContent-Length: 9"),
            "",
        ));
        call.client.peek(&mut [0]).expect("an interim answer");
        let ended = call.go();
        assert_eq!((ended.status(), ended.calls.len()), (400, 0), "{ended:?}");
        // The job goes on without its caller.
        let held = Host::new().with_state().file("bin/hold", "");
        let mut call = held.connect(transport);
        call.send(&request);
        held.wait_for_systemctl();
        let Call { client, hook, .. } = call;
        drop(client);
        fs::remove_file(held.root.join("bin/hold")).expect("the hold");
        let ended = Ended::new(&held, &hook.wait());
        assert_eq!((ended.status(), ended.calls.as_slice()), (200, &[RESTART_X[0].to_owned()][..]));
        assert_eq!(held.state(), ["x"]);
    }
}

/// In one test, or the two threads that `cargo test` has on a small machine would both wait.
#[test]
fn a_request_must_arrive_in_10_s() {
    let whole = post(DEPLOY, FORM, "branch=x");
    let (head, _) = whole.split_at(whole.len() - "branch=x".len());
    thread::scope(|scope| {
        for transport in TRANSPORTS {
            // At once, and then a byte a second.
            for (first, slowly) in [
                ("", ""),
                ("GET / HTTP/1.1\r\n", ""),
                (head, ""),
                ("", "GET /hooks/"),
                (head, "branch=x"),
            ] {
                scope.spawn(move || {
                    let host = Host::new();
                    let mut call = host.connect(transport);
                    call.send(first);
                    // The last byte would make the second body whole.
                    for byte in slowly.bytes().take(if first.is_empty() { 11 } else { 7 }) {
                        thread::sleep(Duration::from_secs(1));
                        call.send([byte]);
                    }
                    let outcome = call.finish();
                    outcome.is(408, "no whole request within 10 s\n", NOT_RUN, first);
                    let duration = outcome.ended.duration();
                    let bounds = Duration::from_millis(9_900)..Duration::from_millis(11_500);
                    assert!(bounds.contains(&duration), "{outcome:?}");
                });
            }
        }
    });
}

// The record.

#[test]
fn leaves_one_record() {
    let host = Host::new();
    let x = format!("{DEPLOY}?branch=x");
    for (request, start) in [
        (deploy_x(), "deploy-branch x: 200 in "),
        (get(&format!("{UNDEPLOY}?branch=x")), "undeploy-branch x: 200 in "),
        (
            authorized(&format!("GET {x} HTTP/1.1"), &["Prefer: respond-async"], ""),
            "deploy-branch x: 202 in ",
        ),
        (get(&format!("{UNDEPLOY}?branch=X")), "undeploy-branch -: 400 in "),
        (message(&format!("GET {x} HTTP/1.1"), &[], ""), "- -: 401 in "),
        (get("/hooks/x?branch=x"), "- -: 404 in "),
        (authorized(&format!("PUT {x} HTTP/1.1"), &[], ""), "- -: 405 in "),
        ("\n".to_owned(), "- -: 400 in "),
        // No line but ours.
        (
            get(&format!(
                "{DEPLOY}?branch=x%0AINFO:%20deploy-branch%20y:%20200%20in%201%20ms%20for%20z"
            )),
            "deploy-branch -: 400 in ",
        ),
    ] {
        for transport in TRANSPORTS {
            let ended = host.call(transport, &request).ended;
            assert!(ended.record.starts_with(start), "{ended:?}");
        }
    }
}

#[test]
fn records_the_caller() {
    let peer = Some("192.0.2.7");
    for (remote, fields, caller) in [
        (None, &[][..], "local"),
        (peer, &[], "192.0.2.7"),
        (peer, &["X-Real-IP: 198.51.100.1"], "198.51.100.1"),
        (None, &["x-real-ip: 2001:db8::1"], "2001:db8::1"),
        (peer, &["X-Real-IP: 2001:0DB8:0::1"], "2001:db8::1"),
        (peer, &["X-Real-IP:"], "192.0.2.7"),
        (peer, &["X-Real-IP: unknown"], "192.0.2.7"),
        (peer, &["X-Real-IP: 198.51.100.1:80"], "192.0.2.7"),
        (peer, &["X-Real-IP: 198.51.100.1, 198.51.100.2"], "192.0.2.7"),
        (peer, &["X-Real-IP: 198.51.100.1 HTTP_STATUS=200"], "192.0.2.7"),
        (peer, &["X-Real-IP: fe80::1%eth0"], "192.0.2.7"),
        (None, &["X-Real-IP: 256.0.0.1"], "local"),
        (None, &["X-Forwarded-For: 198.51.100.1"], "local"),
        // A name that the client of a Unix socket chose.
        (Some("@x: 200 in 1 ms for 192.0.2.7"), &[], "local"),
    ] {
        let host = Host::new();
        let host = if let Some(remote) = remote { host.set("REMOTE_ADDR", remote) } else { host };
        for line in [format!("GET {DEPLOY}?branch=x HTTP/1.1"), "GET / HTTP/1.1".to_owned()] {
            let ended = host.call(Unix, authorized(&line, fields, "")).ended;
            assert_eq!(ended.caller(), caller, "{fields:?}");
        }
        let refused = authorized("GET / HTTP/9", fields, "");
        assert_eq!(
            host.call(Unix, refused).ended.caller(),
            if remote == peer { "192.0.2.7" } else { "local" }
        );
    }
}

// Without a connection.

#[test]
fn tells_who_starts_it_by_hand_what_it_is_for() {
    let host = Host::new();
    let usage = "buildbtw-hook serves one HTTP request on a connection that systemd accepted.";
    let version = concat!("buildbtw-hook ", env!("CARGO_PKG_VERSION"), "\n");
    for (arguments, status, stdout, stderr) in [
        (&["--version"][..], 0, version, ""),
        (&["--help"], 0, usage, ""),
        (&[], 2, "", "no connection was passed"),
        (&["--nonsense"], 2, "", "it takes no such argument"),
        (&["-h"], 2, "", "it takes no such argument"),
        (&[""], 2, "", "it takes no such argument"),
        (&["x"], 2, "", "it takes no such argument"),
    ] {
        let output = host.run(arguments);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).starts_with(stdout), "{output:?}");
        assert_eq!(output.stdout.is_empty(), status != 0, "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(stderr), "{output:?}");
        assert_eq!(text.contains(usage), status != 0, "{output:?}");
        assert_eq!(host.take_calls(), NOT_RUN);
    }
    let elsewhere = host.set("LISTEN_FDS", "1").set("LISTEN_PID", "1");
    assert_eq!(elsewhere.run(&[]).status.code(), Some(2));
    let (datagram, _peer) = UnixDatagram::pair().expect("a socket");
    let host = Host::new();
    for passed in [
        datagram.into(),
        fs::File::open("/dev/null").expect("a file").into(),
        fs::File::open("/").expect("a directory").into(),
    ] {
        let output = host.start(passed).wait();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(usage), "{output:?}");
        assert_eq!(output.stdout, b"");
    }
}
