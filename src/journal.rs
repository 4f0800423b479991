//! Writes records to the journal, for both executables.

use log::kv::Value;
use log::{Level, LevelFilter, Log, Metadata, Record};
use systemd_journal_logger::{JournalLog, connected_to_journal};

/// Sends records to the journal under this identifier (`journalctl -t`) where systemd connected
/// our stderr to it, otherwise to stderr.
pub fn open(identifier: &str) {
    let installed = match connected_to_journal().then(JournalLog::empty) {
        Some(Ok(journal)) => journal.with_syslog_identifier(identifier.to_owned()).install(),
        Some(Err(error)) => {
            eprintln!("WARN: stderr takes the records, without their fields: {error}");
            log::set_logger(&Stderr)
        }
        None => log::set_logger(&Stderr),
    };
    // The only error is that there is a logger already.
    if installed.is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Writes one record, with fields of its own. `Info` becomes the priority notice.
pub fn record(level: Level, message: &str, fields: &[(&str, Value)]) {
    let fields = &fields;
    log::logger().log(
        &Record::builder().level(level).args(format_args!("{message}")).key_values(fields).build(),
    );
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
