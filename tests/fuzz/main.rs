//! `buildbtw-hook` against requests that no one thought of. Each input goes through a socket to a
//! process of its own, and what comes of it must be what [`expected`] says: an order is given when
//! that says so and as it says, and never otherwise.
//!
//! Input number k depends on the seed and on k alone, but for the machine's own timing.
//!
//! ```sh
//! FUZZ_INPUTS=1000000 cargo test --test fuzz                 # a longer run, with a new seed
//! FUZZ_SEED=7 FUZZ_INPUTS=4711..4712 cargo test --test fuzz  # the input that failed
//! ```

mod expected;
mod input;
#[path = "../executable/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::mem;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use wait4::{ResUse, Wait4};

use expected::{Outcome, TOKENS};
use input::Input;
use wire::Answer;

/// How many inputs there are when `FUZZ_INPUTS` does not say.
const INPUTS: &str = "10000";
/// All of the table of answers but 408, which takes 10 s, and what no client causes.
const STATUSES: [u16; 10] = [200, 202, 400, 401, 403, 404, 405, 411, 413, 431];

/// No process takes longer, however busy the machine is.
const MAX_TIME: Duration = Duration::from_secs(5);
/// Nor computes longer,
const MAX_CPU: Duration = Duration::from_millis(500);
/// nor has more in memory, in bytes: a few times what it takes.
const MAX_MEMORY: u64 = 16 * 1024 * 1024;

#[test]
fn requests_come_to_what_is_expected() {
    let seed = env::var("FUZZ_SEED").ok();
    let seed = seed.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("FUZZ_SEED"));
    let inputs = env::var("FUZZ_INPUTS").unwrap_or_else(|_| INPUTS.to_owned());
    let (first, end) = inputs.split_once("..").unwrap_or(("0", &inputs));
    let [first, end] = [first, end].map(|number| number.parse::<usize>().expect("FUZZ_INPUTS"));
    let workers = 2 * thread::available_parallelism().map_or(1, usize::from);
    println!("FUZZ_SEED={seed} FUZZ_INPUTS={first}..{end}, {workers} at a time");
    let next = &AtomicUsize::new(first);
    let statuses = &Mutex::new(BTreeMap::<u16, usize>::new());
    thread::scope(|scope| {
        for worker in 0..workers {
            scope.spawn(move || {
                let host = Host::new(worker).expect("a host");
                let number = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|k| *k < end);
                while let Some(k) = number() {
                    let input = Input::new(Rng::with_seed(seed.wrapping_add(k as u64)));
                    let ended = host.run(&input).expect("a process");
                    if let Some(fault) = fault(&input, &ended) {
                        // The others need not go on.
                        next.store(end, Ordering::Relaxed);
                        let (bytes, how) = (input.bytes.escape_ascii(), input.how);
                        let expected = input.expected;
                        panic!(
                            "input {k}: {fault}\nb\"{bytes}\"\n{how:?}\n{expected:?}\n{ended:#?}"
                        );
                    }
                    let mut statuses = statuses.lock().expect("statuses");
                    *statuses.entry(ended.outcome.status).or_default() += 1;
                }
            });
        }
    });
    let statuses = statuses.lock().expect("statuses");
    println!("{statuses:?}");
    let ordered = [200, 202].iter().filter_map(|status| statuses.get(status)).sum::<usize>();
    let enough = statuses.keys().eq(&STATUSES) && ordered > (end - first) / 10;
    assert!(enough || end - first < 5000, "too little was tried out: {statuses:?}");
}

/// A directory with tokens and a socket for orders, and the orders that were given.
struct Host {
    root: PathBuf,
    orders: Arc<Mutex<String>>,
}

impl Host {
    fn new(worker: usize) -> io::Result<Self> {
        let host = Self { root: wire::scratch(&format!("fuzz-{worker}")), orders: Arc::default() };
        fs::create_dir_all(&host.root)?;
        fs::write(host.root.join("token"), TOKENS.join("\n") + "\nno token at all\n")?;
        let listener = UnixListener::bind(host.root.join("orders"))?;
        let orders = Arc::clone(&host.orders);
        thread::spawn(move || {
            for peer in listener.incoming() {
                carry_out(peer.expect("an order"), &orders).expect("an order");
            }
        });
        Ok(host)
    }

    /// Runs the executable on an input, with the connection as its stdin.
    fn run(&self, input: &Input) -> io::Result<Ended> {
        let begin = Instant::now();
        let Input { bytes, how, .. } = input;
        let (mut client, passed) = how.transport.pair()?;
        // What it prints ends when it does.
        let (printed, its) = UnixStream::pair()?;
        client.set_read_timeout(Some(MAX_TIME))?;
        client.set_write_timeout(Some(MAX_TIME))?;
        printed.set_read_timeout(Some(MAX_TIME))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_buildbtw-hook"));
        command.env_clear().envs(how.allowed.map(|names| ("BUILDBTW_BRANCHES", names)));
        command.env("BUILDBTW_ORDERS", self.root.join("orders"));
        command.env("CREDENTIALS_DIRECTORY", &self.root);
        // listenfd looks there for the connection, and no other descriptor is passed as quickly.
        command.env("LISTEN_FDS", "1").env("LISTEN_FDS_FIRST_FD", "0");
        command.stdin(passed).stdout(OwnedFd::from(its.try_clone()?)).stderr(OwnedFd::from(its));
        let mut child = command.spawn()?;
        drop(command);
        let mut from = 0;
        for to in how.cuts.iter().copied().chain([bytes.len()]) {
            // One that refuses need not read to the end.
            let _ = client.write_all(&bytes[from..to]);
            if to < bytes.len() || !how.reads {
                thread::sleep(how.pause);
            }
            from = to;
        }
        if how.ends {
            let _ = client.shutdown(Shutdown::Write);
        }
        let mut answer = Vec::new();
        let read = if how.reads { client.read_to_end(&mut answer) } else { Ok(0) };
        drop(client);
        let printed = io::read_to_string(printed);
        if printed.is_err() {
            child.kill()?;
        }
        let used = child.wait4()?;
        let record = printed.unwrap_or_default();
        let status = record.split(": ").nth(2).and_then(|words| words.get(..3)?.parse().ok());
        let orders = mem::take(&mut *self.orders.lock().expect("orders"));
        let outcome = Outcome { status: status.unwrap_or_default(), orders };
        Ok(Ended { used, time: begin.elapsed(), record, outcome, read, answer })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A second panic would hide the first.
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// In place of the root side: writes the order down, and says that it is done.
fn carry_out(mut peer: UnixStream, orders: &Mutex<String>) -> io::Result<()> {
    let mut order = [0; 1000];
    let len = peer.read(&mut order)?;
    let order = String::from_utf8_lossy(&order[..len]);
    orders.lock().expect("orders").push_str(&order);
    let word = if order.ends_with(" async\n") { "accepted" } else { "done" };
    // One that goes early does not wait for it.
    let _ = peer.write_all(format!("{word}\nit is done\n").as_bytes());
    Ok(())
}

/// What a process left behind.
#[derive(Debug)]
struct Ended {
    used: ResUse,
    time: Duration,
    /// All that it printed.
    record: String,
    outcome: Outcome,
    /// How the client's reading ended, and what it read until then.
    read: io::Result<usize>,
    answer: Vec<u8>,
}

/// What is wrong with what came of an input.
fn fault(input: &Input, ended: &Ended) -> Option<&'static str> {
    let how = &input.how;
    let status = if how.reads { answered(&ended.answer, &input.bytes) } else { None };
    let usage = &ended.used.rusage;
    let is_short = ended.time <= MAX_TIME && usage.utime + usage.stime <= MAX_CPU;
    [
        ("it did not end well", ended.used.status.success()),
        ("it took too much", is_short && usage.maxrss <= MAX_MEMORY),
        ("it left no record of one line", ended.record.lines().count() == 1),
        ("it gave no whole answer", !how.reads || status == Some(ended.outcome.status)),
        // A write may come too late, after the answer.
        ("the connection did not end well", ended.read.is_ok() || !how.cuts.is_empty()),
        ("it did something else", input.expected.contains(&ended.outcome)),
    ]
    .into_iter()
    .find_map(|(fault, holds)| (!holds).then_some(fault))
}

/// The status of what is one whole answer.
fn answered(answer: &[u8], sent: &[u8]) -> Option<u16> {
    let expects = sent.to_ascii_lowercase().windows(12).any(|window| window == b"100-continue");
    let interim = answer.strip_prefix(b"HTTP/1.1 100 Continue\r\n\r\n").filter(|_| expects);
    let answer = interim.unwrap_or(answer);
    let parsed = Answer::parse(answer, sent.starts_with(b"HEAD ")).ok()?;
    Some(parsed.status).filter(|_| answer.len() < 4096)
}
