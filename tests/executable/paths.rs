//! Which paths and methods there are.

use super::harness::*;

#[test]
fn knows_two_paths_and_two_methods() {
    let host = Host::new();
    for target in [
        "/",
        "/hooks",
        "/hooks?branch=x",
        "/favicon.ico",
        "//hooks/deploy-branch",
        "*",
        "/Hooks/x",
        "/%68ooks/deploy-branch",
        "/x/hooks/deploy-branch",
        "/\"'\\",
    ] {
        for method in ["GET", "POST", "PUT", "OPTIONS"] {
            let request = message(&format!("{method} {target} HTTP/1.1"), &[], "");
            host.answers(request, 404, "nothing at ", NOT_RUN);
        }
    }
    for target in [
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
        let request = get(&format!("{target}?branch=x"));
        let words = format!("nothing at {target:?}: there are {DEPLOY}, {UNDEPLOY} and {STATUS}\n");
        host.answers(request, 404, &words, NOT_RUN);
    }
    for method in
        ["PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "Post", "BREW"]
    {
        for hook in [DEPLOY, UNDEPLOY] {
            let request = authorized(&format!("{method} {hook}?branch=x HTTP/1.1"), &[], "");
            let words = if method == "HEAD" { "" } else { "is not for hooks: send GET or POST\n" };
            host.answers(&request, 405, words, NOT_RUN);
            assert_eq!(host.call(Tcp, request).answer.header("allow"), Some("GET, POST"));
        }
    }
    let head = message("HEAD / HTTP/1.1", &[], "");
    host.answers(head, 404, "", NOT_RUN);
}
