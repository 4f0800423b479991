//! What runs as root: orders in, command lines and outcomes out.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use buildbtw_hook::order::MAX_ORDER;

use super::harness::*;

/// What comes back for an order.
fn order(host: &Host, line: impl AsRef<[u8]>) -> String {
    let mut peer = host.give(line);
    let mut outcome = String::new();
    // A reset where it was not read to its end.
    let _ = peer.read_to_string(&mut outcome);
    outcome
}

#[test]
fn an_order_runs_these_commands_and_no_other() {
    let host = Host::new();
    let systemctl = |verb: &str| format!("[--no-ask-password][--job-mode=replace]{verb}");
    let show = systemctl(
        "[--property=LoadState,ActiveState,SubState,Result,Job,InvocationID,CanClean]\
         [show][--][buildbtw@x.service]",
    );
    for (line, outcome, calls, shows) in [
        ("deploy x\n", "done\n", vec![systemctl("[restart][--][buildbtw@x.service]")], 0),
        ("deploy x async\n", "accepted\n", vec![systemctl("[restart][--][buildbtw@x.service]")], 1),
        ("undeploy x\n", "done\n", vec![systemctl("[stop][--][buildbtw@x.service]")], 0),
        ("status x\n", "absent\n", vec![], 1),
        ("status x async\n", "absent\n", vec![], 1),
    ] {
        let host = if line.starts_with("status") { &Host::new() } else { &host };
        let told = order(host, line);
        assert!(told.starts_with(outcome), "{line:?}: {told:?}");
        assert_eq!(host.take_calls(), calls, "{line:?}");
        let looked = fs::read_to_string(host.root.join("bin/shows")).unwrap_or_default();
        let _ = fs::remove_file(host.root.join("bin/shows"));
        assert_eq!(looked.lines().collect::<Vec<_>>(), vec![show.as_str(); shows], "{line:?}");
        assert!(!host.root.join("bin/journalctl-calls").exists(), "nothing failed");
    }
}

#[test]
fn what_is_not_an_order_is_refused_and_recorded() {
    let host = Host::new();
    let long = format!("deploy {}\n", "x".repeat(200));
    for line in [
        b"restart x\n".as_slice(),
        b"deploy X\n",
        b"deploy x now\n",
        b"deploy x\ndeploy y\n",
        b"deploy x\r\n",
        b"deploy --job-mode=flush\n",
        b"\n",
        b"\0\0\n",
        b"\xff\xfe\n",
        b"GET / HTTP/1.1\r\n\r\n",
        long.as_bytes(),
    ] {
        let told = order(&host, line);
        assert_eq!(told, "refused\nbuildbtw-systemctl knows no such order\n");
        let records = host.take_records();
        assert!(records.starts_with("ERROR: refused an order: \""), "{records}");
        assert_eq!(records.lines().count(), 1, "{records}");
        assert!(records.len() < 600, "{records}");
        assert_eq!(host.take_calls(), NOT_RUN);
    }
}

#[test]
fn a_line_is_read_up_to_its_bound() {
    let host = Host::new();
    for (length, is_too_long) in [(MAX_ORDER, false), (MAX_ORDER + 1, true)] {
        let line = "x".repeat(length - 1) + "\n";
        assert!(order(&host, line).starts_with("refused\n"));
        let records = host.take_records();
        assert_eq!(records.contains("is too long"), is_too_long, "{length}: {records}");
    }
    // Without its end, which is not waited for.
    let begin = Instant::now();
    assert!(order(&host, "x".repeat(MAX_ORDER * 3)).starts_with("refused\n"));
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_line_that_does_not_come_is_not_waited_for() {
    thread::scope(|scope| {
        for sent in ["", "deploy x"] {
            scope.spawn(move || {
                let host = Host::new();
                let begin = Instant::now();
                assert!(order(&host, sent).starts_with("refused\n"));
                let waited = begin.elapsed();
                assert!((9..12).contains(&waited.as_secs()), "{waited:?}");
                assert!(host.take_records().contains("could not be read"));
                // Nor is one that ends.
                let peer = host.give(sent);
                peer.shutdown(Shutdown::Write).expect("a socket");
                assert_eq!(io::read_to_string(peer).expect("an outcome").lines().count(), 2);
                assert!(host.take_records().contains("ends too soon"));
                assert_eq!(host.take_calls(), NOT_RUN);
            });
        }
    });
}

/// Records as journalctl exports them: the invocation, if there is one, and the message.
fn export(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut export = Vec::new();
    for (invocation, message) in records {
        export.extend(b"__CURSOR=s=1\nMESSAGE\n");
        export.extend(message.len().to_le_bytes());
        export.extend([message, &b"\n"[..]].concat());
        if !invocation.is_empty() {
            export.extend(format!("_SYSTEMD_INVOCATION_ID={invocation}\n").bytes());
        }
        export.push(b'\n');
    }
    export
}

#[test]
fn a_failure_quotes_what_the_unit_wrote_and_nothing_in_it_can_do_harm() {
    let journal: [(&str, &[u8]); 5] = [
        ("cd34", b"of another start"),
        ("ab12", b"one"),
        ("", b"\x1b[31mred \"quoted\" \\ \xe2\x80\xae\r\xff\n"),
        ("ef56", b"of another start"),
        ("ab12", b"last"),
    ];
    let failing = || {
        Host::new()
            .file("bin/exit", "1\n")
            .file("bin/stderr", "Job for buildbtw@x.service failed.\n")
            .file("bin/show", "LoadState=loaded\nActiveState=failed\nInvocationID=ab12\n")
            .file("bin/journal", export(&journal))
    };
    let host = failing();
    let told = order(&host, "deploy x\n");
    let quoted = "\n  its last lines:\n    one\n    \\u{1b}[31mred \"quoted\" \\ \\u{202e}\\r\u{fffd}\n    \n    last\n";
    assert!(told.starts_with("start-failed\nrestart of buildbtw@x.service failed: "), "{told:?}");
    assert!(told.ends_with(quoted), "{told:?}");
    let calls = fs::read_to_string(host.root.join("bin/journalctl-calls")).expect("journalctl");
    let calls: Vec<_> = calls.lines().collect();
    assert_eq!(calls[0], "[--sync]");
    let asked = "[--quiet][--no-pager][--output=cat][--output-fields=INVOCATION_ID][--lines=1]";
    let (_, asked) = calls[1].split_once(asked).expect(calls[1]);
    let (since, asked) = asked.split_once(']').expect(calls[1]);
    assert!(asked.ends_with("[UNIT=buildbtw@x.service]"), "{calls:?}");
    let fields = "[--output=export][--output-fields=MESSAGE,_SYSTEMD_INVOCATION_ID][--lines=200]";
    let unit = "[_SYSTEMD_UNIT=buildbtw@x.service]";
    assert_eq!(calls[2..], [format!("[--quiet][--no-pager]{fields}{since}]{unit}")]);
    let since = since.strip_prefix("[--since=@").and_then(|since| since.parse().ok());
    let began = UNIX_EPOCH + Duration::from_secs(since.expect("seconds"));
    let ago = SystemTime::now().duration_since(began).expect("in the past");
    assert!((1..60).contains(&ago.as_secs()), "{ago:?}");
    // Where systemd recorded which start failed, that is the one, whatever the unit is at by now.
    let host = failing().file("bin/failed-invocation", "cd34\n");
    let told = order(&host, "deploy x\n");
    let (_, lines) = told.split_once("its last lines:").expect("lines");
    assert!(lines.contains("of another start") && !lines.contains("last"), "{lines}");

    let host = failing().set("BUILDBTW_LOG_LINES", "2");
    let told = order(&host, "deploy x\n");
    assert!(told.ends_with("\n  its last lines:\n    \n    last\n"), "{told:?}");
    let host = failing().set("BUILDBTW_LOG_LINES", "0");
    let told = order(&host, "deploy x\n");
    assert!(!told.contains("its last lines"), "{told:?}");
    assert!(!host.root.join("bin/journalctl-calls").exists(), "there is nothing to look for");
    let host = failing();
    let long = "x".repeat(4000);
    let host = host.file("bin/journal", export(&[("ab12", long.as_bytes()); 30]));
    let told = order(&host, "deploy x\n");
    assert!((7_000..10_000).contains(&told.len()), "{}", told.len());
    let host = failing().set("BUILDBTW_LOG_LINES", "many");
    assert_eq!(order(&host, "deploy x\n"), "failed\nBUILDBTW_LOG_LINES=many is not a number\n");
    assert_eq!(host.take_calls(), NOT_RUN);
}

#[test]
fn data_is_removed_only_where_the_host_says_so() {
    let host = Host::new();
    order(&host, "undeploy x\n");
    assert_eq!(host.take_calls(), STOP_X);
    let host = host.set("BUILDBTW_CLEAN", "state");
    assert!(order(&host, "undeploy x\n").starts_with("done\n"));
    let clean =
        "[--no-ask-password][--job-mode=replace][--what=state][clean][--][buildbtw@x.service]";
    assert_eq!(host.take_calls(), [STOP_X[0], clean]);
    let host = host.set("BUILDBTW_CLEAN", "yes");
    assert_eq!(order(&host, "undeploy x\n"), "failed\nBUILDBTW_CLEAN=yes is not \"state\"\n");
    // A unit that has no such directory.
    let show = "LoadState=loaded\nActiveState=inactive\nCanClean=runtime\n";
    let host = Host::new().file("bin/show", show).set("BUILDBTW_CLEAN", "state");
    assert!(order(&host, "undeploy x\n").starts_with("done\n"));
    assert_eq!(host.take_calls(), STOP_X);
    let host = Host::new().file("bin/show-fails", "").set("BUILDBTW_CLEAN", "state");
    let told = order(&host, "undeploy x\n");
    let why =
        "failed\nit is undeployed, but its data is there: cannot read the state of buildbtw@x";
    assert!(told.starts_with(why), "{told}");
    assert_eq!(host.take_calls(), STOP_X);
}

#[test]
fn what_is_deployed_is_noted_and_restored() {
    let host = Host::new();
    assert!(order(&host, "deploy x\n").starts_with("done\n"));
    host.idle();
    assert_eq!(host.state(), ["x"]);
    // A first deployment that fails for good is not.
    let host = host.file("bin/exit", "1\n").file("bin/stderr", "Job for y failed.\n");
    assert!(order(&host, "deploy y\n").starts_with("start-failed\n"));
    host.idle();
    assert_eq!(host.state(), ["x"]);
    host.take_calls();

    let start =
        "[--no-ask-password][--job-mode=replace][--no-block][start][--][buildbtw@x.service]";
    let host = host.file("bin/exit", "0\n").file("state/No.slug", "");
    let restored = host.run_as(ROOT_SIDE, &["--restore"]);
    assert_eq!(restored.status.code(), Some(0), "{restored:?}");
    assert!(String::from_utf8_lossy(&restored.stderr).contains("\"No.slug\" is not a slug"));
    assert_eq!(host.take_calls(), [start]);
    let host = host.file("bin/exit", "1\n").file("bin/stderr", "systemctl's words\n");
    let restored = host.run_as(ROOT_SIDE, &["--restore"]);
    assert_eq!(restored.status.code(), Some(1));
    let said = String::from_utf8_lossy(&restored.stderr);
    assert!(said.contains("systemctl's words"), "{said}");
    assert!(said.contains("not everything is restored: 1 failed"), "{said}");
    assert_eq!(host.take_calls(), [start]);

    // A call that is under way decides by itself.
    let host = host.without_file("state/No.slug").file("bin/exit", "0\n").file("bin/hold", "");
    let undeployment = host.give("undeploy x\n");
    host.wait_for_systemctl();
    fs::write(host.root.join("state/x"), "").expect("a note");
    assert_eq!(host.run_as(ROOT_SIDE, &["--restore"]).status.code(), Some(0));
    fs::remove_file(host.root.join("bin/hold")).expect("the hold");
    assert!(io::read_to_string(undeployment).expect("an outcome").starts_with("done\n"));
    assert_eq!(host.take_calls(), STOP_X);
    assert!(!host.root.join("runtime/x").exists(), "nothing is left of it");
    let host = host.without_file("state/x");
    assert_eq!(host.run_as(ROOT_SIDE, &["--restore"]).status.code(), Some(0));
    assert_eq!(host.take_calls(), NOT_RUN);
}

#[test]
fn nothing_is_done_where_it_cannot_be_noted() {
    let host = Host::new();
    let is_refused = |line: &str| {
        let told = order(&host, line);
        let words = "failed\nnothing is done: cannot note what the next boot";
        assert!(told.starts_with(words), "{told:?}");
        assert_eq!(host.take_calls(), NOT_RUN);
    };
    // A note that cannot be removed, and one that cannot be made.
    let note = host.root.join("state/x");
    fs::create_dir(&note).expect("a directory");
    is_refused("undeploy x\n");
    fs::remove_dir(&note).expect("the directory");
    fs::remove_dir(host.root.join("state")).expect("the state directory");
    is_refused("deploy x\n");
    assert_eq!(host.run_as(ROOT_SIDE, &["--restore"]).status.code(), Some(1));
    fs::remove_dir_all(host.root.join("runtime")).expect("the runtime directory");
    let told = order(&host, "deploy x\n");
    assert!(told.starts_with("failed\nnothing is done: cannot mark the branch"), "{told:?}");
}

#[test]
fn the_note_is_what_systemd_says_whatever_came_last() {
    // An undeployment that ends after a deployment has made the branch active again, and the other
    // way round: what counts is what is.
    for (line, active, noted) in [
        ("undeploy x\n", "activating", true),
        ("undeploy x\n", "inactive", false),
        ("undeploy x\n", "failed", false),
        ("deploy x\n", "inactive", false),
        ("deploy x\n", "active", true),
        // Whatever stops it looks when it is done.
        ("deploy x\n", "deactivating", true),
        ("deploy x\n", "failed", false),
    ] {
        let show = format!("LoadState=loaded\nActiveState={active}\nInvocationID=1\n");
        let host = Host::new().file("bin/show", show);
        // Another order is running, or ended meanwhile.
        let other = File::create(host.root.join("runtime/x")).expect("a file");
        other.lock_shared().expect("a lock");
        order(&host, line);
        host.idle();
        assert_eq!(host.state().len(), usize::from(noted), "{line:?} {active}");
        let left = fs::read_to_string(host.root.join("runtime/x")).expect("the first line");
        assert!(left.ends_with(&format!(" {}", line.replace(" x", ""))), "{left:?}");
    }
    for other in ["1 deploy\n", "1 undeploy\n"] {
        let host = Host::new().file("bin/hold", "");
        let peer = host.give("undeploy x\n");
        host.wait_for_systemctl();
        // It came later, and has ended.
        fs::write(host.root.join("runtime/x"), other).expect("a line");
        fs::write(host.root.join("bin/show"), "ActiveState=active\n").expect("a state");
        fs::remove_file(host.root.join("bin/hold")).expect("the hold");
        assert!(io::read_to_string(peer).expect("an outcome").starts_with("done\n"));
        host.idle();
        assert_eq!(host.state(), ["x"], "it is up");
    }
    // A redeployment that failed for good stays noted: the next boot is one more try.
    let host = Host::new().file("state/x", "").file("bin/exit", "1\n");
    let host = host.file("bin/stderr", "Job for x failed.\n");
    order(&host, "deploy x\n");
    host.idle();
    assert_eq!(host.state(), ["x"]);
    // One that systemd tries again by itself is noted, also after a first deployment that failed.
    let show = "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\n";
    let host = Host::new().file("bin/show", show).file("bin/exit", "1\n");
    let host = host.file("bin/stderr", "Job for x failed.\n");
    assert!(order(&host, "deploy x\n").starts_with("start-failed\n"));
    host.idle();
    assert_eq!(host.state(), ["x"]);
}

#[test]
fn deployments_that_hang_hold_up_deployments_and_nothing_else() {
    let host = Host::new();
    let slots: Vec<_> = (0..64)
        .map(|slot| {
            File::create(host.root.join(format!("runtime/.place-{slot}"))).expect("a place")
        })
        .collect();
    for slot in &slots {
        slot.lock().expect("a lock");
    }
    // They wait, but not for ever.
    let host = host.set("BUILDBTW_QUEUE_SEC", "1");
    assert!(order(&host, "deploy x\n").starts_with("overloaded\n64 deployments are running"));
    assert_eq!(host.take_calls(), NOT_RUN);
    assert_eq!(host.state(), NOT_RUN);
    let words = "64 deployments are running: nothing is done\n";
    host.answers(deploy_x(), 503, words, NOT_RUN);
    // Who polls need not go on.
    host.answers(get(&format!("{STATUS}?branch=x")), 424, words, NOT_RUN);
    let host = host.unset("BUILDBTW_QUEUE_SEC");
    let mut waiting = [host.give("deploy y\n"), host.give("deploy z\n")];
    assert!(order(&host, "undeploy x\n").starts_with("done\n"));
    assert!(order(&host, "status x\n").starts_with("absent\n"));
    assert!(order(&host, "status y\n").starts_with("running\n"));
    // One place is enough for both, one after the other.
    slots[63].unlock().expect("a lock");
    for peer in &mut waiting {
        let mut outcome = String::new();
        peer.read_to_string(&mut outcome).expect("an outcome");
        assert!(outcome.starts_with("done\n"), "{outcome}");
    }
    assert_eq!(host.take_calls().len(), 3);
}

#[test]
fn a_systemctl_that_was_cut_off_is_not_a_failure() {
    // systemctl's words when `systemctl daemon-reexec` closes its connection.
    let words = "D-Bus connection terminated while waiting for jobs.\n";
    let cut_off = |active: &str| {
        let show = format!("LoadState=loaded\nActiveState={active}\nInvocationID=1\n");
        Host::new().file("bin/exit", "1\n").file("bin/stderr", words).file("bin/show", show)
    };
    assert!(order(&cut_off("active"), "deploy x\n").starts_with("done\n"));
    assert!(order(&cut_off("inactive"), "undeploy x\n").starts_with("done\n"));
    assert!(order(&cut_off("failed"), "deploy x\n").starts_with("start-failed\n"));
    assert!(order(&cut_off("active"), "undeploy x\n").starts_with("failed\n"));
    // While its job runs, it goes on.
    let host = cut_off("active");
    fs::write(host.root.join("bin/show"), "ActiveState=activating\nJob=7\n").expect("a job");
    let mut peer = host.give("deploy x\n");
    peer.set_read_timeout(Some(Duration::from_millis(700))).expect("a timeout");
    assert!(peer.read(&mut [0]).is_err(), "it waits");
    fs::write(host.root.join("bin/show"), "ActiveState=failed\n").expect("no job");
    peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert!(io::read_to_string(peer).expect("an outcome").starts_with("start-failed\n"));
    // A failure in systemctl's own words is one, whatever the unit is like by then.
    let host = cut_off("active").file("bin/stderr", "Job for buildbtw@x.service canceled.\n");
    assert!(order(&host, "deploy x\n").starts_with("start-failed\n"));
}

#[test]
fn the_connection_need_not_last() {
    let host = Host::new().file("bin/hold", "");
    let mut peer = host.give("");
    peer.write_all(b"deploy x\n").expect("an order");
    host.wait_for_systemctl();
    drop(peer);
    fs::remove_file(host.root.join("bin/hold")).expect("the hold");
    assert_eq!(host.take_calls(), RESTART_X);
    assert_eq!(host.state(), ["x"]);
}

/// A deployment that pulls must find it there.
#[test]
fn an_undeployment_stands_whatever_ends_after_it() {
    let host = Host::new().file("bin/hold", "").file("bin/exit", "1\n");
    let host = host.file("bin/stderr", "Job for x canceled.\n");
    let deployment = host.give("deploy x\n");
    host.wait_for_systemctl();
    let other = File::open(host.root.join("runtime/x")).expect("a file");
    other.lock_shared().expect("a lock");
    fs::write(host.root.join("runtime/x"), "1 undeploy\n").expect("a line");
    fs::remove_file(host.root.join("bin/hold")).expect("the hold");
    assert!(io::read_to_string(deployment).expect("an outcome").starts_with("start-failed\n"));
    host.idle();
    let left = fs::read_to_string(host.root.join("runtime/x")).expect("the first line");
    assert!(left.ends_with(" undeploy\n") && left != "1 undeploy\n", "{left:?}");
}

#[test]
fn it_is_not_run_by_hand() {
    let host = Host::new();
    for (arguments, words) in [
        (&[][..], "stdin is not a connection"),
        (&["--help"], "carries out one order of buildbtw-hook"),
        (&["deploy"], "it takes no argument \"deploy\""),
    ] {
        let output = host.run_as(ROOT_SIDE, arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{words}");
        assert_eq!(host.take_calls(), NOT_RUN);
    }
}
