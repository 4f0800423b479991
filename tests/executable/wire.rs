//! What both ends of a connection see, for the tests of the executable and for the fuzzer: its two
//! kinds, and the one form that every answer has.

use std::env;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process;

use Transport::{Tcp, Unix};

/// What the hosts here let in; every character that a token may have beside letters and digits.
pub const TOKEN: &str = "The-First.T0ken_of~this+host/==";
/// The second line of a host with several.
pub const OTHER: &str = "the-second-token";

/// A directory's path, in memory where there is room: each order has a file synchronized. Not below target/:
/// the path of a socket has at most 108 bytes, unix(7).
pub fn scratch(name: &str) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { env::temp_dir() };
    parent.join(format!("buildbtw-{}-{name}", process::id()))
}

#[derive(Clone, Copy, Debug)]
pub enum Transport {
    Tcp,
    Unix,
}

impl Transport {
    /// The client's end, and the one that systemd accepted. A `TcpStream` reads, writes, times
    /// and shuts down either.
    pub fn pair(self) -> io::Result<(TcpStream, OwnedFd)> {
        match self {
            Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                let client = TcpStream::connect(listener.local_addr()?)?;
                client.set_nodelay(true)?;
                Ok((client, listener.accept()?.0.into()))
            }
            Unix => {
                let (client, passed) = UnixStream::pair()?;
                Ok((OwnedFd::from(client).into(), passed.into()))
            }
        }
    }
}

/// What the caller got.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub text: String,
}

impl Answer {
    /// Every answer has this form.
    pub fn parse(bytes: &[u8], head_only: bool) -> Result<Self, String> {
        let answer = std::str::from_utf8(bytes).map_err(|error| format!("{error}: {bytes:?}"))?;
        let parsed = Self::split(answer).ok_or_else(|| format!("not an answer: {answer:?}"))?;
        let is = |name: &str, value| parsed.header(name) == value;
        let told = parsed.header("content-length").and_then(|told| told.parse().ok());
        let len = Some(parsed.text.len());
        // Each belongs to one status, which need not have the last.
        let belongs = |name, status| parsed.header(name).is_some() == (parsed.status == status);
        let holds = is("content-type", Some("text/plain; charset=UTF-8"))
            && is("cache-control", Some("no-store"))
            && is("x-content-type-options", Some("nosniff"))
            && is("transfer-encoding", None)
            && if head_only { len == Some(0) && told > len } else { told == len }
            // A list may be empty.
            && (head_only || parsed.text.ends_with('\n') || len == Some(0) && parsed.status == 200)
            && belongs("www-authenticate", 401)
            && belongs("allow", 405)
            && belongs("preference-applied", 202)
            && (is("retry-after", None) || parsed.status == 503);
        if holds { Ok(parsed) } else { Err(format!("not as every answer is: {answer:?}")) }
    }

    fn split(answer: &str) -> Option<Self> {
        let (head, text) = answer.split_once("\r\n\r\n")?;
        let (status_line, fields) = head.split_once("\r\n")?;
        let (status, reason) = status_line.strip_prefix("HTTP/1.0 ")?.split_once(' ')?;
        let fields = fields.split("\r\n").map(|line| line.split_once(": "));
        let fields = fields.collect::<Option<Vec<_>>>().filter(|_| !reason.is_empty())?;
        // The one thing that differs between two equal answers.
        let fields = fields.into_iter().filter(|(name, _)| !name.eq_ignore_ascii_case("date"));
        Some(Self {
            status: status.parse().ok()?,
            headers: fields.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect(),
            text: text.to_owned(),
        })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "two of {name}: {self:?}");
        value
    }
}
