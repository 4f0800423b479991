//! What must come of an input. It shares no code with the program.

use std::borrow::Cow;

use httparse::{EMPTY_HEADER, Header};

use super::wire::{OTHER, TOKEN};

/// The tokens of the host; its file has a third line, which is not a token.
pub const TOKENS: [&str; 2] = [TOKEN, OTHER];
pub const FORM: &str = "application/x-www-form-urlencoded";
/// The longest head, and the longest body.
pub const LIMIT: usize = 16 * 1024;

/// What came of an input, or may come of it.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub status: u16,
    /// The orders that were given.
    pub orders: String,
}

impl Outcome {
    pub fn refused(status: u16) -> Self {
        Self { status, orders: String::new() }
    }
}

/// What may come of the bytes, by the RFCs and the manual, on a host that takes all branches or
/// only those allowed. There is more than one outcome where neither says which it is.
pub fn expected(sent: &[u8], allowed: Option<&str>) -> Vec<Outcome> {
    let refused = |statuses: &[u16]| statuses.iter().copied().map(Outcome::refused).collect();
    // A head is of visible ASCII, obs-text, spaces, tabs and CRLFs; httparse takes more, also in a target.
    let end = sent.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
    let (head, rest) = sent.split_at(end.unwrap_or(sent.len()));
    let text: String = head.iter().map(|b| char::from(*b)).collect();
    let is_text = |c| matches!(c, '\t' | ' '..='~' | '\u{80}'..);
    let strict = text.replace("\r\n", "").chars().all(is_text) && !sent.starts_with(b"\r");
    if head.len() > LIMIT {
        return refused(if strict { &[431] } else { &[431, 400] });
    }
    let mut fields = vec![EMPTY_HEADER; head.len() / 4];
    let mut request = httparse::Request::new(&mut fields);
    if !strict || !request.parse(head).is_ok_and(|parsed| parsed.is_complete()) {
        return refused(&[400]);
    }
    // Nothing says which of several faults is told.
    let mut faults = Vec::new();
    let mut check = |holds: bool, status| faults.extend((!holds).then_some(status));
    let [hosts, expectations, encodings, lengths] =
        ["Host", "Expect", "Transfer-Encoding", "Content-Length"]
            .map(|name| values(request.headers, name));
    check(request.path.is_some_and(|path| path.bytes().all(|b| b.is_ascii_graphic())), 400);
    check(hosts.len() < 2 && hosts.len() >= request.version.map_or(0, usize::from), 400);
    check(expectations.iter().all(|value| value.eq_ignore_ascii_case("100-continue")), 400);
    check(encodings.is_empty(), 411);
    let digits = lengths.first().map_or("0", |digits| digits);
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    check(lengths.len() < 2 && is_number, 400);
    let len = digits.parse().unwrap_or(usize::MAX);
    check(!is_number || len <= LIMIT, 413);
    let Some(body) = rest.get(..len).filter(|_| faults.is_empty()) else {
        return refused(if faults.is_empty() { &[400] } else { &faults });
    };
    vec![call(&request, body, allowed).unwrap_or_else(Outcome::refused)]
}

/// The values of all fields of a name.
fn values<'a>(fields: &[Header<'a>], name: &str) -> Vec<Cow<'a, str>> {
    let named = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
    named.map(|field| String::from_utf8_lossy(field.value)).collect()
}

/// What must come of a request that is well-formed, or the status that refuses it. Here the order
/// counts: a client without a token learns nothing.
fn call(request: &httparse::Request, body: &[u8], allowed: Option<&str>) -> Result<Outcome, u16> {
    let must = |holds: bool, status: u16| if holds { Ok(()) } else { Err(status) };
    let same = |word: &str, known: &str| word.trim_matches([' ', '\t']).eq_ignore_ascii_case(known);
    let before = |text: &str, end| text.split(end).next().unwrap_or_default().to_owned();
    let target = request.path.unwrap_or_default();
    // RFC 9112 section 3.2.2.
    let absolute = ["http://", "https://"].iter().find_map(|scheme| {
        let rest = target.get(..scheme.len()).filter(|start| start.eq_ignore_ascii_case(scheme));
        let rest = rest.map(|_| &target[scheme.len()..])?;
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        (!authority.is_empty()).then(|| &rest[authority.len()..])
    });
    let target = absolute.unwrap_or(target);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    must(path.starts_with("/hooks/"), 404)?;
    let credentials = values(request.headers, "Authorization");
    must(credentials.len() < 2, 400)?;
    let credentials = credentials.first().and_then(|value| value.split_once(' '));
    let (scheme, token) = credentials.unwrap_or_default();
    must(
        scheme.eq_ignore_ascii_case("Bearer") && TOKENS.contains(&token.trim_start_matches(' ')),
        401,
    )?;
    let verb = match path {
        "/hooks/deploy-branch" => "deploy",
        "/hooks/undeploy-branch" => "undeploy",
        "/hooks/expire-branch" => "expire",
        "/hooks/branch-status" => "status",
        "/hooks/list-branches" => "list",
        _ => return Err(404),
    };
    must(["GET", "POST"].contains(&request.method.unwrap_or_default()), 405)?;
    if verb == "list" {
        return Ok(Outcome { status: 200, orders: "list\n".to_owned() });
    }
    let mut branches = branches(query.as_bytes());
    let types = values(request.headers, "Content-Type");
    if request.method == Some("POST") && types.iter().any(|value| same(&before(value, ';'), FORM)) {
        branches.extend(self::branches(body));
    }
    let [branch] = &branches[..] else { return Err(400) };
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    must(branch.len() < 64 && branch.starts_with(inner) && branch.ends_with(inner), 400)?;
    must(branch.chars().all(|c| inner(c) || c == '-'), 400)?;
    must(allowed.is_none_or(|allowed| allowed.split(' ').any(|name| name == branch)), 403)?;

    // RFC 7240 would have its commas and semicolons within quotes be no ends; the program does not.
    let preferences = values(request.headers, "Prefer").join(",");
    let queued = verb == "deploy"
        && preferences.split(',').any(|word| same(&before(word, ';'), "respond-async"));
    let flag = if queued { " async" } else { "" };
    Ok(Outcome {
        status: if queued { 202 } else { 200 },
        orders: format!("{verb} {branch}{flag}\n"),
    })
}

/// The branches that a query or a form names.
fn branches(pairs: &[u8]) -> Vec<String> {
    let named = |pair: &[u8]| {
        let mut sides = pair.splitn(2, |b| *b == b'=').map(decoded);
        let name = sides.next()?;
        (name == "branch" || name == "image-tag").then(|| sides.next().unwrap_or_default())
    };
    pairs.split(|b| *b == b'&').filter_map(named).collect()
}

fn decoded(text: &[u8]) -> String {
    let digit = |at: usize| text.get(at).and_then(|b| char::from(*b).to_digit(16));
    let (mut decoded, mut at) = (Vec::new(), 0);
    while at < text.len() {
        match (text[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.extend(u8::try_from(16 * high + low));
                at += 2;
            }
            (b'+', ..) => decoded.push(b' '),
            (byte, ..) => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
