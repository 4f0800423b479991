//! The tokens that let a caller in.
//!
//! They are the lines of the systemd credential `token` (systemd.exec(5), `LoadCredential=`),
//! read anew at every call. A token exists here only if a client could send it.

use std::path::PathBuf;
use std::{env, fs};

use constant_time_eq::constant_time_eq;

use crate::answer::Answer;

/// Lets a caller in whose `Authorization` holds one of the host's tokens.
///
/// # Errors
///
/// 401 for a wrong token or none. 500 where the host has no usable token; why goes to the
/// journal, not to the caller.
pub fn admit(authorization: Option<&str>) -> Result<(), Answer> {
    let credential = load().map_err(|reason| Answer::fault(format!("no one gets in: {reason}")))?;
    let given = authorization.and_then(bearer).unwrap_or_default();
    if is_among(tokens(&credential), given) {
        Ok(())
    } else {
        Err(Answer::new(401, "send Authorization: Bearer TOKEN, with a token of this host")
            .with("WWW-Authenticate", "Bearer"))
    }
}

/// Whether the token that was given is one of these. Every one is compared, and to its end, so
/// that the time does not tell which came close, or how close; tests/timing.rs measures it.
pub fn is_among<'a>(tokens: impl Iterator<Item = &'a str>, given: &str) -> bool {
    tokens.fold(false, |among, token| among | constant_time_eq(token.as_bytes(), given.as_bytes()))
}

/// The credential's text, with at least one token in it.
fn load() -> Result<String, String> {
    let directory = env::var_os("CREDENTIALS_DIRECTORY")
        .ok_or("CREDENTIALS_DIRECTORY is not set: the service needs LoadCredential=token:FILE")?;
    let file = PathBuf::from(directory).join("token");
    let text =
        fs::read(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    if tokens(&text).next().is_none() {
        return Err("the token file is missing, or no line of it is a token".to_owned());
    }
    Ok(text)
}

fn tokens(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| is_token68(line))
}

/// The token of a `Bearer` header (RFC 6750 section 2.1; the scheme's case does not matter,
/// RFC 9110 section 11.1).
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim_start_matches(' '))
}

/// RFC 9110 section 11.2, which RFC 6750 calls b64token.
fn is_token68(text: &str) -> bool {
    let text = text.trim_end_matches('=');
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_that_a_client_could_send_is_a_token() {
        for (file, wanted) in [
            ("", vec![]),
            ("\n \n\r\n", vec![]),
            ("(none)", vec![]),
            ("two words\n# comment\nschlüssel\n===\n", vec![]),
            ("one", vec!["one"]),
            ("one\n\ntwo==\r\n  Th-3._~+/\t\n", vec!["one", "two==", "Th-3._~+/"]),
        ] {
            assert_eq!(tokens(file).collect::<Vec<_>>(), wanted, "{file:?}");
        }
    }

    #[test]
    fn only_bearer_credentials_hold_a_token() {
        for (authorization, token) in [
            ("Bearer one", Some("one")),
            ("bearer  one", Some("one")),
            ("Bearer \tone", Some("\tone")),
            ("Bearer", None),
            ("Bearerone", None),
            ("Basic one", None),
            ("", None),
        ] {
            assert_eq!(bearer(authorization), token, "{authorization:?}");
        }
    }
}
