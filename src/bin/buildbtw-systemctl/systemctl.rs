//! Every command that runs as root: `systemctl`, and `journalctl` to say why something failed.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::export::records;

/// How often to look whether systemd is back, or a job has ended.
const POLL: Duration = Duration::from_millis(200);
/// How long systemd may be away, as `systemctl daemon-reexec` has it.
const RECONNECT: Duration = Duration::from_secs(90);
/// The most that an outcome quotes of what a unit wrote, in bytes.
const MAX_QUOTED: usize = 8 * 1024;
/// `systemctl` exits with this where no such unit is loaded (systemctl(1), exit status).
pub const NOT_LOADED: Option<i32> = Some(5);
/// What systemd's own record of a start that failed has (`sd-messages.h`).
const UNIT_FAILED: &str = "MESSAGE_ID=be02cf6855d2428ba40df7e9d022f03d";
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

    /// The last lines that it wrote in its last start, indented.
    pub fn last_lines(&self, count: usize) -> String {
        if count == 0 || self.invocation.is_empty() {
            return String::new();
        }
        let which = format!("_SYSTEMD_INVOCATION_ID={}", self.invocation);
        quoted_lines(count, &[&which], &self.invocation)
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
    /// A second before it began, in seconds since the Unix epoch: since when to look at the journal.
    since: u64,
    output: io::Result<Output>,
}

impl Systemctl {
    /// Runs `systemctl VERB` with options, if any, and units; again while it cannot reach systemd.
    pub fn run(verb: &'static str, arguments: &[&str]) -> Self {
        let begin = Instant::now();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = now.as_secs().saturating_sub(1);
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

    /// The last lines that the unit wrote in the start that failed, indented. By now the unit may
    /// have been started again (`Restart=`) or unloaded (`CollectMode=`), so systemd's record of the
    /// failure says which start that was. A process that ends at once may be gone before journald
    /// looks whose it was: its last words have the unit's name alone (measured: up to 13 of 100 on
    /// systemd 262), so records without an invocation count too.
    pub fn last_lines(&self, count: usize, unit: &Unit) -> String {
        if count == 0 {
            return String::new();
        }
        // What systemd and the unit wrote before the job ended may still be on its way.
        let _ = command("journalctl").arg("--sync").output();
        let name = self.units.last().map_or("", String::as_str);
        let since = format!("--since=@{}", self.since);
        let failed = read_journal(&[
            "--output=cat",
            "--output-fields=INVOCATION_ID",
            "--lines=1",
            &since,
            UNIT_FAILED,
            &format!("UNIT={name}"),
        ]);
        let failed = said(&failed);
        let invocation = if failed.is_empty() { &unit.invocation } else { &failed };
        quoted_lines(count, &[&since, &format!("_SYSTEMD_UNIT={name}")], invocation)
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

/// The last lines of the records that these arguments of journalctl select, but for those of another
/// invocation. Control characters are escaped, so they are safe to print.
fn quoted_lines(count: usize, which: &[&str], invocation: &str) -> String {
    // Enough for records that do not count.
    let lines = format!("--lines={}", count.saturating_mul(10));
    let fields = "--output-fields=MESSAGE,_SYSTEMD_INVOCATION_ID";
    let export = read_journal(&[&["--output=export", fields, &lines], which].concat());
    let mut quoted: Vec<String> = Vec::new();
    let mut len = 0;
    let records = records(&export);
    let of_it = records.iter().filter(|record| {
        record.invocation.as_ref().is_none_or(|its| its == invocation || invocation.is_empty())
    });
    for line in of_it.flat_map(|record| record.message.split('\n')).rev().take(count) {
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

/// What journalctl prints.
fn read_journal(arguments: &[&str]) -> Vec<u8> {
    let mut command = command("journalctl");
    let found = command.args(["--quiet", "--no-pager"]).args(arguments).output();
    found.map_or_else(|_| Vec::new(), |output| output.stdout)
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
