//! How a request arrives.

use std::fs;
use std::io::Read;
use std::thread;
use std::time::Duration;

use super::harness::*;

#[test]
fn answers_what_arrives_in_pieces() {
    let request = post(&format!("{DEPLOY}?a=b"), FORM, "branch=x");
    let mut places: Vec<_> = (0..request.len()).step_by(23).collect();
    for (at, _) in request.match_indices("\r\n") {
        places.extend([at, at + 1, at + 2]);
    }
    places.push(request.len() - 1);
    thread::scope(|scope| {
        for (at, transport) in places.into_iter().zip(TRANSPORTS.into_iter().cycle()) {
            let (first, second) = request.split_at(at);
            scope.spawn(move || {
                let host = Host::new();
                let mut call = host.connect(transport);
                call.send(first);
                // Long enough for the process to have read the first piece.
                thread::sleep(Duration::from_millis(500));
                call.send(second);
                call.finish().is(200, "is deployed", RESTART_X, first);
            });
        }
        for transport in TRANSPORTS {
            let request = &request;
            scope.spawn(move || {
                let host = Host::new();
                let mut call = host.connect(transport);
                for byte in request.as_bytes() {
                    call.send([*byte]);
                    thread::sleep(Duration::from_millis(3));
                }
                call.finish().is(200, "is deployed", RESTART_X, "single bytes");
            });
        }
    });
}

#[test]
fn answers_the_first_request_alone() {
    let host = Host::new();
    let first = post(DEPLOY, FORM, "branch=x");
    for more in
        ["\r\n", "\0\u{ff}garbage", &get(&format!("{UNDEPLOY}?branch=y")), &"x".repeat(100_000)]
    {
        host.answers(first.clone() + more, 200, "is deployed", RESTART_X);
        host.answers(deploy_x() + more, 200, "is deployed", RESTART_X);
        // tiny_http would read the body of an upgrade to the connection's end.
        let upgrade = first.replacen("Host:", "Connection: upgrade\r\nHost:", 1);
        host.answers(upgrade + more, 200, "is deployed", RESTART_X);
    }
    // A length that is too short leaves a branch that is too short.
    let short = post(DEPLOY, &format!("{FORM}\r\nContent-Length: 8"), "") + "branch=xyz";
    host.answers(short, 200, "is deployed", RESTART_X);
    // What follows is no part of the head, however it ends.
    host.answers(deploy_x() + "Prefer: respond-async\r\n\r\n", 200, "is deployed", RESTART_X);
}

#[test]
fn a_client_that_expects_it_is_told_to_send_the_body() {
    let host = Host::new();
    let form = "branch=x";
    for transport in TRANSPORTS {
        let mut call = host.connect(transport);
        let request = post(DEPLOY, &format!("{FORM}\r\nExpect: 100-Continue"), form);
        call.send(request.strip_suffix(form).expect("a body"));
        let expected = b"HTTP/1.1 100 Continue\r\n\r\n";
        let mut interim = [0; 25];
        call.client.read_exact(&mut interim).expect("an interim answer");
        assert_eq!(&interim, expected);
        call.send(form);
        call.finish().is(200, "is deployed", RESTART_X, "the body");
    }
    // Not where the body is here, there is none, or it is refused.
    let expecting =
        |field: &str, body| post(DEPLOY, &format!("{FORM}\r\nExpect: 100-continue{field}"), body);
    host.answers(expecting("", form), 200, "is deployed", RESTART_X);
    host.answers(expecting("", ""), 400, "no branch", NOT_RUN);
    host.answers(expecting("\r\nContent-Length: 16385", ""), 413, "the body is over", NOT_RUN);
}

#[test]
fn tells_no_one_else_to_send_the_body() {
    let host = Host::new();
    for (line, expectation) in [
        (format!("POST {DEPLOY} HTTP/1.0"), "100-continue"),
        (format!("POST {DEPLOY} HTTP/1.1"), "nonsense"),
    ] {
        let fields = [FORM, &format!("Expect: {expectation}"), "Content-Length: 8"];
        let mut call = host.connect(Unix);
        call.send(authorized(&line, &fields, ""));
        thread::sleep(Duration::from_millis(300));
        call.send("branch=x");
        let outcome = call.finish();
        if expectation == "nonsense" {
            assert!([400, 417].contains(&outcome.answer.status), "{outcome:?}");
        } else {
            outcome.is(200, "is deployed", RESTART_X, "HTTP/1.0");
        }
    }
}

#[test]
fn a_client_that_sends_more_meanwhile_is_answered() {
    for transport in TRANSPORTS {
        let host = Host::new().file("bin/hold", "");
        let mut call = host.connect(transport);
        call.send(deploy_x());
        host.wait_for_systemctl();
        call.send(get(&format!("{UNDEPLOY}?branch=y")));
        fs::remove_file(host.root.join("bin/hold")).expect("the hold");
        // The process must have ended before the reset, if there is one, can be seen.
        thread::sleep(Duration::from_millis(300));
        call.finish().is(200, "is deployed", RESTART_X, "one request and then another");
    }
}

#[test]
fn answers_head_without_a_body_however_early() {
    let host = Host::new();
    for field in ["Content-Length: 99999", "Transfer-Encoding: chunked", "Content-Length: x"] {
        let mut call = host.connect(Tcp);
        call.send(authorized("HEAD / HTTP/1.1", &[field], ""));
        let answer = call.finish().answer;
        assert!(answer.status >= 400 && answer.text.is_empty(), "{answer:?}");
    }
}

#[test]
fn a_client_that_goes_early_does_no_harm() {
    let host = Host::new();
    for transport in TRANSPORTS {
        let request = post(DEPLOY, FORM, "branch=x");
        for sent in ["", "G", "GET / HTTP/1.1\r\n", &request[..request.len() - 1]] {
            let mut call = host.connect(transport);
            call.send(sent);
            call.half_close();
            let outcome = call.finish();
            outcome.is(400, "the connection ended before the request was whole\n", NOT_RUN, sent);
            let mut call = host.connect(transport);
            call.send(sent);
            let ended = call.go();
            assert_eq!((ended.status(), ended.calls.len()), (400, 0), "{ended:?}");
        }
        let mut call = host.connect(transport);
        call.send(&request);
        call.half_close();
        call.finish().is(200, "is deployed", RESTART_X, &request);
        // An unread interim answer makes it a reset.
        let mut call = host.connect(transport);
        call.send(post(
            DEPLOY,
            &format!("{FORM}\r\nExpect: 100-continue\r\nContent-Length: 9"),
            "",
        ));
        call.client.peek(&mut [0]).expect("an interim answer");
        let ended = call.go();
        assert_eq!((ended.status(), ended.calls.len()), (400, 0), "{ended:?}");
        // The job goes on without its caller.
        let held = Host::new().file("bin/hold", "");
        let mut call = held.connect(transport);
        call.send(&request);
        held.wait_for_systemctl();
        let Call { client, hook, .. } = call;
        drop(client);
        fs::remove_file(held.root.join("bin/hold")).expect("the hold");
        let ended = Ended::new(&held, &hook.wait());
        assert_eq!((ended.status(), ended.calls.as_slice()), (200, &[RESTART_X[0].to_owned()][..]));
        assert_eq!(held.state(), ["x"]);
    }
}

/// In one test, or the two threads that `cargo test` has on a small machine would both wait.
#[test]
fn a_request_must_arrive_in_10_s() {
    let whole = post(DEPLOY, FORM, "branch=x");
    let (head, _) = whole.split_at(whole.len() - "branch=x".len());
    thread::scope(|scope| {
        for transport in TRANSPORTS {
            // At once, and then a byte a second.
            for (first, slowly) in [
                ("", ""),
                ("GET / HTTP/1.1\r\n", ""),
                (head, ""),
                ("", "GET /hooks/"),
                (head, "branch=x"),
            ] {
                scope.spawn(move || {
                    let host = Host::new();
                    let mut call = host.connect(transport);
                    call.send(first);
                    // The last byte would make the second body whole.
                    for byte in slowly.bytes().take(if first.is_empty() { 11 } else { 7 }) {
                        thread::sleep(Duration::from_secs(1));
                        call.send([byte]);
                    }
                    let outcome = call.finish();
                    outcome.is(408, "no whole request within 10 s\n", NOT_RUN, first);
                    let duration = outcome.ended.duration();
                    let bounds = Duration::from_millis(9_900)..Duration::from_millis(11_500);
                    assert!(bounds.contains(&duration), "{outcome:?}");
                });
            }
        }
    });
}
