"""The host under test in the words of its field: calls, answers, units, jobs and records."""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

TOKEN_FILE = Path("/etc/buildbtw-hook/token")
TEMPLATE = Path("/etc/containers/systemd/buildbtw@.container")
SOCKET = "/run/buildbtw-hook.sock"
STATE = Path("/var/lib/buildbtw-hook")
SLOTS = Path("/run/buildbtw-hook")
USER = "buildbtw-hook"
TRANSPORTS = ["tcp", "unix"]

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


# --- systemd


def run(*command, **options):
    """A command's outcome; its output is text, both streams in one."""
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def systemctl(*arguments):
    """systemctl as root; it must succeed."""
    result = run("systemctl", *arguments)
    assert result.returncode == 0, result.stdout
    return result.stdout.strip()


def unit(name, *properties):
    """The properties of a unit, by name."""
    shown = systemctl("show", f"--property={','.join(properties)}", "--", name)
    return dict(line.split("=", 1) for line in shown.splitlines())


def state(branch):
    """The ActiveState of a branch's unit."""
    return unit(f"buildbtw@{branch}.service", "ActiveState")["ActiveState"]


def forget_branches():
    """Takes down every branch behind the hook's back, and what the hook knows of it."""
    systemctl("stop", "buildbtw@*.service")
    for file in STATE.glob("*"):
        file.unlink()


def noted():
    """The branches that a reboot would bring back."""
    return sorted(file.name for file in STATE.iterdir())


def host_state():
    """`running`, or `degraded` where a unit has failed."""
    return run("systemctl", "is-system-running").stdout.strip()


def instances():
    """The units of calls, whatever their state."""
    listed = systemctl("list-units", "--all", "--plain", "--no-legend", "buildbtw-hook@*.service")
    return [line.split()[0] for line in listed.splitlines()]


def processes():
    """The process ids of our executable."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "exe").startswith("/usr/local/bin/buildbtw-hook"):
                found.append(int(process.name))
        except OSError:
            pass  # a kernel thread, or one that has just ended
    return found


def peak_memory(pid):
    """The most memory that a process ever had resident, in KiB; 0 when it has gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.M)
    return int(peak[1]) if peak else 0


def until(condition, seconds=10):
    """The first true value of a condition; fails where there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not so in {seconds} s: {condition}"
        time.sleep(0.02)
    return value


def idle():
    """Waits until every call has ended."""
    until(lambda: not instances() and not processes(), 30)


@contextmanager
def drop_in(name, text):
    """A drop-in of a unit, in force in the body."""
    directory = Path(f"/run/systemd/system/{name}.d")
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"test-{len(list(directory.iterdir()))}.conf"
    file.write_text(text)
    systemctl("daemon-reload")
    try:
        yield
    finally:
        file.unlink()
        systemctl("daemon-reload")


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
    template = Path("/run/systemd/system/buildbtw@.service")
    template.write_text(NOTHING)
    systemctl("daemon-reload")
    try:
        yield
    finally:
        forget_branches()
        template.unlink()
        systemctl("daemon-reload")


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


def push(*tags, command=None):
    """Pushes a new image to the registry, under each tag."""
    script = Path(__file__).parent.parent / "fixtures/push-image"
    subprocess.run([script, *tags, *(["--", command] if command else [])], check=True)


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


class Bus:
    """What processes without privileges ask of systemd, as the system bus carries it.

    Root's own systemctl takes a private socket, so none of the tests' calls are in it.
    """

    def __init__(self):
        self.marks = 0
        # Into a file: a monitor that waits for its reader holds up the whole bus.
        with tempfile.NamedTemporaryFile() as file:
            match = "type='method_call',interface='org.freedesktop.systemd1.Manager'"
            command = ["busctl", "monitor", "--json=short", f"--match={match}"]
            self.monitor = subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL)
            self.messages = open(file.name, encoding="utf-8")
        # It listens once it reports what is asked after its start.
        until(lambda: self._mark() or self.messages.readline())
        self.jobs()

    def _mark(self):
        self.marks += 1
        service, path = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
        run("busctl", "call", service, path, f"{service}.Manager", "GetUnit", "s", self._name())

    def _name(self):
        return f"mark-{self.marks}.service"

    def _message(self):
        """The next message, whole."""
        line = ""
        while not line.endswith("\n"):
            line += until(self.messages.readline)
        return json.loads(line)

    def jobs(self):
        """The jobs that were asked for since the last look, as (method, unit)."""
        self._mark()
        jobs = []
        while True:
            message = self._message()
            method, data = message["member"], message["payload"]["data"]
            if data == [self._name()]:
                return jobs
            # Podman has a timer of its own for each container's health check.
            podmans = re.match(r"[0-9a-f]{64}", str(data[0] if data else ""))
            if not method.startswith("Get") and not podmans:
                jobs.append((method, data[0] if data else ""))

    def close(self):
        """Ends the monitor."""
        self.monitor.terminate()
        self.monitor.wait()
        self.messages.close()
