"""What visitors of a branch get while it is redeployed."""

import re
import time
from functools import partial
from itertools import count
from typing import NamedTuple

import host
import servers

# Between a visitor's visits: without it those that fail at once would hold up the redeployment itself.
PAUSE = 0.03
BRANCHES = {"hook": "review", "webhook": "other"}
versions = count(1)


class Visit(NamedTuple):
    """When it began and ended, and which version answered, if any."""

    begin: float
    end: float
    version: str


class Redeployment(NamedTuple):
    """What its visitors saw of one, in seconds."""

    until_new: float
    longest_wait: float
    lost: int
    visits: int


def visit(whom, branch, path="/"):
    """One visit through nginx."""
    begin = time.monotonic()
    sent = host.request(path, "Connection: close").replace(b"localhost", f"{branch}.{whom}".encode(), 1)
    received = servers.answer(servers.VISITED, sent).decode()
    version = re.search(r"^version (v\d+) at ", received, re.M)
    return Visit(begin, time.monotonic(), version[1] if version else "")


def push(branch, megabytes):
    """A new image of that size more, no layer of which is on the host; which version it is."""
    version = f"v{next(versions)}"
    host.push(branch, backend=version, megabytes=megabytes)
    return version


def redeployment(whom, paths, megabytes):
    """What visitors see of one that brings a new image."""
    branch = BRANCHES[whom]
    version = push(branch, megabytes)

    def visitor(path):
        time.sleep(PAUSE)
        return visit(whom, branch, path)

    with host.repeated(*(partial(visitor, path) for path in paths)) as visits:
        time.sleep(0.5)
        begin = time.monotonic()
        servers.deploy(whom, branch)
        host.until(lambda: any(each.version == version for each in visits))
        time.sleep(1)
    return Redeployment(
        min(each.end for each in visits if each.version == version) - begin,
        max(each.end - each.begin for each in visits),
        sum(not each.version for each in visits),
        len(visits),
    )


def redeployments(paths, megabytes, rounds):
    """By the hook and by webhook in turn, with a visitor for each path: those of each."""
    for whom, branch in BRANCHES.items():
        push(branch, megabytes)
        servers.deploy(whom, branch)
    found = {whom: [] for whom in BRANCHES}
    for _ in range(rounds):
        for whom, its in found.items():
            host.settle()
            its.append(redeployment(whom, paths, megabytes))
    return found
