//! The two executables against input that no one thought of: `buildbtw-hook` against requests, and
//! `buildbtw-systemctl`, which runs as root, against orders.
//!
//! Input number k depends on the seed and on k alone, but for the machine's own timing.
//!
//! ```sh
//! FUZZ_INPUTS=1000000 cargo test --test fuzz                 # a longer run, with a new seed
//! FUZZ_SEED=7 FUZZ_INPUTS=4711..4712 cargo test --test fuzz  # the input that failed
//! ```

mod hook;
mod root_side;
#[path = "../executable/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::iter;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use wait4::{ResUse, Wait4};

use wire::Transport;

/// How many inputs each of the two gets when `FUZZ_INPUTS` does not say.
const INPUTS: &str = "10000";

/// No process takes longer, however busy the machine is.
const MAX_TIME: Duration = Duration::from_secs(5);
/// Nor computes longer,
const MAX_CPU: Duration = Duration::from_millis(500);
/// nor has more in memory, in bytes: a few times what it takes.
const MAX_MEMORY: u64 = 16 * 1024 * 1024;

/// Runs a target on the inputs of one thread, and counts what came of them.
type Target = fn(usize, &mut dyn Iterator<Item = (Rng, usize)>, &Mutex<Tally>);

fn main() {
    let mut arguments = env::args();
    let name = arguments.next().unwrap_or_default();
    if name == "systemctl" {
        return root_side::systemctl(&arguments.collect::<Vec<_>>());
    }
    // As in other tests, what is no option is a part of a test's name, and --list runs none.
    if arguments.any(|word| word == "--list" || !word.starts_with('-') && !"fuzz".contains(&word)) {
        return;
    }
    let seed = env::var("FUZZ_SEED").ok();
    let seed = seed.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("FUZZ_SEED"));
    let inputs = env::var("FUZZ_INPUTS").unwrap_or_else(|_| INPUTS.to_owned());
    let (first, end) = inputs.split_once("..").unwrap_or(("0", &inputs));
    let [first, end] = [first, end].map(|number| number.parse::<usize>().expect("FUZZ_INPUTS"));
    run("hook", hook::fuzz, hook::KINDS, seed, first..end);
    run("root side", root_side::fuzz, root_side::KINDS, seed, first..end);
}

fn run(name: &str, target: Target, kinds: &[&str], seed: u64, inputs: std::ops::Range<usize>) {
    let workers = 2 * thread::available_parallelism().map_or(1, usize::from);
    println!("{name}: FUZZ_SEED={seed} FUZZ_INPUTS={inputs:?}, {workers} at a time");
    let next = AtomicUsize::new(inputs.start);
    let (begin, tally) = (Instant::now(), Mutex::new(Tally::default()));
    thread::scope(|scope| {
        for worker in 0..workers {
            let (tally, next, end) = (&tally, &next, inputs.end);
            scope.spawn(move || {
                // A target that fails panics, and takes the tally's lock with it.
                let number = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|k| *k < end);
                let mut inputs = iter::from_fn(number)
                    .take_while(|_| !tally.is_poisoned())
                    .map(|k| (input_rng(seed, k), k));
                target(worker, &mut inputs, tally);
            });
        }
    });
    let tally = tally.into_inner().expect("a tally");
    let elapsed = begin.elapsed();
    println!("{tally:?} in {elapsed:?}: {:.0} a second", tally.inputs / elapsed.as_secs_f64());
    let enough = tally.kinds.keys().eq(kinds) && tally.ran > tally.inputs / 10.0;
    assert!(enough || tally.inputs < 5000.0, "too little was tried out: {kinds:?}");
}

/// What an input is drawn from.
fn input_rng(seed: u64, number: usize) -> Rng {
    let step = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Rng::with_seed(Rng::with_seed(seed).u64(..).wrapping_add(step))
}

/// One of the words, which have `|` between them.
fn word<'a>(rng: &mut Rng, words: &'a str) -> &'a str {
    rng.choice(words.split('|').collect::<Vec<_>>()).unwrap_or_default()
}

/// Bytes, and how they are sent.
struct Sent {
    bytes: Vec<u8>,
    /// Where one write ends and the next begins.
    cuts: Vec<usize>,
    pause: Duration,
    transport: Transport,
    /// Whether the client says that it sends no more,
    ends: bool,
    /// and whether it reads the answer, or goes.
    reads: bool,
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, cuts, pause, transport, ends, reads } = self;
        writeln!(f, "b\"{}\"", bytes.escape_ascii())?;
        write!(f, "cuts: {cuts:?} of {pause:?}, {transport:?}, ends: {ends}, reads: {reads}")
    }
}

/// What a process left behind.
#[derive(Debug)]
struct Ended {
    used: ResUse,
    time: Duration,
    printed: io::Result<String>,
    record: String,
    /// How others were called.
    calls: String,
    /// How the client's reading ended, and what it read until then.
    read: io::Result<usize>,
    answer: Vec<u8>,
}

impl Ended {
    /// What is wrong with it, whatever was sent.
    fn fault(&self) -> Option<&'static str> {
        let cpu = self.used.rusage.utime + self.used.rusage.stime;
        let took_too_much =
            self.time > MAX_TIME || cpu > MAX_CPU || self.used.rusage.maxrss > MAX_MEMORY;
        let is_quiet = self.printed.as_ref().is_ok_and(String::is_empty);
        let ended_well = self.used.status.success() && is_quiet;
        let fault = took_too_much.then_some("it took too much");
        if ended_well { fault } else { Some("it did not end well") }
    }
}

/// A directory, and what processes write into two files of it: how others were called, and records.
struct Scratch {
    root: PathBuf,
    calls: File,
    records: File,
}

impl Scratch {
    fn new(target: &str, name: usize) -> io::Result<Self> {
        let root = wire::scratch(&format!("{target}-{name}"));
        fs::create_dir_all(&root)?;
        let open =
            |name| File::options().create(true).read(true).append(true).open(root.join(name));
        let (calls, records) = (open("calls")?, open("records")?);
        Ok(Self { root, calls, records })
    }

    /// Runs an executable on a connection, its stdin.
    fn run(&mut self, mut command: Command, sent: &Sent) -> io::Result<Ended> {
        let begin = Instant::now();
        let (mut client, passed) = sent.transport.pair()?;
        // What it has for stdout ends when it does.
        let (stdout, its) = UnixStream::pair()?;
        client.set_read_timeout(Some(MAX_TIME))?;
        client.set_write_timeout(Some(MAX_TIME))?;
        stdout.set_read_timeout(Some(MAX_TIME))?;
        command.stdin(passed).stdout(OwnedFd::from(its)).stderr(self.records.try_clone()?);
        let mut child = command.spawn()?;
        drop(command);
        let mut from = 0;
        for to in sent.cuts.iter().copied().chain([sent.bytes.len()]) {
            // One that refuses need not read to the end.
            let _ = client.write_all(&sent.bytes[from..to]);
            if to < sent.bytes.len() || !sent.reads {
                thread::sleep(sent.pause);
            }
            from = to;
        }
        if sent.ends {
            let _ = client.shutdown(Shutdown::Write);
        }
        let mut answer = Vec::new();
        let read = if sent.reads { client.read_to_end(&mut answer) } else { Ok(0) };
        drop(client);
        let printed = io::read_to_string(stdout);
        if printed.is_err() {
            child.kill()?;
        }
        let used = child.wait4()?;
        let time = begin.elapsed();
        let take = |file: &mut File| {
            file.rewind()?;
            let text = io::read_to_string(&mut *file)?;
            file.set_len(0).map(|()| text)
        };
        let (calls, record) = (take(&mut self.calls)?, take(&mut self.records)?);
        Ok(Ended { used, time, printed, record, calls, read, answer })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A second panic would hide the first.
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// What was seen in all.
#[derive(Debug, Default)]
struct Tally {
    inputs: f64,
    /// How many of them something was done for.
    ran: f64,
    kinds: BTreeMap<String, u32>,
    time: Duration,
}

impl Tally {
    /// Counts an input by what kind of outcome it had.
    fn count(&mut self, kind: &str, ended: &Ended) {
        self.inputs += 1.0;
        self.ran += if ended.calls.is_empty() { 0.0 } else { 1.0 };
        *self.kinds.entry(kind.to_owned()).or_default() += 1;
        self.time = self.time.max(ended.time);
    }
}
