//! What `tiny_http` is used for: writing the answer.

use std::io::{self, Write};

use tiny_http::{HTTPVersion, Header, Response};

use crate::answer::Answer;

/// Writes the answer as HTTP/1.0, which tells any client that the connection ends with it;
/// `tiny_http` does not let us say `Connection: close`.
///
/// # Errors
///
/// Fails where `out` does.
pub fn write(answer: &Answer, out: impl Write, head_only: bool) -> io::Result<()> {
    let headers = [
        ("Server", "buildbtw-hook"),
        // A GET that does something must not be answered from a cache.
        ("Cache-Control", "no-store"),
        // An answer may quote the caller.
        ("X-Content-Type-Options", "nosniff"),
    ];
    // A list of nothing has no lines.
    let end = if answer.text.is_empty() { "" } else { "\n" };
    let text = format!("{}{end}", answer.text);
    headers
        .into_iter()
        .chain(answer.header)
        .filter_map(|(name, value)| Header::from_bytes(name, value).ok())
        .fold(Response::from_string(text), Response::with_header)
        .with_status_code(answer.status)
        .raw_print(out, HTTPVersion(1, 0), &[], head_only, None)
}
