//! The branch: a slug, and one that this host allows.

use std::env;
use std::fmt;

use crate::answer::{Answer, quote};

/// Longest slug, in bytes: what a DNS label holds (RFC 1035 section 2.3.4).
const MAX_LEN: usize = 63;

/// A branch name as GitLab's `CI_COMMIT_REF_SLUG` has it: an instance name, a container name,
/// an image tag and a DNS label at once.
#[derive(Debug, PartialEq, Eq)]
pub struct Branch(String);

impl Branch {
    /// The branch of this name, if the host's `BUILDBTW_BRANCHES` allows it. That is a list
    /// with spaces between; where it is not set every slug is allowed.
    ///
    /// # Errors
    ///
    /// 400 for what is no slug, 403 for what is not allowed.
    pub fn allowed(name: &str) -> Result<Self, Answer> {
        let branch = Self::new(name)?;
        match env::var_os("BUILDBTW_BRANCHES") {
            Some(list) => branch.among(&list.to_string_lossy()),
            None => Ok(branch),
        }
    }

    /// The branch of this name, whether or not the host allows it.
    ///
    /// # Errors
    ///
    /// 400 for what is no slug.
    pub fn new(name: &str) -> Result<Self, Answer> {
        let slug = slug(name);
        if name == slug && !slug.is_empty() {
            return Ok(Self(slug));
        }
        let hint = if slug.is_empty() {
            String::new()
        } else {
            format!("; GitLab's slug of it is {slug}")
        };
        Err(Answer::new(
            400,
            format!(
                "branch {} is no slug: send CI_COMMIT_REF_SLUG, \
                 1 to {MAX_LEN} of 0-9 a-z -, no - at either end{hint}",
                quote(name)
            ),
        ))
    }

    fn among(self, list: &str) -> Result<Self, Answer> {
        if list.split_whitespace().any(|allowed| allowed == self.0) {
            return Ok(self);
        }
        Err(Answer::new(
            403,
            format!("branch {self} is not allowed on this host, which takes: {list}"),
        ))
    }

    /// The unit that runs the branch.
    pub fn unit(&self) -> String {
        format!("buildbtw@{self}.service")
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The slug that GitLab makes of a ref name: lower case, 63 characters, all but `0-9 a-z` a
/// `-`, and none at either end (docs.gitlab.com, predefined CI/CD variables).
fn slug(name: &str) -> String {
    let dashed: String = name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .take(MAX_LEN)
        .collect();
    dashed.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_branches() {
        let longest = "x".repeat(MAX_LEN);
        for name in ["main", "a", "0", "feature-x", "1-2--3", longest.as_str()] {
            assert_eq!(Branch::new(name).unwrap().unit(), format!("buildbtw@{name}.service"));
        }
    }

    #[test]
    fn what_is_no_slug_is_refused_with_the_slug_that_gitlab_makes_of_it() {
        let long = "x".repeat(MAX_LEN + 1);
        for (name, hint) in [
            ("", None),
            ("-", None),
            ("../..", None),
            ("\u{0}\n", None),
            ("-main", Some("main")),
            ("main-", Some("main")),
            ("Feature/X", Some("feature-x")),
            ("feature_x", Some("feature-x")),
            ("a@b.service", Some("a-b-service")),
            ("Ärger", Some("rger")),
            // Ruby's downcase, which GitLab uses, makes a plain k of the Kelvin sign too.
            ("\u{212a}elvin", Some("kelvin")),
            (long.as_str(), Some(&long[1..])),
        ] {
            let refusal = Branch::new(name).unwrap_err();
            assert_eq!(refusal.status(), 400, "{name:?}");
            let suggested = refusal.reason().split_once("slug of it is ").map(|(_, slug)| slug);
            assert_eq!(suggested, hint, "{name:?}");
        }
    }

    #[test]
    fn only_listed_branches_are_allowed() {
        for (list, allowed) in [
            ("main", true),
            (" next\tmain\n", true),
            ("", false),
            ("mainline", false),
            ("ma in", false),
            ("main,next", false),
        ] {
            let branch = Branch::new("main").unwrap().among(list);
            assert_eq!(branch.map_err(|refusal| refusal.status()).err(), (!allowed).then_some(403));
        }
    }
}
