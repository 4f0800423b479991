//! Malformed, oversized and unknown requests. Which these are is in the unit tests of
//! `request.rs`, and in the fuzzer.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use super::harness::*;

#[test]
fn a_refusal_says_what_is_wrong() {
    let host = Host::new();
    let target = format!("{DEPLOY}?branch=x");
    let with =
        |method: &str, field| authorized(&format!("{method} {target} HTTP/1.1"), &[field], "");
    let not_found = format!(
        "nothing at \"/hooks/x/../deploy-branch\": there are {DEPLOY}, {UNDEPLOY}, \
         /hooks/expire-branch, {STATUS} and {LIST}\n"
    );
    for (request, status, words) in [
        (
            with("GET", "Content-Length: -1"),
            400,
            "malformed request: its Content-Length is not valid HTTP/1.0 or HTTP/1.1\n",
        ),
        (with("POST", "Transfer-Encoding: chunked"), 411, "send a Content-Length"),
        (get(DEPLOY), 400, "no branch: add ?branch=BRANCH"),
        (get(&(target.clone() + "&image-tag=x")), 400, "more than one branch: send one\n"),
        (get(&(target.clone() + "%0d%0aY+")), 400, "; GitLab's slug of it is x--y\n"),
        (with("GET", "Authorization:"), 400, "send one Authorization header\n"),
        (get("/hooks/x/../deploy-branch?branch=x"), 404, &not_found),
        (with("PUT", "A: b"), 405, "the method \"PUT\" is not allowed: send GET or POST\n"),
    ] {
        host.answers(&request, status, words, NOT_RUN);
    }
    assert_eq!(host.exchange(with("PUT", "A: b")).header("allow"), Some("GET, POST"));
}

/// What is of 16 KiB and less is in the fuzzer.
#[test]
fn what_is_over_16_kib_is_refused_before_it_is_whole() {
    let host = Host::new();
    host.answers(&"x".repeat(16 * 1024 + 1), 431, "the head is over 16384 bytes\n", NOT_RUN);
    let request = post(DEPLOY, &format!("{FORM}\r\nContent-Length: 16385"), "");
    host.answers(&request, 413, "the body is over 16384 bytes\n", NOT_RUN);
}

#[test]
fn a_client_that_goes_on_sending_is_answered() {
    let host = Host::new();
    let huge = 50_000_000;
    let start = post(DEPLOY, &format!("{FORM}\r\nContent-Length: {huge}"), "");
    for transport in TRANSPORTS {
        let call = host.begin(transport, &start);
        let mut client = call.client.try_clone().expect("a socket");
        thread::spawn(move || client.write_all(&vec![b'x'; huge]));
        call.finish().is(413, "", NOT_RUN, &start);
    }
}

#[test]
fn a_refused_client_has_a_second_to_read_its_answer() {
    let refused = "GET / HTTP/9\r\n\r\n";
    thread::scope(|scope| {
        for transport in TRANSPORTS {
            // A client that writes all it has before it reads, in its own time.
            scope.spawn(move || {
                let host = Host::new();
                let mut call = host.begin(transport, "");
                for _ in 0..20 {
                    call.send(refused);
                    thread::sleep(Duration::from_millis(20));
                }
                call.finish().is(400, "its first line", NOT_RUN, "20 requests");
            });
            // A client that will not go, whether or not it sends.
            for sends in [false, true] {
                scope.spawn(move || {
                    let host = Host::new();
                    let begin = Instant::now();
                    let mut call = host.begin(transport, refused);
                    let mut client = call.client.try_clone().expect("a socket");
                    let sender = thread::spawn(move || {
                        while sends && client.write_all(b"x").is_ok() {
                            thread::sleep(Duration::from_millis(10));
                        }
                    });
                    // It has the whole answer before that second is over.
                    call.client.read_to_end(&mut Vec::new()).expect("an answer");
                    thread::sleep(Duration::from_millis(100));
                    assert!(call.hook.0.try_wait().expect("a child").is_none());
                    let Call { client, hook, .. } = call;
                    let ended = Ended::new(&host, &hook.wait());
                    drop(client);
                    assert!(begin.elapsed() < Duration::from_secs(5), "{ended:?}");
                    assert_eq!((ended.status(), ended.calls.as_str()), (400, NOT_RUN));
                    sender.join().expect("a sender");
                });
            }
        }
    });
}
