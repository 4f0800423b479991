//! Why a call is refused. `connection.rs`, `request.rs`, `token.rs`, `settings.rs` and `branch.rs`, which has
//! the words of its own, decide; `answer.rs` makes an HTTP status of it.

use std::fmt;

use buildbtw_hook::branch::NotASlug;

/// Why a call is refused.
#[derive(Debug, PartialEq)]
pub enum Refusal {
    /// The client's side of the connection ended, or broke, too soon.
    Incomplete(String),
    /// This part of the request is not valid HTTP/1.0 or HTTP/1.1.
    Malformed(String),
    /// The request did not arrive whole within this many seconds.
    Late(u64),
    /// The request has a `Transfer-Encoding`.
    TransferEncoding,
    /// The body is over this many bytes.
    LongBody(usize),
    /// The head is over this many bytes.
    LongHead(usize),
    /// There is more than one `Authorization`, which is not a list (RFC 9110 section 11.6.2).
    TwoCredentials,
    /// No token was sent.
    NoToken,
    /// The token is not one of this host.
    WrongToken,
    /// There is nothing at this path.
    NoSuchPath(String),
    /// This method is not GET or POST.
    NoSuchMethod(String),
    /// No branch is named.
    NoBranch,
    /// More than one branch is named.
    TwoBranches,
    /// The branch is not a slug.
    NotASlug(NotASlug),
    /// The host does not allow this branch: the branch, and the list of those that it allows.
    NotAllowed(String, String),
    /// The host has no usable token, and why.
    NoUsableToken(String),
    /// Something failed on this host, and what.
    Fault(String),
}

/// The text of the answer; that of `Fault` and `NoUsableToken` goes to the journal only.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incomplete(how) | Self::Fault(how) => f.write_str(how),
            Self::Malformed(what) => {
                write!(f, "malformed request: {what} is not valid HTTP/1.0 or HTTP/1.1")
            }
            Self::Late(seconds) => write!(f, "no whole request within {seconds} s"),
            Self::TransferEncoding => f.write_str("send a Content-Length and no Transfer-Encoding"),
            Self::LongBody(max) => write!(f, "the body is over {max} bytes"),
            Self::LongHead(max) => write!(f, "the head is over {max} bytes"),
            Self::TwoCredentials => f.write_str("send one Authorization header"),
            Self::NoToken => f.write_str(
                "no token was sent: send Authorization: Bearer TOKEN; in CI the variable may be unset",
            ),
            Self::WrongToken => f.write_str("the token that was sent is not one of this host"),
            Self::NoSuchPath(path) => write!(
                f,
                "nothing at {path}: there are /hooks/deploy-branch, /hooks/undeploy-branch, \
                 /hooks/expire-branch, /hooks/branch-status and /hooks/list-branches"
            ),
            Self::NoSuchMethod(method) => {
                write!(f, "the method {method} is not allowed: send GET or POST")
            }
            Self::NoBranch => f.write_str(
                "no branch: add ?branch=BRANCH to the URL, or POST branch=BRANCH as \
                 application/x-www-form-urlencoded",
            ),
            Self::TwoBranches => f.write_str("more than one branch: send one"),
            Self::NotASlug(not) => not.fmt(f),
            Self::NotAllowed(branch, allowed) => {
                write!(f, "branch {branch} is not allowed on this host, which takes: {allowed}")
            }
            Self::NoUsableToken(why) => write!(f, "nobody is let in: {why}"),
        }
    }
}
