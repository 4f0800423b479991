//! How a request arrives. In pieces, and with more after it: the fuzzer.

use std::io::Read;
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use super::harness::*;

#[test]
fn a_client_that_sends_more_meanwhile_is_not_reset() {
    for transport in TRANSPORTS {
        let host = Host::new().hold(RESTART_X);
        let mut call = host.begin(transport, deploy_x());
        host.wait_for(RESTART_X);
        call.send(get(&format!("{UNDEPLOY}?branch=y")));
        host.release(RESTART_X);
        // The process must have ended before the reset, if there is one, can be seen.
        thread::sleep(Duration::from_millis(300));
        call.finish().is(200, "is deployed", RESTART_X, "one request and then another");
    }
}

#[test]
fn a_client_that_expects_it_is_told_to_send_the_body() {
    let host = Host::new();
    let form = "branch=x";
    let expecting =
        |field: &str, body| post(DEPLOY, &format!("{FORM}\r\nExpect: 100-Continue{field}"), body);
    for transport in TRANSPORTS {
        let mut call = host.begin(transport, expecting("", form).trim_end_matches(form));
        let mut interim = [0; 25];
        call.client.read_exact(&mut interim).expect("an interim answer");
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        call.send(form);
        call.finish().is(200, "is deployed", RESTART_X, "the body");
    }
    // Not where the body is here, there is none, or it is refused.
    host.answers(&expecting("", form), 200, "is deployed", RESTART_X);
    host.answers(&expecting("", ""), 400, "no branch", NOT_RUN);
    host.answers(&expecting("\r\nContent-Length: 16385", ""), 413, "the body is over", NOT_RUN);
}

#[test]
fn a_client_that_goes_early_does_no_harm() {
    let host = Host::new();
    for transport in TRANSPORTS {
        let request = post(DEPLOY, FORM, "branch=x");
        let sent = &request[..request.len() - 1];
        let call = host.begin(transport, sent);
        call.client.shutdown(Shutdown::Write).expect("a socket");
        let words = "the connection ended before the request was whole\n";
        call.finish().is(400, words, NOT_RUN, sent);
        // An unread interim answer makes it a reset.
        let fields = format!("{FORM}\r\nExpect: 100-continue\r\nContent-Length: 9");
        let call = host.begin(transport, post(DEPLOY, &fields, ""));
        call.client.peek(&mut [0]).expect("an interim answer");
        let ended = call.go();
        assert_eq!((ended.status(), ended.calls.as_str()), (400, NOT_RUN), "{ended:?}");
        // The job goes on without its caller.
        let held = Host::new().hold(RESTART_X);
        let Call { client, hook, .. } = held.begin(transport, &request);
        held.wait_for(RESTART_X);
        drop(client);
        held.release(RESTART_X);
        let ended = Ended::new(&held, &hook.wait());
        assert_eq!((ended.status(), ended.calls.as_str()), (200, RESTART_X), "{ended:?}");
        assert_eq!(held.names(WANTS), "buildbtw@x.service");
    }
}

/// In one test, or the two threads that `cargo test` has on a small machine would both wait.
#[test]
fn a_request_must_arrive_in_10_s() {
    let whole = post(DEPLOY, FORM, "branch=x");
    let head = whole.strip_suffix("branch=x").expect("a body");
    thread::scope(|scope| {
        for transport in TRANSPORTS {
            // At once, and then a byte a second. The last byte would make the second body whole.
            for (first, slowly) in [("", ""), ("", "GET /hooks/"), (head, "branch=")] {
                scope.spawn(move || {
                    let host = Host::new();
                    let mut call = host.begin(transport, first);
                    for byte in slowly.bytes() {
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
