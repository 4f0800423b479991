//! The one connection that systemd accepted: bytes in, bytes out, within limits and a deadline.
//!
//! `tiny_http` reads requests from listeners only, without a size limit or a timeout, so the request
//! is read here.

use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use buildbtw_hook::deadline::read_before;
use listenfd::ListenFd;

use crate::answer::Answer;
use crate::http;
use crate::refusal::Refusal;
use crate::request::{Request, end_of_head};

/// Longest request line and header section, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// A request must have arrived whole this long after its process started.
const ARRIVAL: Duration = Duration::from_secs(10);
/// How long a refused client may go on sending before its connection is closed.
const LINGER: Duration = Duration::from_secs(1);

// The values of <sys/socket.h> on Linux.
const AF_UNIX: i32 = 1;
const AF_INET: i32 = 2; // listenfd takes AF_INET6 for it too
const SOCK_STREAM: i32 = 1;

/// A connected stream socket, TCP or Unix: `UnixStream` reads, writes, times and shuts down
/// either, and nothing here asks it for an address.
pub struct Connection {
    stream: UnixStream,
    deadline: Instant,
    /// The client may have sent more than was read.
    unread: bool,
    /// RFC 9110 section 9.3.2: an answer to HEAD has no body.
    head_only: bool,
}

impl Connection {
    /// Takes the connection that systemd passed, see `sd_listen_fds(3)`.
    ///
    /// # Errors
    ///
    /// Fails when there is none, or when it is not a stream socket.
    pub fn from_systemd() -> io::Result<Self> {
        let mut passed = ListenFd::from_env();
        let stream = passed
            .take_custom(0, AF_UNIX, SOCK_STREAM, "stream socket")
            .or_else(|_| passed.take_custom(0, AF_INET, SOCK_STREAM, "stream socket"))?
            .ok_or_else(|| io::Error::other("no connection was passed to it"))?;
        Ok(Self { stream, deadline: Instant::now() + ARRIVAL, unread: true, head_only: false })
    }

    /// Receives the one request, whole.
    ///
    /// # Errors
    ///
    /// Fails where the request is malformed, too long or too late, or the connection ends.
    pub fn receive(&mut self) -> Result<Request, Refusal> {
        let mut message = Vec::new();
        let mut checked = 0;
        let head_len = loop {
            self.read_more(&mut message)?;
            self.head_only = message.starts_with(b"HEAD ");
            match end_of_head(&message, checked)? {
                Some(end) if end <= MAX_HEAD => break end,
                None if message.len() <= MAX_HEAD => checked = message.len(),
                _ => return Err(Refusal::LongHead(MAX_HEAD)),
            }
        };
        let mut request = Request::parse(&String::from_utf8_lossy(&message[..head_len]))?;
        let whole = head_len + request.body_len()?;
        if request.expects_continue()? && message.len() < whole {
            // If the client has gone, the next read says so, unless the body is here already.
            let _ = self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        while message.len() < whole {
            self.read_more(&mut message)?;
        }
        self.unread = message.len() > whole;
        request.body = message[head_len..whole].to_vec();
        Ok(request)
    }

    /// Appends what arrives next, in the time that is left.
    fn read_more(&mut self, message: &mut Vec<u8>) -> Result<(), Refusal> {
        let incomplete = |how: String| Err(Refusal::Incomplete(how));
        let mut buffer = [0; 4096];
        match read_before(self.deadline, &self.stream, &mut buffer) {
            Ok(0) => incomplete("the connection ended before the request was whole".to_owned()),
            Ok(n) => {
                message.extend_from_slice(&buffer[..n]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                Err(Refusal::Late(ARRIVAL.as_secs()))
            }
            Err(error) => incomplete(format!("the connection broke: {error}")),
        }
    }

    /// Sends the answer and ends the connection's sending side.
    ///
    /// # Errors
    ///
    /// Fails when the client has gone.
    pub fn send(&mut self, answer: &Answer) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(4096, &self.stream);
        http::write(answer, &mut out, self.head_only)?;
        out.flush()?;
        drop(out);
        self.stream.shutdown(Shutdown::Write)
    }

    /// Closes the connection. Unread input would make that a reset, which can destroy the
    /// answer on its way (RFC 9112 section 9.6), so drain what has arrived and, for up to `LINGER`,
    /// what a refused client still sends.
    ///
    /// # Errors
    ///
    /// Fails where no timeout could be set, and then it closes at once.
    pub fn close(mut self) -> io::Result<()> {
        self.stream.set_nonblocking(!self.unread)?;
        self.stream.set_read_timeout(Some(LINGER))?;
        let end = Instant::now() + LINGER;
        let mut buffer = [0; 4096];
        while Instant::now() < end && self.stream.read(&mut buffer).is_ok_and(|n| n > 0) {}
        Ok(())
    }
}
