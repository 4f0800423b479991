//! What is kept of a branch, each fact in one place: the newest order for it (a mark, locked while the
//! order runs), the image that was started last (in its turn, a lock), that the next boot is to start it
//! (a symlink), and the image that was pulled for it.
//!
//! The kernel releases a lock when its process ends, so a mark that has no outcome and is not locked is
//! an order that was cut off, also after a reboot.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use buildbtw_hook::branch::Branch;
use buildbtw_hook::order::{Kind, Outcome, Verb};

use crate::host::Host;
use crate::systemctl::Unit;

/// The newest order for a branch: the verb, and the outcome once there is one.
/// A newer order puts a file of its own in its place.
pub struct Mark<'a> {
    pub host: &'a Host,
    pub branch: &'a Branch,
    file: File,
    verb: Verb,
    /// The file of the order before it.
    before: Option<File>,
}

impl<'a> Mark<'a> {
    /// Marks the branch, in its turn, so that no other order is marked meanwhile.
    ///
    /// # Errors
    ///
    /// Fails where that cannot be written, and then nothing is changed.
    pub fn begin(_: &Turn, host: &'a Host, branch: &'a Branch, verb: Verb) -> Result<Self, String> {
        let new = temporary(&host.state);
        let begin = || {
            let file = File::create(&new)?;
            // Nobody else knows it yet.
            file.lock()?;
            let newest = mark(host, branch);
            let begun = Self { host, branch, file, verb, before: File::open(&newest).ok() };
            begun.write("")?;
            // A power failure cuts it off, too.
            begun.file.sync_all()?;
            fs::rename(&new, newest)?;
            File::open(&host.state)?.sync_all()?;
            Ok(begun)
        };
        attempt("mark the branch", begin().inspect_err(|_| drop(fs::remove_file(&new))))
    }

    /// Waits until the order before it, if any, has ended.
    pub fn wait_for_the_one_before(&self) -> Result<(), String> {
        attempt("wait for another order", self.before.as_ref().map_or(Ok(()), File::lock_shared))
    }

    /// Whether an undeployment came after it.
    pub fn is_undeployed(&self) -> bool {
        let last = || Last::of(self.host, self.branch);
        !is_linked(&self.file) && last().is_none_or(|last| last.verb != Verb::Deploy.as_str())
    }

    /// Ends it with its outcome, for the status. An undeployed branch keeps no mark.
    pub fn end(self, outcome: &Outcome) {
        // An error here makes branch-status less precise, no more.
        let _ = if self.verb == Verb::Undeploy && outcome.kind == Kind::Done {
            fs::remove_file(mark(self.host, self.branch))
        } else {
            self.write(&outcome.to_string())
        };
    }

    fn write(&self, outcome: &str) -> io::Result<()> {
        overwrite(&self.file, &format!("{}\n{outcome}", self.verb.as_str()))
    }
}

/// The newest order for a branch, as others see it.
pub struct Last {
    verb: String,
    /// Whether its process lives.
    pub is_running: bool,
    /// `None` while it runs, and where it was cut off.
    pub outcome: Option<Outcome>,
}

impl Last {
    pub fn of(host: &Host, branch: &Branch) -> Option<Self> {
        let file = File::open(mark(host, branch)).ok()?;
        let is_running = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        let text = io::read_to_string(file).ok()?;
        let (verb, outcome) = text.split_once('\n')?;
        Some(Self { verb: verb.to_owned(), is_running, outcome: outcome.parse().ok() })
    }
}

/// The right to tell systemd what to do with the branch. A deployment has it until its job is enqueued, an
/// undeployment until the branch is stopped, so each sees what the one before it did.
pub struct Turn(File);

impl Turn {
    pub fn take(host: &Host, branch: &Branch) -> Result<Self, String> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        loop {
            let file = options.open(turn(host, branch));
            let file = file.and_then(|file| file.lock().map(|()| file));
            let taken = Self(attempt("take a turn", file)?);
            if is_linked(&taken.0) {
                return Ok(taken);
            }
        }
    }

    /// The image that was started last, or is being started; nothing where it is not known.
    pub fn image(&self) -> String {
        let mut text = [0; 256];
        let len = self.0.read_at(&mut text, 0).unwrap_or_default();
        String::from_utf8_lossy(&text[..len]).into_owned()
    }

    /// Before a start: has the next boot start the branch too. Returns what `enable` does. The image is the
    /// one whose start is joined; without one nobody joins an earlier start, even if this process is killed.
    pub fn begin(&self, mark: &Mark, unit: &Unit, joined: &str) -> Result<bool, String> {
        let sleeps = unit.get("StopWhenUnneeded") == "yes";
        let noted =
            overwrite(&self.0, joined).and_then(|()| enable(mark.host, mark.branch, sleeps));
        attempt("note what the next boot starts", noted)
    }

    /// Forgets the image, so that nobody joins an earlier start.
    pub fn clear(&self) -> io::Result<()> {
        overwrite(&self.0, "")
    }

    /// Leaves the turn to others once a start of the image is enqueued.
    pub fn leave(&self, image: &str) {
        // Without the note, others start the branch again rather than join.
        let _ = overwrite(&self.0, image);
        let _ = self.0.unlock();
    }

    /// The image that was started last, where that is another than ours.
    pub fn other_image(&self, ours: &str) -> Option<String> {
        Some(self.image()).filter(|image| !["", ours].contains(&image.as_str()))
    }

    /// Ends an undeployment's turn, with nothing left behind.
    pub fn end(self, host: &Host, branch: &Branch) {
        let _ = fs::remove_file(turn(host, branch));
        drop(self);
    }
}

/// The image that was started last, read without the turn.
pub fn image(host: &Host, branch: &Branch) -> String {
    fs::read_to_string(turn(host, branch)).unwrap_or_default()
}

/// Makes the symlink that `systemctl enable` would make, if it took what a generator made (Podman's
/// Quadlet): to the instance, or where that sleeps to the socket that wakes it. Returns whether it was to
/// the other before.
fn enable(host: &Host, branch: &Branch, sleeps: bool) -> io::Result<bool> {
    let mut units =
        [(branch.unit(), "../buildbtw@.service"), (branch.socket_unit(), "../buildbtw@.socket")];
    if sleeps {
        units.reverse();
    }
    let [(wanted, template), (other, _)] = units;
    fs::create_dir_all(&host.wants)?;
    let new = temporary(&host.wants);
    // A killed process may have left one with our ID.
    remove(&new)?;
    symlink(template, &new)?;
    fs::rename(new, host.wants.join(wanted))?;
    let is_other = remove(&host.wants.join(other))?;
    File::open(&host.wants)?.sync_all()?;
    Ok(is_other)
}

/// Has the next boot leave the branch alone. Returns whether it would have been started.
pub fn disable(host: &Host, branch: &Branch) -> Result<bool, String> {
    let files = [branch.unit(), branch.socket_unit()].map(|unit| remove(&host.wants.join(unit)));
    let disable = || {
        let was_enabled = files.into_iter().collect::<io::Result<Vec<_>>>()?.contains(&true);
        if was_enabled {
            File::open(&host.wants)?.sync_all()?;
        }
        Ok(was_enabled)
    };
    attempt("note what the next boot starts", disable())
}

/// The branches that are deployed, or that a deployment left something of.
pub fn branches(host: &Host) -> Vec<Branch> {
    let entries = [&host.state, &host.wants].into_iter().flat_map(fs::read_dir).flatten().flatten();
    let names: BTreeSet<String> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let slug = name.strip_prefix("buildbtw@").and_then(|unit| unit.split('.').next());
            Some(slug.unwrap_or(&name).to_owned())
        })
        .collect();
    names.iter().filter_map(|name| Branch::new(name).ok()).collect()
}

/// How long it is until the branch expires, counted from its last deployment; zero once it has.
pub fn expires_in(host: &Host, branch: &Branch) -> Option<Duration> {
    let wanted = [branch.unit(), branch.socket_unit()].map(|unit| host.wants.join(unit));
    let mut files = wanted.into_iter().chain([mark(host, branch)]);
    let deployed = files.find_map(|file| fs::symlink_metadata(file).ok())?.modified().ok()?;
    Some(host.expire?.saturating_sub(deployed.elapsed().unwrap_or_default()))
}

/// The image that was pulled last for the branch: its ID, and what the pull says of its revision, which is
/// anybody's words.
pub fn pulled(host: &Host, branch: &Branch) -> String {
    let text = fs::read_to_string(host.pulled.join(branch.as_str())).unwrap_or_default();
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || " -._+/".contains(*c);
    text.chars().filter(is_plain).take(128).collect()
}

fn mark(host: &Host, branch: &Branch) -> PathBuf {
    host.state.join(branch.as_str())
}

/// No slug has a dot.
fn turn(host: &Host, branch: &Branch) -> PathBuf {
    host.state.join(format!("{branch}.turn"))
}

fn temporary(directory: &Path) -> PathBuf {
    directory.join(format!(".{}", process::id()))
}

fn is_linked(file: &File) -> bool {
    file.metadata().is_ok_and(|known| known.nlink() > 0)
}

fn overwrite(file: &File, text: &str) -> io::Result<()> {
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
}

fn remove(file: &Path) -> io::Result<bool> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true),
    }
}

/// The sentence for an error before the unit is restarted or stopped; its image may have been pulled.
fn attempt<T>(what: &str, result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("the unit is left as it is: cannot {what}: {error}"))
}
