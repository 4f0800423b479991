//! Who is let in. What a token is, and which `Authorization` holds one: the unit tests of `token.rs`.

use std::fs;

use super::harness::*;

#[test]
fn every_token_of_the_file_is_accepted() {
    let host = Host::new().file("credentials/token", format!("{OTHER} ci\nnot a token\n{TOKEN}\n"));
    for (request, status) in [
        (deploy_x(), 200),
        (deploy_x().replace(TOKEN, OTHER), 200),
        (deploy_x().replace("Authorization: Bearer ", "AUTHORIZATION:bearer  "), 200),
        (deploy_x().replace(TOKEN, "not"), 401),
        (deploy_x().replace(TOKEN, "ci"), 401),
    ] {
        let calls = if status == 200 { RESTART_X } else { NOT_RUN };
        host.answers(&request, status, "", calls);
    }
    let named = host.call(deploy_x().replace(TOKEN, OTHER)).ended;
    assert!(named.record.ends_with(" ms for local (ci)"), "{named:?}");
    assert!(!host.call(deploy_x()).ended.record.contains('('));
}

#[test]
fn lets_no_one_else_in_and_tells_them_nothing() {
    let host = Host::new().set("BUILDBTW_BRANCHES", "main");
    let line = |target: &str| format!("GET {target} HTTP/1.1");
    let deploy = line(&format!("{DEPLOY}?branch=main"));
    let none =
        "no token was sent: send Authorization: Bearer TOKEN; in CI the variable may be unset\n";
    let wrong = "the token that was sent is not one of this host\n";
    let wrong_token = "Authorization: Bearer wrong".to_owned();
    let mut answers = Vec::new();
    for (line, field, words) in [
        (&deploy, "Accept: */*".to_owned(), none),
        // Of a variable that is not set.
        (&deploy, "Authorization: Bearer ".to_owned(), none),
        (&deploy, wrong_token.clone(), wrong),
        (&deploy, format!("Authorization: Basic {TOKEN}"), wrong),
        (&deploy, format!("Authorization: Bearer {TOKEN}x"), wrong),
        (&deploy, format!("Proxy-Authorization: Bearer {TOKEN}"), none),
        (&line(&format!("{DEPLOY}?branch=main&token={TOKEN}")), "A: b".to_owned(), none),
        (&line(&format!("{DEPLOY}?branch=not-allowed")), wrong_token.clone(), wrong),
        (&line(&format!("{DEPLOY}?branch=No.Slug")), wrong_token.clone(), wrong),
        (&line(LIST), wrong_token.clone(), wrong),
        (&line(&format!("{STATUS}?branch=main")), wrong_token.clone(), wrong),
        (&format!("PUT {DEPLOY}?branch=main HTTP/1.1"), wrong_token.clone(), wrong),
        (&line("/hooks/unknown"), wrong_token.clone(), wrong),
        (&line("/hooks/unknown"), "A: b".to_owned(), none),
    ] {
        let request = message(line, &[&field, "Prefer: respond-async"], "");
        host.answers(&request, 401, words, NOT_RUN);
        let answer = host.exchange(request);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        answers.push((words, answer));
    }
    // Not by a header either.
    for (words, answer) in &answers {
        let (_, first) = answers.iter().find(|(known, _)| known == words).expect("the first");
        assert_eq!(answer, first);
    }
    let head = host.exchange(message(&format!("HEAD {DEPLOY} HTTP/1.1"), &[], ""));
    assert_eq!((head.status, head.headers), (401, answers.remove(0).1.headers));

    let right = format!("authorization: Bearer {TOKEN}");
    for other in [right.as_str(), "Authorization:"] {
        for fields in [[&right, other], [other, &right]] {
            let request = message(&deploy, &fields, "");
            host.answers(request, 400, "send one Authorization header\n", NOT_RUN);
        }
    }
}

#[test]
fn lets_no_one_in_where_the_host_has_no_token() {
    let none = "the token file is missing, or no line of it is a token";
    let tokens = |text: &[u8]| Host::new().file("credentials/token", text);
    let (without, directory) = (Host::new(), Host::new());
    without.remove("credentials/token");
    directory.remove("credentials/token");
    fs::create_dir(directory.root.join("credentials/token")).expect("a directory");
    for (host, reason) in [
        (tokens(b""), none),
        (tokens(b"three whole words\n==\n(none)\n\xc3\xbc\xff\n"), none),
        (without, "cannot read "),
        (directory, "cannot read "),
        (Host::new().unset("CREDENTIALS_DIRECTORY"), "CREDENTIALS_DIRECTORY is not set"),
    ] {
        for field in ["A: b", "Authorization: Bearer (none)", "Authorization: Bearer ="] {
            let request = message(&format!("GET {DEPLOY}?branch=x HTTP/1.1"), &[field], "");
            let outcome = host.call(&request);
            outcome.is(500, FAULT, NOT_RUN, &request);
            assert_eq!(outcome.answer.text, FAULT);
            let record = format!(" ms for local: nobody is let in: {reason}");
            assert!(outcome.ended.record.contains(&record), "{outcome:?}");
        }
        host.call(deploy_x()).is(500, FAULT, NOT_RUN, reason);
        let elsewhere = message("GET / HTTP/1.1", &[], "");
        host.call(elsewhere).is(404, "nothing at \"/\"", NOT_RUN, reason);
    }
}
