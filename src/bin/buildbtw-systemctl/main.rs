//! What runs as root: reads one order from `buildbtw-hook`, has systemd carry it out, and answers
//! with what came of it.
//!
//! systemd accepts a connection on `/run/buildbtw-systemctl.sock`, which the hook's user alone can
//! open, and starts this with the connection as stdin. All that it takes from there is one line of
//! at most 128 bytes, which must be exactly a verb, a slug and at most one flag (`src/order.rs`);
//! the rest is refused and recorded. Then it runs `systemctl` with fixed arguments, and
//! `journalctl` to say why something failed: `systemctl.rs` has every command. No shell, no
//! network, nothing else.
//!
//! order → running (a mark) → notes (what the next boot starts) → systemctl → outcome.

mod export;
mod notes;
mod running;
mod systemctl;

use std::env;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use buildbtw_hook::branch::{Branch, quote};
use buildbtw_hook::deadline::read_before;
use buildbtw_hook::journal;
use buildbtw_hook::order::{Kind, MAX_ORDER, Order, Outcome, Verb};
use log::Level;
use log::kv::Value;

use notes::{is_noted, note, restore, update_note};
use running::{DEPLOYMENTS, Running, place};
use systemctl::{NOT_LOADED, Systemctl, Unit, has_template, show};

// systemd-tmpfiles makes both, so that no unit has to.
const STATE: &str = "/var/lib/buildbtw-hook";
const RUNTIME: &str = "/run/buildbtw-systemctl";
/// An order must have arrived this long after the process started.
const ARRIVAL: Duration = Duration::from_secs(10);
const USAGE: &str = "\
buildbtw-systemctl carries out one order of buildbtw-hook, on a connection that systemd accepted.
buildbtw-systemctl.socket starts it; with --restore buildbtw-hook-restore.service starts what was
deployed before a reboot. There is nothing to run by hand.
";

fn main() -> ExitCode {
    match env::args_os().nth(1) {
        None => serve(),
        Some(argument) if argument == "--restore" => restore_all(),
        Some(argument) => {
            misused(&format!("it takes no argument {}", quote(&argument.to_string_lossy())))
        }
    }
}

fn misused(why: &str) -> ExitCode {
    eprint!("buildbtw-systemctl: {why}\n{USAGE}");
    ExitCode::from(2)
}

/// Serves the connection on stdin. Exits with 0 for any order, so that none leaves the host
/// "degraded".
fn serve() -> ExitCode {
    let peer = match io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from) {
        Ok(peer) if peer.local_addr().is_ok() => peer,
        _ => return misused("stdin is not a connection"),
    };
    journal::open("buildbtw-systemctl");
    match receive(&peer) {
        Ok(order) => match Settings::from_env() {
            Ok(settings) => settings.carry_out(&order, &peer),
            Err(fault) => tell(&peer, &Outcome::new(Kind::Failed, fault)),
        },
        Err(why) => {
            report(Kind::Refused, None, &format!("refused an order: {why}"));
            tell(&peer, &Outcome::new(Kind::Refused, "buildbtw-systemctl knows no such order"));
        }
    }
    ExitCode::SUCCESS
}

/// Starts what was deployed before a reboot.
fn restore_all() -> ExitCode {
    journal::open("buildbtw-systemctl");
    match Settings::from_env().and_then(|settings| restore(&settings.state, &settings.runtime)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("not everything is restored: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the order: one line, and nothing after it.
fn receive(peer: &UnixStream) -> Result<Order, String> {
    let deadline = Instant::now() + ARRIVAL;
    let mut line = Vec::new();
    while !line.contains(&b'\n') {
        let mut buffer = [0; MAX_ORDER];
        match read_before(deadline, peer, &mut buffer) {
            Ok(0) => return Err(format!("{} ends too soon", quote_bytes(&line))),
            Ok(n) => line.extend_from_slice(&buffer[..n]),
            Err(error) => return Err(format!("it could not be read: {error}")),
        }
        if line.len() > MAX_ORDER {
            return Err(format!("{} is too long", quote_bytes(&line)));
        }
    }
    let text = str::from_utf8(&line).map_err(|_| quote_bytes(&line))?;
    text.parse().map_err(|_| quote_bytes(&line))
}

fn quote_bytes(bytes: &[u8]) -> String {
    quote(&String::from_utf8_lossy(bytes))
}

/// Sends the outcome. A peer that has gone does not wait for it.
fn tell(mut peer: &UnixStream, outcome: &Outcome) {
    let _ = peer.write_all(outcome.to_string().as_bytes());
    let _ = peer.shutdown(Shutdown::Both);
}

/// Records what the hook's record of the call does not say.
fn report(kind: Kind, branch: Option<&Branch>, message: &str) {
    let mut fields = Vec::new();
    fields.extend(branch.map(|branch| ("BUILDBTW_BRANCH", Value::from(branch.as_str()))));
    fields.extend(kind.message_id().map(|id| ("MESSAGE_ID", Value::from(id))));
    journal::record(Level::Error, message, &fields);
}

/// What the unit tells the process through its environment, read once.
struct Settings {
    /// `STATE_DIRECTORY`, otherwise [`STATE`]: the notes, see `notes.rs`.
    state: PathBuf,
    /// `RUNTIME_DIRECTORY`, otherwise [`RUNTIME`]: a file for each branch, see [`Running`].
    runtime: PathBuf,
    /// `BUILDBTW_QUEUE_SEC`: how long a deployment waits for others.
    queue: Duration,
    /// `BUILDBTW_LOG_LINES`: how many of a failed unit's last lines a caller is shown.
    log_lines: usize,
    /// `BUILDBTW_CLEAN=state`: an undeployment also removes the unit's state directories.
    clean: bool,
}

impl Settings {
    fn from_env() -> Result<Self, String> {
        let directory = |name, otherwise: &str| {
            env::var_os(name).map_or_else(|| PathBuf::from(otherwise), PathBuf::from)
        };
        let number = |name: &str, otherwise| match env::var(name) {
            Err(_) => Ok(otherwise),
            Ok(text) => text.parse().map_err(|_| format!("{name}={text} is not a number")),
        };
        let clean = env::var("BUILDBTW_CLEAN").unwrap_or_default();
        if !["", "state"].contains(&clean.as_str()) {
            return Err(format!("BUILDBTW_CLEAN={clean} is not \"state\""));
        }
        Ok(Self {
            state: directory("STATE_DIRECTORY", STATE),
            runtime: directory("RUNTIME_DIRECTORY", RUNTIME),
            queue: Duration::from_secs(number("BUILDBTW_QUEUE_SEC", 600)?),
            log_lines: usize::try_from(number("BUILDBTW_LOG_LINES", 20)?).unwrap_or(usize::MAX),
            clean: !clean.is_empty(),
        })
    }

    /// One order, from its beginning to its outcome and the note for the next boot.
    fn carry_out(&self, order: &Order, peer: &UnixStream) {
        let branch = &order.branch;
        if order.verb == Verb::Status {
            return tell(peer, &self.status(branch));
        }
        let was_noted = is_noted(&self.state, branch);
        let running = match self.accept(order) {
            Ok(running) => running,
            Err(refusal) => return tell(peer, &refusal),
        };
        if order.respond_async {
            let verb = order.verb.as_str();
            let text =
                format!("{verb} of branch {branch} is accepted; branch-status tells the outcome");
            tell(peer, &Outcome::new(Kind::Accepted, text));
        }
        let outcome = match order.verb {
            Verb::Undeploy => self.undeploy(branch),
            _ => self.deploy(branch, &running),
        };
        // Before the answer is sent, so that a later branch-status agrees with it.
        let is_alone = running.end(order, outcome.as_ref().err());
        match outcome {
            Ok(outcome) => {
                tell(peer, &outcome);
                // accept() noted it already, and nothing changed since.
                if is_alone {
                    return;
                }
            }
            Err(failure) if order.respond_async => {
                report(failure.kind, Some(branch), &failure.text);
            }
            Err(failure) => tell(peer, &failure),
        }
        if let Err(error) = update_note(&self.state, order, was_noted) {
            let message = format!("the next boot may not agree with branch {branch}: {error}");
            report(Kind::Failed, Some(branch), &message);
        }
    }

    /// Marks the branch as being worked on, and notes what is asked for, so that a boot in
    /// between carries it out.
    fn accept(&self, order: &Order) -> Result<Running, Outcome> {
        let unit = order.branch.unit();
        // Told at once, although `branch-status` would tell it too.
        if order.respond_async && is_missing(&unit) {
            return Err(Outcome::new(Kind::NoTemplate, format!("Unit {unit} not found.")));
        }
        let running = Running::begin(&self.runtime, order)
            .map_err(|error| not_done("cannot mark the branch as being worked on", &error))?;
        note(&self.state, &order.branch, order.verb == Verb::Deploy)
            .map_err(|error| not_done("cannot note what the next boot is to start", &error))?;
        Ok(running)
    }

    /// Pulls the image where the host has a template for that, and then restarts the unit: a start
    /// does nothing to a running unit, and a restart also starts a stopped one.
    fn deploy(&self, branch: &Branch, running: &Running) -> Result<Outcome, Outcome> {
        let _place = place(&self.runtime, self.queue)
            .map_err(|error| not_done("cannot wait for other deployments", &error))?
            .ok_or_else(|| {
                let text = format!("{DEPLOYMENTS} deployments are running: nothing is done");
                Outcome::new(Kind::Overloaded, text)
            })?;
        if has_template("buildbtw-pull@.service") {
            let pull = branch.pull_unit();
            let pulled = Systemctl::run("start", &[&pull]);
            if pulled.code() != Some(0) {
                let still_runs =
                    show(&branch.unit()).is_ok_and(|unit| unit.is_active_or_activating());
                let rest = if still_runs { "\nwhat ran before still runs" } else { "" };
                return Err(self.failure(Kind::PullFailed, &pulled, &pull, rest));
            }
        }
        if running.is_undeployed() {
            let text = format!("canceled: branch {branch} was undeployed meanwhile");
            return Err(Outcome::new(Kind::Failed, text));
        }
        let unit = branch.unit();
        let restarted = Systemctl::run("restart", &[&unit]);
        if restarted.succeeded(Unit::is_up) {
            let text = format!("branch {branch} is deployed (restart of {unit})");
            return Ok(Outcome::new(Kind::Done, text));
        }
        // The exit status is the same where a unit that this one requires is missing.
        let no_template = restarted.code() == NOT_LOADED && is_missing(&unit);
        let kind = if no_template { Kind::NoTemplate } else { Kind::StartFailed };
        Err(self.failure(kind, &restarted, &unit, ""))
    }

    /// Stops the unit, and what would start it again: visitors in its socket, or a pull.
    fn undeploy(&self, branch: &Branch) -> Result<Outcome, Outcome> {
        if has_template("buildbtw@.socket") {
            // In one call with the unit, the socket would stop last, and visitors would wait in it.
            Systemctl::run("stop", &[&branch.socket_unit()]);
        }
        let (pull, unit) = (branch.pull_unit(), branch.unit());
        let pulls = has_template("buildbtw-pull@.service");
        let units = if pulls { &[pull.as_str(), &unit][..] } else { &[unit.as_str()] };
        let stopped = Systemctl::run("stop", units);
        let text = if stopped.code() == NOT_LOADED {
            format!("branch {branch} was not deployed")
        } else if stopped.succeeded(|unit| !unit.is_active_or_activating()) {
            format!("branch {branch} is not deployed any more (stop of {unit})")
        } else {
            return Err(self.failure(Kind::Failed, &stopped, &unit, ""));
        };
        if self.clean {
            self.clean(&unit)?;
        }
        Ok(Outcome::new(Kind::Done, text))
    }

    /// Removes the unit's state directories, if it has any.
    fn clean(&self, unit: &str) -> Result<(), Outcome> {
        let kept = "it is undeployed, but its data is there";
        let known =
            show(unit).map_err(|why| Outcome::new(Kind::Failed, format!("{kept}: {why}")))?;
        if !known.can_clean.split(' ').any(|what| what == "state") {
            return Ok(());
        }
        if known.active == "failed" {
            // systemd cleans no unit that has failed, systemctl(1).
            Systemctl::run("reset-failed", &[unit]);
        }
        let cleaned = Systemctl::run("clean", &["--what=state", unit]);
        if cleaned.code() == Some(0) {
            return Ok(());
        }
        Err(self.failure(Kind::Failed, &cleaned, unit, &format!("\n{kept}")))
    }

    /// What state the branch is in.
    fn status(&self, branch: &Branch) -> Outcome {
        let name = branch.unit();
        let (is_running, failure) = Running::look(&self.runtime, branch);
        let unit = match show(&name) {
            Ok(unit) => unit,
            Err(error) => return Outcome::new(Kind::Failed, error),
        };
        // A later start that succeeded overrides a recorded failure.
        let failure = failure.filter(|failure| !(unit.is_up() && unit.invocation != failure.0));
        if is_running || unit.has_job() || unit.active == "deactivating" {
            Outcome::new(Kind::Running, format!("a job for {name} is running"))
        } else if let Some((_, failure)) = failure {
            // Final, whatever kind it was when it happened: who polls must stop.
            Outcome::new(Kind::StartFailed, failure.text)
        } else if unit.is_up() {
            Outcome::new(Kind::Done, format!("branch {branch} is up ({name})"))
        } else if unit.active == "failed" || unit.is_active_or_activating() {
            let lines = unit.last_lines(self.log_lines);
            Outcome::new(Kind::StartFailed, format!("{name} failed\n{unit}{lines}"))
        } else {
            Outcome::new(Kind::Absent, format!("branch {branch} is not deployed"))
        }
    }

    /// What went wrong: systemctl's words, the unit's state, the rest, and what the unit wrote.
    fn failure(&self, kind: Kind, run: &Systemctl, unit: &str, rest: &str) -> Outcome {
        let mut text = format!("{} of {unit} failed: {}", run.verb, run.words());
        if let Ok(known) = show(unit)
            && known.load != "not-found"
        {
            // An inactive unit has been unloaded meanwhile: its state says nothing.
            if known.active != "inactive" {
                let _ = write!(text, "\n{known}");
            }
            let lines = run.last_lines(self.log_lines, &known);
            let _ = write!(text, "{rest}{lines}");
        }
        Outcome::new(kind, text)
    }
}

/// Whether there is neither such a unit nor a template of it.
fn is_missing(unit: &str) -> bool {
    show(unit).is_ok_and(|known| known.load == "not-found")
}

/// The outcome of an error on this host, before anything was done.
fn not_done(what: &str, error: &io::Error) -> Outcome {
    Outcome::new(Kind::Failed, format!("nothing is done: {what}: {error}"))
}
