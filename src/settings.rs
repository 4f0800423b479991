//! What the unit tells the process through its environment, read once.

use std::env;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use buildbtw_hook::branch::Branch;
use buildbtw_hook::order::{Kind, Outcome, Verb};

use crate::refusal::Refusal;

/// Where the root side listens.
const ORDERS: &str = "/run/buildbtw-systemctl.sock";
/// How long an outcome is waited for, in seconds, where `BUILDBTW_WAIT_SEC` does not say.
const WAIT_SEC: u32 = 1200;

/// The settings of a call.
pub struct Settings {
    /// `CREDENTIALS_DIRECTORY` of systemd.exec(5): where the token file is.
    pub credentials: Option<PathBuf>,
    /// `REMOTE_ADDR` of systemd.exec(5): the peer's IP address. For a Unix socket it is
    /// a name that the client chose, which is ignored.
    pub peer: Option<IpAddr>,
    /// `BUILDBTW_ORDERS`: the socket that orders go to.
    pub orders: PathBuf,
    /// `BUILDBTW_WAIT_SEC`: how long an outcome is waited for.
    pub wait: Duration,
    /// `BUILDBTW_BRANCHES`: the branches that the host allows, space-separated.
    branches: Option<String>,
}

impl Settings {
    /// # Errors
    ///
    /// Fails where a setting is malformed.
    pub fn from_env() -> Result<Self, Refusal> {
        let wait = match env::var_os("BUILDBTW_WAIT_SEC") {
            None => WAIT_SEC,
            Some(text) => match text.to_str().map(str::parse) {
                Some(Ok(seconds)) if seconds > 0 => seconds,
                _ => {
                    let text = text.display();
                    let why = format!("BUILDBTW_WAIT_SEC={text} is not a number of seconds");
                    return Err(Refusal::Fault(why));
                }
            },
        };
        Ok(Self {
            credentials: env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            peer: env::var("REMOTE_ADDR").ok().and_then(|address| address.parse().ok()),
            orders: env::var_os("BUILDBTW_ORDERS").map_or_else(|| ORDERS.into(), PathBuf::from),
            wait: Duration::from_secs(wait.into()),
            branches: env::var_os("BUILDBTW_BRANCHES")
                .map(|list| list.to_string_lossy().into_owned()),
        })
    }

    /// The branch of this name, if it is a slug and the host allows it. Where the host has no list
    /// it allows every slug.
    ///
    /// # Errors
    ///
    /// Fails otherwise.
    pub fn allowed_branch(&self, name: &str) -> Result<Branch, Refusal> {
        let branch = Branch::new(name).map_err(Refusal::NotASlug)?;
        match &self.branches {
            Some(list) if !self.allows(name) => {
                Err(Refusal::NotAllowed(branch.to_string(), list.clone()))
            }
            _ => Ok(branch),
        }
    }

    fn allows(&self, name: &str) -> bool {
        let allowed = |list: &String| list.split_whitespace().any(|allowed| allowed == name);
        self.branches.as_ref().is_none_or(allowed)
    }

    /// The outcome, in a list of branches without those that the host does not allow.
    pub fn only_allowed(&self, verb: Verb, mut outcome: Outcome) -> Outcome {
        if verb == Verb::List && outcome.kind == Kind::Done {
            let lines = outcome.text.lines();
            let allowed =
                lines.filter(|line| line.split(' ').next().is_some_and(|b| self.allows(b)));
            outcome.text = allowed.collect::<Vec<_>>().join("\n");
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_branches_are_allowed() {
        for (list, allowed) in [
            (Some("main"), true),
            (Some(" next\tmain\n"), true),
            (Some(""), false),
            (Some("a-main main-b"), false),
            (Some("main,next"), false),
            (None, true),
        ] {
            let settings = Settings {
                credentials: None,
                peer: None,
                orders: ORDERS.into(),
                wait: Duration::ZERO,
                branches: list.map(str::to_owned),
            };
            assert_eq!(settings.allowed_branch("main").is_ok(), allowed, "{list:?}");
        }
    }
}
