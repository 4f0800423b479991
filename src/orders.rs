//! Gives one order to `buildbtw-systemctl`, which runs as root, and waits for its outcome.

use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use buildbtw_hook::deadline::read_before;
use buildbtw_hook::order::{Kind, MAX_OUTCOME, Order, Outcome};

/// Gives an order, and waits for its outcome at most this long. Where none comes, it
/// returns an outcome that says so.
pub fn give(order: &Order, socket: &Path, wait: Duration) -> Outcome {
    let what = order.to_string();
    let what = what.trim_end();
    match exchange(order, socket, wait) {
        Ok(message) => message.parse().unwrap_or_else(|_| {
            let text = format!(
                "no outcome came back for \"{what}\": branch-status tells what came of it; \
                 the journal of buildbtw-systemctl may say why"
            );
            Outcome::new(Kind::Running, text)
        }),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            let seconds = wait.as_secs();
            let text = format!(
                "\"{what}\" is not done after {seconds} s and goes on: do not repeat it, \
                 branch-status tells the outcome"
            );
            Outcome::new(Kind::Running, text)
        }
        Err(error) => {
            let text = format!(
                "the order \"{what}\" could not be given: {}: {error}; \
                 an operator may have to run: systemctl start buildbtw-systemctl.socket",
                socket.display()
            );
            Outcome::new(Kind::Unreachable, text)
        }
    }
}

fn exchange(order: &Order, socket: &Path, wait: Duration) -> io::Result<String> {
    let deadline = Instant::now() + wait;
    let mut stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(wait))?;
    match stream.write_all(order.to_string().as_bytes()) {
        // systemd closes a connection past MaxConnections=.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(String::new()),
        written => written?,
    }
    let mut message = Vec::new();
    let mut buffer = [0; 4096];
    while message.len() < MAX_OUTCOME {
        match read_before(deadline, &stream, &mut buffer) {
            Ok(0) => break,
            Ok(n) => message.extend_from_slice(&buffer[..n]),
            // The root side was ended before it could answer.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&message).into_owned())
}
