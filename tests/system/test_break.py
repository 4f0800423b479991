"""What breaks around a call: what the caller gets, and that the next one needs no one's help."""

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest

import host

pytestmark = pytest.mark.each_suite

BRANCH = "feature-x"


def deployed():
    """What a caller who was answered 200 may rely on."""
    return host.state(BRANCH) == "active" and host.noted() == [BRANCH]


def next_calls_work():
    """As if nothing had been."""
    assert host.deploy(BRANCH).status == 200
    assert deployed()
    assert host.undeploy(BRANCH, transport="tcp").status == 200
    host.idle()
    assert not host.noted()


# --- The hook itself


def test_killed_while_it_waits_for_its_client():
    with host.connect("unix") as connection:
        (process,) = host.until(host.processes)
        os.kill(process, signal.SIGKILL)
        assert host.rest_of(connection) == b""
    next_calls_work()


# --- systemd, and what it is reached by


def test_systemd_starts_anew_during_a_deployment():
    with host.held(BRANCH) as let_go, host.in_background(lambda: host.deploy(BRANCH)) as call:
        host.until(lambda: host.state(BRANCH) == "activating")
        host.systemctl("daemon-reexec")
        assert not call.done()
        let_go()
        answer = call.result()
    # It cuts systemctl off while that waits; the job goes on, and so does the wait.
    assert answer.status == 200, answer
    assert deployed()
    next_calls_work()


def test_without_the_journal():
    units = ["systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-journald.service"]
    host.systemctl("stop", *units)
    try:
        assert host.deploy(BRANCH).status == 200
        assert deployed()
    finally:
        host.systemctl("start", *units)
    journal = host.Journal()
    next_calls_work()
    assert len(journal.calls()) == 2


# --- The clock


@pytest.fixture
def clock():
    """The clock that calls see."""
    # Not in its empty root directory, since it is not static.
    settings = ["RootDirectory=", "BindPaths=", "InaccessiblePaths=", "MountAPIVFS=", "SystemCallFilter="]
    with host.clock("buildbtw-hook", *settings) as moved:
        yield moved


@pytest.mark.alone
@pytest.mark.parametrize("jump", ["+3650d", "-3650d"])
def test_the_clock_jumps(jump, clock):
    """A request has its 10 s, neither more nor less."""
    begin = time.monotonic()
    with host.connect("tcp") as connection:
        host.until(host.processes)
        clock(jump)
        connection.sendall(b"G")
        answer = host.answer_on(connection)
    assert answer.status == 408
    assert 10 <= time.monotonic() - begin < 13
    told = parsedate_to_datetime(answer.headers["date"])
    assert abs(datetime.now(UTC) - told) > timedelta(days=3000), "the jump was seen"
