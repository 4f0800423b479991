//! The grammar of a request's head, as far as it frames the message. What is malformed is refused,
//! never repaired.

use crate::refusal::Refusal;

/// Longest body, in bytes.
pub const MAX_BODY: usize = 16 * 1024;

/// The refusal of a part of a request.
pub fn malformed(what: &str) -> Refusal {
    Refusal::Malformed(what.to_owned())
}

/// Where the head ends, if it does yet; all bytes from `checked` on must be visible ASCII,
/// spaces, tabs and whole CRLFs. RFC 9112 section 2.2 allows refusing anything else: a bare
/// CR or LF enables request smuggling, and `tiny_http` drops other bytes unanswered.
pub fn end_of_head(message: &[u8], checked: usize) -> Result<Option<usize>, Refusal> {
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

/// A request line and fields, as far as they frame the message. `tiny_http` accepts a request
/// line of more than three words, and a folded line as a field of its own.
pub struct Head<'a> {
    version: &'a str,
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Head<'a> {
    /// Parses a whole head.
    pub fn parse(text: &'a str) -> Result<Self, Refusal> {
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
    pub fn body_len(&self) -> Result<usize, Refusal> {
        if self.values("Transfer-Encoding").next().is_some() {
            return Err(Refusal::TransferEncoding);
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
        // A number too large for the type is over the limit too.
        let len = digits.parse().ok().filter(|&len| len <= MAX_BODY);
        len.ok_or(Refusal::LongBody(MAX_BODY))
    }

    /// Whether the client waits for 100 Continue before it sends the body (RFC 9110 section 10.1.1).
    pub fn expects_continue(&self) -> Result<bool, Refusal> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let line_end = "a line end that is not CRLF";
        for (message, what) in [
            ("GET /\n", line_end),
            ("\n", line_end),
            ("GET /\rX", line_end),
            ("A\r\r\n", line_end),
            ("A\n\r\n", line_end),
            ("A\r\n\n", line_end),
            ("A: b\rC: d\r\n", line_end),
            ("A: b\nC: d\r\n", line_end),
            ("\0A", "the byte 0x00"),
            ("A: \0", "the byte 0x00"),
            ("A: \u{1b}[31m", "the byte 0x1b"),
            ("A: \x7f", "the byte 0x7f"),
            ("A: \u{e4}", "the byte 0xc3"),
            ("\x16\x03\x01", "the byte 0x16"),
        ] {
            assert_eq!(end_of_head(message.as_bytes(), 0), Err(malformed(what)), "{message:?}");
        }
    }

    #[test]
    fn a_head_is_a_request_line_and_fields() {
        for (head, wanted) in [
            ("GET / HTTP/1.0\r\n\r\n", vec![]),
            ("GET / HTTP/1.0\r\nA: b \r\nC:\r\n\r\n", vec![("A", "b"), ("C", "")]),
            ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", vec![("host", "x")]),
        ] {
            assert_eq!(Head::parse(head).ok().map(|head| head.fields), Some(wanted), "{head:?}");
        }
    }

    #[test]
    fn any_other_head_is_refused() {
        let refused = |head: String, what| {
            assert_eq!(Head::parse(&head).err(), Some(malformed(what)), "{head:?}");
        };
        for line in [
            "",
            "GET",
            "GET /",
            "GET / ",
            "GET / HTTP/1.0 ",
            "GET / x HTTP/1.0",
            "GET  / HTTP/1.0",
            "GET /  HTTP/1.0",
            "GET  HTTP/1.0",
            "GET\t/\tHTTP/1.0",
            "GET /\tx HTTP/1.0",
            " / HTTP/1.0",
            "\r\nGET / HTTP/1.0",
            "GET / HTTP/0.9",
            "GET / HTTP/1.2",
            "GET / HTTP/2.0",
            "GET / HTTP/2",
            "GET / http/1.1",
            "GET / HTTPS/1.1",
            "PRI * HTTP/2.0",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2",
        ] {
            refused(format!("{line}\r\n\r\n"), "its first line");
        }
        for line in [
            "A: b\r\n folded",
            "A: b\r\n\tfolded",
            "A: b\r\n folded: c",
            " A: b",
            "A : b",
            "A\t: b",
            "Content-Length : 5",
            "A B: c",
            "A(: b",
            "A): b",
            ": b",
            "A",
        ] {
            refused(format!("GET / HTTP/1.0\r\n{line}\r\n\r\n"), "a header line");
        }
        for (version, lines) in [
            ("1.1", ""),
            ("1.1", "X-Host: x\r\n"),
            ("1.1", "Host: x\r\nHost: x\r\n"),
            ("1.1", "Host: x\r\nhost:\r\n"),
            ("1.0", "Host: x\r\nHost: x\r\n"),
        ] {
            refused(format!("GET / HTTP/{version}\r\n{lines}\r\n"), "its Host");
        }
    }

    fn head(version: &'static str, fields: &[(&'static str, &'static str)]) -> Head<'static> {
        Head { version, fields: fields.to_vec() }
    }

    #[test]
    fn a_body_has_one_plain_length() {
        let len = |fields: &[_]| head("HTTP/1.1", fields).body_len();
        let malformed = Err(malformed("its Content-Length"));
        assert_eq!(len(&[("Host", "x")]), Ok(0));
        assert_eq!(len(&[("content-LENGTH", "0016384")]), Ok(16384));
        assert_eq!(len(&[("Content-Length", "16385")]), Err(Refusal::LongBody(16384)));
        let (nines, zeros) = ("9".repeat(1000), "0".repeat(1000) + "8");
        for long in
            ["52428800", "4294967296", "18446744073709551615", "18446744073709551616", &nines]
        {
            let head = Head { version: "HTTP/1.1", fields: vec![("Content-Length", long)] };
            assert_eq!(head.body_len(), Err(Refusal::LongBody(16384)), "{long}");
        }
        let head = Head { version: "HTTP/1.1", fields: vec![("Content-Length", &zeros)] };
        assert_eq!(head.body_len(), Ok(8));
        for wrong in ["", "-1", "+0", "+1", "0, 0", "1,1", "0 0", "0x0", "0.0", "one"] {
            assert_eq!(len(&[("Content-Length", wrong)]), malformed, "{wrong:?}");
        }
        assert_eq!(len(&[("Content-Length", "1"), ("Content-Length", "1")]), malformed);
        assert_eq!(len(&[("Content-Length", "0"), ("content-length", "9")]), malformed);
        for encoding in ["chunked", "identity", "gzip, chunked", "", "xchunked"] {
            assert_eq!(len(&[("Transfer-Encoding", encoding)]), Err(Refusal::TransferEncoding));
        }
        assert_eq!(
            len(&[("Content-Length", "1"), ("transfer-encoding", "x")]),
            Err(Refusal::TransferEncoding)
        );
    }

    #[test]
    fn only_http_1_1_can_expect_100_continue() {
        for (version, expect, wanted) in [
            ("HTTP/1.1", "100-Continue", Some(true)),
            ("HTTP/1.0", "100-continue", Some(false)),
            ("HTTP/1.1", "200-ok", None),
            ("HTTP/1.1", "", None),
            ("HTTP/1.1", "100-continues", None),
            ("HTTP/1.1", "100-continue, nonsense", None),
            ("HTTP/1.0", "nonsense", None),
        ] {
            assert_eq!(head(version, &[("Expect", expect)]).expects_continue().ok(), wanted);
        }
        assert_eq!(head("HTTP/1.1", &[]).expects_continue().ok(), Some(false));
    }
}
