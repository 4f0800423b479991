"""What breaks around a call: what the caller gets, and that the next one needs no one's help."""

import os
import signal
import subprocess
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

import host

pytestmark = pytest.mark.each_suite

BRANCH = "feature-x"


def deployed(branch=BRANCH):
    """What a caller who was answered 200 may rely on."""
    return host.state(branch) == "active" and branch in host.noted()


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


def test_killed_while_it_waits_for_the_job():
    with host.held(BRANCH) as let_go:
        with host.connect("unix") as connection:
            path = f"/hooks/deploy-branch?branch={BRANCH}"
            connection.sendall(host.request(path, credentials=host.token()))
            host.until(lambda: host.state(BRANCH) == "activating")
            (process,) = host.processes()
            os.kill(process, signal.SIGKILL)
            assert host.rest_of(connection) == b""
        let_go()
        host.until(lambda: host.state(BRANCH) == "active")
    # The root side does what it was told to, without the hook.
    assert deployed()
    next_calls_work()


def test_the_root_side_is_killed_while_it_waits_for_the_job():
    with host.held(BRANCH) as let_go, host.in_background(lambda: host.deploy(BRANCH)) as call:
        host.until(lambda: host.state(BRANCH) == "activating")
        (process,) = host.processes("buildbtw-systemctl")
        os.kill(process, signal.SIGKILL)
        answer = call.result()
        let_go()
    assert answer.status == 503
    assert "branch-status tells what came of it" in answer.text
    host.until(lambda: host.state(BRANCH) == "active")
    # What was asked for was noted first, but nobody was told what came of it.
    assert deployed()
    told = host.call("unix", f"/hooks/branch-status?branch={BRANCH}")
    assert told.status == 424
    assert "was cut off before it was done" in told.text
    next_calls_work()


# --- systemd, and what it is reached by


@pytest.mark.parametrize("command", ["daemon-reload", "daemon-reexec"])
def test_systemd_starts_anew_during_a_deployment(command):
    with host.held(BRANCH) as let_go, host.in_background(lambda: host.deploy(BRANCH)) as call:
        host.until(lambda: host.state(BRANCH) == "activating")
        host.systemctl(command)
        assert not call.done()
        let_go()
        answer = call.result()
    # daemon-reexec cuts systemctl off while it waits; the job goes on, and so does the wait.
    assert answer.status == 200, answer
    assert host.state(BRANCH) == "active"
    assert deployed()
    next_calls_work()


@contextmanager
def stopped(*units):
    """The host without some of its units, and with them again."""
    host.systemctl("stop", *units)
    try:
        yield
    finally:
        host.systemctl("start", *units)


@pytest.mark.parametrize("unit", ["polkit.service", "buildbtw-systemctl.socket"])
def test_polkit_is_not_needed_and_the_root_side_is(unit):
    with stopped(unit):
        host.systemctl("mask", "--runtime", unit)
        try:
            answer = host.deploy(BRANCH)
        finally:
            host.systemctl("unmask", "--runtime", unit)
        if unit.startswith("polkit"):
            assert answer.status == 200
        else:
            assert answer.status == 503
            assert "systemctl start buildbtw-systemctl.socket" in answer.text
            assert host.noted() == []
    next_calls_work()


def test_without_the_journal():
    sockets = ["systemd-journald.socket", "systemd-journald-dev-log.socket"]
    with stopped(*sockets, "systemd-journald.service"):
        assert host.deploy(BRANCH).status == 200
        assert deployed()
    next_calls_work()
    journal = host.Journal()
    host.undeploy(BRANCH)
    assert len(journal.calls()) == 1


# --- The clock


@pytest.fixture
def clock():
    """Sets the clock that calls see, which is the wall's: the monotonic one of a host never jumps.

    The machine's own clock is the host's too, so what jumps is what libfaketime tells the process.
    """
    file = Path("/run/clock")
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    environment = {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": file,
        "FAKETIME_NO_CACHE": 1,
        "FAKETIME_DONT_FAKE_MONOTONIC": 1,
    }
    lines = [f"Environment={name}={value}" for name, value in environment.items()]
    # The same program, but not static, and so not in its empty root directory.
    lines += [
        "RootDirectory=",
        "BindPaths=",
        "InaccessiblePaths=",
        "MountAPIVFS=",
        "SystemCallFilter=",
    ]
    lines += ["ExecStart=", "ExecStart=/src/target/dynamic/debug/buildbtw-hook"]
    file.write_text("+0")
    with host.drop_in("buildbtw-hook@.service", "\n".join(["[Service]", *lines, ""])):
        yield file.write_text
    file.unlink()


@pytest.mark.alone
def test_the_clock_jumps(clock, journal):
    """A deployment takes as long as it takes, and a request has its 10 s, neither more nor less."""
    opened = [time.monotonic()]
    with (
        host.connect("tcp") as before_both,
        host.held(BRANCH) as let_go,
        host.in_background(lambda: host.deploy(BRANCH)) as call,
    ):
        host.until(lambda: host.state(BRANCH) == "activating")
        clock("+3650d")
        opened.append(time.monotonic())
        with host.connect("unix") as between:
            host.until(lambda: len(host.processes()) == 3)
            clock("-3650d")
            let_go()
            answer = call.result()
            assert answer.status == 200
            told = parsedate_to_datetime(answer.headers["date"])
            assert datetime.now(UTC) - told > timedelta(days=3000), "the jump was seen"
            for connection, start in zip([before_both, between], opened, strict=True):
                assert host.answer_on(connection).status == 408
                assert 10 <= time.monotonic() - start < 13
    durations = [int(record["BUILDBTW_DURATION_MS"]) for record in journal.calls()]
    assert max(durations) < 12000
    next_calls_work()


# --- Full file systems


@contextmanager
def full(directory):
    """A file system without room in place of a directory, whose owner it keeps."""
    owner = Path(directory).stat()
    options = f"size=4k,nr_inodes=2,mode=755,uid={owner.st_uid},gid={owner.st_gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "full", directory], check=True)
    (Path(directory) / "full").write_bytes(4096 * b"x")
    try:
        yield
    finally:
        host.idle()
        subprocess.run(["umount", directory], check=True)


def test_no_room_for_what_is_deployed():
    """It is said before anything is done."""
    with full(host.STATE):
        answer = host.deploy(BRANCH)
        assert answer.status == 500
        assert "nothing is done: cannot take a turn: No space left on device" in answer.text
        assert host.state(BRANCH) == "inactive"
        assert host.undeploy(BRANCH).status == 500
    next_calls_work()


@contextmanager
def filled(directory):
    """A file system without room, and with it again."""
    file = Path(directory) / "filling"
    with file.open("wb", buffering=0) as out:
        # So far that systemd itself, as root, can't write a line.
        for size in [1 << 20, 4096, 1]:
            with pytest.raises(OSError, match="No space left"):  # noqa: PT012
                while out.write(size * b"x"):
                    pass
    try:
        yield
    finally:
        file.unlink()


def test_run_is_full():
    """Each call is answered or cut off, and what is answered 200 is so."""
    small = ["mount", "-o", "remount,size=64m", "/run"]
    size = next(line for line in Path("/proc/mounts").read_text().splitlines() if " /run " in line)
    subprocess.run(small, check=True)
    try:
        with filled("/run"):
            with host.connect("unix") as connection:
                path = f"/hooks/deploy-branch?branch={BRANCH}"
                connection.sendall(host.request(path, credentials=host.token()))
                received = host.rest_of(connection)
            assert not received or host.Answer.parse(received).status in (200, 424, 500, 503)
            assert not received.startswith(b"HTTP/1.0 200") or deployed()
    finally:
        options = [each for each in size.split()[3].split(",") if each.startswith("size=")]
        subprocess.run(["mount", "-o", ",".join(["remount", *options]), "/run"], check=True)
    next_calls_work()
