//! The answer: the one place where an outcome or a refusal becomes an HTTP status.

use buildbtw_hook::order::{Kind, Outcome, Verb};

use crate::refusal::Refusal;

/// What a caller is told.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status code (RFC 9110 section 15).
    pub status: u16,
    /// A header that the status asks for.
    pub header: Option<(&'static str, &'static str)>,
    /// One or more lines, without the last newline.
    pub text: String,
    /// What the journal says in place of the text.
    reason: Option<String>,
    /// The `MESSAGE_ID=` of its record, where an operator can do something about it.
    pub message_id: Option<&'static str>,
}

/// The `MESSAGE_ID=` of a call that was refused because the host has no usable token.
const NO_USABLE_TOKEN: &str = "cc38b4abdc304ccf88b17e52827ff52d";
/// When to ask again, in seconds (RFC 9110 section 10.2.3).
const SOON: Option<(&str, &str)> = Some(("Retry-After", "2"));
const LATER: Option<(&str, &str)> = Some(("Retry-After", "30"));

impl Answer {
    fn new(status: u16, text: String) -> Self {
        Self { status, header: None, text, reason: None, message_id: None }
    }

    /// The answer to an order.
    pub fn to(verb: Verb, outcome: Outcome) -> Self {
        let (status, header) = match (outcome.kind, verb) {
            (Kind::Done, _) => (200, None),
            (Kind::Accepted, _) => (202, Some(("Preference-Applied", "respond-async"))),
            (Kind::Absent, _) => (404, None),
            (Kind::Canceled, _) => (409, None),
            (Kind::StartFailed, _) => (424, None),
            (Kind::NoTemplate | Kind::Failed | Kind::Refused, _) => (500, None),
            (Kind::PullFailed, _) => (502, None),
            (Kind::Running, Verb::Status) => (503, SOON),
            // The job goes on; a retry would start another one.
            (Kind::Running, _) => (503, None),
            (Kind::Unreachable, _) => (503, LATER),
        };
        // A status is polled; the failure that it tells was recorded when it happened.
        let message_id = if verb == Verb::Status { None } else { outcome.kind.message_id() };
        Self { header, message_id, ..Self::new(status, outcome.text) }
    }

    /// What the journal says: the text without the lines that a unit wrote, which the journal has
    /// already; for a fault of this host its reason.
    pub fn reason(&self) -> String {
        let text = self.reason.as_ref().unwrap_or(&self.text);
        text.lines().filter(|line| !line.starts_with("  ")).collect::<Vec<_>>().join("; ")
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let (status, header) = match &refusal {
            Refusal::Incomplete(_)
            | Refusal::Malformed(_)
            | Refusal::TwoCredentials
            | Refusal::NoBranch
            | Refusal::TwoBranches
            | Refusal::NotASlug(_) => (400, None),
            Refusal::NoToken | Refusal::WrongToken => (401, Some(("WWW-Authenticate", "Bearer"))),
            Refusal::NotAllowed(..) => (403, None),
            Refusal::NoSuchPath(_) => (404, None),
            Refusal::NoSuchMethod(_) => (405, Some(("Allow", "GET, POST"))),
            Refusal::Late(_) => (408, None),
            Refusal::TransferEncoding => (411, None),
            Refusal::LongBody(_) => (413, None),
            Refusal::LongHead(_) => (431, None),
            Refusal::NoUsableToken(_) | Refusal::Fault(_) => (500, None),
        };
        let mut answer = Self { header, ..Self::new(status, refusal.to_string()) };
        if let Refusal::NoUsableToken(_) | Refusal::Fault(_) = refusal {
            let told = "this host cannot serve the call; its journal says why".to_owned();
            answer.reason = Some(std::mem::replace(&mut answer.text, told));
        }
        if let Refusal::NoUsableToken(_) = refusal {
            answer.message_id = Some(NO_USABLE_TOKEN);
        }
        answer
    }
}
