"""What a call costs, beside the least that it could cost and beside what it replaces.

Runs in the machine, by `tests/machine bench`. Writes figures.csv to the directory that it is given; of
that report.py makes the tables. More arguments are the names of the measurements to make, all by default.
"""

import asyncio
import os
import platform
import re
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import date
from functools import partial
from itertools import chain, count
from pathlib import Path

import host
import servers
import trace_of_a_call
import visitors
from figures import BAD_CALLERS, CALLERS, LOADED, MEGABYTES, Figures
from servers import KINDS, call

# Rounds of calls that take turns, and of those that restart a container.
ROUNDS = 40
CONTAINER_ROUNDS = 20
# What a container has: its root and its /dev/shm.
MOUNTS_OF_AN_INSTANCE = 2
# Whom is compared where a measurement takes long.
COMPARED = [servers.HOOK_UNIX, servers.HOOK_TCP, servers.FLOOR, servers.FLOOR_TCP, servers.WEBHOOK]
CGROUP = Path("/sys/fs/cgroup/system.slice")

figures = Figures()


def in_turn(what, kind, rounds, compared):
    """One caller, whose calls go to each server in turn."""
    branch, authorised, status = KINDS[kind]
    calls = {
        server.name: partial(call, server.address(kind), branch, authorised, status) for server in compared
    }
    figures.in_turn(what, rounds, calls)


def one_by_one():
    """A call by itself."""
    with host.do_nothing():
        in_turn("refused", "refused", ROUNDS, servers.ALL)
        in_turn("restart", "restart", ROUNDS, servers.ALL)
    in_turn("container", "container", CONTAINER_ROUNDS, servers.ALL)


def parts():
    """Where the time of a call that restarts a unit goes."""
    with host.do_nothing():
        restart = KINDS["restart"]
        durations = trace_of_a_call.parts(ROUNDS, lambda: call(host.SOCKET, *restart), restart[0])
    for name, values in durations.items():
        figures.add("part", name, "ms", values)


def milliseconds_to_answer(program, credentials):
    """From exec to the end of the answer, on a connection as systemd hands it over."""
    ours, theirs = socket.socketpair()
    ours.sendall(servers.message("nothing", False))
    environment = {"LISTEN_FDS": "1", "CREDENTIALS_DIRECTORY": credentials}
    actions = [
        (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ]
    start = time.perf_counter()
    process = os.posix_spawn(program, [program], environment, file_actions=actions)
    theirs.close()
    with ours:
        assert host.answer_on(ours).status == 401
    duration = time.perf_counter() - start
    os.waitpid(process, 0)
    return duration * 1e3


def without_systemd():
    """What a call costs by itself: more than a static C program that writes a constant, in turn."""
    credentials = str(host.TOKEN_FILE.parent)
    programs = [servers.HOOK, servers.CONSTANT]
    rounds = [[milliseconds_to_answer(each, credentials) for each in programs] for _ in range(200)]
    figures.add("own cost over a constant", "hook", "ms", [hook - constant for hook, constant in rounds])


def share(process):
    """A process's memory in KiB, where each shared page counts by its share (PSS, proc(5))."""
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+) kB$", rollup, re.M)[1])


def processes(whom):
    """The processes in the cgroups of its units."""
    for file in chain(*(CGROUP.glob(f"{each}/**/cgroup.procs") for each in servers.CGROUPS[whom])):
        with suppress(OSError):
            yield from file.read_text().split()


def memory(whom):
    """The memory of its processes together, in MiB."""
    total = 0
    for process in processes(whom):
        with suppress(OSError, TypeError):
            total += share(process)
    return total / 1024


def peak_memory(whom):
    """The memory that it has, again and again; the list has all looks."""

    def look():
        time.sleep(0.1)
        return memory(whom)

    return host.repeated(look)


def burst(what, server, callers):
    """Callers at once on one address, and how long until the last has its answer."""
    whom = server.name.split(",")[0]
    with peak_memory(whom) as looks:
        start = time.perf_counter()
        results = asyncio.run(servers.at_once(server.refused, callers))
        duration = time.perf_counter() - start
    figures.add(f"{what}: lost", server.name, "calls", callers - results["200"])
    figures.add(f"{what}: time to the last", server.name, "s", duration)
    # A burst that was over before a look has no figure.
    if max(looks):
        figures.add(f"{what}: peak memory", server.name, "MiB", max(looks))
    if len(results) > 1:
        print(f"    {server.name}: {dict(results)}")
    host.idle()
    host.forget_branches()
    time.sleep(2)


def bursts():
    """1 to 1000 callers, with the throttle that is installed."""
    with host.do_nothing():
        for callers in CALLERS:
            for server in [servers.HOOK_UNIX, servers.HOOK_NGINX, servers.WEBHOOK, servers.WEBHOOK_NGINX]:
                burst(f"{callers} at once", server, callers)
        burst("200 at once", servers.HOOK_TCP, 200)


def loaded():
    """A call that restarts a unit that does nothing, among more and more instances."""
    mounts = Path("/run/bench-mounts")
    mounts.mkdir()
    done = 0
    with host.do_nothing():
        for instances in LOADED:
            host.systemctl("start", *(f"buildbtw@loaded-{at}.service" for at in range(done, instances)))
            for at in range(done * MOUNTS_OF_AN_INSTANCE, instances * MOUNTS_OF_AN_INSTANCE):
                (mounts / str(at)).mkdir()
                host.run("mount", "-t", "tmpfs", "tmpfs", mounts / str(at), check=True)
            done = instances
            in_turn(f"{instances} instances", "restart", ROUNDS // 2, COMPARED)
        for mount in mounts.iterdir():
            host.run("umount", mount, check=True)


def busy():
    """The same calls beside a busy neighbour: a process a core that never sleeps."""
    cores = os.cpu_count()
    spin = ["systemd-run", "--quiet", "--collect", "sh", "-c", "while :; do :; done"]
    with host.do_nothing():
        for at in range(cores):
            host.run(*spin[:1], f"--unit=bench-busy-{at}", *spin[1:], check=True)
        try:
            in_turn("busy", "restart", ROUNDS // 2, COMPARED)
            burst("200 at once, busy", servers.HOOK_UNIX, 200)
        finally:
            host.systemctl("stop", "bench-busy-*.service")


def flood():
    """A good call through nginx, by itself and while others call without a token from ever new addresses."""
    good = {"hook, nginx": partial(call, servers.LIMITED, *KINDS["restart"])}
    addresses = (f"127.{at >> 8 & 255}.{at & 255}.2" for at in count(1))

    async def bad_calls(ended):
        async def bad_caller():
            while not ended.is_set():
                await servers.one_of_many(servers.LIMITED, "nothing", False, next(addresses))

        await asyncio.gather(*(bad_caller() for _ in range(BAD_CALLERS)))

    with host.do_nothing():
        figures.in_turn("no flood", 10, good, pause=0.3)
        ended = threading.Event()
        flooding = threading.Thread(target=lambda: asyncio.run(bad_calls(ended)))
        flooding.start()
        try:
            figures.in_turn("flood", 10, good, pause=0.3)
        finally:
            ended.set()
            flooding.join()


def redeployments():
    """How long a branch does not answer its visitors while it is redeployed, and how many are lost."""
    for megabytes in MEGABYTES:
        for whom, found in visitors.redeployments(megabytes, rounds=3).items():
            figures.add(f"{megabytes} MB: no answer", whom, "s", [each.longest for each in found])
            figures.add(f"{megabytes} MB: visitors lost", whom, "", sum(each.lost for each in found))
            figures.add(f"{megabytes} MB: visits", whom, "", sum(each.visits for each in found))


def cpu_time(whom):
    """The CPU time that its units have used, and the same with systemd's own, in ms."""
    used = 0
    for each in servers.CGROUPS[whom]:
        stat = (CGROUP / each / "cpu.stat").read_text()
        used += int(re.search(r"usage_usec (\d+)", stat)[1]) / 1e3
    ticks = sum(int(ticks) for ticks in Path("/proc/1/stat").read_text().rsplit(")", 1)[1].split()[11:13])
    return used, used + ticks * 1e3 / os.sysconf("SC_CLK_TCK")


def sizes():
    """What is there between calls, and what a call takes beside time."""
    with host.do_nothing():
        # The calls before this have ended; nothing waits for there to be no process.
        time.sleep(5)
        for whom, programs in [("hook", servers.HOOKS), ("webhook", ["/usr/bin/webhook"])]:
            figures.add("idle: processes", whom, "", len(list(processes(whom))))
            figures.add("idle: memory", whom, "MiB", memory(whom))
            size = sum(Path(program).stat().st_size for program in programs)
            figures.add("size of the executables", whom, "KiB", size / 1024)
        for whom, server in [("hook", servers.HOOK_UNIX), ("webhook", servers.WEBHOOK)]:
            call(server.refused, *KINDS["restart"])
            before = cpu_time(whom)
            for _ in range(ROUNDS):
                call(server.refused, *KINDS["restart"])
            host.idle()
            own, with_systemd = (
                (after - start) / ROUNDS for after, start in zip(cpu_time(whom), before, strict=True)
            )
            figures.add("CPU time of a call", whom, "ms", own)
            figures.add("CPU time of a call, with systemd's", whom, "ms", with_systemd)


MEASUREMENTS = [sizes, without_systemd, one_by_one, parts, bursts, loaded, busy, flood, redeployments]


def main():
    """Makes the measurements that are named, or all."""
    out, *names = sys.argv[1:]
    version = host.systemctl("--version").split()[1]
    figures.add_run(f"{date.today()}, {os.cpu_count()} cores, Linux {platform.release()}, systemd {version}")
    host.push("review")
    servers.install()
    for measurement in MEASUREMENTS:
        if not names or measurement.__name__ in names:
            measurement()
            # What comes after it may fail.
            figures.write(Path(out) / "figures.csv")


main()
