//! The work: `systemctl` on the branch's unit. It waits for the job, and its exit status is
//! the answer.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::process::{Command, Output};
use std::slice;

use crate::answer::Answer;
use crate::branch::Branch;
use crate::request::Hook;

/// `systemctl` exits with this where no such unit is loaded (systemctl(1), exit status).
const NOT_LOADED: i32 = 5;

/// Restarts or stops the branch's unit, and waits for the outcome unless `queue_only`.
///
/// Restarts, because to start a running unit does nothing, and a newer image must be pulled;
/// a stopped unit is started by it. polkit lets us do no more than these two.
///
/// # Errors
///
/// 500 with systemctl's words and what systemd knows of the unit.
pub fn run(hook: Hook, branch: &Branch, queue_only: bool) -> Result<Answer, Answer> {
    let unit = branch.unit();
    let (verb, done) = match hook {
        Hook::Deploy => ("restart", "is deployed"),
        Hook::Undeploy => ("stop", "is not deployed any more"),
    };
    let block: &[&str] = if queue_only { &["--no-block"] } else { &[] };
    let output = systemctl(verb, block, slice::from_ref(&unit));
    match &output {
        Ok(output) if output.status.success() && queue_only => {
            Ok(Answer::new(202, format!("{verb} of {unit} is queued"))
                .with("Preference-Applied", "respond-async"))
        }
        Ok(output) if output.status.success() => {
            Ok(Answer::new(200, format!("branch {branch} {done} ({verb} of {unit})")))
        }
        Ok(output) if hook == Hook::Undeploy && output.status.code() == Some(NOT_LOADED) => {
            Ok(Answer::new(200, format!("branch {branch} was not deployed")))
        }
        _ => Err(failure(verb, &unit, &output)),
    }
}

/// Queues a restart of each unit, whether or not systemd takes the others.
///
/// # Errors
///
/// Fails in systemctl's words when it refuses one.
pub fn queue_restarts(units: &[String]) -> io::Result<()> {
    if units.is_empty() {
        return Ok(());
    }
    let output = systemctl("restart", &["--no-block"], units)?;
    if output.status.success() { Ok(()) } else { Err(io::Error::other(words(&output))) }
}

/// What went wrong, in systemctl's words, and the unit's state.
fn failure(verb: &str, unit: &String, output: &io::Result<Output>) -> Answer {
    let words = match output {
        Ok(output) => words(output),
        Err(error) => format!("systemctl did not run: {error}"),
    };
    let properties = ["--property=ActiveState,SubState,Result"];
    let state = systemctl("show", &properties, slice::from_ref(unit))
        .map(|output| text(&output.stdout).replace('\n', " "))
        .unwrap_or_default();
    Answer::new(500, format!("{verb} of {unit} failed: {words}\n{state}").trim_end())
}

/// How systemctl ended, and what it said.
fn words(output: &Output) -> String {
    format!("{}: {}", output.status, text(&output.stderr)).trim_end_matches(": ").to_owned()
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).trim().to_owned()
}

/// Runs `systemctl` by its name in systemd's own PATH, with nothing else in its environment.
fn systemctl(verb: &str, options: &[&str], units: &[String]) -> io::Result<Output> {
    Command::new("systemctl")
        .arg("--no-ask-password")
        .args(options)
        .arg(verb)
        .arg("--")
        .args(units)
        .env_clear()
        .env("PATH", env::var_os("PATH").as_deref().unwrap_or(OsStr::new("/usr/bin")))
        .output()
}
