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
use std::fs::{self, File};
use std::io::{self, Seek};
use std::iter;
use std::path::PathBuf;
use std::process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use wait4::ResUse;

/// How many inputs each of the two gets when `FUZZ_INPUTS` does not say.
const INPUTS: &str = "10000";

/// No process takes longer, however busy the machine is.
pub const MAX_TIME: Duration = Duration::from_secs(5);
/// Nor computes longer,
const MAX_CPU: Duration = Duration::from_millis(500);
/// nor has more in memory, in bytes: a few times what it takes.
const MAX_MEMORY: u64 = 16 * 1024 * 1024;

/// Runs a target on the inputs of one thread, and counts what came of them.
type Target = fn(usize, &mut dyn Iterator<Item = (Rng, usize)>, &Mutex<Tally>);

fn main() {
    let mut arguments = env::args();
    let name = arguments.next().unwrap_or_default();
    if ["systemctl", "journalctl"].contains(&name.as_str()) {
        return root_side::command(&name, &arguments.collect::<Vec<_>>());
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
    run("hook", |n, inputs, tally| hook::fuzz(n, inputs, tally), hook::KINDS, seed, first..end);
    run(
        "root side",
        |n, inputs, tally| root_side::fuzz(n, inputs, tally),
        root_side::KINDS,
        seed,
        first..end,
    );
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

/// Whether a process took too much.
#[must_use]
pub fn exceeds(used: &ResUse, time: Duration) -> bool {
    let cpu = used.rusage.utime + used.rusage.stime;
    time > MAX_TIME || cpu > MAX_CPU || used.rusage.maxrss > MAX_MEMORY
}

/// One of the words, which have `|` between them.
pub fn word<'a>(rng: &mut Rng, words: &'a str) -> &'a str {
    rng.choice(words.split('|').collect::<Vec<_>>()).unwrap_or_default()
}

/// A directory, and what processes write into two files of it: how others were called, and records.
pub struct Scratch {
    root: PathBuf,
    calls: File,
    records: File,
}

impl Scratch {
    /// # Errors
    ///
    /// Fails where a file system does.
    pub fn new(target: &str, name: usize) -> io::Result<Self> {
        // Not below target/: the path of a socket has at most 108 bytes, unix(7).
        let root = env::temp_dir().join(format!("buildbtw-fuzz-{target}-{}-{name}", process::id()));
        fs::create_dir_all(&root)?;
        let open =
            |name| File::options().create(true).read(true).append(true).open(root.join(name));
        let (calls, records) = (open("calls")?, open("records")?);
        Ok(Self { root, calls, records })
    }

    /// All that is in the two files, which are then empty.
    ///
    /// # Errors
    ///
    /// Fails where a file does.
    pub fn take(&mut self) -> io::Result<[String; 2]> {
        let take = |file: &mut File| {
            file.rewind()?;
            let text = io::read_to_string(&mut *file)?;
            file.set_len(0).map(|()| text)
        };
        Ok([take(&mut self.calls)?, take(&mut self.records)?])
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
pub struct Tally {
    inputs: f64,
    /// How many of them something was done for.
    ran: f64,
    kinds: BTreeMap<String, u32>,
    time: Duration,
    cpu: Duration,
    memory: u64,
}

impl Tally {
    /// Counts an input: what kind of outcome it had, what it took, and what was done.
    pub fn count(&mut self, kind: String, used: &ResUse, time: Duration, done: &str) {
        self.inputs += 1.0;
        self.ran += if done.is_empty() { 0.0 } else { 1.0 };
        *self.kinds.entry(kind).or_default() += 1;
        self.time = self.time.max(time);
        self.cpu = self.cpu.max(used.rusage.utime + used.rusage.stime);
        self.memory = self.memory.max(used.rusage.maxrss);
    }
}
