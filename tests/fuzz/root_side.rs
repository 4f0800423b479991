//! `buildbtw-systemctl` against orders that no hook would give, as its peer: lines and bytes. Only
//! what [`expected`] takes for an order runs anything, and exactly what it says.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::iter;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use wait4::Wait4;

use super::{MAX_TIME, Scratch, Tally, exceeds, word};

/// What there is to come of an order here, where every systemctl succeeds.
pub const KINDS: &[&str] = &["accepted", "done", "refused"];

const SHOW: &str = "LoadState=loaded\nActiveState=active\nSubState=running\nResult=success\nJob=\n\
    InvocationID=1\nCanClean=\n";

/// In place of systemctl: writes down how it was called, in the directory where it was found.
pub fn command(name: &str, arguments: &[String]) {
    let here = PathBuf::from(env::var_os("PATH").expect("a PATH"));
    let mut calls = File::options().append(true).open(here.join("calls")).expect("a file");
    calls.write_all(format!("{name}{arguments:?}\n").as_bytes()).expect("a call written down");
    if arguments.iter().any(|argument| argument == "show") {
        let stopped = fs::exists(here.join("stopped")).expect("a look");
        print!("{}", if stopped { SHOW.replace("=active", "=inactive") } else { SHOW.to_owned() });
    }
    if arguments.iter().any(|argument| argument == "stop") {
        fs::write(here.join("stopped"), "").expect("a note");
    }
}

/// What must come of the bytes: a kind, and how systemctl is run, but for looks.
fn expected(sent: &[u8]) -> (&'static str, String) {
    let refused = ("refused", String::new());
    let Some(line) = sent.strip_suffix(b"\n").filter(|line| line.len() < 128) else {
        return refused;
    };
    let (verb, rest) = match line.iter().position(|b| *b == b' ') {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => return refused,
    };
    let (slug, flag) = match rest.iter().position(|b| *b == b' ') {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_slug = (1..64).contains(&slug.len())
        && slug.iter().all(|b| inner(b) || *b == b'-')
        && slug.first().is_some_and(inner)
        && slug.last().is_some_and(inner);
    if !is_slug || flag.is_some_and(|flag| flag != b"async") {
        return refused;
    }
    let job = match verb {
        b"deploy" => "restart",
        b"undeploy" => "stop",
        b"status" => return ("done", String::new()),
        _ => return refused,
    };
    let unit = format!("buildbtw@{}.service", String::from_utf8_lossy(slug));
    let call =
        format!("systemctl{:?}\n", ["--no-ask-password", "--job-mode=replace", job, "--", &unit]);
    (if flag.is_some() { "accepted" } else { "done" }, call)
}

/// What words of an order are spoilt with; `|` is between them.
const WORDS: &str = "deploy|undeploy|status|restart|start|stop|kill|freeze|clean|DEPLOY|async|now|\
    --job-mode=flush|--now|--|-|--what=state|x|main|X|a b|../x|x.service|x@y|%i|$(id)|;id|`id`|\
    ||  | |\t|\r|\n|\r\n|\n\n|\0|\x7f|\u{e9}|\u{212a}|*|?|~|\"x\"|'x'|\\|\\x2d|/|:|=|,|#";

/// An order, valid or spoilt in a word, or bytes.
fn bytes(rng: &mut Rng) -> Vec<u8> {
    let len = rng.usize(1..67);
    let long = "a-0b".repeat(17)[..len].to_owned();
    let slug = match rng.u8(..4) {
        0 => long,
        1 => "main".to_owned(),
        2 => "1--2".to_owned(),
        _ => "x".to_owned(),
    };
    let verb = rng.choice(["deploy", "undeploy", "status"]).unwrap_or_default();
    let mut words = vec![verb.to_owned(), slug];
    if rng.bool() {
        words.push("async".to_owned());
    }
    match rng.u8(..10) {
        0 => {
            let len = rng.usize(..300);
            return iter::repeat_with(|| rng.u8(..)).take(len).collect();
        }
        1 => {
            return iter::repeat_with(|| word(rng, WORDS)).take(5).collect::<String>().into_bytes();
        }
        2..5 => {}
        _ => {
            let (at, new) = (rng.usize(..words.len()), word(rng, WORDS).to_owned());
            match rng.u8(..4) {
                0 => words[at] = new,
                1 => words.insert(at, new),
                2 => drop(words.remove(at)),
                _ => words[at].push_str(&new),
            }
        }
    }
    let mut line = words.join(" ").into_bytes();
    line.push(b'\n');
    match rng.u8(..12) {
        0 => line.truncate(rng.usize(..line.len())),
        1 => line.extend(bytes(rng)),
        2 => {
            let at = rng.usize(..line.len());
            line[at] ^= 1 << rng.u8(..8);
        }
        3 => line.extend(vec![b'x'; rng.usize(..5000)]),
        _ => {}
    }
    line
}

/// Runs the executable on one input after another.
pub fn fuzz(name: usize, inputs: impl Iterator<Item = (Rng, usize)>, tally: &Mutex<Tally>) {
    let mut host = Host::new(name).expect("a host");
    for (mut rng, k) in inputs {
        let sent = bytes(&mut rng);
        let cut = rng.usize(..=sent.len());
        let pause = Duration::from_micros(rng.choice([0, 0, 0, 300]).unwrap_or_default());
        let (kind, calls) = host.serve(&sent, cut, pause, k, tally).expect("a process");
        let (kind_expected, calls_expected) = expected(&sent);
        // The bytes after the line may come when the order has been read already.
        let first_line = sent.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1);
        let is_read_early = cut >= first_line && cut < sent.len() && first_line > 0;
        let early = expected(&sent[..first_line]);
        let holds = (kind == kind_expected && calls == calls_expected)
            || (is_read_early && kind == early.0 && calls == early.1);
        assert!(
            holds,
            "root side, input {k}: {kind:?}, expected {kind_expected:?} for b\"{}\", cut at {cut}\n\
             {calls}\nexpected:\n{calls_expected}",
            sent.escape_ascii()
        );
    }
}

struct Host(Scratch);

impl Host {
    fn new(name: usize) -> io::Result<Self> {
        let host = Scratch::new("root", name)?;
        for directory in ["state", "runtime"] {
            fs::create_dir_all(host.root.join(directory))?;
        }
        for command in ["systemctl", "journalctl"] {
            symlink(env::current_exe()?, host.root.join(command))?;
        }
        Ok(Self(host))
    }

    /// The kind of outcome, and how systemctl was run.
    fn serve(
        &mut self,
        sent: &[u8],
        cut: usize,
        pause: Duration,
        k: usize,
        tally: &Mutex<Tally>,
    ) -> io::Result<(String, String)> {
        let begin = Instant::now();
        let (mut peer, its) = UnixStream::pair()?;
        peer.set_read_timeout(Some(MAX_TIME))?;
        peer.set_write_timeout(Some(MAX_TIME))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_buildbtw-systemctl"));
        command.env_clear().env("PATH", &self.0.root);
        command.env("STATE_DIRECTORY", self.0.root.join("state"));
        command.env("RUNTIME_DIRECTORY", self.0.root.join("runtime"));
        command.stdin(OwnedFd::from(its)).stderr(self.0.records.try_clone()?);
        let mut child = command.spawn()?;
        drop(command);
        // It need not read to the end of what it refuses.
        let _ = peer.write_all(&sent[..cut]);
        thread::sleep(pause);
        let _ = peer.write_all(&sent[cut..]);
        let _ = peer.shutdown(Shutdown::Write);
        let mut outcome = Vec::new();
        // A reset where it was not read to the end.
        let _ = peer.read_to_end(&mut outcome);
        let used = child.wait4()?;
        let time = begin.elapsed();
        let [calls, records] = self.0.take()?;
        let _ = fs::remove_file(self.0.root.join("stopped"));
        let outcome = String::from_utf8_lossy(&outcome).into_owned();
        let is_refused = records.starts_with("ERROR: refused an order: ");
        let kind = match outcome.split_once('\n') {
            // The outcome of what is refused may be lost in a reset; its record is not.
            _ if is_refused => "refused".to_owned(),
            Some((kind, _)) => kind.to_owned(),
            None => String::new(),
        };
        let fault = [
            ("it did not end well", used.status.success()),
            ("it took too much", !exceeds(&used, time)),
            ("it recorded something else", records.lines().count() == usize::from(is_refused)),
            ("it said too much", outcome.len() < 1000 && records.len() < 1000),
        ]
        .into_iter()
        .find_map(|(fault, holds)| (!holds).then_some(fault));
        let calls: String =
            calls.split_inclusive('\n').filter(|line| !line.contains(r#""show""#)).collect();
        assert!(
            fault.is_none(),
            "root side, input {k}: {fault:?} for b\"{}\": {used:?} {time:?}\n{outcome}\n{records}",
            sent.escape_ascii()
        );
        tally.lock().expect("a tally").count(kind.clone(), &used, time, &calls);
        Ok((kind, calls))
    }
}
