"""Many calls at once, and many callers that never finish: none is lost, and none is in the way."""

import itertools
import re
import subprocess
import time
from collections import Counter
from pathlib import Path
from resource import RLIMIT_NOFILE, getrlimit, setrlimit

import pytest

import host

pytestmark = [pytest.mark.alone, pytest.mark.each_suite, pytest.mark.soak]

MANY = 100 * host.SOAK
HANGING = 60 * host.SOAK
ARRIVAL_MS = 10000


def lost_or_not(made):
    """A call whose failure is a result like any other."""

    def tried():
        try:
            return made()
        except Exception as error:
            return repr(error)

    return tried


def calling(transport, path):
    """A call whose result is its answer's status."""
    message = host.request(path, credentials=host.token())
    return lost_or_not(lambda: host.exchange(transport, message).status)


def settled():
    """The host after a burst: nothing of it is left, and the next call is answered."""
    host.idle()
    assert host.host_state() == "running"
    assert host.unit("buildbtw-hook.socket", "ActiveState", "Result", "NRefused") == {
        "ActiveState": "active",
        "Result": "success",
        "NRefused": "0",
    }
    assert host.undeploy("never", transport="tcp").status == 200
    assert host.undeploy("never", transport="unix").status == 200


def test_deployments_in_the_midst_of_many_calls(journal):
    branches = [f"b{number}" for number in range(5)]
    host.push(*branches)
    # One call in ten.
    deployments = itertools.cycle(f"/hooks/deploy-branch?branch={branch}" for branch in branches)
    calls = []
    for number in range(MANY):
        path = f"/hooks/undeploy-branch?branch=never-{number}"
        path = next(deployments) if number % 10 == 0 else path
        calls.append(calling(host.TRANSPORTS[number % 2], path))
    assert Counter(host.at_once(*calls)) == {200: MANY}
    assert {branch: host.state(branch) for branch in branches} == dict.fromkeys(branches, "active")
    assert host.noted() == branches
    assert len(journal.calls()) == MANY
    settled()


def test_more_calls_than_the_host_can_serve():
    """As on a host half as fast: all are answered."""
    unit = Path("/usr/local/lib/systemd/system/buildbtw-hook.socket").read_text()
    burst = int(re.search(r"(?m)^PollLimitBurst=(\d+)$", unit)[1])
    branches = [f"nothing-{number}" for number in range(2 * MANY)]
    with host.throttle(f"PollLimitBurst={2 * burst}"), host.do_nothing():
        calls = [
            calling(host.TRANSPORTS[number % 2], f"/hooks/deploy-branch?branch={branch}")
            for number, branch in enumerate(branches)
        ]
        assert Counter(host.at_once(*calls)) == {200: len(calls)}
        assert host.noted() == sorted(branches)
    settled()


def test_callers_that_never_finish(journal):
    files = getrlimit(RLIMIT_NOFILE)[1]
    setrlimit(RLIMIT_NOFILE, (files, files))
    never_finish = [
        lost_or_not(lambda transport=transport: host.exchange(transport, b"GET").status)
        for transport in host.TRANSPORTS
        for _ in range(HANGING)
    ]

    def proper(transport):
        host.until(lambda: len(host.processes()) > 5, 30)
        return host.deploy("main", transport=transport).status

    *ends, over_tcp, over_unix = host.at_once(*never_finish, lambda: proper("tcp"), lambda: proper("unix"))
    assert Counter(ends) == {408: 2 * HANGING}
    assert [over_tcp, over_unix] == [200, 200]
    durations = [
        int(record["BUILDBTW_DURATION_MS"]) for record in journal.calls() if record["HTTP_STATUS"] == "408"
    ]
    assert len(durations) == 2 * HANGING
    assert min(durations) >= ARRIVAL_MS
    assert max(durations) < ARRIVAL_MS + 1000
    settled()


def test_upgrades_in_the_midst_of_many_calls():
    def upgrades():
        for _ in range(3):
            time.sleep(1)
            subprocess.run(["/src/systemd/install"], check=True, stdout=subprocess.DEVNULL)

    path = "/hooks/undeploy-branch?branch=never"
    calls = [calling(host.TRANSPORTS[number % 2], path) for number in range(MANY)]
    *statuses, _ = host.at_once(*calls, upgrades)
    assert Counter(statuses) == {200: MANY}
    settled()
