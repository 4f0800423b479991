//! The request: which hook, for which branch, and who asks.

use std::net::IpAddr;

use tiny_http::Method;

use crate::answer::{Answer, quote};

const FORM: &str = "application/x-www-form-urlencoded";

/// What a caller can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Put the branch up, or pull its image anew and restart it.
    Deploy,
    /// Take the branch down.
    Undeploy,
}

impl Hook {
    /// The hook's name in its path, `/hooks/NAME`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deploy => "deploy-branch",
            Self::Undeploy => "undeploy-branch",
        }
    }
}

/// A request that arrived whole.
pub struct Request(tiny_http::Request);

impl Request {
    /// Takes what `tiny_http` parsed.
    pub fn new(request: tiny_http::Request) -> Self {
        Self(request)
    }

    /// The client that a proxy speaks for, where it says so.
    pub fn real_ip(&self) -> Option<IpAddr> {
        self.headers("X-Real-IP").find_map(|value| value.parse().ok())
    }

    /// Refuses what is not under `/hooks/`, with 404 and without a look at the token.
    pub fn is_for_hooks(&self) -> Result<(), Answer> {
        if self.path().starts_with("/hooks/") { Ok(()) } else { Err(self.not_found()) }
    }

    /// The credentials, if any.
    ///
    /// # Errors
    ///
    /// 400 for more than one `Authorization`, which is not a list (RFC 9110 section 11.6.2).
    pub fn authorization(&self) -> Result<Option<&str>, Answer> {
        let mut all = self.headers("Authorization");
        match (all.next(), all.next()) {
            (first, None) => Ok(first),
            _ => Err(Answer::new(400, "send one Authorization header")),
        }
    }

    /// The hook that is called.
    ///
    /// # Errors
    ///
    /// 404 for another path, 405 for another method.
    pub fn hook(&self) -> Result<Hook, Answer> {
        let hook = [Hook::Deploy, Hook::Undeploy]
            .into_iter()
            .find(|hook| self.path().strip_prefix("/hooks/") == Some(hook.name()))
            .ok_or_else(|| self.not_found())?;
        match self.0.method() {
            Method::Get | Method::Post => Ok(hook),
            other => {
                let method = quote(other.as_str());
                Err(Answer::new(405, format!("{method} is not for hooks: send GET or POST"))
                    .with("Allow", "GET, POST"))
            }
        }
    }

    /// The one value of `branch`, or of `image-tag`, which is the same, in the query or in the
    /// form of a POST.
    ///
    /// # Errors
    ///
    /// 400 when it is missing or there are several.
    pub fn branch(&mut self) -> Result<String, Answer> {
        let mut form = Vec::new();
        if *self.0.method() == Method::Post && self.has_form() {
            // The body is here already, and its length is bounded by the connection.
            self.0.as_reader().read_to_end(&mut form).map_err(|error| {
                Answer::new(400, format!("the body could not be read: {error}"))
            })?;
        }
        let query = self.0.url().split_once('?').map_or("", |(_, query)| query);
        let mut branches = [query.as_bytes(), &form]
            .into_iter()
            .filter_map(|part| serde_urlencoded::from_bytes::<Vec<(String, String)>>(part).ok())
            .flatten()
            .filter(|(name, _)| name == "branch" || name == "image-tag")
            .map(|(_, value)| value);
        match (branches.next(), branches.next()) {
            (Some(branch), None) => Ok(branch),
            (None, _) => Err(Answer::new(
                400,
                format!(
                    "no branch: add ?branch=BRANCH to the URL, or POST branch=BRANCH as {FORM}"
                ),
            )),
            _ => Err(Answer::new(400, "more than one branch: send one")),
        }
    }

    /// Whether the caller would not wait for the job (RFC 7240 section 4.1).
    pub fn prefers_async(&self) -> bool {
        self.headers("Prefer")
            .flat_map(|value| value.split(','))
            .filter_map(|preference| preference.split(';').next())
            .any(|preference| preference.trim().eq_ignore_ascii_case("respond-async"))
    }

    fn path(&self) -> &str {
        let url = self.0.url();
        url.split_once('?').map_or(url, |(path, _)| path)
    }

    fn headers(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.0
            .headers()
            .iter()
            .filter(move |header| header.field.equiv(name))
            .map(|header| header.value.as_str())
    }

    fn has_form(&self) -> bool {
        self.headers("Content-Type")
            .filter_map(|value| value.split(';').next())
            .any(|media_type| media_type.trim().eq_ignore_ascii_case(FORM))
    }

    fn not_found(&self) -> Answer {
        Answer::new(
            404,
            format!(
                "nothing at {}: there are /hooks/deploy-branch and /hooks/undeploy-branch",
                quote(self.path())
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiny_http::{Header, TestRequest};

    fn request(method: Method, path: &str, headers: &[&str], body: &'static str) -> Request {
        let request = TestRequest::new().with_method(method).with_path(path).with_body(body);
        let headers = headers.iter().map(|header| header.parse::<Header>().unwrap());
        Request::new(headers.fold(request, TestRequest::with_header).into())
    }

    #[test]
    fn a_branch_is_in_the_query_or_in_the_form_of_a_post() {
        let form = "Content-Type: Application/x-www-form-urlencoded; charset=utf-8";
        for (method, path, headers, body, wanted) in [
            (Method::Get, "/?branch=a", vec![], "", Ok("a")),
            (Method::Get, "/?image-tag=a&x=y", vec![], "", Ok("a")),
            (Method::Post, "/", vec![form], "branch=a%2Fb", Ok("a/b")),
            (Method::Post, "/?branch=a", vec!["Content-Type: application/json"], "{}", Ok("a")),
            (Method::Get, "/", vec![form], "branch=a", Err(400)),
            (Method::Post, "/", vec![], "branch=a", Err(400)),
            (Method::Post, "/?branch=a", vec![form], "branch=a", Err(400)),
            (Method::Get, "/?branch=a&image-tag=a", vec![], "", Err(400)),
            (Method::Get, "/?branch=a?branch=b", vec![], "", Ok("a?branch=b")),
            (Method::Get, "/?Branch=a", vec![], "", Err(400)),
            (Method::Get, "/", vec![], "", Err(400)),
        ] {
            let branch = request(method, path, &headers, body).branch();
            assert_eq!(branch.as_deref().map_err(Answer::status), wanted, "{path} {body}");
        }
    }

    #[test]
    fn respond_async_is_one_preference_among_others() {
        for (prefer, wanted) in [
            ("respond-async", true),
            ("wait=10, Respond-Async ;x=y", true),
            ("respond-asynchronously", false),
            ("wait=respond-async", false),
        ] {
            let request = request(Method::Get, "/", &[&format!("Prefer: {prefer}")], "");
            assert_eq!(request.prefers_async(), wanted, "{prefer}");
        }
    }
}
