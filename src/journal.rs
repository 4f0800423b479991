//! The record that each call leaves in the journal.

use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use log::kv::Value;
use log::{Level, LevelFilter, Log, Metadata, Record};
use systemd_journal_logger::{JournalLog, connected_to_journal};

use crate::answer::Answer;
use crate::branch::Branch;
use crate::request::Hook;

/// The name under which `journalctl -t` finds the records.
const IDENTIFIER: &str = "buildbtw-hook";

/// Logs to the journal where systemd connected our stderr to it, else to stderr.
pub fn open() {
    let journal = if connected_to_journal() { JournalLog::empty().ok() } else { None };
    let installed = match journal {
        Some(journal) => journal.with_syslog_identifier(IDENTIFIER.to_owned()).install(),
        None => log::set_logger(&Stderr),
    };
    // The only error is that there is a logger already.
    if installed.is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// What is known of a call so far.
pub struct Call {
    /// When the process started.
    started: Instant,
    /// Where it came from.
    pub caller: String,
    /// The hook, once it is known.
    pub hook: Option<Hook>,
    /// The branch, once it is known to be allowed.
    pub branch: Option<Branch>,
}

impl Call {
    /// A call of which nothing is known yet but the peer's IP address, as systemd passes it
    /// (systemd.exec(5)); a Unix socket's peer, who may choose its name, is `local`.
    pub fn new(started: Instant) -> Self {
        let address = std::env::var("REMOTE_ADDR").ok().filter(|a| a.parse::<IpAddr>().is_ok());
        let caller = address.unwrap_or_else(|| "local".to_owned());
        Self { started, caller, hook: None, branch: None }
    }

    /// Writes the call's one record: an error where we failed, a warning where a caller was
    /// turned away, else a notice (what `systemd-journal-logger` makes of `Info`).
    pub fn record(&self, answer: &Answer, sent: &io::Result<()>) {
        let level = match answer.status() {
            500.. => Level::Error,
            401 | 403 => Level::Warn,
            _ => Level::Info,
        };
        let milliseconds = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let hook = self.hook.map(Hook::name);
        let branch = self.branch.as_ref().map(ToString::to_string);
        let mut message = format!(
            "{} {}: {} in {milliseconds} ms for {}",
            hook.unwrap_or("-"),
            branch.as_deref().unwrap_or("-"),
            answer.status(),
            self.caller,
        );
        if answer.status() >= 400 {
            let _ = write!(message, ": {}", answer.reason().replace('\n', "; "));
        }
        if let Err(error) = sent {
            let _ = write!(message, " (the caller did not wait for it: {error})");
        }
        let mut fields = vec![
            ("BUILDBTW_CALLER", Value::from(self.caller.as_str())),
            ("BUILDBTW_DURATION_MS", Value::from(milliseconds)),
            ("HTTP_STATUS", Value::from(answer.status())),
        ];
        fields.extend(hook.map(|hook| ("BUILDBTW_HOOK", Value::from(hook))));
        fields.extend(branch.as_deref().map(|branch| ("BUILDBTW_BRANCH", Value::from(branch))));
        log::logger().log(
            &Record::builder()
                .level(level)
                .target(IDENTIFIER)
                .args(format_args!("{message}"))
                .key_values(&fields)
                .build(),
        );
    }
}

/// Where there is no journal: a line on stderr.
struct Stderr;

impl Log for Stderr {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        eprintln!("{}: {}", record.level(), record.args());
    }

    fn flush(&self) {}
}
