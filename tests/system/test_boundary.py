"""What someone can do who takes over the process that reads from the network: a closed list.

Each attempt is made in the hook's own sandbox, and as its user without it. The second shows that
the attempt itself is a real one, and what the sandbox adds.
"""

import pwd
import re
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

import host

pytestmark = pytest.mark.each_suite

OUTPUT = Path("/run/attempt-output")
PROBE = Path("/run/systemd/system/sandbox-probe.service")
# Static, like the executable whose place they take.
ATTEMPT = "/src/target/attempt"
BUSYBOX = "/usr/bin/busybox"
ORDERS = "/run/buildbtw-systemctl.sock"
UNIT = "buildbtw@feature-x.service"

EPERM = "Operation not permitted"
EACCES = "Permission denied"
ENOENT = "No such file or directory"
NO_FAMILY = "Address family not supported by protocol"


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


# --- What the sandbox refuses, and why

# What comes of it in the sandbox, and outside of it as the same user.
ATTEMPTS = {
    # The network.
    "socket_inet": (NO_FAMILY, "done"),
    "socket_inet6": (NO_FAMILY, "done"),
    "socket_netlink": (NO_FAMILY, "done"),
    "socket_packet": (NO_FAMILY, EPERM),
    "socket_vsock": (NO_FAMILY, "done"),
    "connect_abstract": ("Connection refused", "done"),
    # Code of one's own, and other processes.
    "write_and_execute": (EACCES, "done"),
    "memfd_create": (EPERM, "done"),
    "execveat": (EPERM, ENOENT),
    "execve_shell": (ENOENT, ""),
    "forked": (EPERM, "done"),
    "ended_child": (EPERM, "done"),
    "kill_everyone": (EPERM, "done"),
    "ptrace": (EPERM, "done"),
    "process_vm_readv": (EPERM, "done"),
    # Namespaces and rights.
    "clone_newuser": (EPERM, "done"),
    "unshare_user": (EPERM, "done"),
    "unshare_mount": (EPERM, EPERM),
    "setns": (EPERM, EPERM),
    "setuid_root": (EPERM, EPERM),
    "setgid_root": (EPERM, EPERM),
    "mount": (EPERM, EPERM),
    "chroot": (EPERM, EPERM),
    # Files.
    "mkdir": (EPERM, EACCES),
    "mknod": (EPERM, EACCES),
    "mkfifo": (EPERM, EACCES),
    "symlink": (EPERM, EACCES),
    "unlink": (EPERM, EACCES),
    "rename_executable": (EPERM, EACCES),
    "chmod_executable": (EPERM, EPERM),
    "create_file": ("Read-only file system", EACCES),
    "write_executable": (EACCES, EACCES),
    # The kernel.
    "keyctl": (EPERM, "done"),
    "bpf": (EPERM, "Invalid argument"),
    "perf_event_open": (EPERM, None),
    "io_uring_setup": (EPERM, None),
    "userfaultfd": (EPERM, None),
    "init_module": (EPERM, EPERM),
    "kernel_log": (EPERM, None),
    "set_clock": (EPERM, None),
    "sethostname": (EPERM, EPERM),
    "swapon": (EPERM, EPERM),
    "personality": (EPERM, "done"),
    "sched_setscheduler": (EPERM, EPERM),
    "umount": (EPERM, EPERM),
    # The host's sockets: all but two are not there.
    "dbus": (ENOENT, "done"),
    "systemd_private": (ENOENT, EACCES),
    "systemd_notify": (ENOENT, "done"),
    "journal_stdout": (ENOENT, "done"),
    "hook_socket": (ENOENT, "done"),
    "journal": ("done", "done"),
    "orders": ("done", "done"),
}


def test_every_attempt_is_made():
    names = subprocess.run([ATTEMPT], capture_output=True, text=True, check=True).stdout.split()
    assert set(names) == ATTEMPTS.keys()


@pytest.mark.parametrize("name", ATTEMPTS)
def test_attempt_is_refused_for_this_reason(name):
    in_it, outside = ATTEMPTS[name]
    with abstract_socket():
        assert in_sandbox(ATTEMPT, name) == in_it
        # What the kernel says of some depends on its settings.
        if outside is not None:
            assert as_user(ATTEMPT, name).stdout.strip() == outside


def test_the_whole_file_tree():
    """Without the filter, which does not even let it list a directory."""
    owner = str(pwd.getpwnam(host.USER).pw_uid)
    own = ["-user", owner, "-o", "-group", owner, "-o", "-perm", "-0002"]
    tests = ["-type", "s", "-o", "-type", "f", "-o", "-type", "c", "-o", *own]
    tree = ["find", "/", "-path", "/proc", "-prune", "-o", "(", *tests, ")", "-print"]
    found = in_sandbox(BUSYBOX, *tree, without="SystemCallFilter").splitlines()
    found = [line for line in found if not line.startswith("find: ")]
    assert sorted(found) == [
        "/dev/null",
        "/run/buildbtw-systemctl.sock",
        "/run/credentials/sandbox-probe.service/token",
        "/run/systemd/journal/socket",
        "/usr/local/bin/buildbtw-hook",
    ]
    assert in_sandbox(BUSYBOX, "find", "/", "-type", "s") == "", "with it, nothing is found"


# --- What is left to it, which is the manual's list


def test_orders_that_are_carried_out(jobs):
    for order, outcome, job in [
        ("deploy feature-x", "done", [("restart", UNIT)]),
        ("status feature-x", "done", []),
        ("expire feature-x", "done", []),
        ("list", "done", []),
        ("undeploy feature-x", "done", [("stop", UNIT)]),
        ("deploy main async", "accepted", [("restart", "buildbtw@main.service")]),
    ]:
        assert in_sandbox(ATTEMPT, "send", ORDERS, f"{order}\\n").startswith(f"{outcome}\n")
        assert jobs() == job


@pytest.mark.parametrize("line", ["stop docker-registry.service", "deploy feature-x --job-mode=flush"])
def test_no_other_order(line, jobs, journal):
    assert in_sandbox(ATTEMPT, "send", ORDERS, f"{line}\\n").startswith("refused\n")
    assert jobs() == []
    (record,) = journal.entries("--identifier=buildbtw-systemctl")
    assert record["MESSAGE"].startswith("refused an order: ")
    assert record["PRIORITY"] == "3"
    assert record["MESSAGE_ID"] == "5d452f24f32a4b03b90249c61b46a90e"
    # journald may lose the unit of a short-lived process, but not its UID.
    assert record["_UID"] == "0"


def test_orders_are_the_hooks_users_alone():
    assert as_user(ATTEMPT, "send", ORDERS, "status main\n").stdout.startswith("absent\n")
    assert as_user(ATTEMPT, "send", ORDERS, "status main\n", user="games").stdout.strip() == EACCES


def test_the_token_is_readable_as_a_credential_only():
    credential = "/run/credentials/sandbox-probe.service/token"
    assert in_sandbox(BUSYBOX, "cat", credential) == host.token()
    assert in_sandbox(BUSYBOX, "cat", "/etc/buildbtw-hook/token").endswith(ENOENT)


# --- What its user can do without the sandbox

# polkit's words, systemd's, and the kernel's.
REFUSED = re.compile("Interactive authentication required|Access denied|Permission denied")


@pytest.mark.parametrize(
    "command",
    [
        f"systemctl --no-ask-password --job-mode=flush restart {UNIT}",
        f"systemctl --no-ask-password --no-block --job-mode=replace-irreversibly restart {UNIT}",
        f"systemctl --no-ask-password stop {UNIT}",
        "systemd-run --no-ask-password --unit=buildbtw@evil.service --wait --pipe id",
        "systemd-run --no-ask-password --wait --pipe id",
        "run0 --no-ask-password id",
    ],
)
@pytest.mark.parametrize("template", ["there", "missing"])
def test_no_command_of_its_user(command, template, request):
    if template == "missing":
        request.getfixturevalue("no_template")
    result = as_user("sh", "-c", command)
    assert result.returncode != 0
    assert REFUSED.search(result.stdout), result.stdout
    assert "uid=0" not in result.stdout


@pytest.mark.parametrize(
    "file",
    [
        host.STATE / "feature-x",
        host.WANTS / "buildbtw@feature-x.service",
        "/etc/containers/systemd/evil.container",
        "/etc/systemd/system/evil.service",
        "/run/systemd/transient/evil.service",
        host.TOKEN_FILE,
        "/usr/local/lib/buildbtw-hook/buildbtw-systemctl",
        "/usr/local/lib/buildbtw-hook/root/evil",
    ],
)
def test_no_file_of_its_user(file):
    """Neither a fifo nor a directory in the place of anything that an order reads."""
    file = Path(file)
    before = file.read_bytes() if file.exists() else None
    for command in [f"mkfifo {file}.evil", f"mkdir {file}.evil", f"echo >> {file}", f"rm {file}"]:
        result = as_user("sh", "-c", command)
        assert result.returncode != 0, command
        assert re.search("Permission denied|nonexistent|No such file", result.stdout), result.stdout
    assert (file.read_bytes() if file.exists() else None) == before
