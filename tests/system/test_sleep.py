"""A host whose instances sleep: who is not visited stops, and the next visitor wakes it."""

import time
from pathlib import Path

import pytest

import host
from host import deploy, undeploy, visit

BRANCH = "feature-x"
SERVICE = f"buildbtw@{BRANCH}.service"
PROXY = f"buildbtw-proxy@{BRANCH}.service"
SOCKET = f"buildbtw@{BRANCH}.socket"
SLEEP_AFTER = 2

pytestmark = pytest.mark.each_suite


@pytest.fixture(scope="module", autouse=True)
def sleep(review_host):
    """The drop-ins as they are shipped."""
    with host.files(host.sleep_after(f"{SLEEP_AFTER}s")):
        yield


def push(version, **options):
    """Puts the stand-in for buildbtw into the registry, as a version."""
    host.push(BRANCH, backend=version, **options)


def falls_asleep():
    """Waits until the instance has stopped by itself; its socket stays."""
    host.until(lambda: host.state(BRANCH) == "inactive", SLEEP_AFTER + 15)
    assert host.unit(SERVICE, "Result")["Result"] == "success"
    assert [host.state_of(SOCKET), host.state_of(PROXY)] == ["active", "inactive"]


def starts(journal):
    """How often the instance was started."""
    entries = journal.entries("--identifier=systemd", f"--unit={SERVICE}")
    return sum(each["MESSAGE"].startswith("Starting ") for each in entries)


def test_a_deployment_falls_asleep_and_a_visit_wakes_it(journal):
    push("v1")
    assert deploy(BRANCH).status == 200
    assert host.state(BRANCH) == "active"
    falls_asleep()
    told = host.status(BRANCH)
    assert (told.status, "is asleep" in told.text) == (200, True)
    assert visit(BRANCH).status == 200
    assert host.state(BRANCH) == "active"
    before = starts(journal)
    host.boot()
    host.until(lambda: host.state_of(SOCKET) == "active")
    time.sleep(1)  # the thing under test
    assert (starts(journal), host.state(BRANCH)) == (before, "inactive")
    assert visit(BRANCH).status == 200
    falls_asleep()
    assert undeploy(BRANCH).status == 200
    assert visit(BRANCH).status == 404
    assert host.state_of(SOCKET) == "inactive"


def test_visitors_of_a_sleeper_lose_nothing():
    """Who comes at any moment of falling asleep is served."""
    push("v1")
    assert deploy(BRANCH).status == 200
    for n in range(8):
        time.sleep(SLEEP_AFTER - 0.1 + n * 0.05)  # the thing under test
        assert visit(BRANCH).status == 200


def test_redeployments_asleep_and_awake():
    push("v0")
    assert deploy(BRANCH).status == 200
    falls_asleep()
    push("v1")
    assert deploy(BRANCH).status == 200, "it is started, so that the outcome is known"
    assert host.state(BRANCH) == "active"
    assert visit(BRANCH).text.startswith("version v1")
    with host.repeated(*4 * [lambda: visit(BRANCH)]) as visits:
        for version in range(2, 5):
            push(f"v{version}")
            assert deploy(BRANCH).status == 200
            assert visit(BRANCH).text.startswith(f"version v{version}")
    assert {each.status for each in visits} == {200}
    falls_asleep()


def test_a_wake_that_fails(journal):
    push("v1")
    assert deploy(BRANCH).status == 200
    falls_asleep()
    with host.files({Path("/etc/buildbtw/environment"): "BUILDBTW_COOKIE_ENCRYPTION_KEY=short\n"}):
        before = starts(journal)
        begin = time.monotonic()
        while time.monotonic() - begin < 4:
            told = visit(BRANCH)
            assert (told.status, told.waited < 3) == (502, True)
        assert starts(journal) == before + 1
        status = host.status(BRANCH)
        assert status.status == 424
        assert "Failed to parse encryption key" in status.text
        # Nobody comes, and nothing is tried.
        time.sleep(8)  # the thing under test
        assert starts(journal) == before + 1
        assert visit(BRANCH).status == 502
        assert starts(journal) == before + 2
    host.until(lambda: visit(BRANCH).status == 200)
    falls_asleep()


def test_a_socket_that_cannot_listen():
    """Nobody can visit the branch, whether it sleeps or not."""
    push("v1")
    with host.drop_in("buildbtw@.socket", "[Socket]\nSocketGroup=nosuch\n"):
        for answer in (deploy(BRANCH), host.status(BRANCH)):
            assert (answer.status, f"{SOCKET} failed" in answer.text) == (424, True), answer
        host.boot()
        assert host.status(BRANCH).status == 424
        assert undeploy(BRANCH).status == 200
        assert host.host_state() == "running"


def test_one_that_works_in_the_background_stays_awake():
    push("v1")
    with host.drop_in(SERVICE, "[Unit]\nStopWhenUnneeded=no\n"):
        assert deploy(BRANCH).status == 200
        host.until(lambda: host.state_of(PROXY) == "inactive")
        time.sleep(2)  # the thing under test
        assert host.state(BRANCH) == "active"
        assert visit(BRANCH).status == 200
