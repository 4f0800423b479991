//! The record that each call leaves in the journal.

use std::fmt::Write;
use std::io;
use std::time::Instant;

use buildbtw_hook::branch::Branch;
use buildbtw_hook::journal;
use buildbtw_hook::order::Verb;
use log::Level;
use log::kv::Value;

use crate::answer::Answer;
use crate::request::hook_name;

/// What is known of a call so far.
pub struct Call {
    /// When the process started.
    pub started: Instant,
    /// The IP address that it came from, or `local`.
    pub caller: String,
    /// The name of the token that let it in, where the token has one.
    pub token_name: Option<String>,
    /// What is asked for, once that is known.
    pub verb: Option<Verb>,
    /// The branch, once it is known to be allowed.
    pub branch: Option<Branch>,
}

impl Call {
    /// A call of which nothing is known yet.
    pub fn new(started: Instant) -> Self {
        let caller = "local".to_owned();
        Self { started, caller, token_name: None, verb: None, branch: None }
    }

    /// Writes the call's one record: an error for 500, 502 and a deployment's 424; a warning for 401, 403
    /// and a 503 that is not a status; otherwise a notice.
    pub fn record(&self, answer: &Answer, sent: &io::Result<()>) {
        let level = match (answer.status, self.verb) {
            (500 | 502, _) | (424, Some(Verb::Deploy)) => Level::Error,
            // "Not yet" is what a status is asked for.
            (503, Some(Verb::Status)) => Level::Info,
            (401 | 403 | 503, _) => Level::Warn,
            _ => Level::Info,
        };
        let milliseconds = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let hook = self.verb.map(hook_name);
        let branch = self.branch.as_ref().map(Branch::as_str);
        let mut message = format!(
            "{} {}: {} in {milliseconds} ms for {}",
            hook.unwrap_or("-"),
            branch.unwrap_or("-"),
            answer.status,
            self.caller,
        );
        // Writing to a String does not fail.
        if let Some(name) = &self.token_name {
            let _ = write!(message, " ({name})");
        }
        if answer.status >= 400 {
            let _ = write!(message, ": {}", answer.reason());
        }
        if let Err(error) = sent {
            let _ = write!(message, " (the answer could not be sent: {error})");
        }
        let mut fields = vec![
            ("BUILDBTW_CALLER", Value::from(self.caller.as_str())),
            ("BUILDBTW_DURATION_MS", Value::from(milliseconds)),
            ("HTTP_STATUS", Value::from(answer.status)),
        ];
        let optional = [
            ("BUILDBTW_HOOK", hook),
            ("BUILDBTW_BRANCH", branch),
            ("BUILDBTW_TOKEN_NAME", self.token_name.as_deref()),
            ("MESSAGE_ID", answer.message_id),
        ];
        for (name, value) in optional {
            fields.extend(value.map(|value| (name, Value::from(value))));
        }
        journal::record(level, &message, &fields);
    }
}
