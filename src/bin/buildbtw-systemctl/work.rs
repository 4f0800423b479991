//! Deploys and undeploys a branch.

use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use buildbtw_hook::branch::Branch;
use buildbtw_hook::order::{Kind, Outcome, Verb};

use crate::host::Host;
use crate::journalctl::last_lines;
use crate::state::{Last, Mark, Turn, disable, expires_in, pulled};
use crate::systemctl::{Systemctl, Unit, show};

/// How often an undeployment stops a start of which it has not seen the last, and for how long.
const POLL: Duration = Duration::from_millis(20);
const STUCK: Duration = Duration::from_secs(60);
/// How long a restart that is noted may take to reach systemd.
const BEGIN: Duration = Duration::from_secs(5);

/// Pulls the image, where the host has a unit for that, and restarts the instance. Calls `accepted` once
/// the branch is marked.
pub fn deploy(host: &Host, branch: &Branch, accepted: impl FnOnce()) -> Result<Outcome, Outcome> {
    let [unit, pull] = show([&branch.unit(), &branch.pull_unit()])?;
    if unit.get("LoadState") == "not-found" {
        return Err(Outcome::new(Kind::NoTemplate, format!("Unit {} not found.", branch.unit())));
    }
    let mut mark = Mark::begin(host, branch, Verb::Deploy)?;
    accepted();
    let outcome = pull_and_start(&mut mark, pull.is_there());
    mark.end(outcome.as_ref().unwrap_or_else(|failure| failure));
    outcome
}

fn pull_and_start(mark: &mut Mark, pulls: bool) -> Result<Outcome, Outcome> {
    let Mark { host, branch, .. } = *mark;
    // Canceled by an undeployment that came before this call, it is done again.
    let is_cut = |run: &Systemctl| run.is_canceled() && !mark.is_undeployed();
    let pull_unit = branch.pull_unit();
    // Anew where a pull is running: it may have begun before the newest image was pushed, or hang.
    if pulls {
        loop {
            let pull = Systemctl::run("restart", &[], &[&pull_unit]);
            if pull.is_ok() {
                break;
            } else if !is_cut(&pull) {
                return Err(failure(mark, Kind::PullFailed, &pull, &pull_unit));
            }
        }
    }
    let told = || if pulls { pulled(host, branch) } else { String::new() };
    let (image, started, turn) = loop {
        let image = told();
        let (turn, joined) = Turn::deploy(mark, &image)?;
        if mark.is_undeployed() {
            return Err(undeployed(branch));
        }
        // Another pull may have ended since.
        if told() != image {
            continue;
        }
        // A start of this image that is under way is waited for; of another image it is replaced.
        let verb = match joined {
            Some(before) if has_begun(branch, &before)? => "start",
            _ => {
                turn.starts(mark, &image, &show([&branch.unit()])?[0])?;
                "restart"
            }
        };
        let run = Systemctl::run(verb, &[], &[&branch.unit()]);
        if !(is_cut(&run) && turn.is_to_leave()) {
            break (image, run, turn);
        }
        // Leaves the turn to the undeployment.
    };
    if !started.is_ok() {
        return Err(failure(mark, Kind::StartFailed, &started, &branch.unit()));
    }
    let mut what = format!("{} of {}", started.verb, branch.unit());
    if let Some(other) = turn.other_image(&image) {
        let _ =
            write!(what, ", image {other}, which a later call brought while {image} was started");
        mark.image = other;
    } else if !image.is_empty() {
        let _ = write!(what, ", image {image}");
        mark.image = image;
    }
    Ok(Outcome::new(Kind::Done, format!("branch {branch} is deployed ({what})")))
}

/// Waits until the restart that another deployment has noted has begun, or that is not to be expected any
/// more: before, a start would do nothing to the old instance, and succeed.
fn has_begun(branch: &Branch, before: &str) -> Result<bool, String> {
    let begin = Instant::now();
    while begin.elapsed() < BEGIN {
        let [unit] = show([&branch.unit()])?;
        if unit.is_changing() || unit.get("InvocationID") != before {
            return Ok(true);
        }
        thread::sleep(POLL);
    }
    Ok(false)
}

/// Stops the instance, and what would start it again: visitors in its socket, or a deployment.
pub fn undeploy(host: &Host, branch: &Branch) -> Result<Outcome, Outcome> {
    let mark = Mark::begin(host, branch, Verb::Undeploy)?;
    let outcome = stop(host, branch);
    mark.end(outcome.as_ref().unwrap_or_else(|failure| failure));
    outcome
}

/// Undeploys the branch if it was not deployed for as long as the host says.
pub fn expire(host: &Host, branch: &Branch) -> Result<Outcome, Outcome> {
    let is_running = Last::of(host, branch).is_some_and(|last| last.is_running);
    if is_running || expires_in(host, branch) != Some(Duration::ZERO) {
        return Ok(Outcome::new(Kind::Done, format!("branch {branch} has not expired")));
    }
    undeploy(host, branch)
}

fn stop(host: &Host, branch: &Branch) -> Result<Outcome, Outcome> {
    let (unit, pull, socket) = (branch.unit(), branch.pull_unit(), branch.socket_unit());
    let before = show([&unit, &pull, &socket])?;
    let has = |known: &Unit| known.is_there() || !known.is_down();
    let was_up = !before[0].is_down();
    let stopped = |was_deployed| {
        let text = if was_deployed {
            format!("branch {branch} is not deployed any more (stop of {unit})")
        } else {
            format!("branch {branch} was not deployed")
        };
        Outcome::new(Kind::Done, text)
    };
    let begin = Instant::now();
    let end_starts = || {
        Systemctl::run("stop", &[], &[&unit]);
        thread::sleep(POLL);
        begin.elapsed() < STUCK
    };
    let Some(turn) = Turn::undeploy(host, branch, end_starts)? else {
        return Ok(stopped(was_up));
    };
    let was_enabled = disable(host, branch)?;
    if has(&before[2]) {
        // In one call with the unit, the socket would stop last, and visitors would wait in it.
        Systemctl::run("stop", &[], &[&socket]);
    }
    let units = if has(&before[1]) { &[pull.as_str(), &unit][..] } else { &[unit.as_str()] };
    let run = Systemctl::run("stop", &[], units);
    let [after] = show([&unit])?;
    if !after.is_down() {
        return Err(format!("stop of {unit} failed: {}\n{after}", run.words()).into());
    }
    if after.get("Result") != "success" {
        // What the list wants stays loaded: the host would be "degraded", and systemd cleans no failed unit,
        // and has one that was waiting for its next start fail once it is cleaned.
        Systemctl::run("reset-failed", &[], &[&unit]);
    }
    if host.clean && after.get("CanClean").split(' ').any(|what| what == "state") {
        let cleaned = Systemctl::run("clean", &["--what=state"], &[&unit]);
        if !cleaned.is_ok() {
            return Err(
                format!("{unit} is stopped, but its data is there: {}", cleaned.words()).into()
            );
        }
    }
    turn.end(host, branch);
    Ok(stopped(was_up || was_enabled))
}

/// Has the images removed that nobody needs any more, in the background, where the host has a unit for that.
pub fn prune() {
    // Anew where it runs: it may have looked before.
    Systemctl::run("restart", &["--no-block"], &["buildbtw-prune.service"]);
}

/// What went wrong: systemctl's words, the unit's state, and what the unit wrote.
fn failure(mark: &Mark, kind: Kind, run: &Systemctl, unit: &str) -> Outcome {
    if mark.is_undeployed() {
        return undeployed(mark.branch);
    }
    let mut text = format!("{} of {unit} failed: {}", run.verb, run.words());
    if run.is_canceled() {
        return Outcome::new(Kind::Canceled, text);
    }
    let kind = if run.has_begun() { kind } else { Kind::Failed };
    if let Ok([known, instance]) = show([unit, &mark.branch.unit()]) {
        // An inactive unit has been unloaded meanwhile: its state says nothing.
        if known.get("ActiveState") != "inactive" {
            let _ = write!(text, "\n{known}");
        }
        if kind == Kind::PullFailed && instance.is_up() {
            text.push_str("\nwhat ran before still runs");
        }
        text += &last_lines(mark.host.log_lines, unit, run.since, known.get("InvocationID"));
    }
    Outcome::new(kind, text)
}

fn undeployed(branch: &Branch) -> Outcome {
    Outcome::new(Kind::Canceled, format!("canceled: branch {branch} was undeployed meanwhile"))
}
