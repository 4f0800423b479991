//! Runs as root: reads one order, has systemd carry it out, reports the outcome.
//!
//! systemd accepts a connection on `/run/buildbtw-systemctl.sock`, which the hook's user alone can
//! open, and starts this with the connection as stdin. All that it takes from there is one line of
//! at most 128 bytes, which must be exactly an order (`src/order.rs`); anything else is refused and
//! recorded. It runs `systemctl` (`systemctl.rs`), and `journalctl` under `timeout` (`journalctl.rs`), and
//! writes only what `state.rs` describes. No shell, no network.
//!
//! order → work (deploy, undeploy) or status → outcome. What is kept of a branch is in `state.rs`.

mod host;
mod journalctl;
mod state;
mod status;
mod systemctl;
mod work;

use std::env;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use buildbtw_hook::branch::Branch;
use buildbtw_hook::deadline::read_before;
use buildbtw_hook::journal;
use buildbtw_hook::order::{Kind, MAX_ORDER, Order, Outcome};
use buildbtw_hook::quote::quote;
use log::Level;
use log::kv::Value;

use host::Host;

/// An order must have arrived this long after the process started.
const ARRIVAL: Duration = Duration::from_secs(10);
const USAGE: &str = "\
buildbtw-systemctl carries out one order of buildbtw-hook, on a connection that systemd accepted.
buildbtw-systemctl.socket starts it; there is nothing to run by hand.
";

/// Exits with 0 for any order, so that none leaves the host "degraded".
fn main() -> ExitCode {
    if let Some(argument) = env::args_os().nth(1) {
        return misused(&format!("it takes no argument {}", quote(&argument.to_string_lossy())));
    }
    let peer = match io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from) {
        Ok(peer) if peer.local_addr().is_ok() => peer,
        _ => return misused("stdin is not a connection"),
    };
    journal::open("buildbtw-systemctl");
    match receive(&peer) {
        Ok(order) => match Host::from_env() {
            Ok(host) => carry_out(&host, &order, &peer),
            Err(fault) => tell(&peer, &fault.into()),
        },
        Err(why) => {
            report(Kind::Refused, None, &format!("refused an order: {why}"));
            tell(&peer, &Outcome::new(Kind::Refused, "buildbtw-systemctl knows no such order"));
        }
    }
    ExitCode::SUCCESS
}

fn misused(why: &str) -> ExitCode {
    eprint!("buildbtw-systemctl: {why}\n{USAGE}");
    ExitCode::from(2)
}

/// Reads the order: one line, which the hook writes at once. What comes later is not read.
fn receive(peer: &UnixStream) -> Result<Order, String> {
    // One byte more than an order has: what is longer is none.
    let mut buffer = [0; MAX_ORDER + 1];
    let len = read_before(Instant::now() + ARRIVAL, peer, &mut buffer)
        .map_err(|error| format!("it could not be read: {error}"))?;
    let line = String::from_utf8_lossy(&buffer[..len]);
    line.parse().map_err(|_| quote(&line))
}

/// Carries out the order, and tells the outcome. If the caller was already told "accepted", it records a
/// failure instead.
fn carry_out(host: &Host, order: &Order, peer: &UnixStream) {
    let mut is_told = false;
    let outcome = match order {
        Order::Deploy { branch, respond_async } => work::deploy(host, branch, || {
            if *respond_async {
                let text = format!(
                    "deploy of branch {branch} is accepted; branch-status tells the outcome"
                );
                tell(peer, &Outcome::new(Kind::Accepted, text));
                is_told = true;
            }
        }),
        Order::Undeploy(branch) => work::undeploy(host, branch),
        Order::Expire(branch) => work::expire(host, branch),
        Order::Status(branch) => status::status(host, branch),
        Order::List => status::list(host),
    };
    let outcome = outcome.unwrap_or_else(|failure| failure);
    if !is_told {
        tell(peer, &outcome);
    } else if outcome.kind != Kind::Done {
        report(outcome.kind, order.branch(), &outcome.text);
    }
    if !matches!(order, Order::Status(_) | Order::List) {
        work::prune();
    }
}

/// Sends the outcome. A peer that has gone does not wait for it.
fn tell(mut peer: &UnixStream, outcome: &Outcome) {
    let _ = peer.write_all(outcome.to_string().as_bytes());
    let _ = peer.shutdown(Shutdown::Both);
}

/// Records what the hook's record of the call does not say.
fn report(kind: Kind, branch: Option<&Branch>, message: &str) {
    let mut fields = Vec::new();
    fields.extend(branch.map(|branch| ("BUILDBTW_BRANCH", Value::from(branch.as_str()))));
    fields.extend(kind.message_id().map(|id| ("MESSAGE_ID", Value::from(id))));
    journal::record(Level::Error, message, &fields);
}
