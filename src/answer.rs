//! The answer: a status, a text of a line or a few, and how they go out.

use std::io::{self, Write};

use tiny_http::{HTTPVersion, Header, Response};

/// What a caller is told.
#[derive(Debug)]
pub struct Answer {
    status: u16,
    text: String,
    header: Option<(&'static str, &'static str)>,
    reason: Option<String>,
}

impl Answer {
    /// An answer with an HTTP status code (RFC 9110 section 15) and a text without its last newline.
    pub fn new(status: u16, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), header: None, reason: None }
    }

    /// A 500 for a fault of this host, whose reason is for the journal and not for the caller.
    pub fn fault(reason: String) -> Self {
        let text = "this host cannot serve the call; its journal says why";
        Self { reason: Some(reason), ..Self::new(500, text) }
    }

    /// The same answer with a header that its status asks for.
    pub fn with(self, name: &'static str, value: &'static str) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    /// The HTTP status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// What the journal says: the text, but for a fault its reason.
    pub fn reason(&self) -> &str {
        self.reason.as_ref().unwrap_or(&self.text)
    }

    /// Writes the answer as HTTP/1.0, which tells any client that the connection ends with it;
    /// `tiny_http` does not let us say `Connection: close`.
    ///
    /// # Errors
    ///
    /// Fails where `out` does.
    pub fn write(&self, out: impl Write, head_only: bool) -> io::Result<()> {
        // A GET that does something must not be answered from a cache.
        let headers = [("Server", "buildbtw-hook"), ("Cache-Control", "no-store")];
        headers
            .into_iter()
            .chain(self.header)
            .filter_map(|(name, value)| Header::from_bytes(name, value).ok())
            .fold(Response::from_string(format!("{}\n", self.text)), Response::with_header)
            .with_status_code(self.status)
            .raw_print(out, HTTPVersion(1, 0), &[], head_only, None)
    }
}

/// A client's words, quoted, escaped and cut to a length that a record can hold.
pub fn quote(words: &str) -> String {
    format!("{:?}", words.chars().take(128).collect::<String>())
}
