"""What a call costs, beside the least that it could cost and beside what it replaces.

Runs in the machine, by `tests/machine bench`. Whatever is compared takes turns, call by call, so
that a change in the machine's speed meets all of it. Writes to the directory that it is given:
figures.csv, and table.md, which is the README's.
"""

import asyncio
import contextlib
import csv
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import date
from functools import partial
from itertools import chain
from pathlib import Path

sys.path.insert(0, "/src/tests/system")

import host

OUT = Path(sys.argv[1])
HERE = Path(__file__).parent
UNITS = Path("/run/systemd/system")
CGROUPS = Path("/sys/fs/cgroup/system.slice")
CONSTANT = "/usr/local/bin/constant"
HOOK = "/usr/local/bin/buildbtw-hook"
TOKEN = host.token()

# Rounds of calls that take turns, and of those that restart a container.
ROUNDS = 40
CONTAINER_ROUNDS = 30
MANY = 200
CALLERS = [1, 10, 50, MANY, 1000]
ON_ONE_ADDRESS = f"{MANY} at once, on one address"
LOADED = [10, 100, 500]
# What a container has: its root and its /dev/shm.
MOUNTS_OF_AN_INSTANCE = 2

LISTENING = """\
[Socket]
Accept=yes
ListenStream=127.0.0.1:{port}
MaxConnections=2048
PollLimitIntervalSec=0
TriggerLimitIntervalSec=0
"""

# The least: no sandbox, no other user, and a static program that looks at nothing.
FLOOR = """\
[Unit]
CollectMode=inactive-or-failed
[Service]
ExecStart={command}
StandardError=journal
StandardInput=null
StandardOutput=null
"""

# What of the hook's unit is no sandbox.
BARE = [
    "ExecStart",
    "LoadCredential",
    "LogLevelMax",
    "RuntimeDirectory",
    "RuntimeDirectoryPreserve",
    "RuntimeMaxSec",
    "SetCredential",
    "StandardError",
    "StandardInput",
    "StandardOutput",
    "StateDirectory",
    "SyslogIdentifier",
    "User",
]

# --- Who is compared, and how it is called


class Variant:
    """A server of hooks: its name, its port, and for each kind of call its port of its own."""

    def __init__(self, name, *ports):
        self.name = name
        self.ports = dict(zip(KINDS, ports * len(KINDS), strict=False))


# A kind of call: the branch it deploys, whether it has the token, the status it gets.
KINDS = {
    "refused": ("nothing", False, 401),
    "restart": ("nothing", True, 200),
    "container": ("review", True, 200),
}
VARIANTS = [
    Variant("hook", 9000),
    Variant("bare", 9100),
    Variant("floor", 9200, 9201, 9202),
    Variant("webhook", 9300),
]


def message(branch, authorised):
    """The bytes of a call."""
    path = f"/hooks/deploy-branch?branch={branch}"
    return host.request(path, "Connection: close", credentials=TOKEN if authorised else None)


def call(port, sent, status):
    """How long a call takes, in ms, from connect to the end of its answer."""
    start = time.perf_counter()
    with host.socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(sent)
        received = host.rest_of(connection)
    duration = (time.perf_counter() - start) * 1e3
    assert received.split(b" ", 2)[1] == str(status).encode(), received
    return duration


def install(name, service, port):
    """A socket unit and the service of its connections."""
    (UNITS / f"{name}.socket").write_text(LISTENING.format(port=port))
    (UNITS / f"{name}@.service").write_text(service)


def install_variants():
    """All but the hook itself, which is installed already."""
    shutil.copy("/src/target/constant", CONSTANT)
    unit = Path("/usr/local/lib/systemd/system/buildbtw-hook@.service").read_text()
    bare = [line for line in unit.splitlines() if line.split("=")[0] in [*BARE, "CollectMode"]]
    install("bench-bare", "\n".join(["[Unit]", bare[0], "[Service]", *bare[1:], ""]), 9100)
    # In the place of the executable, in its root directory.
    in_place = f"[Service]\nBindReadOnlyPaths={CONSTANT}:{HOOK}:norbind"
    install("bench-sandbox", unit.replace("[Service]", in_place), 9101)
    commands = [CONSTANT]
    for branch in ["nothing", "review"]:
        commands.append(f"{CONSTANT} systemctl restart buildbtw@{branch}.service")
    for at, command in enumerate(commands):
        install(f"bench-floor-{at}", FLOOR.format(command=command), 9200 + at)

    # webhook(1) as the old hosts had it, but that it waits for the script.
    directory = Path("/run/webhook")
    directory.mkdir()
    hooks = (HERE / "webhook.json").read_text().replace("TOKEN", TOKEN)
    (directory / "hooks.json").write_text(hooks)
    shutil.copy(HERE / "deploy-branch", directory)
    command = f"webhook -hooks {directory}/hooks.json -ip 127.0.0.1 -port 9300"
    (UNITS / "bench-webhook.service").write_text(f"[Service]\nExecStart={command}\n")

    host.systemctl("daemon-reload")
    sockets = [file.name for file in UNITS.glob("bench-*.socket")]
    host.systemctl("start", "bench-webhook.service", *sockets)
    host.until(lambda: host.run("curl", "-s", "http://127.0.0.1:9300").returncode == 0)


# --- What is written down


class Figures:
    """Every figure, in the order it was found: what, of whom, its unit, median and quartiles."""

    def __init__(self):
        self.rows = []

    def add(self, what, whom, unit, values):
        """A figure of one value, or of many; its median."""
        values = sorted(values if isinstance(values, list) else [values])
        low, median, high = values[0], values[0], values[0]
        if len(values) > 1:
            low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        self.rows.append((what, whom, unit, median, low, high, len(values)))
        print(f"{what:32} {whom:16} {median:10.2f} [{low:.2f} to {high:.2f}] {unit}", flush=True)
        return median

    def __getitem__(self, of):
        """The median of (what, whom)."""
        return next(row[3] for row in self.rows if row[:2] == of)

    def text(self, what, whom, digits=0):
        """The median and its quartiles, as the table has them."""
        median, low, high = next(row[3:6] for row in self.rows if row[:2] == (what, whom))
        return f"{median:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"

    def write(self, file):
        """All of it as CSV."""
        with file.open("w", newline="") as out:
            table = csv.writer(out, lineterminator="\n")
            table.writerow(["what", "of", "unit", "median", "quartile 1", "quartile 3", "values"])
            for *words, median, low, high, count in self.rows:
                table.writerow([*words, f"{median:.3f}", f"{low:.3f}", f"{high:.3f}", count])


figures = Figures()


def in_turn(what, rounds, calls):
    """Calls that take turns: their durations in ms are figures of `what`."""
    durations = {whom: [] for whom in calls}
    for made in calls.values():
        made()
    for _ in range(rounds):
        for whom, made in calls.items():
            # The end of the call before it, its clean-up, is no part of this one.
            time.sleep(0.05)
            durations[whom].append(made())
    for whom, values in durations.items():
        figures.add(what, whom, "ms", values)


# --- What is measured


def calls_one_by_one(kind, rounds):
    """One caller, all variants."""
    branch, authorised, status = KINDS[kind]
    sent = message(branch, authorised)
    calls = {variant.name: partial(call, variant.ports[kind], sent, status) for variant in VARIANTS}
    in_turn(kind, rounds, calls)


def milliseconds(*command):
    """How long a command takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1e3


def refused_order():
    """How long the root side takes to refuse an order, in ms."""
    start = time.perf_counter()
    with host.socket.socket(host.socket.AF_UNIX) as connection:
        connection.connect("/run/buildbtw-systemctl.sock")
        connection.sendall(b"no order\n")
        assert host.rest_of(connection).startswith(b"refused")
    return (time.perf_counter() - start) * 1e3


def from_exec(program, sent):
    """How long a program takes from exec to the end of its answer, in ms."""
    ours, theirs = host.socket.socketpair()
    ours.sendall(sent)
    environment = {"LISTEN_FDS": "1", "CREDENTIALS_DIRECTORY": "/etc/buildbtw-hook"}
    actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3), (os.POSIX_SPAWN_CLOSE, 2)]
    start = time.perf_counter()
    process = os.posix_spawn(program, [program], environment, file_actions=actions)
    theirs.close()
    with ours:
        host.rest_of(ours)
    duration = (time.perf_counter() - start) * 1e3
    os.waitpid(process, 0)
    return duration


def where_the_time_goes():
    """The parts of a call, each by the difference that it makes."""
    restart = ["systemctl", "--no-ask-password", "restart", "--", "buildbtw@nothing.service"]
    refused = message("nothing", False)
    in_turn(
        "part",
        ROUNDS,
        {
            "whole call": lambda: call(9000, message("nothing", True), 200),
            "floor": lambda: call(9200, refused, 401),
            "constant in the sandbox": lambda: call(9101, refused, 401),
            "constant from exec": lambda: from_exec(CONSTANT, refused),
            "hook from exec, 404": lambda: from_exec(HOOK, host.request("/")),
            "hook from exec, 401": lambda: from_exec(HOOK, refused),
            "systemctl show, root": lambda: milliseconds("systemctl", "show", restart[-1]),
            "systemctl restart, root": lambda: milliseconds(*restart),
            "refused order": refused_order,
        },
    )
    part = {whom: median for what, whom, _, median, *_ in figures.rows if what == "part"}
    constant, root = part["constant from exec"], part["systemctl restart, root"]
    parts = {
        "accept and spawn": part["floor"],
        "sandbox": part["constant in the sandbox"] - part["floor"],
        "exec to request, and answer": part["hook from exec, 404"] - constant,
        "token": part["hook from exec, 401"] - part["hook from exec, 404"],
        "systemctl": part["systemctl show, root"],
        "the root side's start": part["refused order"],
        "the unit's own stop and start": root - part["systemctl show, root"],
    }
    for name, value in parts.items():
        figures.add("share", name, "ms", value)
    figures.add("share", "not accounted for", "ms", part["whole call"] - sum(parts.values()))


def resident(of):
    """The memory of processes, in KiB: what is resident, shared pages counted for each."""
    pages = 0
    for process in of():
        with contextlib.suppress(OSError, IndexError):
            pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


def processes_of(whom):
    """The processes in the cgroups of its units."""
    for file in chain(*(CGROUPS.glob(f"{each}/**/cgroup.procs") for each in CGROUPS_OF[whom])):
        with contextlib.suppress(OSError):
            yield from file.read_text().split()


ADDRESSES = {"hook": [host.SOCKET, 9000], "webhook": [9300]}
CGROUPS_OF = {
    "hook": ["system-buildbtw\\x2dhook.slice", "system-buildbtw\\x2dsystemctl.slice"],
    "webhook": ["bench-webhook.service"],
}


class PeakMemory(threading.Thread):
    """The most memory that processes have together while the body runs, looked at now and then."""

    def __init__(self, whom):
        super().__init__(daemon=True)
        self.whom, self.peak, self.ended = whom, 0, threading.Event()

    def run(self):
        while not self.ended.wait(0.05):
            self.peak = max(self.peak, resident(lambda: processes_of(self.whom)))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.join()


async def caller(address, sent):
    """A call among many: its status, or what became of it."""
    try:
        if isinstance(address, int):
            reader, writer = await asyncio.open_connection("127.0.0.1", address)
        else:
            reader, writer = await asyncio.open_unix_connection(address)
        writer.write(sent)
        received = await reader.read()
        writer.close()
        return received.split(b" ", 2)[1].decode() if received else "nothing"
    except OSError as error:
        return type(error).__name__


async def callers(addresses, count):
    """Callers at once, each for a branch of its own, shared out between the server's addresses;
    what they got, and how long all took, in s."""
    calls = [
        caller(addresses[at % len(addresses)], message(f"nothing-{at}", True))
        for at in range(count)
    ]
    start = time.perf_counter()
    results = await asyncio.gather(*calls)
    return Counter(results), time.perf_counter() - start


def many_at_once():
    """1 to 1000 callers, the socket with its throttle as it is installed."""
    bursts = [(count, whom, ADDRESSES[whom]) for count in CALLERS for whom in CGROUPS_OF]
    for count, whom, addresses in [*bursts, (MANY, "hook", [host.SOCKET])]:
        with PeakMemory(whom) as memory:
            results, duration = asyncio.run(callers(addresses, count))
        what = f"{count} at once" if addresses == ADDRESSES[whom] else ON_ONE_ADDRESS
        figures.add(f"{what}: answered 200", whom, "calls", results["200"])
        figures.add(f"{what}: lost", whom, "calls", count - results["200"])
        figures.add(f"{what}: time to the last", whom, "s", duration)
        figures.add(f"{what}: calls a second", whom, "1/s", count / duration)
        figures.add(f"{what}: peak memory", whom, "MiB", memory.peak / 1024)
        if len(results) > 1:
            print(f"    {whom}: {dict(results)}")
        host.idle()
        host.forget_branches()
        time.sleep(2)


def a_growing_host():
    """The call that restarts a unit that does nothing, among more and more instances."""
    mounts = Path("/run/bench-mounts")
    mounts.mkdir()
    loaded = 0
    for count in LOADED:
        units = [f"buildbtw@loaded-{at}.service" for at in range(loaded, count)]
        host.systemctl("start", *units)
        for at in range(loaded * MOUNTS_OF_AN_INSTANCE, count * MOUNTS_OF_AN_INSTANCE):
            (mounts / str(at)).mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mounts / str(at)], check=True)
        loaded = count
        sent = message("nothing", True)
        calls = {
            variant.name: partial(call, variant.ports["restart"], sent, 200) for variant in VARIANTS
        }
        in_turn(f"{count} instances", ROUNDS // 2, calls)
    for mount in mounts.iterdir():
        subprocess.run(["umount", mount], check=True)


def cpu_time(whom):
    """The CPU time that its units have used, in ms."""
    stats = [(CGROUPS / each / "cpu.stat").read_text() for each in CGROUPS_OF[whom]]
    return sum(int(re.search(r"usage_usec (\d+)", each)[1]) for each in stats) / 1e3


def size_memory_and_cpu():
    """What is there between calls, and what a call takes beside time."""
    figures.add("idle: processes", "hook", "", len(host.processes()))
    figures.add("idle: memory", "hook", "MiB", 0.0)
    webhooks = list(processes_of("webhook"))
    figures.add("idle: processes", "webhook", "", len(webhooks))
    figures.add("idle: memory", "webhook", "MiB", resident(lambda: webhooks) / 1024)
    for whom, program in [("hook", HOOK), ("webhook", "/usr/bin/webhook")]:
        figures.add("size of the executable", whom, "KiB", Path(program).stat().st_size / 1024)
    with host.connect("tcp"):
        process = host.until(host.processes)[0]
        time.sleep(0.1)
        figures.add("peak memory of a call", "hook", "MiB", host.peak_memory(process) / 1024)
    host.idle()
    for whom, port in [("hook", 9000), ("webhook", 9300)]:
        before = cpu_time(whom)
        for _ in range(ROUNDS):
            call(port, message("nothing", True), 200)
        host.idle()
        used = (cpu_time(whom) - before) / ROUNDS
        figures.add("CPU time of a call", whom, "ms", used)


# --- The table


def table():
    """The README's table, in Markdown."""
    lines = [
        f"{date.today()}, a machine of {os.cpu_count()} cores, Linux {platform.release()}, systemd "
        f"{host.systemctl('--version').split()[1]}. Medians and quartiles, in ms.",
        "",
        "| a call that | to `floor` | to `webhook` | hook | hook, no sandbox | `floor` | `webhook` |",
        "|---|---|---|---|---|---|---|",
    ]
    names = {
        "refused": "is refused (401)",
        "restart": "restarts a unit that does nothing",
        "container": "redeploys a container",
    }
    names |= {f"{count} instances": f"the same, of {count} loaded instances" for count in LOADED}
    order = ["refused", "restart", *[f"{count} instances" for count in LOADED], "container"]
    for what in order:
        ratios = [f"{figures[what, 'hook'] / figures[what, to]:.2f}" for to in ["floor", "webhook"]]
        times = [figures.text(what, variant.name) for variant in VARIANTS]
        lines.append(f"| {' | '.join([names[what], *ratios, *times])} |")
    lines += [
        "",
        "Callers at once, hook / `webhook`; the hook's are shared out between its two addresses:",
        "",
        "| callers at once | answered | lost | last answer after | calls/s | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for count in CALLERS:
        cells = [str(count)]
        for what, unit, digits in [
            ("answered 200", "", 0),
            ("lost", "", 0),
            ("time to the last", " s", 1),
            ("calls a second", "", 0),
            ("peak memory", " MiB", 0),
        ]:
            pair = [figures[f"{count} at once: {what}", whom] for whom in CGROUPS_OF]
            cells.append(" / ".join(f"{value:.{digits}f}" for value in pair) + unit)
        lines.append(f"| {' | '.join(cells)} |")
    last = figures[f"{ON_ONE_ADDRESS}: time to the last", "hook"]
    lines += [
        "",
        f"{MANY} on one of the hook's addresses alone have their last answer after {last:.1f} s.",
    ]
    lines += ["", "| | hook | `webhook` |", "|---|---|---|"]
    for what, unit, digits in [
        ("idle: processes", "", 0),
        ("idle: memory", " MiB", 1),
        ("size of the executable", " KiB", 0),
        ("CPU time of a call", " ms", 1),
    ]:
        pair = [f"{figures[what, whom]:.{digits}f}{unit}" for whom in CGROUPS_OF]
        lines.append(f"| {' | '.join([what, *pair])} |")
    peak = figures["peak memory of a call", "hook"]
    lines.append(f"| peak memory of a call | {peak:.1f} MiB | |")
    lines += ["", "| aim | found | |", "|---|---|---|"]
    lines += [f"| {' | '.join(aim)} |" for aim in aims()]
    return "\n".join(lines) + "\n"


def aims():
    """What was aimed at, what was found, and whether that meets it."""
    restart = figures["restart", "hook"] / figures["restart", "floor"]
    container = figures["container", "hook"] / figures["container", "webhook"]
    lost = figures[f"{MANY} at once: lost", "hook"]
    last = figures[f"{MANY} at once: time to the last", "hook"]
    for aim, found, met in [
        ("a call that restarts a unit that does nothing: at most 2.5 times `floor`",
         f"{restart:.3f}", restart <= 2.5),
        ("a redeployment of a container: at most 1.1 times `webhook`",
         f"{container:.3f}", container <= 1.1),
        (f"{MANY} callers at once: answered in under 10 s, none lost",
         f"{last:.1f} s, {lost:.0f} lost", last < 10 and lost == 0),
    ]:  # fmt: skip
        yield aim, found, "met" if met else "not met"


def main():
    """Measures all, the machine's start-up noise over."""
    host.push("review")
    install_variants()
    with host.do_nothing():
        size_memory_and_cpu()
        calls_one_by_one("refused", ROUNDS)
        calls_one_by_one("restart", ROUNDS)
        where_the_time_goes()
        many_at_once()
        a_growing_host()
    calls_one_by_one("container", CONTAINER_ROUNDS)
    figures.write(OUT / "figures.csv")
    (OUT / "table.md").write_text(table())
    print("\n" + table())


main()
