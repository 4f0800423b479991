//! What the two executables say to each other over `/run/buildbtw-systemctl.sock`.
//!
//! The hook sends one line, an [`Order`]; the root side sends back a line with the [`Kind`] of an
//! [`Outcome`] and then its text, until the connection ends. During an upgrade the two can be of
//! different versions: the root side refuses an order that it does not know, and the hook reports an
//! outcome that it does not know as a failure, with its text.

use std::fmt;
use std::str::FromStr;

use crate::branch::Branch;

/// Longest order, in bytes, with its newline.
pub const MAX_ORDER: usize = 128;
/// Longest outcome, in bytes.
pub const MAX_OUTCOME: usize = 16 * 1024;

/// What can be done with a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Start it, or restart it with a newer image.
    Deploy,
    /// Stop it.
    Undeploy,
    /// Say what state it is in.
    Status,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 3] = [Self::Deploy, Self::Undeploy, Self::Status];

    /// The verb in an order.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Undeploy => "undeploy",
            Self::Status => "status",
        }
    }
}

/// One line: `VERB SLUG`, and ` async` where the caller does not wait for the outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// What to do.
    pub verb: Verb,
    /// The branch to do it with.
    pub branch: Branch,
    /// Answer as soon as the order is accepted.
    pub respond_async: bool,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = if self.respond_async { " async" } else { "" };
        writeln!(f, "{} {}{flag}", self.verb.as_str(), self.branch)
    }
}

/// Reads exactly what [`Order`]'s `Display` writes.
impl FromStr for Order {
    type Err = NotAnOrder;

    fn from_str(line: &str) -> Result<Self, NotAnOrder> {
        let words: Vec<_> = line.strip_suffix('\n').ok_or(NotAnOrder)?.split(' ').collect();
        let (verb, branch, respond_async) = match words[..] {
            [verb, branch] => (verb, branch, false),
            [verb, branch, "async"] => (verb, branch, true),
            _ => return Err(NotAnOrder),
        };
        let verb = Verb::ALL.into_iter().find(|known| known.as_str() == verb).ok_or(NotAnOrder)?;
        let branch = Branch::new(branch).map_err(|_| NotAnOrder)?;
        Ok(Self { verb, branch, respond_async })
    }
}

/// A line that is not an order.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAnOrder;

/// What came of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The branch is deployed, or undeployed, or up.
    Done,
    /// The order is accepted; its outcome will be in the journal and in a later status.
    Accepted,
    /// An order or a job for the branch is running, or no outcome came in time.
    Running,
    /// The branch is not deployed.
    Absent,
    /// The host has no template for branches.
    NoTemplate,
    /// The image could not be pulled; what ran before still runs.
    PullFailed,
    /// The branch did not start.
    StartFailed,
    /// systemd could not do it for another reason.
    Failed,
    /// Too many deployments are running, or `buildbtw-systemctl` could not be reached.
    Overloaded,
    /// The line was not an order.
    Refused,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Done,
        Self::Accepted,
        Self::Running,
        Self::Absent,
        Self::NoTemplate,
        Self::PullFailed,
        Self::StartFailed,
        Self::Failed,
        Self::Overloaded,
        Self::Refused,
    ];

    /// Its word in the protocol.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Accepted => "accepted",
            Self::Running => "running",
            Self::Absent => "absent",
            Self::NoTemplate => "no-template",
            Self::PullFailed => "pull-failed",
            Self::StartFailed => "start-failed",
            Self::Failed => "failed",
            Self::Overloaded => "overloaded",
            Self::Refused => "refused",
        }
    }

    /// The `MESSAGE_ID=` of a record about it, where an operator can do something about it;
    /// `systemd/buildbtw-hook.catalog` says what.
    #[must_use]
    pub fn message_id(self) -> Option<&'static str> {
        match self {
            Self::NoTemplate => Some("3f94ff4454e64ddcadb4b04da70c8b1c"),
            Self::PullFailed => Some("f3f70ffc2bb74611b102d323dc4d46fc"),
            Self::StartFailed => Some("05a5b59d1eaf4cdf8151b03d583fc1d0"),
            Self::Refused => Some("5d452f24f32a4b03b90249c61b46a90e"),
            _ => None,
        }
    }
}

/// What came of an order, and what a caller is to be told about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What kind of outcome it is.
    pub kind: Kind,
    /// A line or a few, without the last newline. A line that a unit wrote begins with two spaces.
    pub text: String,
}

impl Outcome {
    /// An outcome with this text.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.kind.as_str(), self.text)
    }
}

/// Reads what [`Outcome`]'s `Display` writes; a word that is not known is a failure.
impl FromStr for Outcome {
    type Err = NoOutcome;

    fn from_str(message: &str) -> Result<Self, NoOutcome> {
        let (word, text) = message.split_once('\n').ok_or(NoOutcome)?;
        let kind = Kind::ALL.into_iter().find(|known| known.as_str() == word);
        Ok(Self::new(kind.unwrap_or(Kind::Failed), text.trim_end()))
    }
}

/// A message that ends before an outcome is whole.
#[derive(Debug, PartialEq, Eq)]
pub struct NoOutcome;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_as_it_was_written() {
        let longest = "x".repeat(63);
        for verb in Verb::ALL {
            for branch in ["main", "0", longest.as_str()] {
                for respond_async in [false, true] {
                    let branch = Branch::new(branch).unwrap();
                    let order = Order { verb, branch, respond_async };
                    assert!(order.to_string().len() <= MAX_ORDER);
                    assert_eq!(order.to_string().parse(), Ok(order));
                }
            }
        }
    }

    #[test]
    fn any_other_line_is_refused() {
        for line in [
            "",
            "\n",
            "deploy",
            "deploy\n",
            "deploy main",
            "deploy  main\n",
            "deploy main \n",
            " deploy main\n",
            "deploy main\r\n",
            "deploy main\n\n",
            "deploy main\ndeploy main\n",
            "Deploy main\n",
            "restart main\n",
            "start main\n",
            "deploy Main\n",
            "deploy -main\n",
            "deploy main.service\n",
            "deploy main@x\n",
            "deploy main x\n",
            "deploy main now\n",
            "deploy main async async\n",
            "deploy\tmain\n",
            "deploy main\0\n",
            "deploy --job-mode=flush\n",
            "--now deploy main\n",
        ] {
            assert_eq!(line.parse::<Order>(), Err(NotAnOrder), "{line:?}");
        }
    }

    #[test]
    fn an_outcome_is_read_as_it_was_written_and_an_unknown_one_is_a_failure() {
        for kind in Kind::ALL {
            let outcome = Outcome::new(kind, "two\n  lines");
            assert_eq!(outcome.to_string().parse(), Ok(outcome));
        }
        assert_eq!("new-word\nx\n".parse(), Ok(Outcome::new(Kind::Failed, "x")));
        assert_eq!("".parse::<Outcome>(), Err(NoOutcome));
        assert_eq!("done".parse::<Outcome>(), Err(NoOutcome));
    }
}
