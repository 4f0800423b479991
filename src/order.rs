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
/// Longest outcome, in bytes: a list of a thousand branches.
pub const MAX_OUTCOME: usize = 256 * 1024;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Start the branch, or restart it with a newer image.
    Deploy,
    /// Stop it.
    Undeploy,
    /// Stop it if its last deployment is older than the host allows.
    Expire,
    /// Say what state it is in.
    Status,
    /// Say which branches are deployed.
    List,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 5] =
        [Self::Deploy, Self::Undeploy, Self::Expire, Self::Status, Self::List];

    /// The verb in an order.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Undeploy => "undeploy",
            Self::Expire => "expire",
            Self::Status => "status",
            Self::List => "list",
        }
    }
}

/// One line: `list`, or `VERB SLUG`, with ` async` where the caller does not wait for a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Deploy the branch.
    Deploy {
        /// The branch.
        branch: Branch,
        /// Answer as soon as the order is accepted.
        respond_async: bool,
    },
    /// Undeploy the branch.
    Undeploy(Branch),
    /// Undeploy the branch if it has expired.
    Expire(Branch),
    /// Say what state the branch is in.
    Status(Branch),
    /// Say which branches are deployed.
    List,
}

impl Order {
    /// What is asked for.
    #[must_use]
    pub fn verb(&self) -> Verb {
        match self {
            Self::Deploy { .. } => Verb::Deploy,
            Self::Undeploy(_) => Verb::Undeploy,
            Self::Expire(_) => Verb::Expire,
            Self::Status(_) => Verb::Status,
            Self::List => Verb::List,
        }
    }

    /// For which branch, unless for all.
    #[must_use]
    pub fn branch(&self) -> Option<&Branch> {
        match self {
            Self::Deploy { branch, .. }
            | Self::Undeploy(branch)
            | Self::Expire(branch)
            | Self::Status(branch) => Some(branch),
            Self::List => None,
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb().as_str())?;
        if let Some(branch) = self.branch() {
            write!(f, " {branch}")?;
        }
        f.write_str(match self {
            Self::Deploy { respond_async: true, .. } => " async\n",
            _ => "\n",
        })
    }
}

/// Reads exactly what [`Order`]'s `Display` writes.
impl FromStr for Order {
    type Err = NotAnOrder;

    fn from_str(line: &str) -> Result<Self, NotAnOrder> {
        let words: Vec<_> = line.strip_suffix('\n').ok_or(NotAnOrder)?.split(' ').collect();
        let branch = |name| Branch::new(name).map_err(|_| NotAnOrder);
        Ok(match words[..] {
            ["deploy", name] => Self::Deploy { branch: branch(name)?, respond_async: false },
            ["deploy", name, "async"] => {
                Self::Deploy { branch: branch(name)?, respond_async: true }
            }
            ["undeploy", name] => Self::Undeploy(branch(name)?),
            ["expire", name] => Self::Expire(branch(name)?),
            ["status", name] => Self::Status(branch(name)?),
            ["list"] => Self::List,
            _ => return Err(NotAnOrder),
        })
    }
}

/// A line that is not an order.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAnOrder;

/// The kind of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The branch is deployed, or undeployed, or up, or asleep.
    Done,
    /// The order is accepted; a later status tells its outcome, and a failure is also in the journal.
    Accepted,
    /// An order or a job for the branch is running, or no outcome came in time.
    Running,
    /// The branch is not deployed.
    Absent,
    /// The host has no template for branches.
    NoTemplate,
    /// The image could not be pulled; what ran before, if anything, still runs.
    PullFailed,
    /// The branch did not start.
    StartFailed,
    /// An undeployment came in between, or somebody stopped the unit.
    Canceled,
    /// systemd could not do it for another reason.
    Failed,
    /// The order could not be given.
    Unreachable,
    /// The line was not an order.
    Refused,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Done,
        Self::Accepted,
        Self::Running,
        Self::Absent,
        Self::NoTemplate,
        Self::PullFailed,
        Self::StartFailed,
        Self::Canceled,
        Self::Failed,
        Self::Unreachable,
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
            Self::Canceled => "canceled",
            Self::Failed => "failed",
            Self::Unreachable => "unreachable",
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

/// What is wrong with the host.
impl From<String> for Outcome {
    fn from(fault: String) -> Self {
        Self::new(Kind::Failed, fault)
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

    fn orders(name: &str) -> [Order; 6] {
        let branch = || Branch::new(name).unwrap();
        [
            Order::Deploy { branch: branch(), respond_async: false },
            Order::Deploy { branch: branch(), respond_async: true },
            Order::Undeploy(branch()),
            Order::Expire(branch()),
            Order::Status(branch()),
            Order::List,
        ]
    }

    #[test]
    fn an_order_is_read_as_it_was_written() {
        for order in [orders("0"), orders(&"x".repeat(63))].concat() {
            assert!(order.to_string().len() <= MAX_ORDER);
            assert!(order.to_string().starts_with(order.verb().as_str()));
            assert_eq!(order.to_string().parse(), Ok(order));
        }
    }

    /// Any part of an order is replaced by any of these: what is read must be what `Display` writes.
    #[test]
    fn any_other_line_is_refused() {
        let parts = "| |\n|\r|\t|\0|-|@|.service|x|X| now| async| main|deploy|undeploy|list|status|\
                     restart|--job-mode=flush|\ndeploy main";
        for line in orders("main").map(|order| order.to_string()) {
            for from in 0..=line.len() {
                for to in from..=line.len() {
                    for part in parts.split('|') {
                        let other = format!("{}{part}{}", &line[..from], &line[to..]);
                        if let Ok(order) = other.parse::<Order>() {
                            assert_eq!(order.to_string(), other);
                        }
                    }
                }
            }
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
