//! What the next boot is to start: an empty file for each branch in `/var/lib/buildbtw-hook`, its
//! note. Units that a generator made, as Podman's Quadlet does, cannot be enabled.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

use buildbtw_hook::branch::Branch;
use buildbtw_hook::order::{Order, Verb};

use crate::running::lock_if_idle;
use crate::systemctl::{Systemctl, show};

/// Whether a branch is noted.
pub fn is_noted(state: &Path, branch: &Branch) -> bool {
    state.join(branch.as_str()).exists()
}

/// Adds a branch's note, or removes it.
pub fn note(state: &Path, branch: &Branch, is_to_start: bool) -> io::Result<()> {
    let file = state.join(branch.as_str());
    if is_to_start {
        return File::create(&file).map(drop);
    }
    match fs::remove_file(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Sets the note by the unit's state. The orders for a branch look one after another, in whatever
/// order they end, so the last one to look is right.
pub fn update_note(state: &Path, order: &Order, was_noted: bool) -> io::Result<()> {
    let lock = File::open(state)?;
    lock.lock()?;
    let unit = show(&order.branch.unit()).map_err(io::Error::other)?;
    if unit.is_active_or_activating() {
        note(state, &order.branch, true)
    } else if unit.has_job() || unit.active == "deactivating" {
        // The order that caused it looks when it is done.
        Ok(())
    } else if order.verb == Verb::Undeploy || !was_noted {
        note(state, &order.branch, false)
    } else {
        // A redeployment that failed: the next boot is one more try.
        Ok(())
    }
}

/// Starts every branch that is noted, without waiting, so that none delays another. A branch with
/// a running order is left to that order.
///
/// # Errors
///
/// Fails, after all the others, where systemd refuses a branch.
pub fn restore(state: &Path, runtime: &Path) -> Result<(), String> {
    let mut failures = 0;
    for entry in fs::read_dir(state).map_err(|error| format!("{}: {error}", state.display()))? {
        let name = entry.map_err(|error| error.to_string())?.file_name();
        let branch = match Branch::new(&name.to_string_lossy()) {
            Ok(branch) => branch,
            Err(refusal) => {
                log::warn!("not restored: {refusal}");
                continue;
            }
        };
        if let Err(error) = restore_branch(state, runtime, &branch) {
            log::error!("not restored: {branch}: {error}");
            failures += 1;
        }
    }
    if failures == 0 { Ok(()) } else { Err(format!("{failures} failed")) }
}

fn restore_branch(state: &Path, runtime: &Path, branch: &Branch) -> io::Result<()> {
    let Some(_lock) = lock_if_idle(runtime, branch)? else { return Ok(()) };
    if !is_noted(state, branch) {
        return Ok(());
    }
    let started = Systemctl::run("start", &["--no-block", &branch.unit()]);
    if started.code() == Some(0) { Ok(()) } else { Err(io::Error::other(started.words())) }
}
