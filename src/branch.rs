//! The branch: a slug.

use std::fmt;

use crate::quote::quote;

/// Longest slug, in bytes: what a DNS label holds (RFC 1035 section 2.3.4).
const MAX_LEN: usize = 63;

/// A branch name as GitLab's `CI_COMMIT_REF_SLUG` has it: an instance name, a container name,
/// an image tag and a DNS label at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch(String);

impl Branch {
    /// The branch of this name.
    ///
    /// # Errors
    ///
    /// Fails where the name is not a slug.
    pub fn new(name: &str) -> Result<Self, NotASlug> {
        let slug = slug(name);
        if name == slug && !slug.is_empty() {
            Ok(Self(slug))
        } else {
            Err(NotASlug { name: name.to_owned(), slug })
        }
    }

    /// The slug itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The unit that runs the branch.
    #[must_use]
    pub fn unit(&self) -> String {
        format!("buildbtw@{self}.service")
    }

    /// The unit that pulls the branch's image, on hosts that have a template for it.
    #[must_use]
    pub fn pull_unit(&self) -> String {
        format!("buildbtw-pull@{self}.service")
    }

    /// The socket that the branch's visitors wait in, on hosts that have a template for it.
    #[must_use]
    pub fn socket_unit(&self) -> String {
        format!("buildbtw@{self}.socket")
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that is not a slug.
#[derive(Debug, PartialEq, Eq)]
pub struct NotASlug {
    name: String,
    /// What GitLab makes of it; may be empty.
    slug: String,
}

impl fmt::Display for NotASlug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "branch {} is not a slug: send CI_COMMIT_REF_SLUG, \
             1 to {MAX_LEN} of 0-9 a-z -, no - at either end",
            quote(&self.name)
        )?;
        if self.slug.is_empty() {
            return Ok(());
        }
        write!(f, "; GitLab's slug of it is {}", self.slug)
    }
}

impl std::error::Error for NotASlug {}

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
        for name in ["0", "a--b", longest.as_str()] {
            assert_eq!(Branch::new(name).unwrap().unit(), format!("buildbtw@{name}.service"));
        }
    }

    #[test]
    fn other_names_are_refused_with_the_slug_that_gitlab_makes_of_them() {
        let long = "x".repeat(MAX_LEN + 1);
        for (name, hint) in [
            ("", None),
            ("-", None),
            ("\u{1f980}", None),
            ("--main--", Some("main")),
            ("Feature/X", Some("feature-x")),
            ("x\r\nERROR: y", Some("x--error--y")),
            ("x\u{ff10}", Some("x")),
            ("f\u{fc}r", Some("f-r")),
            ("a@b.service", Some("a-b-service")),
            // Ruby's downcase, which GitLab uses, makes a plain k of the Kelvin sign too.
            ("\u{212a}elvin", Some("kelvin")),
            (long.as_str(), Some(&long[1..])),
            (&long.repeat(200), Some(&long[1..])),
            (&(long[2..].to_owned() + "-b"), Some(&long[2..])),
        ] {
            let refusal = Branch::new(name).unwrap_err().to_string();
            assert!(refusal.len() < 500 && refusal.lines().count() == 1, "{refusal}");
            assert!(refusal.contains("send CI_COMMIT_REF_SLUG, 1 to 63 of 0-9 a-z -"), "{refusal}");
            let suggested = refusal.split_once("slug of it is ").map(|(_, slug)| slug);
            assert_eq!(suggested, hint, "{name:?}");
        }
    }
}
