//! Inputs begin as valid requests and are spoilt in their words, lines and bytes, and in how they
//! arrive.

use std::iter;
use std::time::Duration;

use fastrand::Rng;

use super::expected::{FORM, LIMIT, Outcome, TOKENS, expected};
use super::wire::Transport::{self, Tcp, Unix};

/// The branches of a host that does not take all.
const ALLOWED: Option<&str> = Some("main kept x");

// Lists have `|` between their words.

/// What words are spoilt with.
const WORDS: &str = "HEAD|PUT|get|/|//|/.|/..|hooks/|http://hook|deploy-branch|undeploy-branch|un|\
    ?|#|;|&|=|,|:|\"|@|-|_|.|..%2F|branch|branch=x|&image-tag=y|[]|x|X|main|Main|2|--now|.service|\
    \u{a0}|\u{3000}|%|%0|%00|%0a|%20|%2D|%zz|%+1|%25|%ff|%C3%BC|%E2%84%AAelvin|+| |  |\t|\0|\r|\n|\r\n|\r\r\n|\r\n |\
    \r\n\r\n|\u{e9}|\u{7f}|\u{b}|0|1|9|HTTP/1.1|HTTP/2.0|Bearer |no token|the-second-token|aaaaaaaaaa";
/// Paths of hooks.
const PATHS: &str = "/hooks/deploy-branch|/hooks/undeploy-branch|/hooks/branch-status|\
    /hooks/deploy-branch|/hooks/expire-branch|/hooks/list-branches|http://hook/hooks/deploy-branch|HTTPS://hook:9000/hooks/undeploy-branch";
/// Paths that are not hooks.
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

/// One of the words, which have `|` between them.
fn word<'a>(rng: &mut Rng, words: &'a str) -> &'a str {
    rng.choice(words.split('|').collect::<Vec<_>>()).unwrap_or_default()
}

/// A request, and what may come of it.
pub struct Input {
    pub bytes: Vec<u8>,
    pub how: How,
    pub expected: Vec<Outcome>,
}

/// How it is sent, and to which host.
#[derive(Debug)]
pub struct How {
    /// Where one write ends and the next begins.
    pub cuts: Vec<usize>,
    pub pause: Duration,
    pub transport: Transport,
    /// Whether the client says that it sends no more,
    pub ends: bool,
    /// and whether it reads the answer, or goes.
    pub reads: bool,
    /// The branches that the host takes, where it does not take all.
    pub allowed: Option<&'static str>,
}

impl Input {
    pub fn new(mut rng: Rng) -> Self {
        let rng = &mut rng;
        let some = rng.u8(1..4);
        let mut bytes = match rng.u8(..50) {
            0 => iter::repeat_with(|| rng.u8(..)).take(100).collect(),
            1 => iter::repeat_with(|| word(rng, WORDS)).take(40).collect::<String>().into_bytes(),
            2..8 => request(rng, [0; 3]),
            8..28 => request(rng, [14, 0, 0]),
            28..42 => request(rng, [3, some, 0]),
            _ => request(rng, [2, 0, some]),
        };
        match rng.u8(..16) {
            0..=2 => bytes.extend(request(rng, [0; 3])),
            3 => bytes.extend(word(rng, WORDS).bytes()),
            4 => bytes.resize(bytes.len() + rng.usize(..40_000), b'x'),
            _ => {}
        }
        let transport = if rng.u8(..8) == 0 { Tcp } else { Unix };
        let reads = rng.u8(..8) > 0;
        let allowed = ALLOWED.filter(|_| rng.u8(..4) == 0);
        let mut expected = expected(&bytes, allowed);
        // Half of a request costs 10 s.
        let ends = rng.bool() || expected.iter().all(|outcome| outcome.orders.is_empty());
        if matches!(transport, Tcp) && !reads {
            // This may be a reset, which may destroy what was sent.
            expected.push(Outcome::refused(400));
        }
        let mut cuts: Vec<_> = (4..rng.usize(..8)).map(|_| rng.usize(..=bytes.len())).collect();
        cuts.sort_unstable();
        let pause = Duration::from_micros(rng.choice([0, 0, 300, 3000]).unwrap_or_default());
        let how = How { cuts, pause, transport, ends, reads, allowed };
        Self { bytes, how, expected }
    }
}
