//! What runs as root: orders in, command lines and outcomes out.

use std::fs;
use std::net::Shutdown;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use buildbtw_hook::order::MAX_ORDER;

use super::harness::*;

const UP: &str = "ActiveState=active\n";
const DOWN: &str = "ActiveState=inactive\nResult=success\n";
const GONE: &str = "LoadState=not-found\nActiveState=inactive\nResult=success\n";
const FAILED: &str = "ActiveState=failed\nSubState=failed\nInvocationID=INVOCATION\n";
const PULL_X: &str = "restart buildbtw-pull@x.service";
const PULL_AND_RESTART_X: &str = "restart buildbtw-pull@x.service; restart buildbtw@x.service";

/// A host that pulls, and what the pull says that it has got.
fn pulling(image: &str) -> Host {
    Host::new().show("-pull@x.service", DOWN).file("run/buildbtw-pull/x", image)
}

/// A host where systemctl fails with these words.
fn failing(words: &str) -> Host {
    Host::new().file("bin/exit", "1\n").file("bin/stderr", words)
}

#[test]
fn an_order_runs_these_commands_and_no_other() {
    let host = Host::new;
    let masked = "LoadState=masked\nActiveState=inactive\n";
    let no_state = "ActiveState=inactive\nResult=success\nCanClean=runtime\n";
    // It was waiting for its next start.
    let gave_up = "ActiveState=inactive\nResult=exit-code\nCanClean=state\n";
    let reset_and_clean = "stop buildbtw@x.service; reset-failed buildbtw@x.service; \
                           --what=state clean buildbtw@x.service";
    let cleaning = || host().set("BUILDBTW_CLEAN", "state");
    let deployed = "done\nbranch x is deployed (restart of buildbtw@x.service)\n";
    let with_image =
        "done\nbranch x is deployed (restart of buildbtw@x.service, image 12ab revision 3.x)\n";
    let was_not = "done\nbranch x was not deployed\n";
    let not_any_more = "done\nbranch x is not deployed any more (stop of buildbtw@x.service)\n";
    let not_found = "no-template\nUnit buildbtw@x.service not found.\n";
    let stop_all = "stop buildbtw@x.socket; stop buildbtw-pull@x.service buildbtw@x.service";
    let clean = "stop buildbtw@x.service; --what=state clean buildbtw@x.service";
    let reset = "stop buildbtw@x.service; reset-failed buildbtw@x.service";
    for (line, host, told, calls) in [
        ("deploy x", host(), deployed, RESTART_X),
        ("deploy x", host().show("-pull@x.service", masked), deployed, RESTART_X),
        ("deploy x", pulling(""), deployed, PULL_AND_RESTART_X),
        ("deploy x", pulling("12ab revision 3.x\n\u{1b}[\""), with_image, PULL_AND_RESTART_X),
        ("deploy x async", host(), "accepted\ndeploy of branch x is accepted;", RESTART_X),
        ("deploy x", host().show("@x.service", GONE), not_found, NOT_RUN),
        ("deploy x async", host().show("@x.service", GONE), not_found, NOT_RUN),
        ("undeploy x", host(), was_not, STOP_X),
        ("undeploy x", pulling("").show("@x.socket", UP), not_any_more, stop_all),
        ("undeploy x", cleaning(), was_not, clean),
        ("undeploy x", cleaning().show("@x.service", no_state), was_not, STOP_X),
        ("undeploy x", host().show("@x.service", FAILED), was_not, reset),
        ("undeploy x", cleaning().show("@x.service", gave_up), was_not, reset_and_clean),
        ("expire x", host(), "done\nbranch x has not expired\n", NOT_RUN),
        ("status x", host(), "absent\nbranch x is not deployed\n", NOT_RUN),
        ("list", host(), "done\n\n", NOT_RUN),
    ] {
        let outcome = host.order(format!("{line}\n"));
        assert!(outcome.starts_with(told), "{line:?}: {outcome:?}");
        assert_eq!(host.take_calls(), calls, "{line:?}");
        assert_eq!(host.read("bin/journalctl-calls"), "", "nothing failed");
        let prune = "[--no-ask-password][--job-mode=replace][--no-block][restart][--]\
                     [buildbtw-prune.service]\n";
        let only_looks = line.starts_with("status") || line == "list";
        assert_eq!(host.read("bin/prunes"), if only_looks { "" } else { prune }, "{line:?}");
        let show = "[--no-ask-password][--job-mode=replace][--timestamp=utc][--property=";
        assert!(host.read("bin/shows").lines().all(|look| look.starts_with(show)));
    }
}

#[test]
fn the_next_boot_starts_what_is_deployed() {
    let host = Host::new();
    let target = |unit: &str| fs::read_link(host.root.join(WANTS).join(unit)).expect("a link");
    host.order("deploy x\n");
    assert_eq!(host.names(WANTS), "buildbtw@x.service");
    assert_eq!(target("buildbtw@x.service").to_str(), Some("../buildbtw@.service"));
    // Where it sleeps, its socket; and one of the two is enough.
    host.write("bin/show-buildbtw@x.service", "ActiveState=active\nStopWhenUnneeded=yes\n");
    for calls in [format!("daemon-reload --; {RESTART_X}").as_str(), RESTART_X] {
        host.take_calls();
        host.order("deploy x\n");
        assert_eq!(host.take_calls(), calls, "once, so that the target lets go of the unit");
    }
    assert_eq!(host.names(WANTS), "buildbtw@x.socket");
    assert_eq!(target("buildbtw@x.socket").to_str(), Some("../buildbtw@.socket"));
    // A deployment that fails is tried again.
    host.write("bin/exit", "1\n");
    host.order("deploy y\n");
    assert_eq!(host.names(WANTS), "buildbtw@x.socket; buildbtw@y.service");
    host.remove("bin/exit");
    host.remove("bin/show-buildbtw@x.service");
    for line in ["undeploy x\n", "undeploy y\n"] {
        assert!(host.order(line).contains("is not deployed any more (stop of "), "{line}");
        assert!(host.order(line).contains("was not deployed\n"), "{line}");
    }
    host.take_calls();
    for left in [WANTS, "var/lib/buildbtw-hook"] {
        assert_eq!(host.names(left), "", "{left}");
    }
    // Nothing is done where that cannot be changed.
    fs::create_dir(host.root.join(WANTS).join("buildbtw@x.service")).expect("a directory");
    for line in ["deploy x\n", "undeploy x\n"] {
        let told = host.order(line);
        let words = "failed\nthe unit is left as it is: cannot note what the next boot starts: ";
        assert!(told.starts_with(words), "{told:?}");
    }
    fs::remove_dir_all(host.root.join("var")).expect("the state directory");
    let told = host.order("deploy x\n");
    assert!(told.starts_with("failed\nthe unit is left as it is: cannot take a turn"), "{told:?}");
    assert_eq!(host.take_calls(), NOT_RUN);
}

#[test]
fn a_start_is_joined_for_its_image_and_replaced_for_another() {
    let later = "34cd, which a later call brought while 12ab was started";
    for (second, run, told) in
        [("12ab", "start buildbtw@x.service", "12ab"), ("34cd", RESTART_X, later)]
    {
        let host = pulling("12ab").hold(RESTART_X);
        let first = host.give_until("deploy x\n", RESTART_X);
        host.write("run/buildbtw-pull/x", second);
        host.remove(&format!("{WANTS}/buildbtw@x.service"));
        let other = host.give("deploy x\n");
        wait_until("four runs", || host.read("bin/calls").lines().count() == 4);
        wait_until("its image", || host.read("var/lib/buildbtw-hook/x.turn") == second);
        host.release(RESTART_X);
        let deployed = |run, image| format!("done\nbranch x is deployed ({run}, image {image})\n");
        assert_eq!(outcome(first), deployed("restart of buildbtw@x.service", told));
        assert_eq!(outcome(other), deployed(&run.replacen(' ', " of ", 1), second));
        assert_eq!(host.take_calls(), format!("{PULL_AND_RESTART_X}; {PULL_X}; {run}"));
        assert_eq!(host.names(WANTS), "buildbtw@x.service", "it is made anew, for the expiry too");
        let told = host.order("status x\n");
        assert!(told.ends_with(&format!("(buildbtw@x.service), image {second}\n")), "{told}");
        // Once it is over it is not joined.
        host.order("deploy x\n");
        assert_eq!(host.take_calls(), PULL_AND_RESTART_X);
    }
    // An image that is not known waits for the start before it.
    let host = Host::new().hold(RESTART_X);
    let first = host.give_until("deploy x\n", RESTART_X);
    let other = host.give("deploy x\n");
    wait_until("a look", || host.read("bin/shows").lines().count() == 2);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(host.read("bin/calls").lines().count(), 1);
    host.release(RESTART_X);
    assert!(outcome(first).starts_with("done\n") && outcome(other).starts_with("done\n"));
    assert_eq!(host.take_calls(), format!("{RESTART_X}; {RESTART_X}"));
}

#[test]
fn an_undeployment_ends_what_came_before_it() {
    let canceled = "canceled\ncanceled: branch x was undeployed meanwhile\n";
    for (host, run) in [(Host::new(), RESTART_X), (pulling("12ab"), PULL_X)] {
        let host = host.hold(run);
        let deployment = host.give_until("deploy x\n", run);
        assert!(host.order("status x\n").starts_with("running\n"), "{run}");
        assert!(host.order("undeploy x\n").starts_with("done\n"), "{run}");
        assert_eq!(outcome(deployment), canceled, "{run}");
        // A canceled pull starts nothing.
        assert_eq!(host.take_calls().contains(RESTART_X), run == RESTART_X);
        assert_eq!(host.names(WANTS), "");
        assert_eq!(host.order("status x\n"), "absent\nbranch x is not deployed\n");
        host.release(run);
        assert!(host.order("deploy x\n").starts_with("done\n"), "it comes back");
    }
    // A pull that ends well, but too late.
    let host = pulling("12ab").hold(PULL_X);
    let deployment = host.give_until("deploy x\n", PULL_X);
    host.remove("bin/show-buildbtw-pull@x.service");
    assert!(host.order("undeploy x\n").starts_with("done\n"));
    host.release(PULL_X);
    assert_eq!(outcome(deployment), canceled);
    assert_eq!(host.take_calls(), format!("{PULL_X}; {STOP_X}"));
    // A start that systemd has not taken on yet is waited for.
    let host = Host::new().file("bin/late-restart-buildbtw@x.service", "");
    let deployment = host.give_until("deploy x\n", RESTART_X);
    let undeployment = host.give("undeploy x\n");
    thread::sleep(Duration::from_millis(200));
    assert_eq!(host.read("bin/calls").lines().count(), 1);
    host.remove("bin/late-restart-buildbtw@x.service");
    outcome(deployment);
    assert!(outcome(undeployment).starts_with("done\n"));
    assert_eq!(host.order("status x\n"), "absent\nbranch x is not deployed\n");
    // What comes after it stands.
    let host = pulling("12ab").hold(RESTART_X).hold("stop buildbtw-pull@x.service");
    let deployment = host.give_until("deploy x\n", RESTART_X);
    let stop = "stop buildbtw-pull@x.service buildbtw@x.service";
    let undeployment = host.give_until("undeploy x\n", stop);
    assert_eq!(outcome(deployment), canceled);
    let later = host.give("deploy x\n");
    thread::sleep(Duration::from_millis(200));
    host.release(RESTART_X);
    host.release("stop buildbtw-pull@x.service");
    assert!(outcome(undeployment).starts_with("done\n"));
    assert!(outcome(later).starts_with("done\nbranch x is deployed"));
    assert_eq!(host.names(WANTS), "buildbtw@x.service");
    assert!(host.order("status x\n").starts_with("done\nbranch x is up"));
    // Somebody else may stop it.
    let host = pulling("12ab").hold(PULL_X);
    let deployment = host.give_until("deploy x\n", PULL_X);
    host.write("bin/canceled-buildbtw-pull@x.service", "");
    assert!(outcome(deployment).starts_with("canceled\nrestart of buildbtw-pull@x.service"));
    assert_eq!(host.take_calls(), PULL_X);
    // A branch named "canceled" is not taken for it.
    let host = failing("Job for buildbtw-pull@canceled.service failed.\n")
        .show("-pull@canceled.service", DOWN);
    assert!(host.order("deploy canceled\n").starts_with("pull-failed\n"));
}

#[test]
fn what_is_under_way_survives_a_crash() {
    let up = "done\nbranch x is up since 2026-11-28T12:00:00Z (buildbtw@x.service)\n";
    for (line, run) in [("deploy x\n", RESTART_X), ("undeploy x\n", STOP_X)] {
        let host = Host::new().file("bin/unit-buildbtw@x.service", "active\n").hold(run);
        assert_eq!(host.order("status x\n"), up);
        host.cut_off(line, run);
        // The job goes on.
        assert!(host.order("status x\n").starts_with("running\n"), "{line}");
        host.release(run);
        wait_until("its end", || !host.root.join("bin/job-buildbtw@x.service").exists());
        let told = host.order("status x\n");
        let words = "start-failed\nthe last order for branch x was cut off before it was done: ";
        assert!(told.starts_with(words), "{told}");
        assert!(host.order("list\n").starts_with("done\nx cut-off "), "{line}");
        assert!(host.order("deploy x\n").starts_with("done\n"));
        assert_eq!(host.order("status x\n"), up);
    }
}

#[test]
fn a_branch_expires_by_its_last_deployment() {
    let restart_old = "restart buildbtw@old.service";
    let host = Host::new().set("BUILDBTW_EXPIRE_DAYS", "7");
    for branch in ["old", "new", "mark"] {
        host.order(format!("deploy {branch}\n"));
    }
    let age = |days: u32, file: &str| {
        let (ago, file) = (format!("{days} days ago"), host.root.join(file));
        let touched = Command::new("touch").args(["-h", "-d", &ago]).arg(file).status();
        assert!(touched.expect("touch").success());
    };
    let link = |branch: &str| format!("{WANTS}/buildbtw@{branch}.service");
    age(8, &link("old"));
    age(6, &link("new"));
    age(8, "var/lib/buildbtw-hook/new");
    // The last order for it, where it is not wanted.
    host.remove(&link("mark"));
    age(8, "var/lib/buildbtw-hook/mark");
    let up = "up 2026-11-28T12:00:00Z -";
    let list = format!("done\nmark {up} expired\nnew {up} expires in 1 d\nold {up} expired\n");
    assert_eq!(host.order("list\n"), list);
    host.take_calls();
    // Not while an order for it runs.
    host.write("bin/hold-restart-buildbtw@old.service", "");
    let deployment = host.give_until("deploy old\n", restart_old);
    age(8, &link("old"));
    for branch in ["old", "new", "never"] {
        let told = format!("done\nbranch {branch} has not expired\n");
        assert_eq!(host.order(format!("expire {branch}\n")), told);
    }
    host.release(restart_old);
    assert!(outcome(deployment).starts_with("done\n"));
    assert_eq!(host.take_calls(), restart_old);
    // Nor where it is deployed while the expiry waits for its turn.
    age(8, &link("old"));
    let turn = fs::File::open(host.root.join("var/lib/buildbtw-hook/old.turn")).expect("a turn");
    turn.lock().expect("a lock");
    let expiry = host.give("expire old\n");
    thread::sleep(Duration::from_millis(300));
    age(0, &link("old"));
    drop(turn);
    assert!(outcome(expiry).ends_with("has not expired\n"));
    age(8, &link("old"));
    for branch in ["old", "mark"] {
        let told = host.order(format!("expire {branch}\n"));
        assert!(told.starts_with(&format!("done\nbranch {branch} is not deployed any more")));
        assert_eq!(host.take_calls(), format!("stop buildbtw@{branch}.service"));
    }
    assert_eq!(host.order("list\n"), format!("done\nnew {up} expires in 1 d\n"));
    // Unless it is deployed again, and never on a host that does not say when.
    host.order("deploy old\n");
    assert!(host.order("expire old\n").ends_with("has not expired\n"));
    age(800, &link("old"));
    let host = host.set("BUILDBTW_EXPIRE_DAYS", "0");
    assert!(host.order("expire old\n").ends_with("has not expired\n"));
    let host = host.unset("BUILDBTW_EXPIRE_DAYS");
    assert!(host.order("expire old\n").ends_with("has not expired\n"));
}

#[test]
fn the_image_that_is_told_is_the_one_that_was_started_last() {
    let host = pulling("12ab");
    let tells = |words: &str| {
        let told = host.order("status x\n");
        assert!(told.starts_with("done\n") && told.ends_with(words), "{words}: {told}");
    };
    host.order("deploy x\n");
    tells(", image 12ab\n");
    // A start that fails is tried again (Restart=).
    host.write("run/buildbtw-pull/x", "34cd");
    host.write("bin/exit-buildbtw@x.service", "1\n");
    host.write("bin/stderr", "Job for buildbtw@x.service failed.\n");
    assert!(host.order("deploy x\n").starts_with("start-failed\n"));
    tells(", image 34cd\n");
    // An earlier caller is told of the later image, also where it fails.
    host.write("bin/hold-restart-buildbtw@x.service", "");
    host.take_calls();
    let first = host.give_until("deploy x\n", RESTART_X);
    host.write("run/buildbtw-pull/x", "56ef");
    let second = host.give("deploy x\n");
    wait_until("four runs", || host.read("bin/calls").lines().count() == 4);
    wait_until("the later image", || host.read("var/lib/buildbtw-hook/x.turn") == "56ef");
    host.release(RESTART_X);
    assert!(outcome(first).contains("\na later call brought image 56ef\n"));
    assert!(!outcome(second).contains("later call"));
    host.remove("bin/exit-buildbtw@x.service");
    host.remove("bin/stderr");
    host.remove("run/buildbtw-pull/x");
    assert!(host.order("deploy x\n").starts_with("done\n"));
    tells("(buildbtw@x.service)\n");
}

#[test]
fn what_systemd_skips_or_somebody_stopped_is_not_up() {
    let skipped = "ActiveState=inactive\nConditionResult=no\n";
    let told = Host::new().show("@x.service", skipped).order("deploy x\n");
    assert_eq!(told, "start-failed\nbuildbtw@x.service is skipped: a condition of it is not met\n");
    // Nobody can visit it, up or asleep.
    let host = Host::new().show("@x.socket", "ActiveState=failed\n");
    let told = "start-failed\nbuildbtw@x.socket failed";
    assert!(host.order("deploy x\n").starts_with(told));
    assert!(host.order("status x\n").starts_with(told));
    host.take_calls();
    assert!(host.order("undeploy x\n").starts_with("done\n"));
    let run = "stop buildbtw@x.socket; reset-failed buildbtw@x.socket; stop buildbtw@x.service";
    assert_eq!(host.take_calls(), run);
    // Its socket is there, but wakes nobody on a host where nothing sleeps.
    let host = Host::new().show("@x.socket", UP);
    host.order("deploy x\n");
    host.write("bin/unit-buildbtw@x.service", "inactive\n");
    assert!(host.order("status x\n").starts_with("absent\n"));
}

#[test]
fn a_list_has_a_line_for_each_branch() {
    let host = failing("Job for it failed.\n")
        .file("bin/exit", "0\n")
        .file("bin/exit-buildbtw@b.service", "1\n")
        .show("-pull@a.service", DOWN)
        .file("run/buildbtw-pull/a", "12ab revision 34cd\n");
    for branch in ["a", "b", "c", "d"] {
        host.order(format!("deploy {branch}\n"));
    }
    let host = host
        .show("@c.service", &format!("{DOWN}StopWhenUnneeded=yes\n"))
        .show("@c.socket", UP)
        .show("@d.service", "ActiveState=deactivating\n")
        .file("var/lib/buildbtw-hook/No.slug", "")
        .file(&format!("{WANTS}/buildbtw@e.socket"), "");
    let list = "done\na up 2026-11-28T12:00:00Z 12ab\nb failed - -\nc asleep - -\n\
                d changing - -\ne stopped - -\n";
    assert_eq!(host.order("list\n"), list);
    assert!(host.order("status c\n").starts_with("done\nbranch c is asleep until a visit ("));
    let host = host.file("bin/show-fails", "");
    let told = host.order("list\n");
    assert!(told.starts_with("failed\ncannot read the state of buildbtw@a.service"), "{told}");
}

#[test]
fn a_lost_connection_is_not_a_failure() {
    let lost = "D-Bus connection terminated while waiting for jobs.\n";
    let away = "Failed to connect to system scope bus via local transport: Connection refused\n";
    let reset = "Failed to restart buildbtw@x.service: Connection reset by peer\n";
    let dependency = "A dependency job for buildbtw@x.service failed. See 'journalctl -xe'.\n";
    let denied = "Failed to restart buildbtw@x.service: Access denied\n";
    for (line, words, told, again) in [
        ("deploy x\n", lost, "done\n", "; start buildbtw@x.service"),
        ("deploy x\n", away, "done\n", "; restart buildbtw@x.service"),
        ("deploy x\n", reset, "done\n", "; restart buildbtw@x.service"),
        ("undeploy x\n", lost, "done\n", "; stop buildbtw@x.service"),
        ("deploy x\n", dependency, "start-failed\n", ""),
        ("deploy x\n", denied, "failed\n", ""),
    ] {
        let host = Host::new().file("bin/once", words);
        let outcome = host.order(line);
        assert!(outcome.starts_with(told), "{outcome}");
        assert_eq!(outcome.contains(words), again.is_empty(), "{outcome}");
        let first = if line.starts_with("undeploy") { STOP_X } else { RESTART_X };
        assert_eq!(host.take_calls(), first.to_owned() + again, "{words}");
    }
    // What goes on is joined, however often systemd is away.
    let once = "bin/once-buildbtw@x.service";
    let host = pulling("12ab").file(once, lost).file(&format!("{once}.then"), away);
    host.write("bin/unit-buildbtw@x.service", "activating\n");
    assert!(host.order("deploy x\n").starts_with("done\n"));
    let join = "; start buildbtw@x.service";
    assert_eq!(host.take_calls(), format!("{PULL_AND_RESTART_X}{join}{join}"));
}

#[test]
fn a_pull_that_failed_leaves_what_ran_before() {
    let host = pulling("12ab").file("bin/once", "Job for it failed.\n").show("@x.service", UP);
    let told = host.order("deploy x\n");
    let words = "pull-failed\nrestart of buildbtw-pull@x.service failed: exit status: 1: Job for it \
                 failed.\nwhat ran before still runs\n";
    assert_eq!(told, words);
    assert_eq!(host.take_calls(), PULL_X);
    assert_eq!(host.names(WANTS), "");
    assert_eq!(host.order("status x\n"), words.replace("pull-failed", "start-failed"));
}

#[test]
fn a_failure_quotes_what_the_unit_wrote_and_nothing_in_it_can_do_harm() {
    let host = |journal: &str| {
        failing("Job for buildbtw@x.service failed.\n")
            .show("@x.service", FAILED)
            .file("bin/_SYSTEMD_INVOCATION_ID=1", journal)
            .file("bin/_SYSTEMD_INVOCATION_ID=cd34", "of another start\n")
            .file("bin/_SYSTEMD_UNIT=buildbtw@x.service", "by name alone\n")
    };
    // conmon ends each message with a newline.
    let lines = |from: usize, to: usize, start: &str, end: &str| {
        (from..=to).map(|n| format!("{start}line {n}{end}\n")).collect::<Vec<_>>().concat()
    };
    let written = |count| lines(1, count, "", "\\n");
    let quoted = |from, to| "  its last lines:\n".to_owned() + &lines(from, to, "    ", "");
    let missing =
        "  it wrote so much that journald may have dropped lines; the last that it has:\n";
    let harm = "\\n\n\\033[31mred \"quoted\" \\\\ \u{202e}\\r\\377\\nlast\n";
    let harmless = "    \\u{1b}[31mred \"quoted\" \\ \\u{202e}\\r\u{fffd}\n    last\n";
    let other = host(harm).file("bin/UNIT=buildbtw@x.service", "cd34\n");
    for (host, words) in [
        (host(harm), quoted(1, 0) + harmless),
        (host(&written(30)), quoted(11, 30)),
        (host(&written(3)).set("BUILDBTW_LOG_LINES", "2"), quoted(2, 3)),
        (host(&written(10_000)), missing.to_owned() + &lines(9_981, 10_000, "    ", "")),
        (host(""), quoted(1, 0) + "    by name alone\n"),
        // The start that systemd says failed, whatever the unit is at by now.
        (other, quoted(1, 0) + "    of another start\n"),
        (host(harm).set("BUILDBTW_LOG_LINES", "0"), String::new()),
    ] {
        let before = "start-failed\nrestart of buildbtw@x.service failed: exit status: 1: Job for \
                      buildbtw@x.service failed.\nActiveState=failed SubState=failed Result=\n";
        assert_eq!(host.order("deploy x\n"), before.to_owned() + &words);
    }
    // What is on its way is waited for, and what was written before is not looked at.
    let host = host("");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
    host.order("deploy x\n");
    let calls = host.read("bin/journalctl-calls");
    assert!(calls.lines().next().is_some_and(|first| first.ends_with("[--sync]")), "{calls}");
    for by_time in calls.lines().filter(|line| line.contains("[UNIT=") || line.contains("_UNIT=")) {
        let since = by_time.split("[--since=@").nth(1).and_then(|rest| rest.split(']').next());
        let since: u64 = since.and_then(|since| since.parse().ok()).expect(by_time);
        assert!((now - 1..now + 20).contains(&since), "{by_time} {now}");
    }
    // However long they are.
    host.write("bin/_SYSTEMD_INVOCATION_ID=2", format!("{}\n", "x".repeat(4000)).repeat(30));
    let told = host.order("deploy x\n");
    assert!((7_000..10_000).contains(&told.len()), "{}", told.len());
    // Where no start began, the last one is an earlier one.
    host.write("bin/starts-none", "");
    assert!(host.order("deploy x\n").ends_with("SubState=failed Result=\n"));
    host.remove("bin/starts-none");
    // journald may be stuck.
    host.write("bin/stuck", "");
    let asked = Instant::now();
    let told = host.order("deploy x\n");
    assert!(told.starts_with("start-failed\n") && !told.contains("line"), "{told}");
    assert!(asked.elapsed() < Duration::from_secs(12), "{:?}", asked.elapsed());
}

#[test]
fn an_undeployment_is_done_when_systemd_says_so() {
    let state = |active: &str| {
        let host = Host::new().set("BUILDBTW_CLEAN", "state");
        host.show("@x.service", &format!("ActiveState={active}\nCanClean=state\n"))
    };
    let not_stopped = "stop of buildbtw@x.service failed: exit status: 0\nActiveState=active ";
    let not_cleaned = "buildbtw@x.service is stopped, but its data is there: exit status: 1\n";
    for (host, told) in [
        (state("active"), not_stopped),
        (state("inactive").file("bin/exit", "1\n"), not_cleaned),
        (state("").file("bin/show-fails", ""), "cannot read the state of buildbtw@x.service"),
    ] {
        let outcome = host.order("undeploy x\n");
        assert!(outcome.starts_with(&format!("failed\n{told}")), "{outcome}");
        assert_eq!(host.take_calls().contains("clean"), told == not_cleaned);
    }
}

#[test]
fn a_setting_that_is_malformed_ends_every_order() {
    for (name, value, told) in [
        ("BUILDBTW_LOG_LINES", "many", "is not a number\n"),
        ("BUILDBTW_EXPIRE_DAYS", "-1", "is not a number\n"),
        ("BUILDBTW_CLEAN", "yes", "is not \"state\"\n"),
    ] {
        let host = Host::new().set(name, value);
        assert_eq!(host.order("undeploy x\n"), format!("failed\n{name}={value} {told}"));
        assert_eq!(host.take_calls(), NOT_RUN);
    }
}

#[test]
fn what_is_not_an_order_is_refused_and_recorded() {
    let host = Host::new();
    let no_order = |line: &[u8]| {
        assert_eq!(host.order(line), "refused\nbuildbtw-systemctl knows no such order\n");
        let records = host.take_records();
        assert!(records.starts_with("ERROR: refused an order: "), "{records}");
        assert!(records.lines().count() == 1 && records.len() < 600, "{records}");
        assert_eq!(host.take_calls(), NOT_RUN);
        records
    };
    for line in [&b"deploy x\ndeploy y\n"[..], b"deploy x\0\n", b"\xff\xfe\n"] {
        assert!(no_order(line).contains("order: \""), "{line:?}");
    }
    // What follows an order is not cut off, and the end of one is not waited for.
    let begin = Instant::now();
    for line in ["deploy x", &format!("deploy x\n{}", "x".repeat(MAX_ORDER * 3))] {
        no_order(line.as_bytes());
    }
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_order_has_10_s_to_arrive() {
    let host = Host::new();
    let begin = Instant::now();
    assert!(host.order("").starts_with("refused\n"));
    let waited = begin.elapsed();
    assert!((9..12).contains(&waited.as_secs()), "{waited:?}");
    assert!(host.take_records().contains("could not be read"));
    assert_eq!(host.take_calls(), NOT_RUN);
    // Nothing at all is no order either.
    let peer = host.give("");
    peer.shutdown(Shutdown::Write).expect("a socket");
    assert!(outcome(peer).starts_with("refused\n"));
}
