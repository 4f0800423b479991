//! What is done with a branch, and what the caller is told.

use std::os::unix::net::UnixListener;
use std::thread;

use super::harness::*;

/// What else may name the branch: the unit tests of `request.rs`, and the fuzzer.
#[test]
fn deploys_and_undeploys_the_branch_of_a_query_or_a_form() {
    let host = Host::new();
    let deployed = "branch x is deployed (restart of buildbtw@x.service)\n";
    let gone = "branch x is not deployed any more (stop of buildbtw@x.service)\n";
    for transport in TRANSPORTS {
        host.begin(transport, deploy_x()).finish().is(200, deployed, RESTART_X, "a query");
        let undeploy = post(UNDEPLOY, FORM, "branch=x");
        host.begin(transport, undeploy).finish().is(200, gone, STOP_X, "a form");
    }
}

#[test]
fn only_branches_that_the_host_allows() {
    let host = Host::new().set("BUILDBTW_BRANCHES", "main");
    let words = "branch x is not allowed on this host, which takes: main\n";
    host.answers(&deploy_x(), 403, words, NOT_RUN);
    // No other branch is listed.
    for branch in ["main", "x"] {
        host.order(format!("deploy {branch}\n"));
    }
    assert_eq!(host.exchange(get(LIST)).text, "main up 2026-11-28T12:00:00Z -\n");
    let host = host.set("BUILDBTW_BRANCHES", "mai");
    assert_eq!(host.exchange(get(LIST)).text, "");
}

#[test]
fn a_caller_who_would_not_wait_is_told_the_outcome_by_the_status() {
    let host = Host::new().hold(RESTART_X);
    let line = format!("POST {DEPLOY}?branch=x HTTP/1.1");
    let request = authorized(&line, &["prefer: wait=10, RESPOND-Async ; a=b"], "");
    let words = "deploy of branch x is accepted; branch-status tells the outcome\n";
    let answer = host.exchange(&request);
    assert_eq!((answer.status, answer.text.as_str()), (202, words));
    assert_eq!(answer.header("preference-applied"), Some("respond-async"));
    let status = get(&format!("{STATUS}?branch=x"));
    let answer = host.exchange(&status);
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("2")), "{answer:?}");
    host.release(RESTART_X);
    assert_eq!(host.take_calls(), RESTART_X);
    assert_eq!(host.take_records(), "");
    host.answers(&status, 200, "branch x is up since 2026-11-28T12:00:00Z (", NOT_RUN);

    let host = Host::new().file("bin/exit", "1\n").file("bin/stderr", "Job for x failed.\n");
    host.answers(&request, 202, "is accepted", RESTART_X);
    let records = host.take_records();
    assert!(records.contains("ERROR: restart of buildbtw@x.service failed"), "{records}");
    host.answers(&status, 424, "Job for x failed.", NOT_RUN);
}

#[test]
fn a_status_says_who_must_act() {
    let state = "ActiveState=failed\nSubState=failed\nResult=exit-code\n";
    let failing = |exit: &str, words: &[u8]| {
        let host = Host::new().file("bin/exit", exit).file("bin/stderr", words);
        host.show("@x.service", state)
    };
    let job = b"Job for buildbtw@x.service failed.\nSee \"systemctl status x\".\n";
    let pulls = || failing("0", job).show("-pull@x.service", "LoadState=loaded\n");
    let no_template = Host::new().show("@x.service", "LoadState=not-found\n");
    let empty = Host::new();
    let path = empty.root.join("empty").to_str().expect("a path in UTF-8").to_owned();
    let (deploy, undeploy) = (deploy_x(), get(&format!("{UNDEPLOY}?branch=x")));
    let not_run = "systemctl did not run: No such file or directory";
    for (request, host, status, words) in [
        (
            &deploy,
            failing("1", job),
            424,
            "exit status: 1: Job for buildbtw@x.service failed.\nSee \"systemctl status x\".\nActive",
        ),
        (&deploy, failing("1", b"Job for x canceled.\n"), 409, "Job for x canceled.\n"),
        (&deploy, pulls().file("bin/exit-buildbtw-pull@x.service", "1"), 502, "of buildbtw-pull@x"),
        (&deploy, no_template, 500, "Unit buildbtw@x.service not found.\n"),
        (&deploy, failing("0", b"").file("bin/signal", "KILL"), 500, "signal: 9 (SIGKILL)"),
        (&deploy, failing("1", b"\xffno\n"), 500, "exit status: 1: \u{fffd}no\n"),
        (&deploy, empty.set("PATH", &path), 500, not_run),
        // systemctl(1): 5 where the unit is not loaded, which is what undeploy is for.
        (&undeploy, failing("5", job), 200, "branch x was not deployed\n"),
        (&undeploy, Host::new().set("PATH", &path), 500, not_run),
    ] {
        let outcome = host.call(request);
        assert_eq!(outcome.answer.status, status, "{outcome:#?}");
        assert!(outcome.answer.text.contains(words), "{words:?}: {outcome:#?}");
        let lines = outcome.answer.text.lines();
        assert!(lines.clone().all(|line| !line.trim().is_empty()), "{outcome:?}");
    }
}

#[test]
fn every_state_of_a_unit_has_a_status() {
    for (active, sub, job, status, words) in [
        ("active", "running", "", 200, "branch x is up since - ("),
        ("reloading", "reload", "", 200, "is up"),
        ("refreshing", "refresh", "", 200, "is up"),
        ("active", "running", "7", 503, "a job for buildbtw@x.service is running\n"),
        ("inactive", "dead", "7", 503, "is running"),
        ("activating", "start", "7", 503, "is running"),
        ("deactivating", "stop", "", 503, "is running"),
        ("inactive", "dead", "0", 404, "branch x is not deployed\n"),
        ("failed", "failed", "", 424, "ActiveState=failed SubState=failed Result=exit-code"),
        ("activating", "auto-restart", "", 424, "SubState=auto-restart"),
    ] {
        let show = format!("ActiveState={active}\nSubState={sub}\nResult=exit-code\nJob={job}\n");
        let host = Host::new().show("@x.service", &show);
        let outcome = host.call(post(STATUS, FORM, "branch=x"));
        outcome.is(status, words, NOT_RUN, active);
        assert_eq!(outcome.answer.header("retry-after"), (status == 503).then_some("2"));
    }
}

#[test]
fn no_outcome_is_an_answer_too() {
    let is_503 = |host: &Host, words: &str, retry_after: Option<&str>| {
        let answer = host.exchange(deploy_x());
        assert_eq!((answer.status, answer.header("retry-after")), (503, retry_after), "{answer:?}");
        assert!(answer.text.contains(words), "{answer:?}");
    };
    // The root side does not answer in time.
    let host = Host::new().hold(RESTART_X);
    let host = host.set("BUILDBTW_WAIT_SEC", "1");
    is_503(&host, "\"deploy x\" is not done after 1 s and goes on: do not repeat it", None);
    host.release(RESTART_X);
    assert_eq!(host.take_calls(), RESTART_X);
    assert!(host.order("status x\n").starts_with("done\nbranch x is up"));
    // There is no root side.
    let nowhere = host.root.join("nowhere").to_str().expect("a path").to_owned();
    let host = host.set("BUILDBTW_ORDERS", &nowhere);
    is_503(&host, "systemctl start buildbtw-systemctl.socket", Some("30"));
    // It closes the connection without a word.
    let mute = host.root.join("mute");
    let listener = UnixListener::bind(&mute).expect("a socket");
    thread::spawn(move || listener.incoming().for_each(drop));
    let host = host.set("BUILDBTW_ORDERS", mute.to_str().expect("a path"));
    is_503(&host, "no outcome came back for \"deploy x\"", None);
    // The hook does not know how long to wait.
    for wait in ["soon", "0"] {
        let outcome = Host::new().set("BUILDBTW_WAIT_SEC", wait).call(deploy_x());
        outcome.is(500, FAULT, NOT_RUN, wait);
        let why = format!("BUILDBTW_WAIT_SEC={wait} is not a number of seconds");
        assert!(outcome.ended.record.contains(&why), "{outcome:?}");
    }
}
