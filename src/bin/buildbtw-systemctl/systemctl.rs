//! Every command that runs as root: `systemctl`, and `journalctl` to say why something failed.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often to look whether systemd is back, or a job has ended.
const POLL: Duration = Duration::from_millis(200);
/// How long systemd may be away, as `systemctl daemon-reexec` has it.
const RECONNECT: Duration = Duration::from_secs(90);
/// The most that an outcome quotes of what a unit wrote, in bytes.
const MAX_QUOTED: usize = 8 * 1024;
/// `systemctl` exits with this where no such unit is loaded (systemctl(1), exit status).
pub const NOT_LOADED: Option<i32> = Some(5);
/// What systemd's own record of a start that begins has (`sd-messages.h`).
const UNIT_STARTING: &str = "MESSAGE_ID=7d4958e842da4a758f6c1cdc7b36dcc5";
/// Where the template of a unit can be (systemd.unit(5), unit file load path).
const UNIT_PATH: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/run/systemd/generator",
];

/// Whether there is a file for this template, so that no process has to be started to find out.
pub fn has_template(name: &str) -> bool {
    UNIT_PATH.iter().any(|directory| Path::new(directory).join(name).exists())
}

/// What systemd knows of a unit.
pub struct Unit {
    pub load: String,
    pub active: String,
    pub sub: String,
    pub result: String,
    pub job: String,
    pub invocation: String,
    pub can_clean: String,
}

impl Unit {
    /// Whether systemd runs it, or is about to.
    pub fn is_active_or_activating(&self) -> bool {
        ["active", "reloading", "refreshing", "activating"].contains(&self.active.as_str())
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.is_active_or_activating() && self.active != "activating"
    }

    pub fn has_job(&self) -> bool {
        !["", "0"].contains(&self.job.as_str())
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActiveState={} SubState={} Result={}", self.active, self.sub, self.result)
    }
}

/// Asks systemd about a unit, and again while it does not answer: `systemctl daemon-reexec` closes
/// every connection for a moment.
pub fn show(unit: &str) -> Result<Unit, String> {
    let properties = "--property=LoadState,ActiveState,SubState,Result,Job,InvocationID,CanClean";
    let shown = Systemctl::run("show", &[properties, unit]);
    if shown.code() != Some(0) {
        return Err(format!("cannot read the state of {unit}: {}", shown.words()));
    }
    let stdout =
        shown.output.as_ref().map_or_else(|_| String::new(), |output| said(&output.stdout));
    let property = |name: &str| {
        let line = stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().to_owned()
    };
    Ok(Unit {
        load: property("LoadState"),
        active: property("ActiveState"),
        sub: property("SubState"),
        result: property("Result"),
        job: property("Job"),
        invocation: property("InvocationID"),
        can_clean: property("CanClean"),
    })
}

/// One run of systemctl.
pub struct Systemctl {
    pub verb: &'static str,
    units: Vec<String>,
    /// When it began, after the Unix epoch.
    since: Duration,
    output: io::Result<Output>,
}

impl Systemctl {
    /// Runs `systemctl VERB` with options, if any, and units; again while it cannot reach systemd.
    pub fn run(verb: &'static str, arguments: &[&str]) -> Self {
        let begin = Instant::now();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (options, units): (Vec<&str>, Vec<&str>) =
            arguments.iter().partition(|argument| argument.starts_with("--"));
        loop {
            let output = command("systemctl")
                .args(["--no-ask-password", "--job-mode=replace"])
                .args(&options)
                .args([verb, "--"])
                .args(&units)
                .output();
            let units = units.iter().map(ToString::to_string).collect();
            let run = Self { verb, units, since, output };
            // Repeating the start of a unit that is starting only waits for it.
            let waits = verb == "start" && run.words().contains("wait");
            let again = run.could_not_connect() || waits && run.is_cut_off();
            if !again || begin.elapsed() > RECONNECT {
                return run;
            }
            thread::sleep(POLL);
        }
    }

    /// The exit status.
    pub fn code(&self) -> Option<i32> {
        self.output.as_ref().ok()?.status.code()
    }

    fn could_not_connect(&self) -> bool {
        self.words().contains("Failed to connect")
    }

    /// Whether systemctl ended without a word about the job: it says `Job for UNIT failed` or
    /// `canceled`, or `Failed to restart UNIT` where systemd takes no job.
    fn is_cut_off(&self) -> bool {
        let words = self.words();
        let told = ["Job for", "Failed to re", "Failed to st"].iter().any(|w| words.contains(w));
        self.output.as_ref().is_ok_and(|output| !output.status.success()) && !told
    }

    /// Whether the job was done. Where systemctl was cut off while it waited (`daemon-reexec`), the
    /// job goes on, and what the last unit is like when that has ended is the answer.
    pub fn succeeded(&self, is_done: impl Fn(&Unit) -> bool) -> bool {
        if self.code() == Some(0) {
            return true;
        }
        let Some(unit) = self.units.last().filter(|_| self.is_cut_off()) else { return false };
        loop {
            match show(unit) {
                Ok(known) if known.has_job() => thread::sleep(POLL),
                known => return known.is_ok_and(|known| is_done(&known)),
            }
        }
    }

    /// The arguments of journalctl for what the unit wrote in the start that failed: from systemd's
    /// own record of its beginning on, otherwise since this run began. Not by its invocation: the
    /// unit may have been started again (`Restart=`) or unloaded (`CollectMode=`) by now, and the
    /// last words of a process that ends at once reach the journal without one (measured: up to 13
    /// of 100 on systemd 262).
    pub fn records_of_failure(&self) -> [String; 2] {
        // What systemd and the unit wrote before the job ended may still be on its way.
        let _ = command("journalctl").arg("--sync").output();
        let name = self.units.last().map_or("", String::as_str);
        let mut since = format!("--since=@{:.6}", self.since.as_secs_f64());
        let first = ["--output=short-unix", "--lines=+1", &since, UNIT_STARTING];
        let began = journal_of(&[&first[..], &[&format!("UNIT={name}")]].concat());
        if let Some(time) = began.split_whitespace().next() {
            since = format!("--since=@{time}");
        }
        [since, format!("_SYSTEMD_UNIT={name}")]
    }

    /// How it ended, and what it said.
    pub fn words(&self) -> String {
        match &self.output {
            Ok(output) => {
                let words = format!("{}: {}", output.status, said(&output.stderr));
                words.trim_end_matches(": ").to_owned()
            }
            Err(error) => format!("systemctl did not run: {error}"),
        }
    }
}

/// The last lines of the records that these arguments of journalctl select, indented. Control
/// characters are escaped, so they are safe to print.
pub fn last_lines(count: usize, which: &[String]) -> String {
    if count == 0 {
        return String::new();
    }
    let lines = format!("--lines={count}");
    let mut arguments = vec!["--output=cat", &lines];
    arguments.extend(which.iter().map(String::as_str));
    let text = journal_of(&arguments);
    let mut quoted: Vec<String> = Vec::new();
    let mut len = 0;
    for line in text.lines().rev().take(count) {
        let line: String = line.chars().take(500).flat_map(printable).collect();
        len += line.len() + 5;
        if len > MAX_QUOTED {
            break;
        }
        quoted.push(format!("\n    {line}"));
    }
    if quoted.is_empty() {
        return String::new();
    }
    quoted.push("\n  its last lines:".to_owned());
    quoted.into_iter().rev().collect()
}

/// What the journal has of these.
fn journal_of(arguments: &[&str]) -> String {
    let mut command = command("journalctl");
    let found = command.args(["--quiet", "--no-pager"]).args(arguments).output();
    found.map_or_else(|_| String::new(), |output| said(&output.stdout))
}

/// A command by its name in systemd's own PATH, with nothing else in its environment.
fn command(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = env::var_os("PATH");
    command.env_clear().env("PATH", path.as_deref().unwrap_or(OsStr::new("/usr/bin")));
    command
}

fn said(output: &[u8]) -> String {
    String::from_utf8_lossy(output).trim().to_owned()
}

/// The character, or its escape where it could do more than be read.
fn printable(c: char) -> impl Iterator<Item = char> {
    let is_plain = matches!(c, '"' | '\'' | '\\');
    let escaped = (!is_plain).then(|| c.escape_debug());
    is_plain.then_some(c).into_iter().chain(escaped.into_iter().flatten())
}
