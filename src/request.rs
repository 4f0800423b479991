//! The request: what is asked for, for which branch, and by whom.

use std::net::IpAddr;

use buildbtw_hook::branch::quote;
use buildbtw_hook::order::Verb;

use crate::refusal::Refusal;

const FORM: &str = "application/x-www-form-urlencoded";

/// The name of a hook in its path, `/hooks/NAME`.
pub fn hook_name(verb: Verb) -> &'static str {
    match verb {
        Verb::Deploy => "deploy-branch",
        Verb::Undeploy => "undeploy-branch",
        Verb::Status => "branch-status",
    }
}

/// A request that arrived whole.
pub struct Request {
    /// The method, as it was sent.
    pub method: String,
    /// The request target, as it was sent.
    pub target: String,
    /// The header fields: names and values.
    pub fields: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The client's address, where a proxy gives it.
    pub fn real_ip(&self) -> Option<IpAddr> {
        self.values("X-Real-IP").find_map(|value| value.parse().ok())
    }

    /// Refuses what is not under `/hooks/`, before it looks at the token.
    pub fn require_hooks_path(&self) -> Result<(), Refusal> {
        if self.path().starts_with("/hooks/") { Ok(()) } else { Err(self.not_found()) }
    }

    /// The credentials, if any.
    ///
    /// # Errors
    ///
    /// Fails where there is more than one `Authorization`.
    pub fn authorization(&self) -> Result<Option<&str>, Refusal> {
        let mut all = self.values("Authorization");
        match (all.next(), all.next()) {
            (first, None) => Ok(first),
            _ => Err(Refusal::TwoCredentials),
        }
    }

    /// The verb of the hook that the path names.
    ///
    /// # Errors
    ///
    /// Fails for another path and for another method.
    pub fn verb(&self) -> Result<Verb, Refusal> {
        let name = self.path().strip_prefix("/hooks/");
        let verb = Verb::ALL
            .into_iter()
            .find(|verb| name == Some(hook_name(*verb)))
            .ok_or_else(|| self.not_found())?;
        match self.method.as_str() {
            "GET" | "POST" => Ok(verb),
            other => Err(Refusal::NoSuchMethod(quote(other))),
        }
    }

    /// The one value of `branch`, or of `image-tag`, which is the same, in the query or in the
    /// form of a POST.
    ///
    /// # Errors
    ///
    /// Fails where it is missing or there are several.
    pub fn branch(&self) -> Result<String, Refusal> {
        let form: &[u8] = if self.method == "POST" && self.has_form() { &self.body } else { &[] };
        let mut branches = [self.path_and_query().1.as_bytes(), form]
            .into_iter()
            .filter_map(|part| serde_urlencoded::from_bytes::<Vec<(String, String)>>(part).ok())
            .flatten()
            .filter(|(name, _)| name == "branch" || name == "image-tag")
            .map(|(_, value)| value);
        match (branches.next(), branches.next()) {
            (Some(branch), None) => Ok(branch),
            (None, _) => Err(Refusal::NoBranch),
            _ => Err(Refusal::TwoBranches),
        }
    }

    /// Whether the caller would not wait for the job (RFC 7240 section 4.1).
    pub fn prefers_async(&self) -> bool {
        self.values("Prefer")
            .flat_map(|value| value.split(','))
            .filter_map(|preference| preference.split(';').next())
            .any(|preference| preference.trim().eq_ignore_ascii_case("respond-async"))
    }

    fn path(&self) -> &str {
        self.path_and_query().0
    }

    /// The path and the query; of an absolute-form target too (RFC 9112 section 3.2.2).
    fn path_and_query(&self) -> (&str, &str) {
        let target = absolute_path(&self.target).unwrap_or(&self.target);
        target.split_once('?').unwrap_or((target, ""))
    }

    fn values(&self, name: &'static str) -> impl Iterator<Item = &str> {
        let named = self.fields.iter().filter(move |each| each.0.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }

    fn has_form(&self) -> bool {
        self.values("Content-Type")
            .filter_map(|value| value.split(';').next())
            .any(|media_type| media_type.trim().eq_ignore_ascii_case(FORM))
    }

    fn not_found(&self) -> Refusal {
        Refusal::NoSuchPath(quote(self.path()))
    }
}

/// What follows the authority of `http://HOST/…`; an authority may not be empty (RFC 9110 section
/// 4.2.1).
fn absolute_path(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return None;
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    if end > 0 { Some(&rest[end..]) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, target: &str, fields: &[(&str, &str)], body: &str) -> Request {
        Request {
            method: method.to_owned(),
            target: target.to_owned(),
            fields: fields.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            body: body.as_bytes().to_owned(),
        }
    }

    #[test]
    fn a_branch_is_in_the_query_or_in_the_form_of_a_post() {
        let form = ("Content-Type", "Application/x-www-form-urlencoded; charset=utf-8");
        let loud = ("CONTENT-TYPE", "APPLICATION/X-WWW-FORM-URLENCODED ; charset=utf-8");
        let json = ("Content-Type", "application/json");
        let longer = ("Content-Type", "application/x-www-form-urlencodedx");
        let multipart = ("Content-Type", "multipart/form-data; boundary=b");
        let accept = ("Accept", FORM);
        for (method, target, fields, body, wanted) in [
            ("GET", "/?branch=a", vec![], "", Ok("a")),
            ("GET", "/?image-tag=a&x=y", vec![], "", Ok("a")),
            ("GET", "/?a=1&branch=x&b=%ff&c", vec![], "", Ok("x")),
            ("GET", "/?branch=%78", vec![], "", Ok("x")),
            ("GET", "/?%62ranch=x", vec![], "", Ok("x")),
            ("GET", "/?&&branch=x&", vec![], "", Ok("x")),
            ("GET", "/?branch=", vec![], "", Ok("")),
            ("GET", "/?branch=a/b%2Fc%2fd+%20%00%ff", vec![], "", Ok("a/b/c/d  \0\u{fffd}")),
            ("GET", "/?branch=x", vec![form], "branch=y", Ok("x")),
            ("POST", "/?a=b", vec![form], "a=1&image-tag=x&b=%ff&c", Ok("x")),
            ("POST", "/", vec![loud], "branch=x", Ok("x")),
            ("POST", "/", vec![form], "branch=a%2Fb", Ok("a/b")),
            ("POST", "/?branch=a", vec![json], "{}", Ok("a")),
            ("GET", "/", vec![form], "branch=a", Err(&Refusal::NoBranch)),
            ("POST", "/", vec![], "branch=a", Err(&Refusal::NoBranch)),
            ("POST", "/", vec![form], "", Err(&Refusal::NoBranch)),
            ("POST", "/", vec![form], "x", Err(&Refusal::NoBranch)),
            ("POST", "/", vec![longer], "branch=x", Err(&Refusal::NoBranch)),
            ("POST", "/", vec![multipart], "branch=x", Err(&Refusal::NoBranch)),
            ("POST", "/", vec![accept], "branch=x", Err(&Refusal::NoBranch)),
            ("GET", "/?", vec![], "", Err(&Refusal::NoBranch)),
            ("GET", "/?x", vec![], "", Err(&Refusal::NoBranch)),
            ("GET", "/?branc=x&Branch=x&branch[]=x", vec![], "", Err(&Refusal::NoBranch)),
            ("GET", "/?&&a=branch=x", vec![], "", Err(&Refusal::NoBranch)),
            ("GET", "/?branch=x&branch=x", vec![], "", Err(&Refusal::TwoBranches)),
            ("GET", "/?branch=x&branch=", vec![], "", Err(&Refusal::TwoBranches)),
            ("GET", "/?image-tag=x&image-tag=y", vec![], "", Err(&Refusal::TwoBranches)),
            ("POST", "/?branch=x", vec![form], "image-tag=x", Err(&Refusal::TwoBranches)),
            ("POST", "/", vec![form], "branch=x&branch=y", Err(&Refusal::TwoBranches)),
            ("POST", "/?branch=a", vec![form], "branch=a", Err(&Refusal::TwoBranches)),
            ("GET", "/?branch=a&image-tag=a", vec![], "", Err(&Refusal::TwoBranches)),
            ("GET", "/?branch=a?branch=b", vec![], "", Ok("a?branch=b")),
            ("GET", "/?Branch=a", vec![], "", Err(&Refusal::NoBranch)),
            ("GET", "/", vec![], "", Err(&Refusal::NoBranch)),
        ] {
            let branch = request(method, target, &fields, body).branch();
            assert_eq!(branch.as_deref(), wanted, "{target} {body}");
        }
    }

    #[test]
    fn an_absolute_form_target_is_its_path() {
        for (target, wanted) in [
            ("http://h/hooks/x?a=b", ("/hooks/x", "a=b")),
            ("HTTPS://h:1/hooks/x", ("/hooks/x", "")),
            ("http://h", ("", "")),
            ("http://h?a=/", ("", "a=/")),
            ("http:///hooks/x", ("http:///hooks/x", "")),
            ("ftp://h/hooks/x", ("ftp://h/hooks/x", "")),
            ("/hooks/x?a=http://h/", ("/hooks/x", "a=http://h/")),
            ("h/hooks/x", ("h/hooks/x", "")),
        ] {
            assert_eq!(request("GET", target, &[], "").path_and_query(), wanted, "{target}");
        }
    }

    #[test]
    fn respond_async_is_one_preference_among_others() {
        for (fields, wanted) in [
            (&[("Prefer", "respond-async")][..], true),
            (&[("prefer", "RESPOND-Async")], true),
            (&[("Prefer", "wait=10, Respond-Async ;x=y")], true),
            (&[("Prefer", "respond-async ; a=b,wait=10")], true),
            (&[("Prefer", "wait=10"), ("Prefer", "respond-async")], true),
            (&[("Prefer", "wait=10")], false),
            (&[("Prefer", "respond-asynchronously")], false),
            (&[("Prefer", "respond async")], false),
            (&[("Prefer", "wait=respond-async")], false),
            (&[("Prefer", "a=respond-async; respond-async")], false),
            (&[("Prefer", "")], false),
            (&[("X-Prefer", "respond-async")], false),
        ] {
            let request = request("GET", "/", fields, "");
            assert_eq!(request.prefers_async(), wanted, "{fields:?}");
        }
    }

    #[test]
    fn there_are_three_hooks_and_two_methods() {
        for target in [
            "/",
            "/hooks",
            "/hooks?branch=x",
            "/favicon.ico",
            "//hooks/deploy-branch",
            "*",
            "localhost:5000",
            "/%2e%2e/hooks/deploy-branch",
            "/Hooks/x",
            "/%68ooks/deploy-branch",
            "/x/hooks/deploy-branch",
            "/\"'\\",
        ] {
            let refusal = request("GET", target, &[], "").require_hooks_path().unwrap_err();
            assert!(matches!(refusal, Refusal::NoSuchPath(_)), "{target}");
        }
        for path in [
            "/hooks/",
            "/hooks/unknown",
            "/hooks/deploy-branch/",
            "/hooks//deploy-branch",
            "/hooks/./deploy-branch",
            "/hooks/x/../deploy-branch",
            "/hooks/deploy%2Dbranch",
            "/hooks/deploy-branch;",
            "/hooks/Deploy-Branch",
            "/hooks/deploy-branch%3Fbranch=x",
            "/hooks/redeploy-branch",
            "/hooks/deploy",
        ] {
            let request = request("GET", &format!("{path}?branch=x"), &[], "");
            assert_eq!(request.require_hooks_path(), Ok(()));
            assert_eq!(request.verb(), Err(Refusal::NoSuchPath(quote(path))));
        }
        for verb in Verb::ALL {
            let verb_of = |method: &str| {
                request(method, &format!("/hooks/{}", hook_name(verb)), &[], "").verb()
            };
            assert_eq!([verb_of("GET"), verb_of("POST")], [Ok(verb), Ok(verb)]);
            for method in
                ["PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "Post"]
            {
                assert_eq!(verb_of(method), Err(Refusal::NoSuchMethod(quote(method))));
            }
        }
    }

    #[test]
    fn a_proxys_client_is_an_ip_address() {
        for (field, wanted) in [
            (("X-Real-IP", "198.51.100.1"), Some("198.51.100.1")),
            (("x-real-ip", "2001:0DB8:0::1"), Some("2001:db8::1")),
            (("X-Real-IP", ""), None),
            (("X-Real-IP", "unknown"), None),
            (("X-Real-IP", "198.51.100.1:80"), None),
            (("X-Real-IP", "198.51.100.1, 198.51.100.2"), None),
            (("X-Real-IP", "198.51.100.1 HTTP_STATUS=200"), None),
            (("X-Real-IP", "fe80::1%eth0"), None),
            (("X-Real-IP", "256.0.0.1"), None),
            (("X-Forwarded-For", "198.51.100.1"), None),
        ] {
            let ip = request("GET", "/", &[field], "").real_ip().map(|ip| ip.to_string());
            assert_eq!(ip.as_deref(), wanted, "{field:?}");
        }
    }
}
