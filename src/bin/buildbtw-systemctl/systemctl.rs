//! Every run of `systemctl`.

use std::collections::HashMap;
use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often to look whether systemd is back, and how long it may be away (`systemctl daemon-reexec`).
const POLL: Duration = Duration::from_millis(200);
const RECONNECT: Duration = Duration::from_secs(90);
/// What systemctl says where it cannot connect, where its connection ended while it waited for a job,
/// which goes on, and where that ended otherwise.
const AWAY: &str = "Failed to connect";
const CUT_OFF: &str = "D-Bus connection terminated while waiting for jobs";
const LOST: [&str; 4] = [
    "Connection reset by peer",
    "Connection terminated",
    "Broken pipe",
    "endpoint is not connected",
];
const PROPERTIES: &str = "--property=LoadState,ActiveState,SubState,Result,Job,InvocationID,CanClean,\
                          StopWhenUnneeded,ActiveEnterTimestamp";

/// One run of systemctl.
pub struct Systemctl {
    pub verb: &'static str,
    /// A second before it began, in seconds since the Unix epoch: since when to look at the journal.
    pub since: u64,
    output: io::Result<Output>,
}

impl Systemctl {
    /// Runs `systemctl VERB` with options, if any, and units; again while systemd is away.
    pub fn run(mut verb: &'static str, options: &[&str], units: &[&str]) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = now.as_secs().saturating_sub(1);
        let mut away = None;
        loop {
            let mut command = command("systemctl");
            command.args(["--no-ask-password", "--job-mode=replace"]).args(options);
            let run = Self { verb, since, output: command.args([verb, "--"]).args(units).output() };
            let says = |words: &&str| run.words().contains(*words);
            if run.is_ok() || ![AWAY, CUT_OFF].iter().chain(&LOST).any(says) {
                return run;
            }
            if says(&CUT_OFF) && verb == "restart" {
                // A start waits for the job that goes on.
                verb = "start";
            }
            let since = *away.get_or_insert_with(Instant::now);
            if !says(&AWAY) {
                away = None;
            } else if since.elapsed() > RECONNECT {
                return run;
            }
            thread::sleep(POLL);
        }
    }

    /// Whether all was done.
    pub fn is_ok(&self) -> bool {
        self.output.as_ref().is_ok_and(|output| output.status.success())
    }

    /// Whether a job was begun: `Job for UNIT failed`, `A dependency job for UNIT failed`.
    pub fn has_begun(&self) -> bool {
        self.words().contains("ob for")
    }

    /// Whether somebody asked for something else meanwhile.
    pub fn is_canceled(&self) -> bool {
        self.words().contains("canceled")
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

    /// Whether it is being started or stopped. Between two tries of `Restart=` it is not.
    pub fn is_changing(&self) -> bool {
        let waits = self.get("SubState").starts_with("auto-restart");
        self.has_job() || !(self.is_up() || self.is_down() || waits)
    }

    /// Since when it is up, in the form of RFC 3339; otherwise `-`.
    pub fn since(&self) -> String {
        match self.get("ActiveEnterTimestamp").split(' ').collect::<Vec<_>>()[..] {
            [_, date, time, "UTC"] if self.is_up() => format!("{date}T{time}Z"),
            _ => "-".to_owned(),
        }
    }

    fn has_job(&self) -> bool {
        !["", "0"].contains(&self.get("Job"))
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

/// A command by its name in systemd's own PATH, with nothing else in its environment.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = env::var_os("PATH");
    command.env_clear().env("PATH", path.as_deref().unwrap_or(OsStr::new("/usr/bin")));
    command
}
