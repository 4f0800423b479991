//! `tiny_http`, which parses the request and writes the answer. It is used only here.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use tiny_http::{HTTPVersion, Header, Response, Server};

use crate::answer::Answer;
use crate::request::Request;

/// The header in which a message carries its seal through `tiny_http`.
const SEAL: &str = "Buildbtw-Hook-Seal";
/// `tiny_http` refuses nothing that passed the checks of `head.rs`. If it did, it would answer by
/// itself and never return the request: this is how long it is waited for.
const PARSING: Duration = Duration::from_secs(10);

/// Has `tiny_http` parse the bytes of a message; `None` is its refusal.
///
/// It serves listeners only, so the message goes to it over a private one. Anyone in this network
/// namespace could connect to that, so only a request that carries this message's seal is taken.
pub fn parse(message: &[u8], head_len: usize) -> io::Result<Option<Request>> {
    let address = SocketAddr::from_abstract_name(format!("buildbtw-hook-{}", random()))?;
    let listener = UnixListener::bind_addr(&address)?;
    let mut feed = UnixStream::connect_addr(&address)?;
    // Never dropped: a Server that is dropped connects to its own address, which has no path.
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
    while let Some(mut request) = server.recv_timeout(PARSING)? {
        let sealed = |header: &Header| header.field.equiv(SEAL) && header.value == seal.as_str();
        if !request.headers().iter().any(sealed) {
            continue;
        }
        let mut body = Vec::new();
        request.as_reader().read_to_end(&mut body)?;
        let fields = request.headers().iter();
        return Ok(Some(Request {
            method: request.method().to_string(),
            target: request.url().to_owned(),
            fields: fields.map(|each| (each.field.to_string(), each.value.to_string())).collect(),
            body,
        }));
    }
    Ok(None)
}

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
    headers
        .into_iter()
        .chain(answer.header)
        .filter_map(|(name, value)| Header::from_bytes(name, value).ok())
        .fold(Response::from_string(format!("{}\n", answer.text)), Response::with_header)
        .with_status_code(answer.status)
        .raw_print(out, HTTPVersion(1, 0), &[], head_only, None)
}

/// 64 bits that no one else can guess: `RandomState` is keyed by the kernel's random numbers.
fn random() -> String {
    format!("{:016x}", RandomState::new().hash_one(()))
}
