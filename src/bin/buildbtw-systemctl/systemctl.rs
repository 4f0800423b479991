//! Every run of `systemctl`.

use std::collections::HashMap;
use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often to look whether systemd is back, and how many times (`systemctl daemon-reexec`): for 90 s.
const POLL: Duration = Duration::from_millis(200);
const TRIES: u32 = 450;
/// systemctl's messages when it cannot reach systemd or loses its connection. A job that was enqueued goes on.
const CUT_OFF: [&str; 6] = [
    "Failed to connect",
    "D-Bus connection terminated while waiting for jobs",
    "Connection reset by peer",
    "Connection terminated",
    "Broken pipe",
    "endpoint is not connected",
];
const PROPERTIES: &str = "--property=LoadState,ActiveState,SubState,Result,Job,InvocationID,CanClean,\
                          StopWhenUnneeded,ConditionResult,ActiveEnterTimestamp";

/// One run of systemctl.
pub struct Systemctl {
    pub verb: &'static str,
    /// A second before it began, in seconds since the Unix epoch: since when to look at the journal.
    pub since: u64,
    output: io::Result<Output>,
}

impl Systemctl {
    /// Runs `systemctl VERB` with options, if any, and units; again while systemd is away.
    pub fn run(verb: &'static str, options: &[&str], units: &[&str]) -> Self {
        let mut tries = 1;
        loop {
            let since = a_second_ago();
            let output = systemctl(verb, options, units).output();
            let run = Self { verb, since, output };
            if tries == TRIES || !run.is_cut_off() {
                return run;
            }
            tries += 1;
            thread::sleep(POLL);
        }
    }

    /// Runs a job of the unit and waits for it. Calls `enqueued` once systemd has it: later jobs come after it.
    pub fn job(verb: &'static str, unit: &str, enqueued: impl Fn()) -> Self {
        let since = a_second_ago();
        let watch = || {
            let (pipe, its) = io::pipe()?;
            let mut command = systemctl(verb, &["--show-transaction"], &[unit]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(its);
            let mut child = command.spawn()?;
            // Closes our copy of its end of the pipe; otherwise the loop would not end.
            drop(command);
            let mut stderr = Vec::new();
            for line in BufReader::new(pipe).split(b'\n') {
                let line = line?;
                if line.starts_with(b"Enqueued anchor job ") {
                    enqueued();
                } else if !line.starts_with(b"Enqueued ") {
                    stderr.extend([&line, &b"\n"[..]].concat());
                }
            }
            Ok(Output { status: child.wait()?, stdout: Vec::new(), stderr })
        };
        let run = Self { verb, since, output: watch() };
        if run.is_cut_off() {
            // Gives systemd a moment before the next try.
            thread::sleep(POLL);
        }
        run
    }

    /// Whether all was done.
    pub fn is_ok(&self) -> bool {
        self.output.as_ref().is_ok_and(|output| output.status.success())
    }

    /// Whether a job was begun: `Job for UNIT failed`, `A dependency job for UNIT failed`,
    /// `… while waiting for jobs`.
    pub fn has_begun(&self) -> bool {
        self.words().contains("ob for") || self.words().contains("for jobs")
    }

    /// Whether systemd was away, or went away: its job, if any, goes on.
    pub fn is_cut_off(&self) -> bool {
        !self.is_ok() && CUT_OFF.iter().any(|words| self.words().contains(words))
    }

    /// Whether somebody asked for something else meanwhile.
    pub fn is_canceled(&self) -> bool {
        // The word alone may be the branch's name.
        self.words().contains(" canceled")
    }

    /// How it ended, and what it said.
    pub fn words(&self) -> String {
        match &self.output {
            Ok(output) => {
                let words = String::from_utf8_lossy(&output.stderr);
                format!("{}: {}", output.status, words.trim()).trim_end_matches(": ").to_owned()
            }
            Err(error) => format!("systemctl did not run: {error}"),
        }
    }
}

/// What systemd knows of a unit: its properties (org.freedesktop.systemd1(5)).
pub struct Unit(HashMap<String, String>);

impl Unit {
    pub fn get(&self, property: &str) -> &str {
        self.0.get(property).map_or("", String::as_str)
    }

    /// Whether the host has it; a masked unit is as good as none (systemctl(1), `mask`).
    pub fn is_there(&self) -> bool {
        !["not-found", "masked"].contains(&self.get("LoadState"))
    }

    pub fn is_up(&self) -> bool {
        ["active", "reloading", "refreshing"].contains(&self.get("ActiveState"))
    }

    /// Whether there is nothing to stop.
    pub fn is_down(&self) -> bool {
        ["inactive", "failed"].contains(&self.get("ActiveState"))
    }

    pub fn has_failed(&self) -> bool {
        self.get("ActiveState") == "failed"
    }

    /// Whether it is being started or stopped. Between two tries of `Restart=` it is not.
    pub fn is_changing(&self) -> bool {
        let waits = self.get("SubState").starts_with("auto-restart");
        let has_job = !["", "0"].contains(&self.get("Job"));
        has_job || !(self.is_up() || self.is_down() || waits)
    }

    /// Since when it is up, in the form of RFC 3339; otherwise `-`.
    pub fn since(&self) -> String {
        match self.get("ActiveEnterTimestamp").split(' ').collect::<Vec<_>>()[..] {
            [_, date, time, "UTC"] if self.is_up() => format!("{date}T{time}Z"),
            _ => "-".to_owned(),
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [active, sub, result] =
            ["ActiveState", "SubState", "Result"].map(|name| format!("{name}={}", self.get(name)));
        write!(f, "{active} {sub} {result}")
    }
}

/// Asks systemd about units, by name.
///
/// # Errors
///
/// Fails where systemd does not tell, with a sentence about it.
pub fn show<const N: usize>(names: [&str; N]) -> Result<[Unit; N], String> {
    show_all(&names)?.try_into().map_err(|_| "systemctl show is incomplete".to_owned())
}

/// The same for any number of units.
pub fn show_all(names: &[&str]) -> Result<Vec<Unit>, String> {
    let shown = Systemctl::run("show", &["--timestamp=utc", PROPERTIES], names);
    let text = match &shown.output {
        Ok(output) if shown.is_ok() => String::from_utf8_lossy(&output.stdout),
        _ => {
            return Err(format!("cannot read the state of {}: {}", names.join(" "), shown.words()));
        }
    };
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let pairs =
        |unit: &str| unit.lines().filter_map(|line| line.split_once('=')).map(owned).collect();
    Ok(text.split("\n\n").map(|unit| Unit(pairs(unit))).collect())
}

fn systemctl(verb: &str, options: &[&str], units: &[&str]) -> Command {
    let mut command = command("systemctl");
    command.args(["--no-ask-password", "--job-mode=replace"]).args(options);
    command.args([verb, "--"]).args(units);
    command
}

fn a_second_ago() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs().saturating_sub(1)
}

/// A command by its name in systemd's own PATH, with nothing else in its environment.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = env::var_os("PATH");
    command.env_clear().env("PATH", path.as_deref().unwrap_or(OsStr::new("/usr/bin")));
    command
}
