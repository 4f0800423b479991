//! Who is let in.

use std::fs;

use super::harness::*;

#[test]
fn every_token_of_the_file_is_accepted() {
    for file in [
        TOKEN.to_owned(),
        format!(" \t{TOKEN} \t\r\n"),
        format!("not a token\n{TOKEN}\n"),
        format!("{OTHER}\n{TOKEN}\n"),
    ] {
        let host = Host::new().file("credentials/token", &file);
        host.answers(deploy_x(), 200, "is deployed", RESTART_X);
        let (status, words, calls) = if file.contains(OTHER) {
            (200, "is deployed", RESTART_X)
        } else {
            (401, "send Authorization", NOT_RUN)
        };
        host.answers(deploy_x().replace(TOKEN, OTHER), status, words, calls);
        for wrong in ["not a token", "not", ""] {
            host.answers(deploy_x().replace(TOKEN, wrong), 401, "", NOT_RUN);
        }
    }
    let host = Host::new();
    for authorization in [
        format!("authorization: bearer {TOKEN}"),
        format!("AUTHORIZATION:BEARER {TOKEN}"),
        format!("Authorization: Bearer  {TOKEN} "),
    ] {
        let line = format!("GET {DEPLOY}?branch=x HTTP/1.1");
        host.answers(message(&line, &[&authorization], ""), 200, "is deployed", RESTART_X);
    }
}

#[test]
fn lets_no_one_else_in_and_tells_them_nothing() {
    let host = Host::new()
        .file("credentials/token", format!("{TOKEN}\n{OTHER}\n"))
        .set("BUILDBTW_BRANCHES", "main");
    let short = &TOKEN[..TOKEN.len() - 1];
    let mut answers = Vec::new();
    for field in [
        "Accept: */*".to_owned(),
        "Authorization:".to_owned(),
        "Authorization: Bearer wrong".to_owned(),
        format!("Authorization: Basic {TOKEN}"),
        format!("Authorization: Bearer {short}"),
        format!("Authorization: Bearer {TOKEN}x"),
        format!("Authorization: Bearer {}", TOKEN.to_lowercase()),
        format!("Proxy-Authorization: Bearer {TOKEN}"),
        format!("Cookie: token={TOKEN}"),
    ] {
        let request = message(&format!("GET {DEPLOY}?branch=main HTTP/1.1"), &[&field], "");
        host.answers(&request, 401, "send Authorization: Bearer TOKEN", NOT_RUN);
        answers.push(host.call(Unix, request).answer);
    }
    for line in [
        format!("GET {UNDEPLOY}?branch=main HTTP/1.1"),
        format!("GET {DEPLOY}?branch=main&token={TOKEN} HTTP/1.1"),
        format!("GET {DEPLOY}?branch=not-allowed HTTP/1.1"),
        format!("GET {DEPLOY}?branch=No.Slug HTTP/1.1"),
        format!("GET {DEPLOY} HTTP/1.0"),
        format!("PUT {DEPLOY}?branch=main HTTP/1.1"),
        format!("POST {DEPLOY}/ HTTP/1.1"),
        "GET /hooks/ HTTP/1.1".to_owned(),
        "GET /hooks/? HTTP/1.1".to_owned(),
        "GET /hooks/unknown HTTP/1.1".to_owned(),
        "GET /hooks/../x HTTP/1.1".to_owned(),
        "BREW /hooks//deploy-branch HTTP/1.1".to_owned(),
    ] {
        let request = message(&line, &["Prefer: respond-async"], "");
        host.answers(&request, 401, "send Authorization: Bearer TOKEN", NOT_RUN);
        answers.push(host.call(Unix, request).answer);
    }
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    let head = host.call(Tcp, message(&format!("HEAD {DEPLOY} HTTP/1.1"), &[], "")).answer;
    assert_eq!((head.status, head.headers), (401, answers.remove(0).headers));

    let line = format!("GET {DEPLOY}?branch=main HTTP/1.1");
    let right = format!("authorization: Bearer {TOKEN}");
    for other in [right.as_str(), "Authorization: Bearer x", "Authorization:"] {
        for fields in [[&right, other], [other, &right]] {
            let request = message(&line, &fields, "");
            host.answers(request, 400, "send one Authorization header\n", NOT_RUN);
        }
    }
}

#[test]
fn lets_no_one_in_where_the_host_has_no_token() {
    let none = "the token file is missing, or no line of it is a token";
    let tokens = |text: &[u8]| Host::new().file("credentials/token", text);
    let directory = Host::new().without_file("credentials/token");
    fs::create_dir(directory.root.join("credentials/token")).expect("a directory");
    for (host, reason) in [
        (tokens(b""), none),
        (tokens(b"three whole words\n==\n(none)\n\xc3\xbc\xff\n"), none),
        (Host::new().without_file("credentials/token"), "cannot read "),
        (directory, "cannot read "),
        (Host::new().unset("CREDENTIALS_DIRECTORY"), "CREDENTIALS_DIRECTORY is not set"),
    ] {
        let line = format!("GET {DEPLOY}?branch=x HTTP/1.1");
        for field in [
            "Accept: */*",
            "Authorization: Bearer",
            "Authorization: Bearer (none)",
            "Authorization: Bearer =",
        ] {
            let request = message(&line, &[field], "");
            let outcome = host.call(Tcp, &request);
            outcome.is(500, FAULT, NOT_RUN, &request);
            assert_eq!(outcome.answer.text, FAULT);
            let record = format!(" ms for local: nobody is let in: {reason}");
            assert!(outcome.ended.record.contains(&record), "{outcome:?}");
        }
        host.answers(deploy_x(), 500, FAULT, NOT_RUN);
        host.answers(message("GET / HTTP/1.1", &[], ""), 404, "nothing at \"/\"", NOT_RUN);
    }
}
