//! Requests that are malformed, or too much.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use super::harness::*;

/// A row for each class: the tables are in the unit tests of `head.rs`.
#[test]
fn what_is_not_http_is_refused() {
    let host = Host::new();
    let target = format!("{DEPLOY}?branch=x");
    let right = deploy_x();
    let line = |line: &str| right.replacen(&format!("GET {target} HTTP/1.1"), line, 1);
    let field = |field: &str| authorized(&format!("POST {target} HTTP/1.1"), &[field, FORM], "");
    for (request, what) in [
        (right.replace("\r\n", "\n"), "a line end that is not CRLF"),
        (right.replacen("hook\r\n", "hook\rX-Y: z\r\n", 1), "a line end that is not CRLF"),
        ("EHLO x\n".to_owned(), "a line end that is not CRLF"),
        (field("X-Y: \0"), "the byte 0x00"),
        (get(&format!("{DEPLOY}?branch=f\u{fc}r")), "the byte 0xc3"),
        ("\x16\x03\x01\x02\0\x01\0\x01".to_owned(), "the byte 0x16"),
        ("\r\n".to_owned() + &right, "its first line"),
        (line(&format!("GET {target}")), "its first line"),
        (line(&format!("GET {target} HTTP/2.0")), "its first line"),
        (field("Accept: x\r\n folded: y"), "a header line"),
        (field("Transfer-Encoding : chunked"), "a header line"),
        (right.replacen("Host: hook\r\n", "", 1), "its Host"),
        (field("Host: hook"), "its Host"),
        (field("Content-Length: -1"), "its Content-Length"),
        (field("Content-Length: 0\r\ncontent-length: 9"), "its Content-Length"),
        (field("Expect: nonsense"), "its Expect"),
    ] {
        host.answers(&request, 400, &format!("malformed request: {what} is not"), NOT_RUN);
    }
    host.answers(b"\x80\x2e\x01\x00\x02", 400, "malformed request: the byte 0x80", NOT_RUN);
    let chunked = format!("Transfer-Encoding: chunked\r\n{FORM}");
    let request = post(&target, &chunked, "5\r\nbranch=y\r\n0\r\n\r\n");
    host.answers(request, 411, "send a Content-Length", NOT_RUN);
}

#[test]
fn refuses_an_empty_method() {
    let request = deploy_x().replacen("GET ", " ", 1);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let host = Host::new();
                for _ in 0..100 {
                    let outcome = host.call(Unix, &request);
                    outcome.is(400, "malformed request: ", NOT_RUN, &request);
                }
            });
        }
    });
}

#[test]
fn takes_heads_and_bodies_of_16_kib_and_no_more() {
    let host = Host::new();
    let max = 16 * 1024;
    host.answers(with_head_of(max), 200, "is deployed", RESTART_X);
    host.answers(with_head_of(max + 1), 431, "the head is over 16384 bytes\n", NOT_RUN);
    let short = "a: b\r\n".repeat(1000);
    let line = format!("GET {DEPLOY}?branch=x HTTP/1.1");
    host.answers(authorized(&line, &[short.trim_end()], ""), 200, "is deployed", RESTART_X);
    let long = "ab: cdefghijklmn\r\n".repeat(1000);
    host.answers(authorized(&line, &[long.trim_end()], ""), 431, "the head is over", NOT_RUN);
    let target = format!("/{}", "x".repeat(max));
    host.answers(get(&target), 431, "the head is over", NOT_RUN);
    // Nothing more is to be waited for.
    host.answers("x".repeat(max + 1), 431, "the head is over", NOT_RUN);

    let form = |len: usize| post(DEPLOY, FORM, &format!("branch=x&{}", "y".repeat(len - 9)));
    for len in [1024, 1025, max] {
        host.answers(form(len), 200, "is deployed", RESTART_X);
    }
    host.answers(form(max + 1), 413, "the body is over 16384 bytes\n", NOT_RUN);
    // The answer does not wait for the body.
    for len in ["16385", &"9".repeat(1000)] {
        let request = post(DEPLOY, &format!("{FORM}\r\nContent-Length: {len}"), "");
        host.answers(request, 413, "the body is over 16384 bytes\n", NOT_RUN);
    }
}

#[test]
fn a_client_that_goes_on_sending_is_answered() {
    let host = Host::new();
    let huge = 50_000_000;
    let line = format!("POST {DEPLOY}?branch=x HTTP/1.1");
    let length = format!("Content-Length: {huge}");
    for (start, piece, status) in [
        (format!("GET /{}", "x".repeat(100)), "x", 431),
        (authorized(&line, &["X-Y: z"], "").replacen("\r\n\r\n", "", 1), "x", 431),
        (authorized(&line, &[], "").replacen("\r\n\r\n", "\r\n", 1), "a: b\r\n", 431),
        (authorized(&line, &[&length, FORM], ""), "x", 413),
        (authorized(&line, &["Transfer-Encoding: chunked"], ""), "1\r\nx\r\n", 411),
        ("\n".to_owned(), "x", 400),
    ] {
        for transport in TRANSPORTS {
            let mut call = host.connect(transport);
            call.send(&start);
            call.send_endlessly(piece, huge);
            call.finish().is(status, "", NOT_RUN, &start);
        }
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
                let mut call = host.connect(transport);
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
                    let mut call = host.connect(transport);
                    call.send(refused);
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
                    let ended = call.stay();
                    assert!(begin.elapsed() < Duration::from_secs(5), "{ended:?}");
                    assert_eq!((ended.status(), ended.calls.len()), (400, 0));
                    sender.join().expect("a sender");
                });
            }
        }
    });
}
