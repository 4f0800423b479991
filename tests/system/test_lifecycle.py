"""What the next boot starts is what systemd runs, in whatever order calls end, and what is cleaned away."""

import os
import re
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

import host
from host import deploy, undeploy

pytestmark = pytest.mark.each_suite

BRANCH = "feature-x"


@contextmanager
def stopped(executable):
    """The one process of an executable gets no processor."""
    (process,) = host.until(lambda: host.processes(executable))
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def test_an_undeployment_overtakes_a_deployment_that_is_stopped():
    with host.held(BRANCH) as let_go, host.in_background(lambda: deploy(BRANCH)) as first:
        host.until(lambda: host.state(BRANCH) == "activating")
        with stopped("buildbtw-hook"):
            let_go()
            host.until(lambda: host.state(BRANCH) == "active")
            assert undeploy(BRANCH).status == 200
            assert host.state(BRANCH) == "inactive"
        first.result()
    assert host.noted() == []


def test_a_deployment_overtakes_an_undeployment_that_is_stopped():
    assert deploy(BRANCH).status == 200
    host.idle()
    with (
        host.held(BRANCH, "ExecStop") as let_go,
        host.in_background(lambda: undeploy(BRANCH)) as first,
    ):
        host.until(lambda: host.state(BRANCH) == "deactivating")
        with stopped("buildbtw-hook"):
            let_go()
            host.until(lambda: host.state(BRANCH) == "inactive")
            assert deploy(BRANCH).status == 200
        first.result()
    assert host.noted() == [BRANCH]


def test_respond_async_has_no_window_either():
    header = ["--header", "Prefer: respond-async"]
    assert deploy(BRANCH, *header).status == 202
    answer = undeploy(BRANCH, *header)
    assert (answer.status, "preference-applied" in answer.headers) == (200, False), "it is quick"
    assert deploy(BRANCH).status == 200
    host.idle()
    assert host.state(BRANCH) == "active"
    assert host.noted() == [BRANCH]


def test_a_branch_that_starts_by_itself_after_its_deployment_failed():
    ready = Path("/run/ready")
    settings = f"[Service]\nExecStartPre=test -e {ready}\nRestartSec=1\nRestartSteps=0\n"
    with host.drop_in(f"buildbtw@{BRANCH}.service", settings):
        assert deploy(BRANCH).status == 424
        told = host.call("unix", f"/hooks/branch-status?branch={BRANCH}")
        assert told.status in (424, 503), "it failed, or is tried again just now"
        ready.touch()
        host.until(lambda: host.state(BRANCH) == "active")
        assert host.call("unix", f"/hooks/branch-status?branch={BRANCH}").status == 200
        assert host.noted() == [BRANCH]
        host.boot()
        assert host.state(BRANCH) == "active"
    ready.unlink()


@pytest.mark.parametrize(("kind", "state"), [("service", "up"), ("socket", "asleep")])
def test_all_lists_agree_after_a_boot(kind, state):
    def branches_in(text):
        return re.findall(rf"(?m)^\W*buildbtw@(\S+)\.{kind}", text)

    socket = {Path("/run/systemd/system/buildbtw@.socket"): "[Socket]\nListenStream=/run/test-%i\n"}
    unit = f"[Unit]\nStopWhenUnneeded={'yes' if kind == 'socket' else 'no'}\n"
    branches = [f"b-{number:02}" for number in range(30)]
    stay = [branch for branch in branches if branch[-1] in "12345678"]
    with (
        host.do_nothing(),
        host.files(socket if kind == "socket" else {}),
        host.drop_in("buildbtw@.service", unit),
    ):
        told = host.at_once(*[lambda branch=branch: deploy(branch) for branch in branches])
        assert {answer.status for answer in told} == {200}
        gone = set(branches) - set(stay)
        told = host.at_once(*[lambda branch=branch: undeploy(branch) for branch in gone])
        assert {answer.status for answer in told} == {200}
        host.boot()
        assert branches_in(host.systemctl("list-dependencies", "--plain", "buildbtw.target")) == stay
        active = ["--state=active", f"buildbtw@*.{kind}"]
        assert branches_in(host.systemctl("list-units", "--plain", "--no-legend", *active)) == stay
        listed = host.call("unix", "/hooks/list-branches").text.splitlines()
        assert [line.split()[:2] for line in listed] == [[branch, state] for branch in stay]
        if kind == "socket":
            host.systemctl("stop", "buildbtw@*.socket")


def test_data_goes_where_the_host_says_so():
    data = Path(f"/var/lib/review/{BRANCH}")
    state = f"[Service]\nStateDirectory=review/{BRANCH}\n"
    clean = "[Service]\nEnvironment=BUILDBTW_CLEAN=state\n"
    with host.drop_in(f"buildbtw@{BRANCH}.service", state):
        assert deploy(BRANCH).status == 200
        (data / "database").write_text("old")
        assert undeploy(BRANCH).status == 200
        assert (data / "database").exists(), "off unless the host says so"
        with host.drop_in("buildbtw-systemctl@.service", clean):
            assert deploy(BRANCH).status == 200
            assert undeploy(BRANCH).status == 200
            assert not data.exists()
            assert undeploy(BRANCH).status == 200, "again, with nothing there"
            # A branch that failed has data too.
            with host.drop_in(f"buildbtw@{BRANCH}.service", "[Service]\nExecStartPost=false\n"):
                assert deploy(BRANCH).status == 424
            assert data.exists()
            assert undeploy(BRANCH).status == 200
            assert not data.exists()


def test_deployments_that_hang_do_not_hold_up_others():
    branches = [f"hangs-{number}" for number in range(30)]
    hang = "[Service]\nExecStart=\nExecStart=sh -c 'case %i in hangs*) sleep 600;; esac'\n"
    with host.do_nothing(), host.drop_in("buildbtw@.service", hang + "TimeoutStartSec=infinity\n"):
        calls = [lambda branch=branch: deploy(branch) for branch in branches]
        with host.in_background(lambda: host.at_once(*calls)) as hanging:
            host.until(lambda: all(host.state(each) == "activating" for each in branches), 60)
            assert deploy(BRANCH).status == 200
            for branch in branches:
                assert undeploy(branch).status == 200
            answers = hanging.result()
    assert {answer.status for answer in answers} == {409}
