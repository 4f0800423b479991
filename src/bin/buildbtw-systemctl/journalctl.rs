//! `journalctl`, to say why something failed: the last lines of a unit.

use buildbtw_hook::quote::printable;

use crate::systemctl::command;

/// The most that an outcome quotes of what a unit wrote, in bytes.
const MAX_QUOTED: usize = 8 * 1024;
/// How long one look at the journal may take, in seconds: journald may be stuck.
const PATIENCE: &str = "5";
/// journald's default `RateLimitBurst=`; it allows more on a large disk (journald.conf(5)).
const BURST: usize = 10_000;
/// What systemd's own record of a start that failed has (`sd-messages.h`).
const UNIT_FAILED: &str = "MESSAGE_ID=be02cf6855d2428ba40df7e9d022f03d";

/// The last lines that the unit wrote in the start that failed, indented. None where that is an earlier one,
/// or where none began: `A dependency job … failed`, a start limit, a masked unit.
///
/// By now the unit may have been started again (`Restart=`) or unloaded (`CollectMode=`), so systemd's
/// record of the failure since then says which start that was; otherwise it is the given invocation.
/// A process that ends at once may be gone before journald looks whose it was (measured: up to 13 of 100
/// on systemd 262): its lines then carry the unit's name, and no invocation ID.
pub fn last_lines(count: usize, unit: &str, since: u64, invocation: &str, earlier: &str) -> String {
    // What was written before the job ended may still be on its way.
    if count == 0 || journalctl(&["--sync"]).is_none() {
        return String::new();
    }
    let since = format!("--since=@{since}");
    let failure = [
        &since,
        UNIT_FAILED,
        // Any process can write such a record; only systemd's own counts.
        "_PID=1",
        &format!("UNIT={unit}"),
        "--output-fields=INVOCATION_ID",
        "--lines=1",
    ];
    let failed = journalctl(&failure).unwrap_or_default();
    let invocation = if failed.is_empty() { invocation } else { failed.trim() };
    if ["", earlier].contains(&invocation) {
        return String::new();
    }
    let of_start = format!("_SYSTEMD_INVOCATION_ID={invocation}");
    let mut lines = quoted(count, &[&of_start]);
    if lines.is_empty() {
        lines = quoted(count, &[&since, &format!("_SYSTEMD_UNIT={unit}")]);
    }
    if lines.is_empty() {
        return String::new();
    }
    let all = ["--output-fields=PRIORITY", &format!("--lines={BURST}"), &of_start];
    let may_lack = lines.len() == count
        && journalctl(&all).is_some_and(|records| records.lines().count() >= BURST);
    let which = if may_lack {
        "it wrote so much that journald may have dropped lines; the last that it has"
    } else {
        "its last lines"
    };
    format!("\n  {which}:\n{}", lines.join("\n"))
}

/// The last lines of the records that these arguments select, blank ones left out.
fn quoted(count: usize, which: &[&str]) -> Vec<String> {
    // conmon ends each message with a newline, so every second line may be blank.
    let records = format!("--lines={}", count.saturating_mul(2));
    let text = journalctl(&[&[records.as_str()], which].concat()).unwrap_or_default();
    let mut left = MAX_QUOTED;
    let lines = text.lines().rev().map(|line| format!("    {}", printable(line.trim_end(), 500)));
    let mut lines: Vec<_> = lines
        .filter(|line| !line.trim().is_empty())
        .take(count)
        .take_while(|line| {
            let fits = line.len() < left;
            left = left.saturating_sub(line.len() + 1);
            fits
        })
        .collect();
    lines.reverse();
    lines
}

/// What journalctl prints; nothing where it does not end in time, which timeout(1) tells by 124.
fn journalctl(arguments: &[&str]) -> Option<String> {
    let mut command = command("timeout");
    command.args([PATIENCE, "journalctl", "--quiet", "--no-pager", "--output=cat"]).args(arguments);
    let output = command.output().ok().filter(|output| output.status.code() != Some(124))?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
