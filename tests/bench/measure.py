"""What is shipped, measured beside the least that it could cost and beside what it replaces.

Runs in the machine, by `tests/machine bench`. Writes figures.csv to the directory that it is given; of
that report.py makes the tables. More arguments are the names of the measurements to make, all by default.
"""

import asyncio
import os
import platform
import re
import sys
import time
from contextlib import suppress
from datetime import date
from functools import partial
from itertools import pairwise
from pathlib import Path

import host
import servers
import visitors
from figures import Figures, read, write

ROUNDS = 40
# Of what restarts a container.
CONTAINER_ROUNDS = 20
BRANCH = visitors.BRANCHES["hook"]
UNIT, PULL = f"buildbtw@{BRANCH}.service", f"buildbtw-pull@{BRANCH}.service"
# What the journal has at the end of each part; podman names a container by its ID or, since 5.8, as it was told.
CONTAINER = f"([0-9a-f]{{64}}|buildbtw-{BRANCH})$"
START = {
    "`podman run`": CONTAINER,
    "until it answers": f"Started {UNIT}",
}
REDEPLOYMENT = {
    "the hook, the root side": f"Starting {PULL}",
    "the pull": f"Finished {PULL}",
    "the root side, the restart begins": f"Stopping {UNIT}",
    "the stop, its first `podman rm`": CONTAINER,
    "its second": f"Stopped {UNIT}",
    **START,
}
WAKE = {"the start begins": f"Starting {UNIT}", **START}
CGROUPS = ["system-buildbtw\\x2dhook.slice", "system-buildbtw\\x2dsystemctl.slice"]

version = host.systemctl("--version").split()[1]
figures = Figures(f"{date.today()}, {os.cpu_count()} cores, Linux {platform.release()}, systemd {version}")


def cpu_time():
    """The CPU time that the hook and the root side have used, in ms."""
    stats = [Path("/sys/fs/cgroup/system.slice", each, "cpu.stat").read_text() for each in CGROUPS]
    return sum(int(re.search(r"usage_usec (\d+)", stat)[1]) for stat in stats) / 1e3


def calls():
    """A call by itself, of a unit that does nothing."""
    with servers.floor(), host.do_nothing():
        for kind, is_authorised in [("refused", False), ("restart", True)]:
            addresses = {"hook": host.SOCKET, "floor": servers.FLOORS[kind][0]}
            figures.in_turn(f"a call: {kind}", ROUNDS, {
                whom: partial(servers.call, address, "nothing", is_authorised)
                for whom, address in addresses.items()
            })  # fmt: skip
        host.idle()
        before = cpu_time()
        for _ in range(ROUNDS):
            servers.call(host.SOCKET, "nothing")
        host.idle()
        figures.add("a call: CPU time of a restart", "hook", "ms", (cpu_time() - before) / ROUNDS)


def bursts():
    """Callers at once on one address, and how long until the last has its answer."""
    with host.do_nothing():
        for callers in (200, 1000):
            start = time.perf_counter()
            results = asyncio.run(servers.at_once(callers))
            figures.add(f"{callers} callers: to the last", "hook", "s", time.perf_counter() - start)
            figures.add(f"{callers} callers: lost", "hook", "", callers - results["200"])
            host.idle()
            host.forget_branches()


def new_image():
    """A new image in the registry, and an idle host."""
    visitors.push(BRANCH, 1)
    host.settle()


def redeployments():
    """A container's, beside the two jobs that it has systemd do; and where its time goes."""
    deploy = partial(servers.deploy, "hook", BRANCH)
    with servers.both_hosts():
        new_image()
        figures.in_turn("redeployment", CONTAINER_ROUNDS, {
            "hook": deploy,
            "its restart alone": partial(host.systemctl, "restart", UNIT),
            "its pull alone": partial(host.systemctl, "restart", PULL),
            "a podman that does nothing": partial(host.run, "podman", "rm", "--ignore", "none"),
        }, before=new_image)  # fmt: skip
        parts("a redeployment", REDEPLOYMENT, CONTAINER_ROUNDS, new_image, deploy)


def parts(whole, marks, rounds, before, act):
    """Where its time goes: the parts, which add up to what the caller waited.

    `marks` has what the journal has at the end of each part but the last, of which `act` is the end.
    """
    durations = []
    for _ in range(rounds):
        before()
        journal = host.Journal()
        times = [time.time()]
        act()
        end = time.time()
        entries = iter(journal.entries())
        for mark in marks.values():
            entry = next(each for each in entries if re.match(mark, each["MESSAGE"]))
            times.append(int(entry.get("_SOURCE_REALTIME_TIMESTAMP", entry["__REALTIME_TIMESTAMP"])) / 1e6)
        durations.append([(after - before) * 1e3 for before, after in pairwise([*times, end])])
    for name, values in zip([*marks, "to the end"], zip(*durations, strict=True), strict=True):
        figures.add(f"{whole}: {name}", "hook", "ms", list(values))


def visits():
    """What visitors get while their branch is redeployed."""
    quick, slow = 4 * ["/"], 8 * ["/?seconds=0.5"]
    with servers.both_hosts():
        for name, paths, megabytes, rounds in [
            ("small image", quick, 1, 10),
            ("150 MB", quick, 150, 5),
            ("requests of 0.5 s", quick + slow, 1, 10),
        ]:
            for whom, found in visitors.redeployments(paths, megabytes, rounds).items():
                figures.add(f"{name}: to the new page", whom, "s", [each.until_new for each in found])
                figures.add(f"{name}: longest wait", whom, "s", [each.longest_wait for each in found])
                figures.add(f"{name}: longest of all", whom, "s", max(each.longest_wait for each in found))
                figures.add(f"{name}: visits lost", whom, "", sum(each.lost for each in found))
                figures.add(f"{name}: visits", whom, "", sum(each.visits for each in found))


def wake():
    """A visit that wakes its branch, beside a start of the same container."""
    run = ["podman", "run", "--detach", "--rm", "--replace", "--name=bench", "--cap-drop=all"]
    run += ["--env-file=/etc/buildbtw/environment", "--env=BUILDBTW_DATABASE_FILE=/buildbtw.sqlite"]
    run += ["--env=BUILDBTW_LISTEN=unix:/http.sock", "--env=BUILDBTW_SERVER_URL=https://bench"]
    run += [f"localhost/buildbtw:{BRANCH}", "run"]

    def asleep():
        host.settle()
        host.run("podman", "rm", "--force", "--ignore", "bench", check=True)
        host.until(lambda: not any(processes()))

    def visit():
        assert visitors.visit("hook", BRANCH).version

    with servers.both_hosts(), host.files(host.sleep_after("1s")):
        visitors.push(BRANCH, 1)
        servers.deploy("hook", BRANCH)
        calls = {"hook": visit, "`podman run`": partial(host.run, *run, check=True)}
        figures.in_turn("from a visit to its page, asleep", CONTAINER_ROUNDS, calls, before=asleep)
        parts("a visit that wakes", WAKE, CONTAINER_ROUNDS, asleep, visit)


def processes():
    """Those of the instances and of their proxies."""
    for file in Path("/proc").glob("[0-9]*/cgroup"):
        with suppress(OSError):
            if re.search(r"/(buildbtw|buildbtw-proxy|arch)@", file.read_text()):
                yield file.parent


def memory():
    """The memory of the instances, of their proxies and of systemd itself, in MiB.

    Each page that processes share counts by its share (PSS, proc(5)).
    """
    rollups = [(process / "smaps_rollup").read_text() for process in (Path("/proc/1"), *processes())]
    return sum(int(re.search(r"^Pss:\s+(\d+) kB$", rollup, re.M)[1]) for rollup in rollups) / 1024


def answers(branch):
    """Whether the socket of one of Arch's instances is there and answers."""
    with suppress(OSError):
        return servers.answer(f"/run/buildbtw/{branch}.sock", host.request("/", "Connection: close"))
    return False


def hundred():
    """A hundred deployed branches that nobody looks at: what they hold, and how they come back."""
    branches = [f"branch-{at}" for at in range(100)]

    def listen():
        sockets = Path("/proc/net/unix").read_text()
        return all(f" /run/buildbtw/{branch}/http.sock\n" in sockets for branch in branches)

    waking = {
        "hook": ("buildbtw.target", "buildbtw@*", lambda: listen() and not any(processes()), listen),
        "webhook": ("multi-user.target", "arch@*", *2 * [lambda: all(map(answers, branches))]),
    }
    with servers.both_hosts(), host.files(host.sleep_after("1s")):
        host.push(*branches, backend="v1")
        for whom, (target, units, is_quiet, is_back) in waking.items():
            before = memory()
            start = time.perf_counter()
            host.at_once(*[partial(servers.deploy, whom, branch) for branch in branches])
            figures.add("100 branches: deployed at once", whom, "s", time.perf_counter() - start)
            host.until(is_quiet, 60)
            host.settle()
            figures.add("100 branches: memory of each", whom, "MiB", (memory() - before) / len(branches))
            # What a boot does; the machine itself cannot be booted again, which would undo all its changes.
            host.systemctl("stop", f"{units}.socket", f"{units}.service", "buildbtw.target")
            host.systemctl("daemon-reload")
            assert not is_back()
            start = time.perf_counter()
            host.systemctl("start", target)
            host.until(is_back, 600)
            figures.add("100 branches: back after a boot", whom, "s", time.perf_counter() - start)
            host.systemctl("stop", f"{units}.socket", f"{units}.service")


MEASUREMENTS = [calls, bursts, redeployments, visits, wake, hundred]


def main():
    """Makes the measurements that are named, or all."""
    out, *names = sys.argv[1:]
    runs = read(Path(__file__).with_name("figures.csv"))
    earlier = [each for each in runs if each.run != figures.run]
    for measurement in MEASUREMENTS:
        if not names or measurement.__name__ in names:
            measurement()
            # What comes after it may fail.
            write(Path(out) / "figures.csv", [*earlier[-1:], figures])


main()
