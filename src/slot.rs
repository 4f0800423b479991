//! How many calls are at work at a time: each has a slot, and the others wait for one.
//!
//! The socket's throttle is a rate, and a host that is slower would have ever more calls at work,
//! until `dbus-daemon` refuses them: systemd asks polkit at each, and may have 128 replies pending
//! (`max_replies_per_connection`, dbus-daemon(1)).
//!
//! A slot is a lock on a file in the unit's `RuntimeDirectory=` (systemd.exec(5)), so it is free
//! again when its process has ended, however that was. Without the directory no one waits.

use std::env;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// So many calls are at work at a time: half of what D-Bus takes, so that branches whose image
/// takes minutes to pull leave enough for others.
const SLOTS: u32 = 64;
/// How often the first in the queue looks for a free slot.
const POLL: Duration = Duration::from_millis(20);

/// Waits for a slot, which is the caller's until the file is dropped. `None` where there is no
/// directory for slots, or no room in it: it is better to be at work too many than not at all.
pub fn take() -> Option<File> {
    let directory = PathBuf::from(env::var_os("RUNTIME_DIRECTORY")?);
    wait_in(&directory).ok()
}

fn wait_in(directory: &Path) -> io::Result<File> {
    // One process looks for a slot, and the others queue for this without a look.
    let queue = File::create(directory.join("queue"))?;
    queue.lock()?;
    loop {
        for slot in 0..SLOTS {
            let file = File::create(directory.join(format!("slot-{slot}")))?;
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        thread::sleep(POLL);
    }
}
