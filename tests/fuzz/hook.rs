//! `buildbtw-hook` against requests that no one thought of. Each input goes through a socket to a
//! process of its own, and what comes of it must be what [`expected`] says, which shares no code
//! with the program: an order is given when that says so and as it says, and never otherwise.
//!
//! Inputs begin as valid requests and are spoilt in their words, lines and bytes, and in how they
//! arrive. Input number k depends on the seed and on k alone, but for the machine's own timing.

use std::borrow::Cow;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::iter;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use httparse::{EMPTY_HEADER, Header};

use super::wire::Transport::{Tcp, Unix};
use super::wire::{Answer, OTHER, TOKEN};
use super::{Ended, Scratch, Sent, Tally, word};

/// The tokens of the host; its file has a third line, which is none.
const TOKENS: [&str; 2] = [TOKEN, OTHER];
/// The branches of a host that does not take all.
const ALLOWED: Option<&str> = Some("main kept x");
const FORM: &str = "application/x-www-form-urlencoded";
/// The longest head, and the longest body.
const LIMIT: usize = 16 * 1024;

/// Runs the executable on one input after another.
pub fn fuzz(name: usize, inputs: &mut dyn Iterator<Item = (Rng, usize)>, tally: &Mutex<Tally>) {
    let mut host = Scratch::new("hook", name).expect("a host");
    fs::write(host.root.join("token"), TOKENS.join("\n") + "\nno token at all\n").expect("a file");
    let orders = UnixListener::bind(host.root.join("orders")).expect("a socket");
    let mut given = host.calls.try_clone().expect("a file");
    thread::spawn(move || {
        for order in orders.incoming() {
            carry_out(order.expect("an order"), &mut given).expect("an outcome");
        }
    });
    for (rng, k) in inputs {
        let input = Input::new(rng);
        let mut command = Command::new(env!("CARGO_BIN_EXE_buildbtw-hook"));
        command.env_clear().envs(input.allowed.map(|names| ("BUILDBTW_BRANCHES", names)));
        command.env("BUILDBTW_ORDERS", host.root.join("orders"));
        command.env("CREDENTIALS_DIRECTORY", &host.root);
        // listenfd looks there for the connection, and no other descriptor is passed as quickly.
        command.env("LISTEN_FDS", "1").env("LISTEN_FDS_FIRST_FD", "0");
        let ended = host.run(command, &input.sent).expect("a process");
        let status = ended.record.split(": ").nth(2).and_then(|words| words.get(..3)?.parse().ok());
        let outcome = Outcome { status: status.unwrap_or_default(), calls: ended.calls.clone() };
        if let Some(fault) = fault(&input, &ended, &outcome) {
            panic!("hook, input {k}: {fault}\n{input}\n{outcome:?} {ended:#?}");
        }
        tally.lock().expect("a tally").count(&outcome.status.to_string(), &ended);
    }
}

/// All of the table of answers but 408, which takes 10 s, and what no client causes.
pub const KINDS: &[&str] = &["200", "202", "400", "401", "403", "404", "405", "411", "413", "431"];

// What must come of an input.

/// What came of an input, or may come of it.
#[derive(Debug, PartialEq)]
struct Outcome {
    status: u16,
    /// The orders that were given.
    calls: String,
}

impl Outcome {
    fn refused(status: u16) -> Self {
        Self { status, calls: String::new() }
    }
}

/// What may come of the bytes, by the RFCs and the manual, on a host that takes all branches or
/// only those allowed. There is more than one outcome where neither says which it is.
fn expected(sent: &[u8], allowed: Option<&str>) -> Vec<Outcome> {
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
/// counts: who has no token learns nothing.
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
        return Ok(Outcome { status: 200, calls: "list\n".to_owned() });
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
        calls: format!("{verb} {branch}{flag}\n"),
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

// Inputs.

// Lists have `|` between their words.

/// What words are spoilt with.
const WORDS: &str = "HEAD|PUT|get|/|//|/.|/..|hooks/|http://hook|deploy-branch|undeploy-branch|un|\
    ?|#|;|&|=|,|:|\"|@|-|_|.|..%2F|branch|branch=x|&image-tag=y|[]|x|X|main|Main|2|--now|.service|\
    \u{a0}|\u{3000}|%|%0|%00|%0a|%20|%2D|%zz|%+1|%25|%ff|%C3%BC|%E2%84%AAelvin|+| |  |\t|\0|\r|\n|\r\n|\r\r\n|\r\n |\
    \r\n\r\n|\u{e9}|\u{7f}|\u{b}|0|1|9|HTTP/1.1|HTTP/2.0|Bearer |no token|the-second-token|aaaaaaaaaa";
/// Paths of hooks.
const PATHS: &str = "/hooks/deploy-branch|/hooks/undeploy-branch|/hooks/branch-status|\
    /hooks/deploy-branch|/hooks/expire-branch|/hooks/list-branches|http://hook/hooks/deploy-branch|HTTPS://hook:9000/hooks/undeploy-branch";
/// Paths of no hook.
const ODD_PATHS: &str = "/|*||/hook|/hooks/|/hooks/x|//hooks/deploy-branch|/hooks//deploy-branch|\
    /hooks/deploy-branch/|/hooks/./deploy-branch|/hooks/x/../deploy-branch|/hooks/deploy-branch#|\
    /hooks/deploy%2Dbranch|http:///hooks/deploy-branch|ftp://hook/hooks/deploy-branch|/x/../hooks/deploy-branch|hook:80";
/// Lines that do no harm.
const FIELDS: &str = "Prefer: respond-async|PREFER: wait=9, Respond-Async ;a=b|Prefer: wait=9|A:|\
    Prefer: respond-asynchronously|Prefer: wait=respond-async|Expect: 100-Continue|Accept: */*|\
    X-Real-IP: ::1|X-Real-IP: x\"|Connection: upgrade|Connection: close|!#$%&'*+-.^_`~:y|X:::|\
    Connection: keep-alive, Upgrade|Proxy-Authorization: Bearer the-second-token|A: \"\t\"|\
    Cookie: Authorization=Bearer the-second-token|X: J\u{f6}rg|X:\u{a0}|\
    Prefer: respond-async\u{a0}|Prefer: \u{3000}respond-async, a=\u{f6}";
/// Lines that may.
const ODD_FIELDS: &str = "Host: hook|host:|Expect: nonsense|Expect:|Authorization: Basic eDp5|\
    Content-Length: 0|Content-Length: 5|Content-Length: 16384|Content-Length: 16385|\
    Content-Length: 99999999999999999999999|Content-Length: 00000000000000000000000008|\
    Content-Length: +1|Content-Length: 1, 1|Content-Length: 0x1|Content-Length:|Content-Length : 0|\
    Content-Length: 0\u{a0}|Expect: 100-continue\u{85}|X\u{f6}: y|Host:\u{a0}|\
    Transfer-Encoding: chunked|Transfer-Encoding: identity|transfer-encoding : chunked|\
    Transfer-Encoding:|Content-Type: application/x-www-form-urlencoded; charset=utf-8|\
    content-type:APPLICATION/X-WWW-FORM-URLENCODED|Content-Type: multipart/form-data; boundary=x|\
    Content-Type: application/x-www-form-urlencodedx|\
    Content-Type: application/x-www-form-urlencoded\u{a0}|Content-Type: text/plain|Authorization:|\
    Authorization: Bearer x|Authorization: Bearer the-second-token|X|: x| X: y|X : y|X Y: z|X(Y): z";

/// Spoils one of several words, or lines.
fn spoil(rng: &mut Rng, parts: &mut Vec<String>, words: &str) {
    let (at, to) = (rng.usize(..=parts.len()), rng.usize(..=parts.len()));
    let new = word(rng, words).to_owned();
    let Some(part) = parts.get_mut(at) else { return parts.insert(to, new) };
    match rng.u8(..12) {
        0 => *part = part.to_uppercase(),
        1 => *part = part.to_lowercase(),
        2 => *part = part.bytes().fold(String::new(), |hex, byte| hex + &format!("%{byte:02x}")),
        3 => *part = new,
        4 => drop(part.pop()),
        5 => drop(parts.remove(at)),
        6 => parts.insert(to, parts[at].clone()),
        7 => parts.truncate(at),
        8 => parts[at..].rotate_left(1),
        _ => parts.insert(at, new),
    }
}

/// The text, with one of its words spoilt.
fn spoilt(rng: &mut Rng, text: &str) -> String {
    let words = text.split_inclusive(|c: char| !c.is_alphanumeric());
    let mut words: Vec<_> = words.map(str::to_owned).collect();
    spoil(rng, &mut words, WORDS);
    words.concat()
}

/// A request, valid but for what is spoilt: each part of it so many times in a hundred, and then
/// so many lines and bytes.
fn request(rng: &mut Rng, [odds, lines, bytes]: [u8; 3]) -> Vec<u8> {
    let slugs = format!("x|main|kept|0|1-2--3|{}", &"a-0b".repeat(16)[..rng.usize(62..65)]);
    let mut part = |right: &str, odd: &str| match rng.u8(..100) {
        n if n < odds / 2 => word(rng, odd).to_owned(),
        n if n < odds => {
            let text = word(rng, right);
            spoilt(rng, text)
        }
        _ => word(rng, right).to_owned(),
    };
    let method = part("GET|POST", "HEAD|PUT|get|Post|BREW|");
    let path = part(PATHS, ODD_PATHS);
    let version = part("HTTP/1.0|HTTP/1.1|HTTP/1.1", "HTTP/0.9|HTTP/1.2|HTTP/2.0|http/1.1|");
    let name = part("branch|image-tag", "Branch|branch[]|image_tag||x");
    let slug = part(&slugs, "|mai|Main|-x|x-|feature-%C3%BC|x.service|x@y|%78|x%zz");
    let pair = format!("{name}={slug}");
    let more = part("|||a=b|&a=%ff&c|a==&&|branches=x", "branch=x|image-tag=main|branch|=x|#");
    let token =
        part(&TOKENS.join("|"), "no token|The-First|the-second-tokex|x|\"the-second-token\"");
    let (query, mut form) = match rng.u8(..4) {
        0 => (format!("?{pair}&{more}"), String::new()),
        1 => (format!("?{more}&{pair}"), String::new()),
        2 if method == "POST" => (format!("?{more}"), pair),
        3 if method == "POST" => (String::new(), format!("{more}&{pair}")),
        _ => (format!("?{pair}"), more),
    };
    if rng.u8(..32) == 0 {
        form = format!("{form}&{}", "y".repeat(LIMIT + rng.usize(..3) - 2 - form.len()));
    }

    let mut fields = vec![word(rng, "Host: hook|host:\t[::1]:9000|HOST:").to_owned()];
    let between = if rng.u8(..100) < odds { "\t| \t||=|: " } else { " | |   " };
    let names = "Authorization: |authorization:|AUTHORIZATION:\t ";
    let [name, scheme, between, end] =
        [names, "Bearer|bearer|BEARER", between, "|| \t"].map(|words| word(rng, words));
    fields.push(format!("{name}{scheme}{between}{token}{end}"));
    if !form.is_empty() {
        fields.extend([format!("Content-Type: {FORM}"), format!("Content-Length: {}", form.len())]);
    }
    for _ in 0..rng.u8(..3) {
        let words = if rng.u8(..100) < odds { ODD_FIELDS } else { FIELDS };
        fields.push(word(rng, words).to_owned());
    }
    rng.shuffle(&mut fields);
    fields.insert(0, format!("{method} {path}{query} {version}"));
    for _ in 0..lines {
        match rng.usize(..=fields.len() * 2) {
            0 => {
                let len = (fields.join("\r\n") + "\r\nP:\r\n\r\n").len();
                let pad = (LIMIT - 2 + rng.usize(..5)).saturating_sub(len);
                fields.push(format!("P:{}", "p".repeat(pad)));
            }
            at if at < fields.len() => fields[at] = spoilt(rng, &fields[at]),
            _ => spoil(rng, &mut fields, ODD_FIELDS),
        }
    }
    let mut message = (fields.join("\r\n") + "\r\n\r\n" + &form).into_bytes();
    for _ in 0..bytes {
        let (from, to) = (rng.usize(..=message.len()), rng.usize(..=message.len()));
        let some = from..message.len().min(from + rng.usize(..8));
        match rng.u8(..7) {
            0 => message[some].iter_mut().for_each(|byte| *byte ^= 1 << rng.u8(..8)),
            1 => message[some].fill_with(|| rng.u8(..)),
            2 => drop(message.drain(some)),
            3 => message.truncate(from),
            4 => drop(message.splice(to..to, message[from.min(to)..].to_vec())),
            5 => drop(message.splice(from.min(to)..to, request(rng, [0; 3]))),
            _ => drop(message.splice(from..from, word(rng, WORDS).bytes())),
        }
    }
    message
}

/// An input, and what may come of it.
struct Input {
    sent: Sent,
    /// The branches that the host takes, where it does not take all.
    allowed: Option<&'static str>,
    expected: Vec<Outcome>,
}

impl Input {
    fn new(mut rng: Rng) -> Self {
        let rng = &mut rng;
        let some = rng.u8(1..4);
        let mut sent = match rng.u8(..50) {
            0 => iter::repeat_with(|| rng.u8(..)).take(100).collect(),
            1 => iter::repeat_with(|| word(rng, WORDS)).take(40).collect::<String>().into_bytes(),
            2..8 => request(rng, [0; 3]),
            8..28 => request(rng, [14, 0, 0]),
            28..42 => request(rng, [3, some, 0]),
            _ => request(rng, [2, 0, some]),
        };
        match rng.u8(..16) {
            0..=2 => sent.extend(request(rng, [0; 3])),
            3 => sent.extend(word(rng, WORDS).bytes()),
            4 => sent.resize(sent.len() + rng.usize(..40_000), b'x'),
            _ => {}
        }
        let transport = if rng.u8(..8) == 0 { Tcp } else { Unix };
        let reads = rng.u8(..8) > 0;
        let allowed = ALLOWED.filter(|_| rng.u8(..4) == 0);
        let mut expected = expected(&sent, allowed);
        // Who waits with half of a request waits for 10 s.
        let ends = rng.bool() || expected.iter().all(|outcome| outcome.calls.is_empty());
        if matches!(transport, Tcp) && !reads {
            // This may be a reset, which may destroy what was sent.
            expected.push(Outcome::refused(400));
        }
        let mut cuts: Vec<_> = (4..rng.usize(..8)).map(|_| rng.usize(..=sent.len())).collect();
        cuts.sort_unstable();
        let pause = Duration::from_micros(rng.choice([0, 0, 300, 3000]).unwrap_or_default());
        let sent = Sent { bytes: sent, cuts, pause, transport, ends, reads };
        Self { sent, allowed, expected }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, allowed, expected } = self;
        write!(f, "{sent}, allowed: {allowed:?}, expected: {expected:?}")
    }
}

// What comes of it.

/// What is wrong with it.
fn fault(input: &Input, ended: &Ended, outcome: &Outcome) -> Option<&'static str> {
    let sent = &input.sent;
    let status = if sent.reads { answered(&ended.answer, &sent.bytes) } else { None };
    ended.fault().or_else(|| {
        [
            ("it left no record of one line", ended.record.lines().count() == 1),
            ("it gave no whole answer", !sent.reads || status == Some(outcome.status)),
            // A write may come too late, after the answer.
            ("the connection did not end well", ended.read.is_ok() || !sent.cuts.is_empty()),
            ("it did something else", input.expected.contains(outcome)),
        ]
        .into_iter()
        .find_map(|(fault, holds)| (!holds).then_some(fault))
    })
}

/// In place of the root side: writes the order down, and says that it is done.
fn carry_out(mut peer: UnixStream, given: &mut File) -> io::Result<()> {
    let mut order = [0; 1000];
    let len = peer.read(&mut order)?;
    let order = &order[..len];
    given.write_all(order)?;
    let word = if order.ends_with(b" async\n") { "accepted" } else { "done" };
    // One that goes early does not wait for it.
    let _ = peer.write_all(format!("{word}\nit is done\n").as_bytes());
    Ok(())
}

/// The status of what is one whole answer.
fn answered(answer: &[u8], sent: &[u8]) -> Option<u16> {
    let expects = sent.to_ascii_lowercase().windows(12).any(|window| window == b"100-continue");
    let interim = answer.strip_prefix(b"HTTP/1.1 100 Continue\r\n\r\n").filter(|_| expects);
    let answer = interim.unwrap_or(answer);
    let parsed = Answer::parse(answer, sent.starts_with(b"HEAD ")).ok()?;
    Some(parsed.status).filter(|_| answer.len() < 4096)
}
