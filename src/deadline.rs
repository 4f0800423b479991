//! Reading from a peer that may be slow, or may never send anything.

use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// Reads what arrives before the deadline, and returns how many bytes; 0 at the end of the stream.
///
/// # Errors
///
/// [`ErrorKind::TimedOut`] once the deadline has passed, or any other I/O error.
pub fn read_before(
    deadline: Instant,
    mut stream: &UnixStream,
    buffer: &mut [u8],
) -> io::Result<usize> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // A timeout of zero is an error of its own: the deadline has passed.
        stream.set_read_timeout(Some(left)).map_err(|_| ErrorKind::TimedOut)?;
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(ErrorKind::TimedOut.into());
            }
            read => return read,
        }
    }
}
