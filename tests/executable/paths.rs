//! Which paths and methods there are.

use super::harness::*;

/// All that is no path and no method: the unit tests of `request.rs`.
#[test]
fn there_are_three_hooks_and_two_methods() {
    let host = Host::new();
    for line in ["GET /", "PUT /hooks?branch=x", "OPTIONS *", "POST //hooks/deploy-branch"] {
        host.answers(message(&format!("{line} HTTP/1.1"), &[], ""), 404, "nothing at ", NOT_RUN);
    }
    host.answers(message("HEAD / HTTP/1.1", &[], ""), 404, "", NOT_RUN);
    for target in ["/hooks/", "/hooks/x/../deploy-branch", "/hooks/deploy%2Dbranch"] {
        let request = get(&format!("{target}?branch=x"));
        let words = format!("nothing at {target:?}: there are {DEPLOY}, {UNDEPLOY} and {STATUS}\n");
        host.answers(request, 404, &words, NOT_RUN);
    }
    for (method, words) in
        [("PUT", "the method \"PUT\" is not allowed: send GET or POST\n"), ("HEAD", "")]
    {
        let request = authorized(&format!("{method} {UNDEPLOY}?branch=x HTTP/1.1"), &[], "");
        host.answers(&request, 405, words, NOT_RUN);
        assert_eq!(host.call(Tcp, request).answer.header("allow"), Some("GET, POST"));
    }
}
