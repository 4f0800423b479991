//! What state a branch is in, or each of them.

use buildbtw_hook::branch::Branch;
use buildbtw_hook::order::{Kind, Outcome};

use crate::host::Host;
use crate::journalctl::last_lines;
use crate::state::{Last, branches, expires_in, image};
use crate::systemctl::{Unit, show, show_all};

/// What state the branch is in.
pub fn status(host: &Host, branch: &Branch) -> Result<Outcome, Outcome> {
    let name = branch.unit();
    let last = Last::of(host, branch);
    let [unit, socket] = show([&name, &branch.socket_unit()])?;
    let image = image(host, branch);
    let image = if image.is_empty() { String::new() } else { format!(", image {image}") };
    let (kind, text) = match state(last.as_ref(), &unit, &socket) {
        State::Changing => (Kind::Running, format!("a job for {name} is running")),
        State::CutOff => {
            let text = "was cut off before it was done: deploy or undeploy the branch again";
            (Kind::StartFailed, format!("the last order for branch {branch} {text}\n{unit}"))
        }
        // Final, whatever kind it was when it happened: pollers must stop.
        State::Failed(Some(failure)) => (Kind::StartFailed, failure.text.clone()),
        State::Failed(None) if socket.has_failed() => {
            (Kind::StartFailed, format!("{} failed\n{socket}", branch.socket_unit()))
        }
        State::Failed(None) => {
            let lines = last_lines(host.log_lines, &name, 0, unit.get("InvocationID"), "");
            (Kind::StartFailed, format!("{name} failed\n{unit}{lines}"))
        }
        State::Up => {
            (Kind::Done, format!("branch {branch} is up since {} ({name}){image}", unit.since()))
        }
        State::Asleep => {
            (Kind::Done, format!("branch {branch} is asleep until a visit ({name}){image}"))
        }
        State::Absent => (Kind::Absent, format!("branch {branch} is not deployed")),
    };
    Ok(Outcome::new(kind, text))
}

/// A line for each branch that is deployed or whose deployment failed: slug, state, since when, image, and when
/// it expires.
pub fn list(host: &Host) -> Result<Outcome, Outcome> {
    let branches = branches(host);
    let names: Vec<_> = branches.iter().flat_map(|b| [b.unit(), b.socket_unit()]).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    // Without a name systemctl would show the manager.
    let units = if names.is_empty() { Vec::new() } else { show_all(&names)? };
    let line = |(branch, units): (&Branch, &[Unit])| {
        let last = Last::of(host, branch);
        let state = match state(last.as_ref(), &units[0], &units[1]) {
            State::Changing => "changing",
            State::CutOff => "cut-off",
            State::Failed(_) => "failed",
            State::Up => "up",
            State::Asleep => "asleep",
            State::Absent => "stopped",
        };
        let image = image(host, branch);
        let image = image.split(' ').next().filter(|id| !id.is_empty()).unwrap_or("-");
        let expires =
            match expires_in(host, branch).map(|left| left.as_secs().div_ceil(24 * 60 * 60)) {
                None => String::new(),
                Some(0) => " expired".to_owned(),
                Some(days) => format!(" expires in {days} d"),
            };
        format!("{branch} {state} {} {image}{expires}", units[0].since())
    };
    let lines: Vec<_> = branches.iter().zip(units.chunks_exact(2)).map(line).collect();
    Ok(Outcome::new(Kind::Done, lines.join("\n")))
}

/// A branch's state: systemd knows what runs, the mark how the last order ended.
enum State<'a> {
    Changing,
    CutOff,
    /// The last order failed, with this outcome; without one, the unit or its socket failed later.
    Failed(Option<&'a Outcome>),
    Up,
    Asleep,
    Absent,
}

fn state<'a>(last: Option<&'a Last>, unit: &Unit, socket: &Unit) -> State<'a> {
    let is_running = last.is_some_and(|last| last.is_running);
    // A later start that succeeded overrides one that failed.
    let is_over = |outcome: &Outcome| {
        outcome.kind == Kind::Done || outcome.kind == Kind::StartFailed && unit.is_up()
    };
    match last.map(|last| last.outcome.as_ref()) {
        _ if is_running || unit.is_changing() => State::Changing,
        Some(None) => State::CutOff,
        Some(Some(outcome)) if !is_over(outcome) => State::Failed(Some(outcome)),
        _ if socket.has_failed() => State::Failed(None),
        _ if unit.is_up() => State::Up,
        _ if unit.get("ActiveState") != "inactive" => State::Failed(None),
        _ if socket.is_up() && unit.get("StopWhenUnneeded") == "yes" => State::Asleep,
        _ => State::Absent,
    }
}
