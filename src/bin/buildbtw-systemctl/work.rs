//! Deploys and undeploys a branch.

use std::fmt::Write;
use std::time::Duration;

use buildbtw_hook::branch::Branch;
use buildbtw_hook::order::{Kind, Outcome, Verb};

use crate::host::Host;
use crate::journalctl::last_lines;
use crate::state::{Last, Mark, Turn, disable, expires_in, pulled};
use crate::systemctl::{Systemctl, Unit, show};

/// Marks the branch, and then calls `accepted`; pulls the image, where the host has a unit for that, and
/// restarts the instance.
pub fn deploy(host: &Host, branch: &Branch, accepted: impl FnOnce()) -> Result<Outcome, Outcome> {
    let [unit, pull] = show([&branch.unit(), &branch.pull_unit()])?;
    if unit.get("LoadState") == "not-found" {
        return Err(Outcome::new(Kind::NoTemplate, format!("Unit {} not found.", branch.unit())));
    }
    let turn = Turn::take(host, branch)?;
    let mark = Mark::begin(&turn, host, branch, Verb::Deploy)?;
    drop(turn);
    accepted();
    let outcome = pull_and_start(&mark, &unit, &pull);
    mark.end(outcome.as_ref().unwrap_or_else(|failure| failure));
    outcome
}

/// 1. Pulls the image.
/// 2. Takes the branch's turn, and ends here if the branch has been undeployed.
/// 3. Has the next boot start the branch. Has a restart enqueued, or joins a start of the same image.
/// 4. Leaves the turn, waits for the job, and tells what came of it.
///
/// `before` and `pull_before` are what the instance and its pull were at before.
fn pull_and_start(mark: &Mark, before: &Unit, pull_before: &Unit) -> Result<Outcome, Outcome> {
    let Mark { host, branch, .. } = *mark;
    let (unit, socket) = (branch.unit(), branch.socket_unit());
    let pulls = pull_before.is_there();
    if pulls {
        pull(mark, pull_before)?;
    }
    let pulled_image = || if pulls { pulled(host, branch) } else { String::new() };
    if pulled_image().is_empty() {
        mark.wait_for_the_one_before()?;
    }
    let mut job_goes_on = false;
    let (image, started, turn) = loop {
        let turn = Turn::take(host, branch)?;
        if mark.is_undeployed() {
            return Err(undeployed(branch));
        }
        let image = pulled_image();
        // A start of this image that is under way is joined; of another image it is replaced.
        let is_joined = turn.image() == image
            && (job_goes_on || !image.is_empty() && show([&unit])?[0].is_changing());
        if turn.begin(mark, before, if is_joined { &image } else { "" })? {
            // Until then buildbtw.target wants what it wanted at the last reload, which keeps that awake.
            Systemctl::run("daemon-reload", &[], &[]);
        }
        let verb = if is_joined { "start" } else { "restart" };
        let run = Systemctl::job(verb, &unit, || turn.leave(&image));
        job_goes_on = run.has_begun() && run.is_cut_off();
        if !run.is_cut_off() {
            break (image, run, turn);
        }
    };
    let other = turn.other_image(&image);
    if !started.is_ok() {
        // A start that was joined may have begun before that.
        let earlier = if started.verb == "start" { "" } else { before.get("InvocationID") };
        let mut failure = failure(mark, Kind::StartFailed, &started, &unit, earlier);
        if let Some(other) = other {
            let _ = write!(failure.text, "\na later call brought image {other}");
        }
        return Err(failure);
    }
    // Of both systemctl says that all was done.
    let [after, socket_after] = show([&unit, &socket])?;
    if after.get("ConditionResult") == "no" {
        let text = format!("{unit} is skipped: a condition of it is not met");
        return Err(Outcome::new(Kind::StartFailed, text));
    }
    if socket_after.has_failed() {
        let text = format!("{socket} failed: nobody can visit the branch\n{socket_after}");
        return Err(Outcome::new(Kind::StartFailed, text));
    }
    let mut what = format!("{} of {unit}", started.verb);
    if let Some(other) = other {
        let _ =
            write!(what, ", image {other}, which a later call brought while {image} was started");
    } else if !image.is_empty() {
        let _ = write!(what, ", image {image}");
    }
    Ok(Outcome::new(Kind::Done, format!("branch {branch} is deployed ({what})")))
}

/// Pulls the image. Restarts a running pull, which may hang, or predate the newest push.
fn pull(mark: &Mark, before: &Unit) -> Result<(), Outcome> {
    let unit = mark.branch.pull_unit();
    loop {
        let run = Systemctl::job("restart", &unit, || ());
        if run.is_ok() {
            return Ok(());
        }
        if !run.is_cut_off() {
            return Err(failure(mark, Kind::PullFailed, &run, &unit, before.get("InvocationID")));
        }
    }
}

/// Stops the socket, a pull and the instance, so that neither a visitor nor a deployment starts it again.
pub fn undeploy(host: &Host, branch: &Branch) -> Result<Outcome, Outcome> {
    undeploy_in(Turn::take(host, branch)?, host, branch)
}

/// Undeploys the branch if its last deployment is older than the host allows.
pub fn expire(host: &Host, branch: &Branch) -> Result<Outcome, Outcome> {
    let has_expired = || {
        let is_running = Last::of(host, branch).is_some_and(|last| last.is_running);
        !is_running && expires_in(host, branch) == Some(Duration::ZERO)
    };
    if has_expired() {
        let turn = Turn::take(host, branch)?;
        // It may have been deployed meanwhile.
        if has_expired() {
            return undeploy_in(turn, host, branch);
        }
    }
    Ok(Outcome::new(Kind::Done, format!("branch {branch} has not expired")))
}

/// Cancels the deployments that were marked before it took the turn, and none after.
fn undeploy_in(turn: Turn, host: &Host, branch: &Branch) -> Result<Outcome, Outcome> {
    let mark = Mark::begin(&turn, host, branch, Verb::Undeploy)?;
    let _ = turn.clear();
    let outcome = stop(host, branch);
    mark.end(outcome.as_ref().unwrap_or_else(|failure| failure));
    if outcome.is_ok() {
        turn.end(host, branch);
    }
    outcome
}

fn stop(host: &Host, branch: &Branch) -> Result<Outcome, Outcome> {
    let (unit, pull, socket) = (branch.unit(), branch.pull_unit(), branch.socket_unit());
    let before = show([&unit, &pull, &socket])?;
    let has = |known: &Unit| known.is_there() || !known.is_down();
    let was_enabled = disable(host, branch)?;
    if has(&before[2]) {
        // In one call with the unit, the socket would stop last, and visitors would wait in it.
        Systemctl::run("stop", &[], &[&socket]);
    }
    if before[2].has_failed() {
        Systemctl::run("reset-failed", &[], &[&socket]);
    }
    let units = if has(&before[1]) { &[pull.as_str(), &unit][..] } else { &[unit.as_str()] };
    let run = Systemctl::run("stop", &[], units);
    let [after] = show([&unit])?;
    if !after.is_down() {
        return Err(format!("stop of {unit} failed: {}\n{after}", run.words()).into());
    }
    if after.get("Result") != "success" {
        // A unit that buildbtw.target wants stays loaded when it has failed: the host would stay "degraded".
        // And `systemctl clean` does not work on a failed unit, or on one between two tries of `Restart=`.
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
    let text = if was_enabled || !before[0].is_down() || !before[2].is_down() {
        format!("branch {branch} is not deployed any more (stop of {unit})")
    } else {
        format!("branch {branch} was not deployed")
    };
    Ok(Outcome::new(Kind::Done, text))
}

/// Has the images removed that nobody needs any more, in the background, where the host has a unit for that.
pub fn prune() {
    // Anew where it runs: it may have looked before.
    Systemctl::run("restart", &["--no-block"], &["buildbtw-prune.service"]);
}

/// What went wrong: systemctl's words, the unit's state, and what the unit wrote, unless its last start is an
/// earlier one.
fn failure(mark: &Mark, kind: Kind, run: &Systemctl, unit: &str, earlier: &str) -> Outcome {
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
        let invocation = known.get("InvocationID");
        text += &last_lines(mark.host.log_lines, unit, run.since, invocation, earlier);
    }
    Outcome::new(kind, text)
}

fn undeployed(branch: &Branch) -> Outcome {
    Outcome::new(Kind::Canceled, format!("canceled: branch {branch} was undeployed meanwhile"))
}
