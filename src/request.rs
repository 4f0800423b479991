//! The request: its grammar, as far as it frames the message, and what it asks for. What is
//! malformed is refused, never repaired.

use std::net::IpAddr;

use buildbtw_hook::order::{Order, Verb};
use buildbtw_hook::quote::quote;

use crate::refusal::Refusal;
use crate::settings::Settings;

/// Longest body, in bytes.
pub const MAX_BODY: usize = 16 * 1024;
const FORM: &str = "application/x-www-form-urlencoded";
/// White space around a field's value (RFC 9110 section 5.6.3); `str::trim` takes more for it.
const OWS: [char; 2] = [' ', '\t'];

/// The name of a hook in its path, `/hooks/NAME`.
pub fn hook_name(verb: Verb) -> &'static str {
    match verb {
        Verb::Deploy => "deploy-branch",
        Verb::Undeploy => "undeploy-branch",
        Verb::Expire => "expire-branch",
        Verb::Status => "branch-status",
        Verb::List => "list-branches",
    }
}

/// Where the head ends, if it does yet; all bytes from `checked` on must be printable, obs-text
/// (RFC 9110 section 5.5) or whole CRLFs. RFC 9112 section 2.2 allows refusing anything else: a
/// bare CR or LF enables request smuggling.
pub fn end_of_head(message: &[u8], checked: usize) -> Result<Option<usize>, Refusal> {
    for at in checked..message.len() {
        let previous = if at == 0 { b' ' } else { message[at - 1] };
        match (previous, message[at]) {
            (b'\r', b'\n') => {
                if message[..=at].ends_with(b"\r\n\r\n") {
                    return Ok(Some(at + 1));
                }
            }
            (b'\r', _) | (_, b'\n') => return malformed("a line end that is not CRLF"),
            (_, b'\t' | b'\r' | b' '..=b'~' | 0x80..) => {}
            (_, byte) => return malformed(&format!("the byte 0x{byte:02x}")),
        }
    }
    Ok(None)
}

/// The refusal of a part of a request.
fn malformed<T>(what: &str) -> Result<T, Refusal> {
    Err(Refusal::Malformed(what.to_owned()))
}

/// A request line and fields, and the body once it has arrived.
pub struct Request {
    method: String,
    target: String,
    version: String,
    /// Names and values.
    fields: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// Parses a whole head, as [`end_of_head`] found it.
    ///
    /// # Errors
    ///
    /// Fails where it is not the head of an HTTP/1.0 or HTTP/1.1 request.
    pub fn parse(head: &str) -> Result<Self, Refusal> {
        let mut lines = head.trim_end_matches("\r\n").split("\r\n");
        let request_line: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
        let [method, target, version @ ("HTTP/1.0" | "HTTP/1.1")] = request_line[..] else {
            return malformed("its first line");
        };
        if !is_token(method) || target.is_empty() || !target.bytes().all(|b| b.is_ascii_graphic()) {
            return malformed("its first line");
        }
        let mut fields = Vec::new();
        for line in lines {
            let Some((name, value)) = line.split_once(':').filter(|(name, _)| is_token(name))
            else {
                return malformed("a header line");
            };
            fields.push((name.to_owned(), value.trim_matches(OWS).to_owned()));
        }
        let request = Self {
            method: method.to_owned(),
            target: target.to_owned(),
            version: version.to_owned(),
            fields,
            body: Vec::new(),
        };
        // RFC 9112 section 3.2.
        match (request.values("Host").count(), version) {
            (1, _) | (0, "HTTP/1.0") => Ok(request),
            _ => malformed("its Host"),
        }
    }

    /// The body's length in bytes: one `Content-Length` or none (RFC 9112 section 6.3).
    ///
    /// # Errors
    ///
    /// Fails where the head gives none, or too long a one.
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
            return malformed("its Content-Length");
        }
        // A number too large for the type is over the limit too.
        let len = digits.parse().ok().filter(|&len| len <= MAX_BODY);
        len.ok_or(Refusal::LongBody(MAX_BODY))
    }

    /// Whether the client waits for 100 Continue before it sends the body (RFC 9110 section 10.1.1).
    ///
    /// # Errors
    ///
    /// Fails for another expectation.
    pub fn expects_continue(&self) -> Result<bool, Refusal> {
        let mut expectations = self.values("Expect");
        if expectations.any(|value| !value.eq_ignore_ascii_case("100-continue")) {
            return malformed("its Expect");
        }
        Ok(self.version != "HTTP/1.0" && self.values("Expect").next().is_some())
    }

    /// The client's address, where a proxy gives it.
    pub fn real_ip(&self) -> Option<IpAddr> {
        self.values("X-Real-IP").find_map(|value| value.parse().ok())
    }

    /// Refuses what is not under `/hooks/`, before it looks at the token.
    pub fn require_hooks_path(&self) -> Result<(), Refusal> {
        if self.path().starts_with("/hooks/") { Ok(()) } else { Err(self.not_found()) }
    }

    /// The credentials, if any.
    ///
    /// # Errors
    ///
    /// Fails where there is more than one `Authorization`.
    pub fn authorization(&self) -> Result<Option<&str>, Refusal> {
        let mut all = self.values("Authorization");
        match (all.next(), all.next()) {
            (first, None) => Ok(first),
            _ => Err(Refusal::TwoCredentials),
        }
    }

    /// The verb of the hook that the path names.
    ///
    /// # Errors
    ///
    /// Fails for another path and for another method.
    pub fn verb(&self) -> Result<Verb, Refusal> {
        let name = self.path().strip_prefix("/hooks/");
        let verb = Verb::ALL
            .into_iter()
            .find(|verb| name == Some(hook_name(*verb)))
            .ok_or_else(|| self.not_found())?;
        match self.method.as_str() {
            "GET" | "POST" => Ok(verb),
            other => Err(Refusal::NoSuchMethod(quote(other))),
        }
    }

    /// The order that the request comes to, for a branch that the host allows.
    ///
    /// # Errors
    ///
    /// Fails where no such branch is named.
    pub fn order(&self, verb: Verb, settings: &Settings) -> Result<Order, Refusal> {
        let branch = || settings.allowed_branch(&self.branch()?);
        Ok(match verb {
            Verb::Deploy => {
                Order::Deploy { branch: branch()?, respond_async: self.prefers_async() }
            }
            Verb::Undeploy => Order::Undeploy(branch()?),
            Verb::Expire => Order::Expire(branch()?),
            Verb::Status => Order::Status(branch()?),
            Verb::List => Order::List,
        })
    }

    /// The one value of `branch`, or of `image-tag`, which is the same, in the query or in the
    /// form of a POST.
    fn branch(&self) -> Result<String, Refusal> {
        let form: &[u8] = if self.method == "POST" && self.has_form() { &self.body } else { &[] };
        let mut branches = [self.path_and_query().1.as_bytes(), form]
            .into_iter()
            .filter_map(|part| serde_urlencoded::from_bytes::<Vec<(String, String)>>(part).ok())
            .flatten()
            .filter(|(name, _)| name == "branch" || name == "image-tag")
            .map(|(_, value)| value);
        match (branches.next(), branches.next()) {
            (Some(branch), None) => Ok(branch),
            (None, _) => Err(Refusal::NoBranch),
            _ => Err(Refusal::TwoBranches),
        }
    }

    /// Whether the caller would not wait for the job (RFC 7240 section 4.1).
    fn prefers_async(&self) -> bool {
        self.values("Prefer")
            .flat_map(|value| value.split(','))
            .filter_map(|preference| preference.split(';').next())
            .any(|preference| preference.trim_matches(OWS).eq_ignore_ascii_case("respond-async"))
    }

    fn path(&self) -> &str {
        self.path_and_query().0
    }

    /// The path and the query; of an absolute-form target too (RFC 9112 section 3.2.2).
    fn path_and_query(&self) -> (&str, &str) {
        let target = absolute_path(&self.target).unwrap_or(&self.target);
        target.split_once('?').unwrap_or((target, ""))
    }

    /// The values of all fields of one name.
    fn values(&self, name: &'static str) -> impl Iterator<Item = &str> {
        let named = self.fields.iter().filter(move |each| each.0.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }

    fn has_form(&self) -> bool {
        self.values("Content-Type")
            .filter_map(|value| value.split(';').next())
            .any(|media_type| media_type.trim_matches(OWS).eq_ignore_ascii_case(FORM))
    }

    fn not_found(&self) -> Refusal {
        Refusal::NoSuchPath(quote(self.path()))
    }
}

/// What follows the authority of `http://HOST/…`; an authority may not be empty (RFC 9110 section
/// 4.2.1).
fn absolute_path(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return None;
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    if end > 0 { Some(&rest[end..]) } else { None }
}

/// RFC 9110 section 5.6.2.
fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request of HTTP/1.0, which needs no Host.
    fn request(method: &str, target: &str, fields: &[(&str, &str)], body: &str) -> Request {
        let fields: Vec<_> = fields.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        let head = format!("{method} {target} HTTP/1.0\r\n{}\r\n", fields.concat());
        Request { body: body.into(), ..Request::parse(&head).unwrap() }
    }

    #[test]
    fn a_head_ends_at_its_first_empty_line() {
        for (message, end) in
            [("GET / HTTP/1.1\r\n\r", None), ("GET / HTTP/1.1\r\nA:\tb\r\n\r\n\0body\n", Some(24))]
        {
            for checked in 0..message.len().min(17) {
                assert_eq!(end_of_head(message.as_bytes(), checked).ok(), Some(end), "{message:?}");
            }
        }
    }

    #[test]
    fn a_head_of_anything_but_ascii_and_crlf_is_refused() {
        let line_end = "a line end that is not CRLF";
        for (message, what) in [
            ("\n", line_end),
            ("A\r\r\n", line_end),
            ("A: b\rC: d\r\n", line_end),
            ("A: b\nC: d\r\n", line_end),
            ("\0A", "the byte 0x00"),
            ("A: \x7f", "the byte 0x7f"),
        ] {
            assert_eq!(end_of_head(message.as_bytes(), 0), malformed(what), "{message:?}");
        }
    }

    #[test]
    fn a_head_is_a_request_line_and_fields() {
        for (head, wanted) in [
            ("GET / HTTP/1.0\r\nA: b \r\nC:\r\n\r\n", vec![("A", "b"), ("C", "")]),
            (
                "GET / HTTP/1.0\r\nX-Name: J\u{f6}rg\u{a0}\r\n\r\n",
                vec![("X-Name", "J\u{f6}rg\u{a0}")],
            ),
        ] {
            let fields = Request::parse(head).unwrap().fields;
            let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            assert_eq!(fields, wanted, "{head:?}");
        }
    }

    #[test]
    fn any_other_head_is_refused() {
        let refused = |head: String, what| {
            assert_eq!(Request::parse(&head).map(drop), malformed(what), "{head:?}");
        };
        for line in [
            "",
            "GET / x HTTP/1.0",
            "GET  HTTP/1.0",
            "GET /\tx HTTP/1.0",
            "GET /\u{f6} HTTP/1.0",
            "G\u{cb}T / HTTP/1.0",
            " / HTTP/1.0",
            "GET / HTTP/1.2",
            "GET / http/1.1",
        ] {
            refused(format!("{line}\r\n\r\n"), "its first line");
        }
        for line in ["A: b\r\n folded: c", "A : b", ": b", "J\u{f6}rg: x", "A"] {
            refused(format!("GET / HTTP/1.0\r\n{line}\r\n\r\n"), "a header line");
        }
        for (version, lines) in
            [("1.1", ""), ("1.1", "Host: x\r\nhost:\r\n"), ("1.0", "Host: x\r\nHost: x\r\n")]
        {
            refused(format!("GET / HTTP/{version}\r\n{lines}\r\n"), "its Host");
        }
    }

    #[test]
    fn a_body_has_one_plain_length() {
        let len = |fields: &[_]| request("POST", "/", fields, "").body_len();
        assert_eq!(len(&[("Host", "x")]), Ok(0));
        assert_eq!(len(&[("content-LENGTH", "0016384")]), Ok(16384));
        for long in ["16385", "18446744073709551616"] {
            let told = len(&[("Content-Length", long)]);
            assert_eq!(told, Err(Refusal::LongBody(16384)), "{long}");
        }
        let malformed = malformed("its Content-Length");
        for wrong in ["", "+1", "0x0", "\u{a0}5"] {
            assert_eq!(len(&[("Content-Length", wrong)]), malformed, "{wrong:?}");
        }
        assert_eq!(len(&[("Content-Length", "0"), ("content-length", "9")]), malformed);
        let encoded = len(&[("Content-Length", "1"), ("transfer-encoding", "")]);
        assert_eq!(encoded, Err(Refusal::TransferEncoding));
    }

    #[test]
    fn only_http_1_1_can_expect_100_continue() {
        for (version, expect, wanted) in [
            ("HTTP/1.1", "100-Continue", Some(true)),
            ("HTTP/1.0", "100-continue", Some(false)),
            ("HTTP/1.1", "", None),
            ("HTTP/1.0", "nonsense", None),
        ] {
            let head = format!("GET / {version}\r\nHost: x\r\nExpect: {expect}\r\n\r\n");
            let expects = Request::parse(&head).unwrap().expects_continue();
            assert_eq!(expects.ok(), wanted, "{head:?}");
        }
        assert_eq!(request("GET", "/", &[], "").expects_continue(), Ok(false));
    }

    #[test]
    fn a_branch_is_in_the_query_or_in_the_form_of_a_post() {
        let form = ("Content-Type", "Application/x-www-form-urlencoded; charset=utf-8");
        let loud = ("CONTENT-TYPE", "APPLICATION/X-WWW-FORM-URLENCODED ; charset=utf-8");
        let longer = ("Content-Type", "application/x-www-form-urlencodedx");
        let spaced = ("Content-Type", "application/x-www-form-urlencoded\u{a0}; charset=utf-8");
        for (method, target, fields, body, wanted) in [
            ("GET", "/?image-tag=a&x=y", vec![], "", Ok("a")),
            ("GET", "/?a=1&branch=x&b=%ff&c", vec![], "", Ok("x")),
            ("GET", "/?branch=a/b%2Fc%2fd+%20%00%ff", vec![], "", Ok("a/b/c/d  \0\u{fffd}")),
            ("GET", "/?branch=x", vec![form], "branch=y", Ok("x")),
            ("POST", "/?a=b", vec![form], "a=1&image-tag=x&b=%ff&c", Ok("x")),
            ("POST", "/", vec![loud], "branch=x", Ok("x")),
            ("POST", "/", vec![longer], "branch=x", Err(&Refusal::NoBranch)),
            ("POST", "/", vec![spaced], "branch=x", Err(&Refusal::NoBranch)),
            ("GET", "/?branc=x&Branch=x&branch[]=x", vec![], "", Err(&Refusal::NoBranch)),
            ("GET", "/?branch=x&branch=", vec![], "", Err(&Refusal::TwoBranches)),
            ("POST", "/?branch=x", vec![form], "image-tag=x", Err(&Refusal::TwoBranches)),
            ("GET", "/?branch=a?branch=b", vec![], "", Ok("a?branch=b")),
            ("GET", "/", vec![], "", Err(&Refusal::NoBranch)),
        ] {
            let branch = request(method, target, &fields, body).branch();
            assert_eq!(branch.as_deref(), wanted, "{target} {body}");
        }
    }

    #[test]
    fn an_absolute_form_target_is_its_path() {
        for (target, wanted) in [
            ("http://h/hooks/x?a=b", ("/hooks/x", "a=b")),
            ("HTTPS://h:1/hooks/x", ("/hooks/x", "")),
            ("http://h?a=/", ("", "a=/")),
            ("http:///hooks/x", ("http:///hooks/x", "")),
            ("ftp://h/hooks/x", ("ftp://h/hooks/x", "")),
        ] {
            assert_eq!(request("GET", target, &[], "").path_and_query(), wanted, "{target}");
        }
    }

    #[test]
    fn respond_async_is_one_preference_among_others() {
        for (fields, wanted) in [
            (&[("Prefer", "wait=10, Respond-Async ;x=y")][..], true),
            (&[("Prefer", "wait=10"), ("Prefer", "respond-async")], true),
            (&[("Prefer", "respond-asynchronously")], false),
            (&[("Prefer", "wait=10, respond-async\u{a0}")], false),
            (&[("Prefer", "a=respond-async; respond-async")], false),
        ] {
            let request = request("GET", "/", fields, "");
            assert_eq!(request.prefers_async(), wanted, "{fields:?}");
        }
    }

    #[test]
    fn there_are_five_hooks_and_two_methods() {
        for target in ["/hooks", "/Hooks/x", "/x/hooks/deploy-branch"] {
            let refusal = request("GET", target, &[], "").require_hooks_path().unwrap_err();
            assert!(matches!(refusal, Refusal::NoSuchPath(_)), "{target}");
        }
        for path in
            ["/hooks/", "/hooks/deploy-branch/", "/hooks/Deploy-Branch", "/hooks/redeploy-branch"]
        {
            let request = request("GET", &format!("{path}?branch=x"), &[], "");
            assert_eq!(request.require_hooks_path(), Ok(()));
            assert_eq!(request.verb(), Err(Refusal::NoSuchPath(quote(path))));
        }
        for verb in Verb::ALL {
            let verb_of = |method: &str| {
                request(method, &format!("/hooks/{}", hook_name(verb)), &[], "").verb()
            };
            assert_eq!([verb_of("GET"), verb_of("POST")], [Ok(verb), Ok(verb)]);
            for method in ["HEAD", "PUT", "get"] {
                assert_eq!(verb_of(method), Err(Refusal::NoSuchMethod(quote(method))));
            }
        }
    }

    #[test]
    fn a_proxys_client_is_an_ip_address() {
        for (field, wanted) in [
            (("X-Real-IP", "198.51.100.1"), Some("198.51.100.1")),
            (("x-real-ip", "2001:0DB8:0::1"), Some("2001:db8::1")),
            (("X-Real-IP", "198.51.100.1 HTTP_STATUS=200"), None),
            (("X-Forwarded-For", "198.51.100.1"), None),
        ] {
            let ip = request("GET", "/", &[field], "").real_ip().map(|ip| ip.to_string());
            assert_eq!(ip.as_deref(), wanted, "{field:?}");
        }
    }
}
