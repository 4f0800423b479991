//! What is done with a branch, and what the caller is told.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread;

use super::harness::*;

#[test]
fn deploys_and_undeploys_the_branch_of_a_query_or_a_form() {
    let host = Host::new();
    let deployed = "branch x is deployed (restart of buildbtw@x.service)\n";
    let gone = "branch x is not deployed any more (stop of buildbtw@x.service)\n";
    for (hook, words, calls) in [(DEPLOY, deployed, RESTART_X), (UNDEPLOY, gone, STOP_X)] {
        let with = |query: &str| format!("{hook}?{query}");
        for request in [
            get(&with("a=1&branch=x&b=%ff&c")),
            get(&with("image-tag=%78")),
            post(&with("branch=x"), "Content-Type: application/json", r#"{"branch":"y"}"#),
            post(hook, FORM, "branch=x"),
            post(hook, "content-type: application/x-www-form-urlencoded;charset=UTF-8", "branch=x"),
            // A body that is no form of a POST is no concern of ours.
            authorized(&format!("GET {hook}?branch=x HTTP/1.1"), &[FORM], "branch=y"),
            get(&with("branch=x")).replace("Host: hook\r\n", "").replace("/1.1", "/1.0"),
            get(&with("branch=x")).replace("Host: hook\r\n", "Host:\r\n"),
            authorized(&format!("GET {hook}?branch=x HTTP/1.1"), &["Connection: keep-alive"], ""),
            post(hook, &format!("Connection: upgrade\r\n{FORM}"), "branch=x"),
        ] {
            host.answers(request, 200, words, calls);
        }
    }
}

/// A row for each class: the tables are in the unit tests of `request.rs` and `branch.rs`.
#[test]
fn exactly_one_slug_is_required() {
    let host = Host::new();
    let (none, several) = ("no branch: add ?branch=BRANCH", "more than one branch: send one\n");
    let slug = "is not a slug: send CI_COMMIT_REF_SLUG, 1 to 63 of 0-9 a-z -";
    let query = |query: &str| get(&format!("{DEPLOY}?{query}"));
    for (request, words) in [
        (get(DEPLOY), none),
        (query("&&a=branch=x&Branch=x"), none),
        (post(DEPLOY, "Content-Type: text/plain", "branch=x"), none),
        (authorized(&format!("GET {DEPLOY} HTTP/1.1"), &[FORM], "branch=x"), none),
        (query("branch=x&image-tag=x"), several),
        (post(&format!("{DEPLOY}?branch=x"), FORM, "branch=x"), several),
        (query("branch="), slug),
        (query("branch=..%2F%ff"), slug),
        (query("branch=x%0d%0aERROR:%20y+"), "; GitLab's slug of it is x--error--y\n"),
        (post(DEPLOY, FORM, "branch=Feature%2FX"), "; GitLab's slug of it is feature-x\n"),
        (query(&format!("branch={}", "a".repeat(10_000))), &("a".repeat(63) + "\n")),
        (get(&format!("{UNDEPLOY}?image-tag=X")), "\"X\" is not a slug"),
    ] {
        host.answers(request, 400, words, NOT_RUN);
    }
    let longest = "a".repeat(63);
    let call =
        format!("[--no-ask-password][--job-mode=replace][restart][--][buildbtw@{longest}.service]");
    host.answers(query(&format!("branch={longest}")), 200, &longest, &[&call]);
}

#[test]
fn only_branches_that_the_host_allows() {
    for (allowed, status, words) in [
        (" main\tx ", 200, "branch x is"),
        ("main", 403, "branch x is not allowed on this host, which takes: main\n"),
        ("", 403, "branch x is not allowed on this host"),
    ] {
        let host = Host::new().set("BUILDBTW_BRANCHES", allowed);
        for (hook, calls) in [(DEPLOY, RESTART_X), (UNDEPLOY, STOP_X)] {
            let calls = if status == 200 { calls } else { NOT_RUN };
            host.answers(get(&format!("{hook}?branch=x")), status, words, calls);
        }
        host.answers(get(&format!("{DEPLOY}?branch=X")), 400, "is not a slug", NOT_RUN);
    }
}

#[test]
fn accepts_where_the_caller_would_not_wait() {
    let host = Host::new();
    for (hook, word, calls) in [(DEPLOY, "deploy", RESTART_X), (UNDEPLOY, "undeploy", STOP_X)] {
        let line = format!("POST {hook}?branch=x HTTP/1.1");
        for fields in [
            &["prefer:RESPOND-Async"][..],
            &["Prefer: wait=10, respond-async ; a=b"],
            &["Prefer: wait=10", "Prefer: respond-async"],
        ] {
            let request = authorized(&line, fields, "");
            let words =
                format!("{word} of branch x is accepted; branch-status tells the outcome\n");
            host.answers(&request, 202, &words, calls);
            let answer = host.call(Tcp, &request).answer;
            assert_eq!(answer.header("preference-applied"), Some("respond-async"));
            host.take_calls();
        }
        for field in ["Prefer: respond-asynchronously", "Prefer:", "X-Prefer: respond-async"] {
            host.answers(authorized(&line, &[field], ""), 200, "branch x is", calls);
        }
    }
}

#[test]
fn an_accepted_deployment_that_fails_is_recorded_and_told_by_the_status() {
    let host = Host::new().file("bin/exit", "1\n").file("bin/stderr", "Job for x failed.\n");
    let line = format!("POST {DEPLOY}?branch=x HTTP/1.1");
    let request = authorized(&line, &["Prefer: respond-async"], "");
    host.answers(request, 202, "is accepted", RESTART_X);
    let records = host.take_records();
    assert!(records.contains("ERROR: restart of buildbtw@x.service failed"), "{records}");
    assert_eq!(host.state(), NOT_RUN);
    host.answers(get(&format!("{STATUS}?branch=x")), 424, "Job for x failed.", NOT_RUN);
}

#[test]
fn a_template_that_is_missing_is_not_accepted() {
    let host = Host::new().file("bin/show", "LoadState=not-found\nActiveState=inactive\n");
    for hook in [DEPLOY, UNDEPLOY] {
        let line = format!("POST {hook}?branch=x HTTP/1.1");
        let request = authorized(&line, &["Prefer: respond-async"], "");
        host.answers(request, 500, "Unit buildbtw@x.service not found.\n", NOT_RUN);
        assert_eq!(host.state(), NOT_RUN);
    }
}

#[test]
fn tells_what_systemd_could_not_do() {
    let state = "ActiveState=failed\nSubState=failed\nResult=exit-code\n";
    let failing = |exit: &str| {
        Host::new().file("bin/exit", exit).file("bin/show", state).file(
            "bin/stderr",
            "Job for buildbtw@x.service failed.\nSee \"systemctl status buildbtw@x.service\".\n",
        )
    };
    let (deploy, undeploy) = (deploy_x(), get(&format!("{UNDEPLOY}?branch=x")));
    for exit in ["1\n", "4\n", "5\n", "200\n"] {
        let host = failing(exit);
        let code = format!("restart of buildbtw@x.service failed: exit status: {}: ", exit.trim());
        for words in [
            code.as_str(),
            "Job for buildbtw@x.service failed.\nSee \"systemctl status",
            "\nActiveState=failed SubState=failed Result=exit-code\n",
        ] {
            host.answers(&deploy, 500, words, RESTART_X);
        }
    }
    let host = failing("1\n");
    host.answers(&undeploy, 500, "stop of buildbtw@x.service failed", STOP_X);
    // systemctl(1): 5 where the unit is not loaded, which is what undeploy is for.
    let host = failing("5\n");
    host.answers(&undeploy, 200, "branch x was not deployed\n", STOP_X);
    let host = failing("0\n").file("bin/signal", "KILL");
    host.answers(&deploy, 500, "signal: 9 (SIGKILL)", RESTART_X);
    host.answers(&undeploy, 500, "signal: 9 (SIGKILL)", STOP_X);
    // Not every word of systemctl's need be UTF-8, and `show` may fail too.
    let host = failing("1\n").file("bin/stderr", b"\xffno\n");
    host.answers(&deploy, 500, "exit status: 1: \u{fffd}no\n", RESTART_X);
    let host = Host::new();
    let empty = host.root.join("empty").to_str().expect("a path in UTF-8").to_owned();
    let host = host.set("PATH", &empty);
    host.answers(&deploy, 500, "systemctl did not run: No such file or directory", NOT_RUN);
    host.answers(&undeploy, 500, "systemctl did not run: No such file or directory", NOT_RUN);
}

#[test]
fn an_answer_has_no_empty_lines() {
    let host = Host::new().file("bin/exit", "1\n");
    let text = host.call(Unix, deploy_x()).answer.text;
    assert!(text.lines().all(|line| !line.trim().is_empty()), "{text:?}");
}

#[test]
fn the_status_is_asked_for_like_the_rest() {
    let host = Host::new();
    let status = get(&format!("{STATUS}?branch=x"));
    host.answers(&status, 404, "branch x is not deployed\n", NOT_RUN);
    host.answers(deploy_x(), 200, "branch x is deployed", RESTART_X);
    host.answers(&status, 200, "branch x is up (buildbtw@x.service)\n", NOT_RUN);
    host.answers(post(STATUS, FORM, "branch=x"), 200, "branch x is up", NOT_RUN);
    host.answers(get(STATUS), 400, "no branch", NOT_RUN);
    host.answers(get(&format!("{STATUS}?branch=X")), 400, "is not a slug", NOT_RUN);
    host.answers(message(&format!("GET {STATUS}?branch=x HTTP/1.1"), &[], ""), 401, "", NOT_RUN);
    let elsewhere = host.set("BUILDBTW_BRANCHES", "main");
    elsewhere.answers(&status, 403, "is not allowed", NOT_RUN);
}

#[test]
fn every_state_of_a_unit_has_a_status() {
    for (active, sub, job, status, words) in [
        ("active", "running", "", 200, "is up"),
        ("reloading", "reload", "", 200, "is up"),
        ("refreshing", "refresh", "", 200, "is up"),
        ("active", "running", "7", 503, "a job for buildbtw@x.service is running"),
        ("inactive", "dead", "7", 503, "is running"),
        ("activating", "start", "7", 503, "is running"),
        ("deactivating", "stop", "", 503, "is running"),
        ("inactive", "dead", "0", 404, "is not deployed"),
        ("failed", "failed", "", 424, "ActiveState=failed SubState=failed Result=exit-code"),
        ("activating", "auto-restart", "", 424, "SubState=auto-restart"),
    ] {
        let show = format!(
            "LoadState=loaded\nActiveState={active}\nSubState={sub}\nResult=exit-code\nJob={job}\n"
        );
        let host = Host::new().file("bin/show", show);
        let request = get(&format!("{STATUS}?branch=x"));
        host.answers(&request, status, words, NOT_RUN);
        let answer = host.call(Unix, request).answer;
        assert_eq!(answer.header("retry-after"), (status == 503).then_some("2"), "{active}");
    }
}

#[test]
fn an_order_that_is_running_is_seen_by_the_status() {
    let host = Host::new().file("bin/hold", "");
    let mut call = host.connect(Unix);
    call.send(deploy_x());
    host.wait_for_systemctl();
    // The unit itself knows of no job: here, systemctl does not reach it.
    for _ in 0..3 {
        let answer = host.exchange(get(&format!("{STATUS}?branch=x")));
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    assert_eq!(host.exchange(get(&format!("{STATUS}?branch=y"))).status, 404);
    fs::remove_file(host.root.join("bin/hold")).expect("the hold");
    call.finish().is(200, "is deployed", RESTART_X, "a deployment");
}

#[test]
fn no_outcome_is_an_answer_too() {
    // The root side does not answer in time.
    let host = Host::new().file("bin/hold", "").set("BUILDBTW_WAIT_SEC", "1");
    let outcome = {
        let mut call = host.connect(Unix);
        call.send(deploy_x());
        let answer = call.answer();
        fs::remove_file(host.root.join("bin/hold")).expect("the hold");
        answer
    };
    assert_eq!(outcome.status, 503);
    assert!(outcome.text.contains("is not ready after 1 s"), "{outcome:?}");
    assert_eq!(outcome.header("retry-after"), Some("30"));
    host.idle();
    host.take_calls();
    // There is no root side.
    let nowhere = host.root.join("nowhere").to_str().expect("a path").to_owned();
    let host = host.set("BUILDBTW_ORDERS", &nowhere);
    host.answers(deploy_x(), 503, "systemctl start buildbtw-systemctl.socket", NOT_RUN);
    // It closes the connection without a word.
    let mute = host.root.join("mute");
    let listener = UnixListener::bind(&mute).expect("a socket");
    thread::spawn(move || listener.incoming().for_each(drop));
    let host = host.set("BUILDBTW_ORDERS", mute.to_str().expect("a path"));
    host.answers(deploy_x(), 503, "no outcome came back for buildbtw@x.service", NOT_RUN);
    // It says what this version does not know.
    let newer = host.root.join("newer");
    let listener = UnixListener::bind(&newer).expect("a socket");
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.expect("an order");
            let mut order = [0; 9];
            connection.read_exact(&mut order).expect("an order");
            assert_eq!(&order, b"deploy x\n");
            connection.write_all(b"postponed\nask again tomorrow\n").expect("an outcome");
        }
    });
    let host = host.set("BUILDBTW_ORDERS", newer.to_str().expect("a path"));
    host.answers(deploy_x(), 500, "ask again tomorrow\n", NOT_RUN);
    for wait in ["soon", "0", "-1", "", "18446744073709551615"] {
        let host = Host::new().set("BUILDBTW_WAIT_SEC", wait);
        let outcome = host.call(Unix, deploy_x());
        outcome.is(500, FAULT, NOT_RUN, wait);
        let why = format!("BUILDBTW_WAIT_SEC={wait} is not a number of seconds");
        assert!(outcome.ended.record.contains(&why), "{outcome:?}");
    }
}
