"""What visitors of a branch get while it is redeployed: by the hook, and as the old hosts did it."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import host
import servers

BRANCH = "review"
VISITORS = 4
HERE = Path(__file__).parent
# The stand-in for buildbtw is not in the image, whose size is what is varied.
BACKEND = """\
[Container]
Environment=BUILDBTW_COOKIE_ENCRYPTION_KEY=0123456789012345678901234567890123456789012345678901234567890123
Environment=VERSION=v1
Volume=/src/target/backend:/backend:ro
Volume=/src/target/backend:/bin/curl:ro
"""


@dataclass(frozen=True)
class Redeployment:
    """What its visitors saw of one."""

    visits: int
    lost: int
    # The longest time in seconds in which no visitor got an answer from the branch.
    longest: float


def visit():
    """One visit through nginx: when it was over, and whether the branch answered."""
    with servers.connection(servers.VISITED) as connection:
        connection.sendall(
            host.request("/", "Connection: close").replace(b"localhost", f"{BRANCH}.localhost".encode(), 1)
        )
        answer = host.rest_of(connection)
    return time.monotonic(), answer.startswith(b"HTTP/1.1 200 ")


def seen(redeploy):
    """What visitors see of a redeployment."""
    with host.repeated(*VISITORS * [visit]) as visits:
        time.sleep(0.5)
        redeploy()
        time.sleep(0.5)
    answered = sorted(when for when, is_answered in visits if is_answered)
    gaps = (after - before for before, after in zip(answered, answered[1:], strict=False))
    return Redeployment(len(visits), len(visits) - len(answered), max(gaps))


def by_the_hook():
    """The template as it is shipped, with its socket and its pull."""
    return host.shipped(*host.TEMPLATES) | {
        Path("/etc/buildbtw/image"): "BUILDBTW_IMAGE=localhost:5000/buildbtw\n",
        Path("/etc/buildbtw/environment"): "",
        Path(f"{host.TEMPLATE}.d/bench.conf"): BACKEND,
        host.TEMPLATE: Path("/src/systemd/buildbtw@.container").read_text(),
    }


def as_it_was():
    """The template of the old hosts: the container pulls, and makes its socket."""
    return {
        Path(f"{host.TEMPLATE}.d/bench.conf"): BACKEND,
        host.TEMPLATE: (HERE / "buildbtw@.container").read_text(),
    }


def redeployments(megabytes, rounds):
    """The redeployments of each, with a new image of this size each time."""
    found = {}
    for whom, server, files in [
        ("hook", servers.HOOK_UNIX, by_the_hook()),
        ("webhook", servers.WEBHOOK, as_it_was()),
    ]:
        with host.files(files):
            deploy = partial(servers.call, server.refused, BRANCH, True, 200)
            host.push(BRANCH, command="exec /backend run", megabytes=megabytes)
            deploy()
            found[whom] = []
            for _ in range(rounds):
                host.push(BRANCH, command="exec /backend run", megabytes=megabytes)
                found[whom].append(seen(deploy))
            host.forget_branches()
    return found
