//! `buildbtw-systemctl` against orders that no hook would give, as its peer: lines and bytes. Only
//! what [`expected`] takes for an order runs anything, and exactly what it says.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::iter;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use fastrand::Rng;

use super::wire::Transport::Unix;
use super::{Scratch, Sent, Tally, word};

/// What there is to come of an order here, where every systemctl succeeds.
pub const KINDS: &[&str] = &["accepted", "done", "refused"];

/// In place of systemctl: writes down how it was called, in the directory where it was found. A
/// template has an instance alone.
pub fn systemctl(arguments: &[String]) {
    let here = PathBuf::from(env::var_os("PATH").expect("a PATH"));
    let (options, units) =
        arguments.split_at(arguments.iter().position(|a| a == "--").expect("--") + 1);
    let verb = &options[options.len() - 2];
    if verb == "show" {
        let is_stopped = fs::exists(here.join("stopped")).expect("a look");
        let active = if is_stopped { "inactive" } else { "active" };
        let show = |unit: &String| {
            let is_instance = unit.starts_with("buildbtw@") && unit.ends_with(".service");
            let (load, active) =
                if is_instance { ("loaded", active) } else { ("not-found", "inactive") };
            format!("LoadState={load}\nActiveState={active}\nResult=success\n")
        };
        return print!("{}", units.iter().map(show).collect::<Vec<_>>().join("\n"));
    }
    let mut calls = File::options().append(true).open(here.join("calls")).expect("a file");
    calls.write_all(format!("{arguments:?}\n").as_bytes()).expect("a call written down");
    if verb == "stop" {
        fs::write(here.join("stopped"), "").expect("a note");
    }
}

/// What must come of the bytes: a kind, and how systemctl is run, but for looks.
fn expected(sent: &[u8]) -> (&'static str, String) {
    let refused = ("refused", String::new());
    let line = str::from_utf8(sent).ok().and_then(|text| text.strip_suffix('\n'));
    let Some(line) = line.filter(|line| line.len() < 128) else { return refused };
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (slug, flag) = rest.split_once(' ').map_or((rest, None), |(slug, flag)| (slug, Some(flag)));
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_slug = slug.len() < 64
        && slug.starts_with(inner)
        && slug.ends_with(inner)
        && slug.chars().all(|c| inner(c) || c == '-');
    let unit = format!("buildbtw@{slug}.service");
    let run = |words: &[&str]| {
        let words = [&["--no-ask-password", "--job-mode=replace"], words].concat();
        format!("{words:?}\n")
    };
    let restart = run(&["--show-transaction", "restart", "--", &unit]);
    // Images are removed in the background.
    let prune = run(&["--no-block", "restart", "--", "buildbtw-prune.service"]);
    match (verb, flag) {
        ("list", None) if line == verb => ("done", String::new()),
        _ if !is_slug => refused,
        ("deploy", None) => ("done", restart + &prune),
        ("deploy", Some("async")) => ("accepted", restart + &prune),
        ("undeploy", None) => ("done", run(&["stop", "--", &unit]) + &prune),
        ("expire", None) => ("done", prune),
        ("status", None) => ("done", String::new()),
        _ => refused,
    }
}

/// What words of an order are spoilt with; `|` is between them.
const WORDS: &str = "deploy|undeploy|expire|status|list|restart|start|stop|kill|freeze|clean|DEPLOY|async|now|\
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
    let verb = rng.choice(["deploy", "undeploy", "expire", "status", "list"]).unwrap_or_default();
    let mut words = vec![verb.to_owned(), slug, "async".to_owned()];
    words.truncate(match (verb, rng.u8(..8)) {
        ("list", 1..) => 1,
        ("deploy", 0..4) | (_, 0) => 3,
        _ => 2,
    });
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
pub fn fuzz(name: usize, inputs: &mut dyn Iterator<Item = (Rng, usize)>, tally: &Mutex<Tally>) {
    let mut host = Scratch::new("root", name).expect("a host");
    symlink(env::current_exe().expect("a path"), host.root.join("systemctl")).expect("a link");
    let marks = host.root.join("var/lib/buildbtw-hook");
    for (mut rng, k) in inputs {
        fs::create_dir_all(&marks).expect("a directory");
        let bytes = bytes(&mut rng);
        let cut = rng.usize(..=bytes.len());
        let pause = Duration::from_micros(rng.choice([0, 0, 0, 300]).unwrap_or_default());
        let sent = Sent { bytes, cuts: vec![cut], pause, transport: Unix, ends: true, reads: true };
        let mut command = Command::new(env!("CARGO_BIN_EXE_buildbtw-systemctl"));
        command.env_clear().env("PATH", &host.root).env("BUILDBTW_ROOT", &host.root);
        let ended = host.run(command, &sent).expect("a process");
        // Those that are not there are of no concern.
        let _ = fs::remove_file(host.root.join("stopped"));
        let _ = fs::remove_dir_all(host.root.join("etc"));
        fs::remove_dir_all(&marks).expect("the marks");

        // The outcome of what is refused may be lost in a reset; its record is not.
        let is_refused = ended.record.starts_with("ERROR: refused an order: ");
        let answer = String::from_utf8_lossy(&ended.answer);
        let kind =
            if is_refused { "refused" } else { answer.split('\n').next().unwrap_or_default() };
        let is = |expected: (&str, String)| kind == expected.0 && ended.calls == expected.1;
        // The bytes after the line may come when the order has been read already.
        let line = sent.bytes.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1);
        let is_read_early = line > 0 && (line..sent.bytes.len()).contains(&cut);
        let holds = is(expected(&sent.bytes)) || is_read_early && is(expected(&sent.bytes[..line]));
        let is_recorded = ended.record.lines().count() == usize::from(is_refused);
        let is_short = answer.len() < 1000 && ended.record.len() < 1000;
        let fault = ended.fault();
        assert!(
            holds && is_recorded && is_short && fault.is_none(),
            "root side, input {k}: {sent}\n{fault:?}, expected {:?}\n{ended:#?}",
            expected(&sent.bytes)
        );
        tally.lock().expect("a tally").count(kind, &ended);
    }
}
