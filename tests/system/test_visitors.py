"""Visitors of an instance: none is lost by a redeployment, and each is told the truth at once."""

import http.client
import itertools
import re
import statistics
import time
from pathlib import Path

import pytest

import host
from host import deploy, undeploy, visit

BRANCH = "feature-x"
SOCKET = Path(f"/run/buildbtw/{BRANCH}/http.sock")
SERVICE = f"buildbtw@{BRANCH}.service"

pytestmark = [pytest.mark.each_suite, pytest.mark.usefixtures("review_host")]


def push(version, **options):
    """Puts the stand-in for buildbtw into the registry, as a version."""
    host.push(BRANCH, backend=version, **options)


def visitors(count=20):
    """Visitors who ask without a pause; the list has their visits."""
    return host.repeated(*count * [lambda: visit(BRANCH)])


def is_told_at_once(status):
    """Visitors are told, quickly, and none of them starts anything."""
    starts = host.unit(SERVICE, "InvocationID")
    for _ in range(5):
        told = visit(BRANCH)
        assert told.status == status
        assert told.waited < 1
    assert host.unit(SERVICE, "InvocationID") == starts


# --- Redeployments


class Stream:
    """A visitor who reads events, and comes back when they end."""

    def __init__(self):
        self.events, self.statuses = 0, []

    def __call__(self):
        connection = http.client.HTTPConnection("127.0.0.1", 8081, timeout=60)
        connection.request("GET", "/events", headers={"Host": f"{BRANCH}.test"})
        answer = connection.getresponse()
        self.statuses.append(answer.status)
        begin = time.monotonic()
        while time.monotonic() - begin < 1 and answer.readline().startswith(b"data:"):
            answer.readline()
            self.events += 1
        connection.close()


@pytest.mark.parametrize("variant", ["", "deaf"])
def test_four_redeployments_lose_no_visitor(variant):
    """The deaf one ends by SIGKILL."""
    push("v0", variant=variant)
    with host.files({Path(f"{host.TEMPLATE}.d/kill.conf"): "[Container]\nStopTimeout=1\n"}):
        assert deploy(BRANCH).status == 200
        notes = Path(f"/var/lib/buildbtw/{BRANCH}/uploads")
        notes.unlink(missing_ok=True)
        socket = host.unit(f"buildbtw@{BRANCH}.socket", "InvocationID")
        numbers, uploads, stream = itertools.count(), {}, Stream()

        def upload():
            number = next(numbers)
            told = visit(BRANCH, f"/upload?number={number}&seconds=0.2", "POST", bytes(100_000))
            uploads[number] = told.status

        slow = 4 * [lambda: visit(BRANCH, "/?seconds=0.5")]
        with (
            visitors(4) as visits,
            host.repeated(*slow) as slow_visits,
            host.repeated(upload, upload),
            host.repeated(stream),
        ):
            for version in range(1, 5):
                push(f"v{version}", variant=variant)
                assert deploy(BRANCH).status == 200
                assert f"version v{version} " in visit(BRANCH).text, "from now on it is the new one"
                time.sleep(1)  # nginx asks once more, so no visit is to be cut off by two
        assert host.unit(f"buildbtw@{BRANCH}.socket", "InvocationID") == socket, "it was never away"
        assert {each.status for each in visits + slow_visits} == {200}
        assert {each.text.split()[1] for each in visits} == {f"v{version}" for version in range(5)}
        # One that was cut off may have had its effect.
        assert set(uploads.values()) <= {200, 502}
        arrived = [int(re.search(r"number=(\d+)", line)[1]) for line in notes.read_text().splitlines()]
        assert len(arrived) == len(set(arrived)), "none was sent twice"
        assert {number for number, status in uploads.items() if status == 200} <= set(arrived)
        assert set(stream.statuses) == {200}
        assert stream.events > 4 * len(stream.statuses)


def test_seven_redeployments_and_seven_starts_of_the_socket_within_ten_seconds():
    """The default start limits are five; what they count is not reset in between."""
    push("v1")
    assert deploy(BRANCH).status == 200
    # What undeployments and deployments in turn come to. Once it was visited, its proxy would be in the way.
    for _ in range(7):
        host.systemctl("restart", f"buildbtw@{BRANCH}.socket")
    with visitors(2) as visits:
        for _ in range(7):
            assert deploy(BRANCH).status == 200
    assert {each.status for each in visits} == {200}


@pytest.mark.alone
def test_a_deployment_takes_little_longer_than_its_jobs():
    """Beside systemctl on the same units, in turn."""
    push("v1")
    first, again, restarts, pulls = [], [], [], []

    def timed(call, *arguments):
        host.settle()
        begin = time.monotonic()
        call(*arguments)
        return time.monotonic() - begin

    for _ in range(5):
        first.append(timed(deploy, BRANCH))
        again.append(timed(deploy, BRANCH))
        restarts.append(timed(host.systemctl, "restart", SERVICE))
        pulls.append(timed(host.systemctl, "restart", f"buildbtw-pull@{BRANCH}.service"))
        assert undeploy(BRANCH).status == 200
    first, again, restart, pull = (statistics.median(each) for each in (first, again, restarts, pulls))
    print(f"first {first:.2f} s, again {again:.2f} s, restart {restart:.2f} s, pull {pull:.2f} s")
    assert first < 1.2 * (restart + pull)
    assert again < 1.3 * (restart + pull)


# --- What visitors are told


@pytest.mark.alone
def test_visitors_of_an_undeployed_branch(jobs):
    push("v1")
    assert deploy(BRANCH).status == 200
    jobs()
    with visitors() as visits:
        time.sleep(0.2)  # the thing under test
        assert undeploy(BRANCH).status == 200
        assert not SOCKET.exists()
        is_told_at_once(404)
    assert {200, 404} <= {each.status for each in visits} <= {200, 404, 502}
    assert max(each.waited for each in visits) < 1
    assert jobs()[0] == ("stop", f"buildbtw@{BRANCH}.socket"), "the socket first"
    assert host.state(BRANCH) == "inactive"
    assert host.state_of(f"buildbtw-proxy@{BRANCH}.service") == "inactive"
    assert host.status(BRANCH).status == 404


@pytest.mark.parametrize("offset", [0, 0.1, 0.3])
@pytest.mark.parametrize("first", [deploy, undeploy])
def test_deploy_and_undeploy_at_once(first, offset):
    push("v1")
    second = undeploy if first is deploy else deploy
    if first is undeploy:
        assert deploy(BRANCH).status == 200

    def later():
        time.sleep(offset)  # the thing under test
        return second(BRANCH)

    with visitors(5):
        answers = host.at_once(lambda: first(BRANCH), later)
        is_deployed = host.noted() == [BRANCH]
        # What came last wins, and a caller who was overtaken is told so.
        winner, loser = answers if is_deployed == (first is deploy) else answers[::-1]
        assert winner.status == 200
        assert loser.status == 200 or (loser.status == 409 and "undeployed meanwhile" in loser.text)
        host.until(lambda: SOCKET.exists() == is_deployed)
        assert host.state(BRANCH) == ("active" if is_deployed else "inactive")
        assert visit(BRANCH).status == (200 if is_deployed else 404)


@pytest.mark.alone
@pytest.mark.parametrize("first", [True, False], ids=["first", "again"])
def test_a_start_that_fails(first):
    push("v1")
    if not first:
        assert deploy(BRANCH).status == 200
        assert visit(BRANCH).status == 200
    host.push(BRANCH, backend="v1", command="sleep 1; exit 3")
    with (
        host.drop_in(f"buildbtw@{BRANCH}.service", "[Service]\nRestartSec=3\n"),
        host.in_background(lambda: deploy(BRANCH)) as deployment,
    ):
        host.until(lambda: host.state(BRANCH) == "activating")
        host.until(lambda: host.state_of(f"buildbtw@{BRANCH}.socket") == "active")
        with host.in_background(lambda: host.at_once(*20 * [lambda: visit(BRANCH)])) as waiting:
            host.until(deployment.done)
            failed = time.monotonic()
            visits = waiting.result()
            assert time.monotonic() - failed < 1, "none hangs"
        assert {each.status for each in visits} == {502}
        assert min(each.waited for each in visits) > 0.5, "until it was known"
        assert deployment.result().status == 424
        is_told_at_once(502)
        assert host.status(BRANCH).status == 424
        # systemd tries again, and visitors wait for as long as that takes.
        push("v2")
        host.systemctl("start", f"buildbtw-pull@{BRANCH}.service")
        host.until(lambda: visit(BRANCH).status == 200)
        host.until(lambda: host.status(BRANCH).status == 200)
    assert host.noted() == [BRANCH]


def test_a_proxy_that_cannot_start(journal):
    """Nobody has to start the socket again, and visitors do not cause endless retries."""
    push("v1")
    assert deploy(BRANCH).status == 200
    with host.drop_in("buildbtw-proxy@.service", "[Service]\nExecStartPre=false\n"):
        told = visit(BRANCH)
    assert (told.status, told.waited < 2) == (502, True)
    tries = [each for each in journal.entries("--unit=buildbtw-proxy@*") if "Starting" in each["MESSAGE"]]
    assert 1 <= len(tries) <= 2, "nginx asked twice"
    assert visit(BRANCH).status == 200
