//! Who is let in. What a token is, and which `Authorization` holds one: the unit tests of `token.rs`.

use super::harness::*;

#[test]
fn the_record_names_the_token() {
    let host = Host::new().file("credentials/token", format!("{OTHER} ci\n{TOKEN}\n"));
    let named = host.call(deploy_x().replace(TOKEN, OTHER)).ended;
    assert!(named.record.ends_with(" ms for local (ci)"), "{named:?}");
    let unnamed = host.call(deploy_x()).ended;
    assert!(unnamed.record.ends_with(" ms for local"), "{unnamed:?}");
}

#[test]
fn lets_no_one_else_in_and_tells_them_nothing() {
    let host = Host::new().set("BUILDBTW_BRANCHES", "main");
    let none =
        "no token was sent: send Authorization: Bearer TOKEN; in CI the variable may be unset\n";
    let wrong = "the token that was sent is not one of this host\n";
    let deploy = format!("GET {DEPLOY}?branch=main HTTP/1.1");
    for (field, words) in [("Accept: */*", none), ("Authorization: Bearer wrong", wrong)] {
        let first = host.exchange(message(&deploy, &[field], ""));
        assert_eq!(first.header("www-authenticate"), Some("Bearer"));
        // Not by a header either.
        for line in [
            &deploy,
            &format!("GET {DEPLOY}?branch=not-allowed HTTP/1.1"),
            &format!("GET {DEPLOY}?branch=No.Slug HTTP/1.1"),
            &format!("GET {LIST} HTTP/1.1"),
            &format!("PUT {DEPLOY}?branch=main HTTP/1.1"),
            "GET /hooks/unknown HTTP/1.1",
        ] {
            let outcome = host.call(message(line, &[field, "Prefer: respond-async"], ""));
            outcome.is(401, words, NOT_RUN, line);
            assert_eq!(outcome.answer, first, "{line}");
        }
        let head = host.exchange(message(&deploy.replace("GET", "HEAD"), &[field], ""));
        assert_eq!((head.status, head.headers), (401, first.headers));
    }
}

#[test]
fn lets_no_one_in_where_the_host_has_no_token() {
    let none = "the token file is missing, or no line of it is a token";
    let host = || Host::new().file("credentials/token", b"three whole words\n==\n\xff\n");
    let without = host();
    without.remove("credentials/token");
    for (host, reason) in [
        (host(), none),
        (without, "cannot read "),
        (host().unset("CREDENTIALS_DIRECTORY"), "CREDENTIALS_DIRECTORY is not set"),
    ] {
        for request in [deploy_x(), deploy_x().replace(TOKEN, "=="), deploy_x().replace(TOKEN, "")]
        {
            let outcome = host.call(&request);
            outcome.is(500, FAULT, NOT_RUN, &request);
            assert_eq!(outcome.answer.text, FAULT);
            let record = format!(" ms for local: nobody is let in: {reason}");
            assert!(outcome.ended.record.contains(&record), "{outcome:?}");
        }
        host.call(message("GET / HTTP/1.1", &[], "")).is(404, "nothing at \"/\"", NOT_RUN, reason);
    }
}
