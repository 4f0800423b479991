//! The tokens that let a caller in.
//!
//! They are the lines of the systemd credential `token` (systemd.exec(5), `LoadCredential=`), read
//! anew at every call: `TOKEN`, or `TOKEN NAME`. Any other line is ignored.

use std::fs;
use std::path::Path;

use constant_time_eq::constant_time_eq;

use crate::refusal::Refusal;

/// A token of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    secret: &'a str,
    /// Who holds it, where the host says so.
    pub name: Option<&'a str>,
}

/// The tokens in the text of the credential.
pub fn tokens(text: &str) -> impl Iterator<Item = Token<'_>> {
    text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (secret, name) = (words.next()?, words.next());
        let is_token = is_token68(secret) && name.is_none_or(is_name) && words.next().is_none();
        is_token.then_some(Token { secret, name })
    })
}

/// The text of the credential in that directory, with at least one token in it.
///
/// # Errors
///
/// Fails where there is none, and then nobody is let in.
pub fn load(credentials: Option<&Path>) -> Result<String, Refusal> {
    let unusable = Refusal::NoUsableToken;
    let file = credentials
        .ok_or("CREDENTIALS_DIRECTORY is not set: the service needs LoadCredential=token:FILE")
        .map_err(|why| unusable(why.to_owned()))?
        .join("token");
    let text = fs::read(&file)
        .map_err(|error| unusable(format!("cannot read {}: {error}", file.display())))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    if tokens(&text).next().is_none() {
        return Err(unusable("the token file is missing, or no line of it is a token".to_owned()));
    }
    Ok(text)
}

/// Admits a caller whose `Authorization` holds one of these tokens, and says which.
///
/// # Errors
///
/// Fails for a wrong token and for none.
pub fn admit<'a>(
    tokens: impl Iterator<Item = Token<'a>>,
    authorization: Option<&str>,
) -> Result<Token<'a>, Refusal> {
    let given = authorization.and_then(bearer).unwrap_or_default();
    find(tokens, given).ok_or(match authorization.map(str::trim_end) {
        None | Some("") => Refusal::NoToken,
        Some(scheme) if scheme.eq_ignore_ascii_case("Bearer") => Refusal::NoToken,
        Some(_) => Refusal::WrongToken,
    })
}

/// The token that was given. Compares every token in full, so timing reveals nothing.
fn find<'a>(tokens: impl Iterator<Item = Token<'a>>, given: &str) -> Option<Token<'a>> {
    tokens.fold(None, |found, token| {
        let same = constant_time_eq(token.secret.as_bytes(), given.as_bytes());
        if same { Some(token) } else { found }
    })
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

/// What a record can hold: 1 to 64 letters, digits, and `-._@`.
fn is_name(text: &str) -> bool {
    text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._@".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_token_and_perhaps_a_name_count() {
        let (name, longer) = ("x".repeat(64), "x".repeat(65));
        for (file, wanted) in [
            (&*format!("one {name}\none {longer}"), vec![("one", Some(&*name))]),
            ("", vec![]),
            ("=\n==\na=b\n\"quoted\"\n\u{fffd}\n", vec![]),
            ("three whole words\n# comment\nschlüssel\n===\n", vec![]),
            (
                "one\n\ntwo==\r\n  Th-3._~+/\t\n",
                vec![("one", None), ("two==", None), ("Th-3._~+/", None)],
            ),
            (
                "one ci\ntwo \t a@b.c-1_2 \r\n",
                vec![("one", Some("ci")), ("two", Some("a@b.c-1_2"))],
            ),
            ("one two three\none sch\u{f6}n\none a=b\n", vec![]),
        ] {
            let found: Vec<_> = tokens(file).map(|token| (token.secret, token.name)).collect();
            assert_eq!(found, wanted, "{file:?}");
        }
    }

    #[test]
    fn only_a_bearer_of_a_whole_token_is_let_in() {
        for (authorization, name) in [
            ("Bearer One==", Some("first")),
            ("bearer  two", Some("second")),
            ("", None),
            ("Bearer", None),
            ("Bearer ", None),
            ("One==", None),
            ("Bearer\tOne==", None),
            ("Basic One==", None),
            ("Bearer One=", None),
            ("Bearer One==x", None),
            ("Bearer one==", None),
            ("Bearer first", None),
        ] {
            let known = tokens("One== first\ntwo second\n");
            let none = ["", "Bearer", "Bearer "].contains(&authorization);
            let refusal = if none { Refusal::NoToken } else { Refusal::WrongToken };
            let wanted = name.ok_or(refusal);
            let found = admit(known, Some(authorization)).map(|token| token.name.unwrap_or("-"));
            assert_eq!(found, wanted, "{authorization:?}");
        }
        assert_eq!(admit(tokens("one"), None), Err(Refusal::NoToken));
    }
}
