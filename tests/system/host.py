"""The host under test: calls, answers, units, jobs and records."""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import NamedTuple

import pytest

TOKEN_FILE = Path("/etc/buildbtw-hook/token")
TEMPLATE = Path("/etc/containers/systemd/buildbtw@.container")
SOCKET = "/run/buildbtw-hook.sock"
STATE = Path("/var/lib/buildbtw-hook")
WANTS = Path("/etc/systemd/system/buildbtw.target.wants")
USER = "buildbtw-hook"
TRANSPORTS = ["tcp", "unix"]
# How many times as much is done of what is marked `soak`.
SOAK = int(os.environ.get("SOAK") or 1)

# Marks a test that is to run over both. As the first mark it has them take turns, so that the
# socket's throttle, which is one for each address, holds up the tests half as long.
over_both = pytest.mark.parametrize("transport", TRANSPORTS)

# What curl needs to reach the hook over each transport.
CURL = {
    "tcp": ("http://127.0.0.1:9000", []),
    "unix": ("http://localhost", ["--unix-socket", SOCKET]),
}


# --- Calls and answers


@dataclass(frozen=True)
class Answer:
    """What a caller was told; header names in lower case."""

    status: int
    headers: dict
    text: str

    @classmethod
    def parse(cls, message):
        """The answer in what a server sent; an interim one (100 Continue) is skipped."""
        head, _, body = message.partition(b"\r\n\r\n")
        status_line, *fields = head.decode().split("\r\n")
        status = int(re.fullmatch(r"HTTP/1\.[01] (\d{3}) .+", status_line)[1])
        if status < 200:
            return cls.parse(body)
        headers = dict(field.split(": ", 1) for field in fields)
        return cls(status, {name.lower(): value for name, value in headers.items()}, body.decode())


def token():
    """The host's first token."""
    return TOKEN_FILE.read_text().split()[0]


def bearer(credentials):
    """The curl option that sends a token."""
    return ["--header", f"Authorization: Bearer {credentials}"]


def curl(transport, path, *options):
    """What curl gets for a path, to the byte as it is given."""
    base, reach = CURL[transport]
    command = ["curl", "--silent", "--show-error", "--include", "--path-as-is", "--globoff"]
    command += ["--max-time", "120", *reach, *options, base + path]
    result = subprocess.run(command, capture_output=True)
    assert result.returncode == 0, f"{' '.join(command[1:])}: {result.stderr.decode()}"
    return Answer.parse(result.stdout)


def call(transport, path, *options):
    """The same, with the host's token."""
    return curl(transport, path, *bearer(token()), *options)


def deploy(branch, *options, transport="unix"):
    """A deployment of a branch."""
    return call(transport, f"/hooks/deploy-branch?branch={branch}", *options)


def undeploy(branch, *options, transport="unix"):
    """An undeployment of a branch."""
    return call(transport, f"/hooks/undeploy-branch?branch={branch}", *options)


def status(branch):
    """What branch-status answers."""
    return call("unix", f"/hooks/branch-status?branch={branch}")


def listed():
    """What list-branches answers."""
    return call("unix", "/hooks/list-branches").text


def connect(transport):
    """A connection to the hook's socket, for what curl would not send."""
    if transport == "tcp":
        return socket.create_connection(("127.0.0.1", 9000))
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(SOCKET)
    return connection


def request(path, *fields, method="GET", credentials=None):
    """The bytes of a request, with a token where one is given."""
    if credentials:
        fields = (f"Authorization: Bearer {credentials}", *fields)
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *fields, "", ""]).encode()


def rest_of(connection):
    """What a connection brings until it ends."""
    message = b""
    while part := connection.recv(65536):
        message += part
    return message


def answer_on(connection):
    """The answer on a connection, which must then end."""
    return Answer.parse(rest_of(connection))


def exchange(transport, message):
    """The answer to a message sent as it is, the sending side left open."""
    with connect(transport) as connection:
        connection.sendall(message)
        return answer_on(connection)


def at_once(*calls):
    """The results of calls made at the same time, in their order."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [made.result() for made in [pool.submit(each) for each in calls]]


@contextmanager
def in_background(made):
    """A call that is under way in the body; the body gets its future."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(made)


@contextmanager
def repeated(*calls):
    """Calls made at the same time, each again and again; the list has their results after the body."""
    results, ended = [], Event()

    def repeat(made):
        while not ended.is_set():
            results.append(made())

    with ThreadPoolExecutor(len(calls)) as pool:
        repeating = [pool.submit(repeat, each) for each in calls]
        try:
            yield results
        finally:
            ended.set()
    for each in repeating:
        each.result()


# --- systemd


def run(*command, **options):
    """A command's outcome; its output is text, both streams in one."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def systemctl(*arguments):
    """systemctl as root; it must succeed."""
    result = run("systemctl", *arguments)
    assert result.returncode == 0, result.stdout
    return result.stdout.strip()


def unit(name, *properties):
    """The properties of a unit, by name."""
    shown = systemctl("show", f"--property={','.join(properties)}", "--", name)
    return dict(line.split("=", 1) for line in shown.splitlines())


def state_of(name):
    """The ActiveState of a unit."""
    return unit(name, "ActiveState")["ActiveState"]


def state(branch):
    """The ActiveState of a branch's unit."""
    return state_of(f"buildbtw@{branch}.service")


def forget_branches():
    """Takes down every branch behind the hook's back, and what is known of it."""
    systemctl("stop", "buildbtw@*.socket")
    systemctl("stop", "buildbtw@*.service", "buildbtw-pull@*.service", "buildbtw-proxy@*.service")
    systemctl("reset-failed", "buildbtw*@*")
    for file in [*STATE.glob("*"), *WANTS.glob("*")]:
        file.unlink(missing_ok=True)


def noted():
    """The branches that a reboot would bring back, once every order has been carried out."""
    idle()
    return sorted(file.stem.removeprefix("buildbtw@") for file in WANTS.iterdir()) if WANTS.exists() else []


def boot():
    """What a boot does: nothing runs, and then what is wanted is started."""
    idle()
    systemctl("stop", "buildbtw.target", "buildbtw@*.socket", "buildbtw@*.service")
    systemctl("daemon-reload")
    systemctl("start", "buildbtw.target")
    until(lambda: "activating" not in {state(branch) for branch in noted()})


def host_state():
    """`running`, or `degraded` where a unit has failed."""
    return run("systemctl", "is-system-running").stdout.strip()


def instances(of="buildbtw-hook"):
    """The units of calls, or of orders, whatever their state."""
    listed = systemctl("list-units", "--all", "--plain", "--no-legend", f"{of}@*.service")
    return [line.split()[0] for line in listed.splitlines()]


def processes(of="buildbtw-hook"):
    """The process ids of one of our executables."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            executable = os.readlink(process / "exe").removesuffix(" (deleted)")
        except OSError:
            continue  # a kernel thread, or one that has just ended
        if executable.rpartition("/")[2] == of:
            found.append(int(process.name))
    return found


def peak_memory(pid):
    """The most memory that a process ever had resident, in KiB; 0 when it has gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.M)
    return int(peak[1]) if peak else 0


def until(condition, seconds=20):
    """The first true value of a condition; fails where there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not so in {seconds} s: {condition}"
        time.sleep(0.02)
    return value


def idle():
    """Waits until every call and every order has ended."""
    ours = ["buildbtw-hook", "buildbtw-systemctl"]
    until(lambda: not any(instances(name) or processes(name) for name in ours), 30)


def is_pruned():
    """Whether no removal of images runs, or is about to."""
    prune = unit("buildbtw-prune.service", "ActiveState", "Job")
    return prune["ActiveState"] == "inactive" and prune.get("Job", "0") in ("", "0")


def settle():
    """Waits for what a deployment has done after its answer."""
    idle()
    until(is_pruned)


@contextmanager
def files(texts):
    """Files of the host with these texts, in force in the body; then as they were."""
    kept = {file: file.read_text() if file.exists() else None for file in texts}
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755 if text.startswith("#!") else 0o644)
    systemctl("daemon-reload")
    try:
        yield
    finally:
        for file, text in kept.items():
            file.unlink() if text is None else file.write_text(text)
        systemctl("daemon-reload")


@contextmanager
def drop_in(name, text):
    """A drop-in of a unit, in force in the body."""
    directory = Path(f"/run/systemd/system/{name}.d")
    file = directory / f"test-{len(list(directory.glob('*')))}.conf"
    with files({file: text}):
        yield


@contextmanager
def clock(executable, *settings):
    """Moves the wall's clock for one of our executables, built so that libfaketime can be loaded.

    The machine's own clock is also that of what it runs on. The monotonic one of a host never jumps.
    """
    file = Path("/run/clock")
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    environment = f"LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={file} FAKETIME_NO_CACHE=1"
    environment += " FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1"
    start = f"ExecStart=\nExecStart=/src/target/dynamic/debug/{executable}"
    file.write_text("+0")
    lines = ["[Service]", f"Environment={environment}", start, *settings, ""]
    with drop_in(f"{executable}@.service", "\n".join(lines)):
        yield file.write_text
    file.unlink()


@contextmanager
def throttle(settings):
    """Other settings of the socket's throttle, in force in the body."""
    try:
        with drop_in("buildbtw-hook.socket", f"[Socket]\n{settings}\n"):
            systemctl("restart", "buildbtw-hook.socket")
            yield
    finally:
        systemctl("restart", "buildbtw-hook.socket")


# A unit that does nothing, in place of the Quadlet: what systemd itself needs, and no more.
NOTHING = """\
[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=true
RemainAfterExit=yes
Type=oneshot
"""


@contextmanager
def do_nothing():
    """Every branch a unit that does nothing, in the body."""
    with files({Path("/run/systemd/system/buildbtw@.service"): NOTHING}):
        yield
        forget_branches()


@contextmanager
def no_template():
    """The host without the template of its branches."""
    away = Path("/run/template")
    shutil.move(TEMPLATE, away)
    systemctl("daemon-reload")
    try:
        yield
    finally:
        shutil.move(away, TEMPLATE)
        systemctl("daemon-reload")


@contextmanager
def held(branch, command="ExecStartPre"):
    """Holds up the branch's start (or, as `ExecStop`, its stop) until the body calls its value."""
    gate = Path(f"/run/gate-{branch}")
    text = f"[Service]\n{command}=/bin/sh -c 'until [ -e {gate} ]; do sleep 0.05; done'\n"
    with drop_in(f"buildbtw@{branch}.service", text):
        try:
            yield gate.touch
        finally:
            gate.touch()
            until(lambda: state(branch) not in ("activating", "deactivating"))
            gate.unlink()


# What a branch of buildbtw's own template is made of, beside the Quadlet.
TEMPLATES = ["buildbtw@.socket", "buildbtw-proxy@.service", "buildbtw-pull@.service", "buildbtw-pull"]
TEMPLATES += ["buildbtw-prune.service", "buildbtw-prune", "buildbtw.slice"]


def shipped(*names):
    """The templates that are shipped, by the path where a host has them."""
    places = {name: "/etc/systemd/system" if "." in name else "/usr/local/lib/buildbtw" for name in names}
    return {
        Path(f"{place}/{name}"): Path(f"/src/systemd/{name}").read_text() for name, place in places.items()
    }


def review_host():
    """What a host of review apps has: buildbtw's own template, what goes with it, and its settings."""
    return shipped(*TEMPLATES) | {
        Path("/etc/systemd/system/buildbtw@.socket.d/nginx.conf"): "[Socket]\nSocketGroup=www-data\n",
        Path("/etc/buildbtw/image"): "BUILDBTW_IMAGE=localhost:5000/archlinux/buildbtw/backend\n",
        Path("/etc/buildbtw/environment"): f"BUILDBTW_COOKIE_ENCRYPTION_KEY={64 * 'k'}\n",
        # A failure is tried again as soon as the first time.
        Path(f"{TEMPLATE}.d/retry.conf"): "[Service]\nRestartSteps=0\n",
        TEMPLATE: Path("/src/systemd/buildbtw@.container").read_text(),
    }


def sleep_after(span):
    """The examples of drop-ins with all that they have: instances that nobody visits sleep."""
    directories = {
        "buildbtw@.container": "/etc/containers/systemd",
        "buildbtw-proxy@.service": "/etc/systemd/system",
    }
    texts = {name: Path(f"/src/systemd/{name}.conf").read_text() for name in directories}
    return {
        Path(f"{directories[name]}/{name}.d/sleep.conf"): re.sub(
            r"^#(\w+=)", r"\1", text.replace("=30min", f"={span}"), flags=re.M
        )
        for name, text in texts.items()
    }


class Visit(NamedTuple):
    """What a visitor got through nginx, and in how many seconds."""

    status: int
    text: str
    waited: float


def visit(branch, path="/", method="GET", body=None):
    """One visit of a branch."""
    begin = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", 8081, timeout=60)
    connection.request(method, path, body, {"Host": f"{branch}.test"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return Visit(answer.status, text, time.monotonic() - begin)


def push(*tags, **options):
    """Pushes a new image to the registry, under each tag, with the options of push-image."""
    given = [f"--{name}={value}" for name, value in options.items() if value]
    pushed = run("/src/tests/fixtures/push-image", *given, *tags)
    assert pushed.returncode == 0, pushed.stdout


def container(branch):
    """The ids of a branch's container and of its image."""
    shown = run("podman", "inspect", "--format={{.Id}} {{.Image}}", f"buildbtw-{branch}")
    assert shown.returncode == 0, shown.stdout
    return tuple(shown.stdout.split())


# --- The journal


class Journal:
    """The journal from here on."""

    def __init__(self):
        self.start = self._read("--lines=0", "--show-cursor").strip().removeprefix("-- cursor: ")

    def _read(self, *options):
        subprocess.run(["journalctl", "--sync"], check=True)
        return subprocess.run(
            ["journalctl", "--quiet", *options], stdout=subprocess.PIPE, check=True
        ).stdout.decode(errors="replace")

    def entries(self, *options):
        """The entries as JSON has them, once every call has ended."""
        idle()
        read = self._read(f"--after-cursor={self.start}", "--output=json", *options)
        return [json.loads(line) for line in read.splitlines()]

    def calls(self):
        """The records of calls."""
        return [entry for entry in self.entries(f"--identifier={USER}") if "HTTP_STATUS" in entry]

    def export(self):
        """All there is, every field of every entry, from the machine's boot on."""
        idle()
        return self._read("--output=export", "--all")


# --- Orders


RECORDING = """\
#!/bin/sh
case "$*" in
    *' show '* | *buildbtw-prune*) ;;
    *--job-mode=replace*) printf '%s\\n' "$*" >>/run/jobs ;;
esac
exec /usr/bin/systemctl "$@"
"""


class Recorder:
    """What the root side has systemctl do. systemd's PATH has /usr/local/sbin first."""

    log = Path("/run/jobs")

    def __init__(self):
        recording = Path("/usr/local/sbin/systemctl")
        recording.write_text(RECORDING)
        recording.chmod(0o755)

    def jobs(self):
        """The jobs since the last look, as (verb, unit), once every order has been carried out."""
        idle()
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.write_text("")
        jobs = []
        for line in lines:
            options, _, units = line.partition(" -- ")
            jobs += [(options.split()[-1], unit) for unit in units.split()]
        return jobs
