"""Attempts by someone who took over the hook's process: in its sandbox, and as its user."""

import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path

import host

OUTPUT = Path("/run/attempt-output")
PROBE = Path("/run/systemd/system/sandbox-probe.service")
# Static, like the executable whose place they take.
ATTEMPT = "/src/target/attempt"
BUSYBOX = "/usr/bin/busybox"


def in_sandbox(program, *arguments, without="\0"):
    """Runs a static program in the place of the executable, in a copy of the hook's own unit.

    `without` leaves out a directive of it: what else there is, is seen better without it.
    """
    executable = "/usr/local/bin/buildbtw-hook"
    quoted = " ".join(f'"{argument}"' for argument in (Path(program).name, *arguments))
    unit = host.systemctl("cat", "buildbtw-hook@.service")
    for old, new in [
        (f"ExecStart={executable}", f"ExecStart=@{executable} {quoted}"),
        ("StandardOutput=null", f"StandardOutput=truncate:{OUTPUT}"),
        ("StandardError=journal", "StandardError=inherit"),
        (
            "BindLogSockets=no",
            f"BindLogSockets=no\nBindReadOnlyPaths={program}:{executable}:norbind",
        ),
    ]:
        assert unit.count(f"\n{old}\n") == 1, old
        unit = unit.replace(f"\n{old}\n", f"\n{new}\n")
    PROBE.write_text("\n".join(line for line in unit.split("\n") if not line.startswith(without)))
    host.systemctl("daemon-reload")
    OUTPUT.write_text("")
    host.run("systemctl", "start", "--wait", PROBE.name)
    PROBE.unlink()
    return OUTPUT.read_text().strip()


def as_user(*command, user=host.USER):
    """Runs a command as the hook's user, without its sandbox."""
    identity = [f"--reuid={user}", f"--regid={user}", "--init-groups"]
    return host.run("setpriv", *identity, *command, stdin=subprocess.DEVNULL)


@contextmanager
def abstract_socket():
    """A socket of the host in the abstract namespace, which belongs to a network namespace."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0attempt")
        listener.listen()
        yield
