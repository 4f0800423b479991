//! Requests that are malformed, too much, or for what there is not. A row for each class: the tables are in
//! the unit tests of `request.rs`.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use super::harness::*;

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
        (field("X-Y: \0"), "the byte 0x00"),
        ("\x16\x03\x01\x02\0\x01\0\x01".to_owned(), "the byte 0x16"),
        (get(&format!("{DEPLOY}?branch=f\u{fc}r")), "its first line"),
        (right.replacen("GET", "G\u{cb}T", 1), "its first line"),
        (right.replacen("GET", "", 1), "its first line"),
        ("\r\n".to_owned() + &right, "its first line"),
        (line(&format!("GET {target} HTTP/2.0")), "its first line"),
        (field("J\u{f6}rg: x"), "a header line"),
        (field("Accept: x\r\n folded: y"), "a header line"),
        (field("Transfer-Encoding : chunked"), "a header line"),
        (right.replacen("Host: hook\r\n", "", 1), "its Host"),
        (field("Content-Length: -1"), "its Content-Length"),
        (field("Content-Length: 5\u{a0}"), "its Content-Length"),
        (field("Content-Length: 0\r\ncontent-length: 9"), "its Content-Length"),
        (field("Expect: nonsense"), "its Expect"),
    ] {
        host.answers(&request, 400, &format!("malformed request: {what} is not"), NOT_RUN);
    }
    let chunked = format!("Transfer-Encoding: chunked\r\n{FORM}");
    let request = post(&target, &chunked, "5\r\nbranch=y\r\n0\r\n\r\n");
    host.answers(request, 411, "send a Content-Length", NOT_RUN);
}

#[test]
fn there_are_five_hooks_and_two_methods() {
    let host = Host::new();
    host.answers(message("PUT /hooks?branch=x HTTP/1.1", &[], ""), 404, "nothing at ", NOT_RUN);
    let words = format!(
        "nothing at \"/hooks/x/../deploy-branch\": there are {DEPLOY}, {UNDEPLOY}, \
         /hooks/expire-branch, {STATUS} and {LIST}\n"
    );
    host.answers(get("/hooks/x/../deploy-branch?branch=x"), 404, &words, NOT_RUN);
    let expire = get("/hooks/expire-branch?branch=x");
    host.answers(expire, 200, "branch x has not expired\n", NOT_RUN);
    for (method, words) in
        [("PUT", "the method \"PUT\" is not allowed: send GET or POST\n"), ("HEAD", "")]
    {
        let request = authorized(&format!("{method} {UNDEPLOY}?branch=x HTTP/1.1"), &[], "");
        host.answers(&request, 405, words, NOT_RUN);
        assert_eq!(host.exchange(request).header("allow"), Some("GET, POST"));
    }
    // Without a body, however early.
    for field in ["A: b", "Content-Length: 99999", "Transfer-Encoding: chunked"] {
        let answer = host.exchange(authorized("HEAD / HTTP/1.1", &[field], ""));
        assert!(answer.status >= 400 && answer.text.is_empty(), "{answer:?}");
    }
}

#[test]
fn takes_heads_and_bodies_of_16_kib_and_no_more() {
    let host = Host::new();
    let max = 16 * 1024;
    let head = |len: usize| {
        let padded = |pad: usize| get(&format!("{DEPLOY}?branch=x&{}", "y".repeat(pad)));
        padded(len - padded(0).len())
    };
    host.answers(head(max), 200, "is deployed", RESTART_X);
    host.answers(head(max + 1), 431, "the head is over 16384 bytes\n", NOT_RUN);
    let line = format!("GET {DEPLOY}?branch=x HTTP/1.1");
    let many = "a: b\r\n".repeat(1000);
    host.answers(authorized(&line, &[many.trim_end()], ""), 200, "is deployed", RESTART_X);
    // Nothing more is to be waited for.
    host.answers("x".repeat(max + 1), 431, "the head is over", NOT_RUN);

    let form = |len: usize| post(DEPLOY, FORM, &format!("branch=x&{}", "y".repeat(len - 9)));
    host.answers(form(max), 200, "is deployed", RESTART_X);
    host.answers(form(max + 1), 413, "the body is over 16384 bytes\n", NOT_RUN);
    // The answer does not wait for the body.
    let request = post(DEPLOY, &format!("{FORM}\r\nContent-Length: 16385"), "");
    host.answers(request, 413, "the body is over 16384 bytes\n", NOT_RUN);
}

#[test]
fn a_client_that_goes_on_sending_is_answered() {
    let host = Host::new();
    let huge = 50_000_000;
    let line = format!("POST {DEPLOY}?branch=x HTTP/1.1");
    let length = format!("Content-Length: {huge}");
    for (start, piece, status) in [
        (format!("GET /{}", "x".repeat(100)), "x", 431),
        (authorized(&line, &[], "").replacen("\r\n\r\n", "\r\n", 1), "a: b\r\n", 431),
        (authorized(&line, &[&length, FORM], ""), "x", 413),
        (authorized(&line, &["Transfer-Encoding: chunked"], ""), "1\r\nx\r\n", 411),
        ("\n".to_owned(), "x", 400),
    ] {
        for transport in TRANSPORTS {
            let call = host.begin(transport, &start);
            let mut client = call.client.try_clone().expect("a socket");
            let piece = piece.repeat(64 * 1024 / piece.len());
            thread::spawn(move || {
                let mut pieces = 0..huge / piece.len();
                while pieces.next().is_some() && client.write_all(piece.as_bytes()).is_ok() {}
            });
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
                    let ended = call.stay();
                    assert!(begin.elapsed() < Duration::from_secs(5), "{ended:?}");
                    assert_eq!((ended.status(), ended.calls.as_str()), (400, NOT_RUN));
                    sender.join().expect("a sender");
                });
            }
        }
    });
}
