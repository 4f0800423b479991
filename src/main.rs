//! Deploys or undeploys a branch's review app, on one HTTP call.
//!
//! systemd accepts a connection and starts this program for it (`Accept=yes`, systemd.socket(5)).
//! It serves the one request, gives at most one order to `buildbtw-systemctl`, which runs as root,
//! writes one record to the journal and exits. Each stage is a file:
//!
//! settings → connection → request → token → orders → answer (http) → record. Any stage before the order
//! may end in a refusal, whose words are in `refusal.rs`; answer makes an HTTP status of it.
//!
//! What runs as root begins in `src/bin/buildbtw-systemctl/main.rs`; a deployment is in its `work.rs`.

mod answer;
mod connection;
mod http;
mod orders;
mod record;
mod refusal;
mod request;
mod settings;
mod token;

use std::process::ExitCode;
use std::time::Instant;

use buildbtw_hook::journal;
use buildbtw_hook::quote::quote;
use log::Level;

use answer::Answer;
use connection::Connection;
use record::Call;
use refusal::Refusal;
use settings::Settings;

// The unit runs this in a root directory with nothing else in it, so no shared library either.
#[cfg(all(not(debug_assertions), target_env = "gnu", not(target_feature = "crt-static")))]
compile_error!(
    "the release must be static: RUSTFLAGS in the environment replaces the flags of \
     .cargo/config.toml, so add -C target-feature=+crt-static to it"
);

const USAGE: &str = "\
buildbtw-hook serves one HTTP request on a connection that systemd accepted.
buildbtw-hook.socket starts it; there is nothing to run by hand. To try it:

    systemctl status buildbtw-hook.socket
    curl -H \"Authorization: Bearer $TOKEN\" 'http://127.0.0.1:9000/hooks/deploy-branch?branch=BRANCH'
    journalctl -t buildbtw-hook

Options: --help and --version.
";

fn main() -> ExitCode {
    let started = Instant::now();
    match std::env::args_os().nth(1) {
        None => serve(started),
        Some(argument) if argument == "--help" => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        Some(argument) if argument == "--version" => {
            println!("buildbtw-hook {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some(argument) => {
            misused(&format!("it takes no argument {}", quote(&argument.to_string_lossy())))
        }
    }
}

/// Serves the connection that systemd passed. Exits with 0 for any call that was answered:
/// otherwise one wrong token would leave the host "degraded".
fn serve(started: Instant) -> ExitCode {
    // First of all: listenfd changes the environment.
    let mut connection = match Connection::from_systemd() {
        Ok(connection) => connection,
        Err(error) => return misused(&error.to_string()),
    };
    journal::open("buildbtw-hook");
    let mut call = Call::new(started);
    let answer = answer(&mut connection, &mut call).unwrap_or_else(Answer::from);
    let sent = connection.send(&answer);
    call.record(&answer, &sent);
    if let Err(error) = connection.close() {
        journal::record(Level::Warn, &format!("cannot end the connection well: {error}"), &[]);
    }
    ExitCode::SUCCESS
}

/// One call, from the connection to its answer.
fn answer(connection: &mut Connection, call: &mut Call) -> Result<Answer, Refusal> {
    let settings = Settings::from_env()?;
    if let Some(ip) = settings.peer {
        call.caller = ip.to_string();
    }
    let request = connection.receive()?;
    if let Some(ip) = request.real_ip() {
        call.caller = ip.to_string();
    }
    request.require_hooks_path()?;
    let authorization = request.authorization()?;
    let credential = token::load(settings.credentials.as_deref())?;
    let token = token::admit(token::tokens(&credential), authorization)?;
    call.token_name = token.name.map(str::to_owned);
    let verb = *call.verb.insert(request.verb()?);
    let order = request.order(verb, &settings)?;
    call.branch = order.branch().cloned();
    let outcome = orders::give(&order, &settings.orders, settings.wait);
    Ok(Answer::to(verb, settings.only_allowed(verb, outcome)))
}

fn misused(why: &str) -> ExitCode {
    eprint!("buildbtw-hook: {why}\n{USAGE}");
    ExitCode::from(2)
}
