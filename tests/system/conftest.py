"""The fixtures of the tests that run in the machine."""

import os
import subprocess
from fcntl import LOCK_EX, LOCK_SH, flock
from pathlib import Path

import pytest

import host

MARKS = [
    "alone: asserts a time, so nothing else of the suite runs meanwhile",
    "each_suite: depends on systemd's or Podman's version, so it runs on both Debians",
    "soak: does more of the same before a release",
]
# Each machine has the same files. All that is not `alone` shares this one.
FLOOR = os.open(__file__, os.O_RDONLY)


def pytest_configure(config):
    """What tests are marked with."""
    for mark in MARKS:
        config.addinivalue_line("markers", mark)


def is_alone(item):
    """Whether a test is marked so."""
    return item.get_closest_marker("alone") is not None


def pytest_collection_modifyitems(items):
    """What must run alone comes last, when the rest of the suite is about to end."""
    flock(FLOOR, LOCK_SH)
    items.sort(key=is_alone)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Waits for the rest of the suite, and has the other machine wait."""
    if is_alone(item):
        flock(FLOOR, LOCK_EX)


def pytest_sessionstart(session):
    """These tests uninstall, stop and overwrite: not on anyone's host."""
    detected = subprocess.run(["systemd-detect-virt", "--container"], capture_output=True)
    if detected.stdout.strip() != b"systemd-nspawn" or not Path("/src/tests/machine").exists():
        pytest.exit("these tests run in the test machine: tests/machine test", returncode=2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure comes with the end of the journal: the machine is gone afterwards."""
    report = yield
    if report.failed:
        journal = host.run("journalctl", "--no-pager", "--no-hostname", "--lines=100")
        report.sections.append(("the machine's journal", journal.stdout))
    return report


@pytest.fixture(scope="module", autouse=True)
def no_throttle(request):
    """The socket's throttle is for bursts; it only slows sequential calls."""
    if request.module.__name__ == "test_burst":
        yield
        return
    with host.throttle("PollLimitIntervalSec=0"):
        yield


@pytest.fixture(scope="session")
def recorder():
    """Records what systemctl is run for."""
    return host.Recorder()


@pytest.fixture
def jobs(recorder):
    """Tells which jobs were asked for since the test began or the last look."""
    recorder.jobs()
    return recorder.jobs


@pytest.fixture
def journal():
    """The journal since the test began."""
    host.idle()
    return host.Journal()


@pytest.fixture
def token_file():
    """The host's token file, put back as it was, whatever a test made of it."""
    file, kept = host.TOKEN_FILE, host.TOKEN_FILE.read_bytes()
    yield file
    file.write_bytes(kept)
    file.chmod(0o600)


@pytest.fixture
def no_template():
    """The host without the template of its branches."""
    with host.no_template():
        yield


@pytest.fixture(scope="module")
def nginx():
    """nginx before the hook, with a pool of connections that it would keep, and as ansible has it."""
    role = host.run("/src/tests/fixtures/nginx-configuration", "test", "", "", "8081")
    assert role.returncode == 0, role.stdout
    Path("/run/nginx-role.conf").write_text(role.stdout)
    with subprocess.Popen(["nginx", "-c", Path("/src/tests/fixtures/nginx.conf")]) as process:
        host.until(lambda: host.run("curl", "--silent", "http://127.0.0.1:8081").returncode == 0)
        yield
        process.terminate()


@pytest.fixture(scope="module")
def review_host(nginx):
    """A host of review apps."""
    with host.files(host.review_host()):
        yield


@pytest.fixture(autouse=True)
def sound_host():
    """No test, whatever it sends, may leave the host degraded or a unit behind."""
    yield
    host.idle()
    host.forget_branches()
    assert host.host_state() == "running", host.systemctl("--failed")
