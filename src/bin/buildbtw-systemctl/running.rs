//! Which orders are running, kept as locks on files in `/run/buildbtw-systemctl`: the kernel releases
//! a lock when its process ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use buildbtw_hook::branch::Branch;
use buildbtw_hook::order::{Order, Outcome, Verb};

use crate::systemctl::show;

/// How many deployments run at a time; the others wait. Undeployments are not counted, so a host
/// whose deployments all hang can still be cleared.
pub const DEPLOYMENTS: u32 = 64;
/// How often the first in the queue looks for a place, and the others whether they are the first.
const POLL: Duration = Duration::from_millis(20);

/// Waits at most this long for a place among the deployments that run. The caller holds it until
/// the file is closed.
pub fn place(runtime: &Path, wait: Duration) -> io::Result<Option<File>> {
    let deadline = Instant::now() + wait;
    let queue = File::create(runtime.join(".queue"))?;
    loop {
        if is_locked_by_us(&queue)? {
            for number in 0..DEPLOYMENTS {
                let place = File::create(runtime.join(format!(".place-{number}")))?;
                if is_locked_by_us(&place)? {
                    return Ok(Some(place));
                }
            }
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

fn is_locked_by_us(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// An order that is running. The branch's file in the runtime directory is locked, shared with
/// other orders for the branch, for as long as that is so.
///
/// Its first line is the process and the verb of the order that began last, or of one that ended
/// while others ran. After a deployment that failed it also has the invocation of the unit that was
/// left, and the outcome.
pub struct Running {
    file: File,
    path: PathBuf,
    /// The first line of this order.
    line: String,
}

impl Running {
    pub fn begin(runtime: &Path, order: &Order) -> io::Result<Self> {
        let path = runtime.join(order.branch.as_str());
        let file = loop {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(&path)?;
            file.lock_shared()?;
            // Unless it was removed in between.
            if file.metadata()?.nlink() > 0 {
                break file;
            }
        };
        let line = format!("{} {}", process::id(), order.verb.as_str());
        let running = Self { file, path, line };
        running.write(&running.line, "")?;
        Ok(running)
    }

    fn write(&self, line: &str, rest: &str) -> io::Result<()> {
        let text = format!("{line}\n{rest}");
        self.file.write_all_at(text.as_bytes(), 0)?;
        self.file.set_len(text.len() as u64)
    }

    fn first_line(&self) -> String {
        let mut bytes = [0; 64];
        let len = self.file.read_at(&mut bytes, 0).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
        text.lines().next().unwrap_or_default().to_owned()
    }

    /// Whether the order that began last is an undeployment: this one, or one that came after it.
    pub fn is_undeployed(&self) -> bool {
        self.first_line().ends_with(" undeploy")
    }

    /// Ends it, and leaves the failure of a deployment for the status. Returns whether no other
    /// order for the branch began or ended meanwhile, so that its outcome is the branch's state.
    pub fn end(self, order: &Order, failure: Option<&Outcome>) -> bool {
        // Taking the exclusive lock gives up the shared one, flock(2).
        let is_alone = self.file.try_lock().is_ok() && self.first_line() == self.line;
        let is_undeployed = self.is_undeployed();
        // An error here makes branch-status less precise, or costs one more look; no more.
        let _ = match failure {
            Some(failure) if order.verb == Verb::Deploy && !is_undeployed => {
                let unit = show(&order.branch.unit());
                let invocation = unit.map_or_else(|_| String::new(), |unit| unit.invocation);
                self.write(&self.line, &format!("{invocation}\n{failure}"))
            }
            _ if is_alone && is_undeployed => fs::remove_file(&self.path),
            _ if is_alone => Ok(()),
            // The others are to look too. The verb is left as it is: a deployment that pulls must
            // still find that the branch is undeployed.
            _ => {
                let verb = if is_undeployed { Verb::Undeploy } else { Verb::Deploy };
                self.write(&format!("{} {}", process::id(), verb.as_str()), "")
            }
        };
        is_alone
    }

    /// Whether an order for the branch is running, and the last failure with the invocation of the
    /// unit that it left behind.
    pub fn look(runtime: &Path, branch: &Branch) -> (bool, Option<(String, Outcome)>) {
        let Ok(file) = File::open(runtime.join(branch.as_str())) else {
            return (false, None);
        };
        // Another look locks it too, but for a moment only.
        let is_running = (0..5).all(|_| {
            let is_locked = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
            if is_locked {
                thread::sleep(Duration::from_millis(5));
            }
            is_locked
        });
        let text = io::read_to_string(file).unwrap_or_default();
        let failure = text.splitn(3, '\n').collect::<Vec<_>>();
        let [_, invocation, failure] = failure[..] else { return (is_running, None) };
        (is_running, failure.parse().ok().map(|failure| (invocation.to_owned(), failure)))
    }
}

/// Locks the branch for a moment in which no order for it begins, unless one is running.
pub fn lock_if_idle(runtime: &Path, branch: &Branch) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    let file =
        options.write(true).create(true).truncate(false).open(runtime.join(branch.as_str()))?;
    Ok(if is_locked_by_us(&file)? { Some(file) } else { None })
}
