//! Which branches are deployed, kept for the next boot: units that a generator made, as
//! Podman's Quadlet does, cannot be enabled.
//!
//! One empty file a branch in the unit's `StateDirectory=` (systemd.exec(5)), so that no two
//! calls ever write the same file. Without a state directory nothing is kept.

use std::env;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use crate::answer::Answer;
use crate::branch::Branch;
use crate::request::Hook;
use crate::systemctl;

/// Notes what systemd did for this branch.
///
/// # Errors
///
/// 500, since a reboot would undo what the caller was told.
pub fn note(hook: Hook, branch: &Branch) -> Result<(), Answer> {
    let Some(directory) = directory() else { return Ok(()) };
    let file = directory.join(branch.to_string());
    let noted = match hook {
        Hook::Deploy => File::create(&file).map(drop),
        Hook::Undeploy => match fs::remove_file(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        },
    };
    noted.map_err(|error| {
        Answer::new(
            500,
            format!(
                "{} of branch {branch} is done, but a reboot will undo it: {}: {error}",
                hook.name(),
                file.display()
            ),
        )
    })
}

/// Queues a restart of every branch that is noted; waits for none, so that none is held up by
/// another. A file whose name is no branch is left alone.
///
/// # Errors
///
/// Fails when the directory cannot be read, and in systemctl's words when it refuses a unit.
pub fn restore() -> io::Result<()> {
    let Some(directory) = directory() else { return Ok(()) };
    let mut units = Vec::new();
    for entry in fs::read_dir(directory)? {
        match Branch::new(&entry?.file_name().to_string_lossy()) {
            Ok(branch) => units.push(branch.unit()),
            Err(refusal) => log::warn!("not restored: {}", refusal.reason()),
        }
    }
    log::info!("restoring {} deployed branches", units.len());
    systemctl::queue_restarts(&units)
}

fn directory() -> Option<PathBuf> {
    env::var_os("STATE_DIRECTORY").map(PathBuf::from)
}
