//! The one connection that systemd accepted: what may come in, and the way out.
//!
//! `tiny_http` parses the request, but it serves listeners only, reads heads of any size,
//! waits for ever, and answers some junk by itself and some not at all. So the whole
//! request is read here first, within the limits below, and then handed to `tiny_http`
//! over a private listener. What is malformed is refused, never repaired.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter, Read, Write};
use std::mem::ManuallyDrop;
use std::net::{Shutdown, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use listenfd::ListenFd;
use tiny_http::{Request, Server};

use crate::answer::Answer;

/// Longest request line and header section, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Longest body, in bytes.
const MAX_BODY: usize = 16 * 1024;
/// A request must have arrived whole this long after its process started.
const ARRIVAL: Duration = Duration::from_secs(10);
/// How long a refused client may go on sending before its connection is closed.
const LINGER: Duration = Duration::from_secs(1);

// The values of <sys/socket.h> on Linux.
const AF_UNIX: i32 = 1;
const AF_INET: i32 = 2; // listenfd takes AF_INET6 for it too
const SOCK_STREAM: i32 = 1;

/// The header in which a request carries its seal from here through `tiny_http`.
const SEAL: &str = "Buildbtw-Hook-Seal";

/// A connected stream socket, TCP or Unix: `TcpStream` reads, writes, times and shuts down
/// either, and nothing here asks it for an address.
pub struct Connection {
    stream: TcpStream,
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
    /// The refusal: 400, 408, 411, 413 or 431, or 500 where `tiny_http` could not be set up.
    pub fn receive(&mut self) -> Result<Request, Answer> {
        let mut message = Vec::new();
        let mut checked = 0;
        let head_len = loop {
            self.read_more(&mut message)?;
            self.head_only = message.starts_with(b"HEAD ");
            match end_of_head(&message, checked)? {
                Some(end) if end <= MAX_HEAD => break end,
                None if message.len() <= MAX_HEAD => checked = message.len(),
                _ => return Err(Answer::new(431, format!("the head is over {MAX_HEAD} bytes"))),
            }
        };
        let text = String::from_utf8_lossy(&message[..head_len]);
        let head = Head::parse(&text)?;
        let whole = head_len + head.body_len()?;
        if head.expects_continue()? && message.len() < whole {
            // A client that has gone is found out by the next read.
            let _ = self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        while message.len() < whole {
            self.read_more(&mut message)?;
        }
        self.unread = message.len() > whole;
        message.truncate(whole);
        parse(&message, head_len)
            .map_err(|error| Answer::fault(format!("cannot pass a request to tiny_http: {error}")))?
            .ok_or_else(|| malformed("its head"))
    }

    /// Appends what arrives next, in the time that is left.
    fn read_more(&mut self, message: &mut Vec<u8>) -> Result<(), Answer> {
        let late = || Answer::new(408, format!("no whole request within {} s", ARRIVAL.as_secs()));
        let left = self.deadline.saturating_duration_since(Instant::now());
        // A timeout of zero is refused with an error: the deadline has passed.
        self.stream.set_read_timeout(Some(left)).map_err(|_| late())?;
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(Answer::new(400, "the connection ended before the request was whole")),
            Ok(n) => {
                message.extend_from_slice(&buffer[..n]);
                Ok(())
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(late()),
                io::ErrorKind::Interrupted => Ok(()),
                _ => Err(Answer::new(400, format!("the connection broke: {error}"))),
            },
        }
    }

    /// Sends the answer and ends the connection's sending side.
    ///
    /// # Errors
    ///
    /// Fails when the client has gone.
    pub fn send(&mut self, answer: &Answer) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(4096, &self.stream);
        answer.write(&mut out, self.head_only)?;
        out.flush()?;
        drop(out);
        self.stream.shutdown(Shutdown::Write)
    }

    /// Closes the connection. Unread input would make that a reset, which can destroy the
    /// answer on its way (RFC 9112 section 9.6), so what has come is read and dropped, and what
    /// a refused client still sends, for a while.
    pub fn close(mut self) {
        let _ = self.stream.set_nonblocking(!self.unread);
        let _ = self.stream.set_read_timeout(Some(LINGER));
        let end = Instant::now() + LINGER;
        let mut buffer = [0; 4096];
        while Instant::now() < end && self.stream.read(&mut buffer).is_ok_and(|n| n > 0) {}
    }
}

fn malformed(what: &str) -> Answer {
    Answer::new(400, format!("malformed request: {what} is not HTTP/1.0 or HTTP/1.1"))
}

/// Where the head ends, if it does yet; all bytes from `checked` on must be visible ASCII,
/// spaces, tabs and whole CRLFs. RFC 9112 section 2.2 allows to refuse the rest: a bare CR
/// or LF is the stuff of request smuggling, and `tiny_http` drops other bytes unanswered.
fn end_of_head(message: &[u8], checked: usize) -> Result<Option<usize>, Answer> {
    for at in checked..message.len() {
        let previous = if at == 0 { b' ' } else { message[at - 1] };
        match (previous, message[at]) {
            (b'\r', b'\n') => {
                if message[..=at].ends_with(b"\r\n\r\n") {
                    return Ok(Some(at + 1));
                }
            }
            (b'\r', _) | (_, b'\n') => return Err(malformed("a line end that is not CRLF")),
            (_, b'\t' | b'\r' | b' '..=b'~') => {}
            (_, byte) => return Err(malformed(&format!("the byte 0x{byte:02x}"))),
        }
    }
    Ok(None)
}

/// A request line and fields, as far as they frame the message. `tiny_http` lets pass a request
/// line of more than three words, and a folded line as a field of its own.
struct Head<'a> {
    version: &'a str,
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Head<'a> {
    fn parse(text: &'a str) -> Result<Self, Answer> {
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let request_line: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
        let version = match request_line[..] {
            [method, target, version @ ("HTTP/1.0" | "HTTP/1.1")]
                if is_token(method) && !target.is_empty() && !target.contains('\t') =>
            {
                version
            }
            _ => return Err(malformed("its first line")),
        };
        let fields = lines
            .map(|line| line.split_once(':').filter(|(name, _)| is_token(name)))
            .map(|field| field.map(|(name, value)| (name, value.trim())))
            .collect::<Option<_>>()
            .ok_or_else(|| malformed("a header line"))?;
        let head = Self { version, fields };
        // RFC 9112 section 3.2.
        match (head.values("Host").count(), version) {
            (1, _) | (0, "HTTP/1.0") => Ok(head),
            _ => Err(malformed("its Host")),
        }
    }

    /// The values of all fields of one name.
    fn values(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.fields
            .iter()
            .filter(move |field| field.0.eq_ignore_ascii_case(name))
            .map(|field| field.1)
    }

    /// The body's length in bytes: one `Content-Length` or none (RFC 9112 section 6.3).
    fn body_len(&self) -> Result<usize, Answer> {
        if self.values("Transfer-Encoding").next().is_some() {
            return Err(Answer::new(411, "send a Content-Length and no Transfer-Encoding"));
        }
        let mut lengths = self.values("Content-Length");
        let digits = match (lengths.next(), lengths.next()) {
            (None, _) => "0",
            (Some(digits), None) => digits,
            _ => "",
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(malformed("its Content-Length"));
        }
        // Digits that do not fit the type are too many bytes all the same.
        let len = digits.parse().ok().filter(|&len| len <= MAX_BODY);
        len.ok_or_else(|| Answer::new(413, format!("the body is over {MAX_BODY} bytes")))
    }

    /// Whether the client waits for a word before it sends the body (RFC 9110 section 10.1.1).
    fn expects_continue(&self) -> Result<bool, Answer> {
        let mut expectations = self.values("Expect");
        if expectations.any(|value| !value.eq_ignore_ascii_case("100-continue")) {
            return Err(malformed("its Expect"));
        }
        Ok(self.version != "HTTP/1.0" && self.values("Expect").next().is_some())
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Has `tiny_http` parse a whole message; `None` is its refusal.
///
/// Anyone in this network namespace could connect to the listener, so only a request that
/// carries this message's seal is taken.
fn parse(message: &[u8], head_len: usize) -> io::Result<Option<Request>> {
    let address = SocketAddr::from_abstract_name(format!("buildbtw-hook-{}", random()))?;
    let listener = UnixListener::bind_addr(&address)?;
    let mut feed = UnixStream::connect_addr(&address)?;
    // Never dropped: to drop a Server is to connect to its address, and it has no path.
    let server =
        ManuallyDrop::new(Server::from_listener(listener, None).map_err(io::Error::other)?);

    let seal = random();
    let (head, body) = message.split_at(head_len);
    let mut sealed = head[..head_len - 2].to_vec();
    sealed.extend_from_slice(format!("{SEAL}: {seal}\r\n\r\n").as_bytes());
    sealed.extend_from_slice(body);
    // One write, before anyone can close the other end: it fits the socket's buffer.
    feed.write_all(&sealed)?;
    feed.shutdown(Shutdown::Write)?;
    // It refuses nothing that passed the checks here; if it did, recv() would wait for ever.
    while let Some(request) = server.recv_timeout(ARRIVAL)? {
        let sealed =
            |header: &tiny_http::Header| header.field.equiv(SEAL) && header.value == seal.as_str();
        if request.headers().iter().any(sealed) {
            return Ok(Some(request));
        }
    }
    Ok(None)
}

/// 64 bits that no one else can guess: `RandomState` is keyed by the kernel's random numbers.
fn random() -> String {
    format!("{:016x}", RandomState::new().hash_one(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status<T>(result: Result<T, Answer>) -> Option<u16> {
        result.err().map(|refusal| refusal.status())
    }

    #[test]
    fn a_head_ends_at_its_first_empty_line() {
        for (message, end) in [
            ("", None),
            ("GET / HTTP/1.1\r\n", None),
            ("GET / HTTP/1.1\r\n\r", None),
            ("GET / HTTP/1.1\r\n\r\n", Some(18)),
            ("GET / HTTP/1.1\r\nA:\tb\r\n\r\n\0body\n", Some(24)),
        ] {
            for checked in 0..message.len().min(17) {
                assert_eq!(end_of_head(message.as_bytes(), checked).ok(), Some(end), "{message:?}");
            }
        }
    }

    #[test]
    fn a_head_of_anything_but_ascii_and_crlf_is_refused() {
        for message in
            ["GET /\n", "GET /\rX", "A\0", "\x16\x03\x01", "A: \u{e4}", "\x7f", "A\r\r\n"]
        {
            assert_eq!(status(end_of_head(message.as_bytes(), 0)), Some(400), "{message:?}");
        }
    }

    #[test]
    fn a_head_is_a_request_line_and_fields() {
        for (head, wanted) in [
            ("GET / HTTP/1.0\r\n\r\n", Some(vec![])),
            ("GET / HTTP/1.0\r\nA: b \r\nC:\r\n\r\n", Some(vec![("A", "b"), ("C", "")])),
            ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", Some(vec![("host", "x")])),
            ("GET / HTTP/1.1\r\n\r\n", None),
            ("GET / HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n", None),
            ("GET / HTTP/1.0 \r\n\r\n", None),
            ("GET  / HTTP/1.0\r\n\r\n", None),
            ("GET  HTTP/1.0\r\n\r\n", None),
            (" / HTTP/1.0\r\n\r\n", None),
            ("GET /\r\n\r\n", None),
            ("GET / HTTP/0.9\r\n\r\n", None),
            ("PRI * HTTP/2.0\r\n\r\n", None),
            ("\r\n\r\n", None),
            ("GET / HTTP/1.0\r\nA : b\r\n\r\n", None),
            ("GET / HTTP/1.0\r\nA: b\r\n folded: c\r\n\r\n", None),
            ("GET / HTTP/1.0\r\n: b\r\n\r\n", None),
            ("GET / HTTP/1.0\r\nA\r\n\r\n", None),
        ] {
            assert_eq!(Head::parse(head).ok().map(|head| head.fields), wanted, "{head:?}");
        }
    }

    fn head(version: &'static str, fields: &[(&'static str, &'static str)]) -> Head<'static> {
        Head { version, fields: fields.to_vec() }
    }

    #[test]
    fn a_body_has_one_plain_length() {
        let len =
            |fields: &[_]| head("HTTP/1.1", fields).body_len().map_err(|refusal| refusal.status());
        assert_eq!(len(&[("Host", "x")]), Ok(0));
        assert_eq!(len(&[("content-LENGTH", "0016384")]), Ok(16384));
        assert_eq!(len(&[("Content-Length", "16385")]), Err(413));
        assert_eq!(len(&[("Content-Length", "99999999999999999999999")]), Err(413));
        for wrong in ["", "-1", "+1", "1,1", "1 1", "0x1", "one"] {
            assert_eq!(len(&[("Content-Length", wrong)]), Err(400), "{wrong:?}");
        }
        assert_eq!(len(&[("Content-Length", "1"), ("Content-Length", "1")]), Err(400));
        assert_eq!(len(&[("Transfer-Encoding", "chunked")]), Err(411));
        assert_eq!(len(&[("Content-Length", "1"), ("transfer-encoding", "x")]), Err(411));
    }

    #[test]
    fn only_http_1_1_can_expect_100_continue() {
        for (version, expect, wanted) in [
            ("HTTP/1.1", "100-Continue", Some(true)),
            ("HTTP/1.0", "100-continue", Some(false)),
            ("HTTP/1.1", "200-ok", None),
        ] {
            assert_eq!(head(version, &[("Expect", expect)]).expects_continue().ok(), wanted);
        }
        assert_eq!(head("HTTP/1.1", &[]).expects_continue().ok(), Some(false));
    }
}
