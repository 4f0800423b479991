//! Puts a branch's review app up or takes it down, on one HTTP call.
//!
//! systemd accepts a connection and starts this program for it (`Accept=yes`,
//! systemd.socket(5)). It serves the one request, has `systemctl` do the work, writes
//! one record to the journal and exits. Each stage is a file:
//!
//! connection → request → token → branch → slot → systemctl → deployed → answer, and the journal.

mod answer;
mod branch;
mod connection;
mod deployed;
mod journal;
mod request;
mod slot;
mod systemctl;
mod token;

use std::ffi::OsStr;
use std::process::ExitCode;
use std::time::Instant;

use answer::Answer;
use branch::Branch;
use connection::Connection;
use journal::Call;
use request::Request;

const USAGE: &str = "\
buildbtw-hook serves one HTTP request on a connection that systemd accepted.
buildbtw-hook.socket starts it; there is nothing to run by hand. To try it:

    systemctl status buildbtw-hook.socket
    curl -H \"Authorization: Bearer $TOKEN\" 'http://127.0.0.1:9000/hooks/deploy-branch?branch=BRANCH'
    journalctl -t buildbtw-hook

Options: --help, --version, and --restore, which restarts the branches that were deployed
and is run by buildbtw-hook-restore.service at boot.
";

fn main() -> ExitCode {
    let started = Instant::now();
    match std::env::args_os().nth(1).as_deref().map(OsStr::to_str) {
        None => serve(started),
        Some(Some("--restore")) => restore(),
        Some(Some("--help")) => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        Some(Some("--version")) => {
            println!("buildbtw-hook {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some(_) => misused("it takes no such argument"),
    }
}

/// Serves the connection that systemd passed. A call that was answered is a success, whatever
/// the answer: or a wrong token would make the host "degraded".
fn serve(started: Instant) -> ExitCode {
    // First of all, while there is one thread: listenfd changes the environment.
    let mut connection = match Connection::from_systemd() {
        Ok(connection) => connection,
        Err(error) => return misused(&error.to_string()),
    };
    journal::open();
    let mut call = Call::new(started);
    let answer = answer(&mut connection, &mut call).unwrap_or_else(|refusal| refusal);
    let sent = connection.send(&answer);
    call.record(&answer, &sent);
    connection.close();
    ExitCode::SUCCESS
}

/// One call, from the connection to its answer; whatever refuses it is its answer too.
fn answer(connection: &mut Connection, call: &mut Call) -> Result<Answer, Answer> {
    let mut request = Request::new(connection.receive()?);
    if let Some(ip) = request.real_ip() {
        call.caller = ip.to_string();
    }
    request.is_for_hooks()?;
    token::admit(request.authorization()?)?;
    let hook = *call.hook.insert(request.hook()?);
    let branch = call.branch.insert(Branch::allowed(&request.branch()?)?);
    let _slot = slot::take();
    let answer = systemctl::run(hook, branch, request.prefers_async())?;
    deployed::note(hook, branch)?;
    Ok(answer)
}

/// Brings the deployed branches back after a reboot.
fn restore() -> ExitCode {
    journal::open();
    match deployed::restore() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("not every branch is restored: {error}");
            ExitCode::FAILURE
        }
    }
}

fn misused(why: &str) -> ExitCode {
    eprint!("buildbtw-hook: {why}\n{USAGE}");
    ExitCode::from(2)
}
