"""What someone can do who takes over the process that reads from the network: a closed list.

Each attempt is made in the hook's own sandbox, and as its user without it. The second shows that
the attempt itself is a real one, and what the sandbox adds.
"""

import pwd
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import host
from boundary import ATTEMPT, BUSYBOX, abstract_socket, as_user, in_sandbox

pytestmark = pytest.mark.each_suite

ORDERS = "/run/buildbtw-systemctl.sock"
UNIT = "buildbtw@feature-x.service"

EPERM = "Operation not permitted"
EACCES = "Permission denied"
ENOENT = "No such file or directory"
NO_FAMILY = "Address family not supported by protocol"


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
def test_attempt(name):
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


def test_who_it_is():
    status = in_sandbox(BUSYBOX, "cat", "/proc/self/status")
    assert not re.search(r"(?m)^[UG]id:.*\b0\b", status)
    assert re.findall(r"Cap...:\t(\d+)", status) == ["0" * 16] * 5
    assert "NoNewPrivs:\t1" in status


# --- What is left to it, which is the manual's list


def test_orders(jobs):
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


@pytest.mark.parametrize(
    "line",
    [
        "restart feature-x",
        "start feature-x",
        "stop docker-registry.service",
        "deploy docker-registry.service",
        "deploy feature-x --job-mode=flush",
        "deploy --job-mode=flush",
        "deploy feature-x.service",
        "deploy ../feature-x",
        "list feature-x",
        "deploy FEATURE-X",
        "freeze feature-x",
        "deploy feature-x\\nundeploy feature-x",
        "GET /hooks/deploy-branch?branch=feature-x HTTP/1.1",
    ],
)
def test_no_other_order(line, jobs, journal):
    assert in_sandbox(ATTEMPT, "send", ORDERS, f"{line}\\n").startswith("refused\n")
    assert jobs() == []
    (record,) = journal.entries("--identifier=buildbtw-systemctl")
    assert record["MESSAGE"].startswith("refused an order: ")
    assert record["PRIORITY"] == "3"
    assert record["MESSAGE_ID"] == "5d452f24f32a4b03b90249c61b46a90e"
    # The journal has the user from the kernel. The unit it may miss, of a process that has ended by then.
    assert record["_UID"] == "0"


def test_orders_are_the_hooks_users_alone():
    assert as_user(ATTEMPT, "send", ORDERS, "status main\n").stdout.startswith("absent\n")
    for user in ("nobody", "games"):
        group = host.run("id", "--group", "--name", user).stdout.strip()
        command = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        assert host.run(*command, ATTEMPT, "send", ORDERS, "status main\n").stdout.strip() == EACCES


def test_the_token_and_records():
    credential = "/run/credentials/sandbox-probe.service/token"
    assert in_sandbox(BUSYBOX, "cat", credential) == host.token()
    assert in_sandbox(BUSYBOX, "cat", "/etc/buildbtw-hook/token").endswith(ENOENT)


# --- What its user can do without the sandbox: over D-Bus, what any local user can

BUSY = "busy.service"
SERVICE, OBJECT = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
REFUSED = re.compile("Interactive authentication required|Access denied|Permission denied")
# What only tells, or keeps a unit's description in memory; Ref is dropped with the connection.
TELLS = re.compile(
    "^(Get|List|Lookup|Load|Introspect|Ping|Subscribe|Unsubscribe|Unref|Dump|StartAuxiliaryScope)"
)
# busctl cannot pass a file descriptor.
NEEDS_A_DESCRIPTOR = "h"
# What only another unit than a branch's has; the manager's own method is tried on one.
NOT_A_BRANCHS = re.compile("not running in private mount namespace|No such device or address")
VALUES = {
    "s": "x",
    "b": "false",
    "u": "0",
    "t": "0",
    "i": "0",
    "x": "0",
    "y": "0",
    "o": "/",
    "v": "s x",
}


def introspected(path, interface):
    """The methods of an interface, with the types and names of what they take."""
    shown = host.run("busctl", "introspect", "--xml-interface", SERVICE, path).stdout
    tree = ElementTree.fromstring(shown[shown.index("<node") :])
    for method in tree.findall(f"./interface[@name='{interface}']/method"):
        taken = [each for each in method.findall("arg") if each.get("direction", "in") == "in"]
        yield method.get("name"), [(each.get("type"), each.get("name") or "") for each in taken]


def argument(kind, name, method):
    """A value that makes sense where one is needed, so that it is the right that is missing."""
    if kind == "s":
        if "mode" in name:
            return ["full" if "Preset" in method else "replace"]
        if name in ("whom", "who"):
            return ["cgroup" if "Subgroup" in method else "all"]
        if "group" in name or name in ("source", "destination"):
            return ["/"]
        if "File" in method:
            return ["docker-registry.service"]
        return [BUSY if name == "old_unit" or "Mount" in method else UNIT]
    if kind == "as":
        values = {"names": "A" if "nvironment" in method else UNIT, "files": "nginx.service"}
        values |= {"mask": "state", "assignments": "A=b", "set": "A=b", "unset": "A"}
        return ["1", values.get(name, "nginx.service")]
    if kind == "au":
        return ["1", "$$"]  # a process of the caller's own
    if kind.startswith("a"):
        return ["0"]
    if name == "signal":
        return ["34" if "Queue" in method else "15"]  # the first that can be queued, signal(7)
    if "Job" in method and name == "id":
        return [host.unit(BUSY, "Job")["Job"]]
    return VALUES[kind].split()


@pytest.fixture
def busy():
    """A unit with a job, and with a mount namespace of its own."""
    settings = ["--no-block", f"--unit={BUSY}", "--property=Type=oneshot"]
    settings.append("--property=PrivateTmp=yes")
    settings.append("--property=CollectMode=inactive-or-failed")
    subprocess.run(["systemd-run", *settings, "sleep", "600"], check=True)
    host.until(lambda: host.unit(BUSY, "Job")["Job"])
    yield
    host.systemctl("stop", BUSY)


def everything():
    """What no call of a stranger may change."""
    units = [UNIT, BUSY, "docker-registry.service", "nginx.service", "buildbtw-hook.socket"]
    properties = ["ActiveState", "InvocationID", "FreezerState", "UnitFileState", "CPUWeight"]
    manager = ["Environment", "LogLevel", "LogTarget", "ConfirmSpawn", "ShowStatus", "NJobs"]
    shown = [host.unit(unit, *properties) for unit in units]
    shown.append(host.systemctl("show", f"--property={','.join(manager)}"))
    shown.append(host.systemctl("get-default"))
    return [*shown, sorted(map(str, Path("/etc/systemd/system").rglob("*")))]


def attempts():
    """Every method of systemd's manager, and of a branch's unit."""
    unit = host.run(
        "busctl", "call", SERVICE, OBJECT, f"{SERVICE}.Manager", "LoadUnit", "s", UNIT
    ).stdout.split('"')[1]
    for path, name in [(OBJECT, "Manager"), (unit, "Unit"), (unit, "Service")]:
        interface = f"{SERVICE}.{name}"
        for method, taken in introspected(path, interface):
            kinds = "".join(kind for kind, _ in taken)
            if TELLS.match(method) or NEEDS_A_DESCRIPTOR in kinds:
                continue
            values = [each for kind, name in taken for each in argument(kind, name, method)]
            yield method, [path, interface, method, *([kinds, *values] if kinds else [])]


@pytest.mark.usefixtures("feature_x", "busy")
def test_no_method_of_systemd_does_anything_for_its_user():
    before, told, tried = everything(), {}, 0
    for method, call in attempts():
        tried += 1
        line = " ".join(f'"{word}"' for word in ["busctl", "--", "call", SERVICE, *call])
        result = as_user("sh", "-c", f"exec {line}")
        if call[0] != OBJECT and NOT_A_BRANCHS.search(result.stdout):
            continue
        if result.returncode == 0 or not REFUSED.search(result.stdout):
            told[f"{call[1].rpartition('.')[2]}.{method}"] = result.stdout.strip()
        assert everything() == before, call
    # Each would be refused for another reason than a missing right.
    assert not told, "\n".join(f"{method}: {words}" for method, words in told.items())
    assert tried > 60


@pytest.mark.usefixtures("feature_x", "busy")
def test_the_same_calls_do_something_for_root():
    """So what was refused above was not refused for being no call at all."""
    calls = dict(attempts())
    for method, seen in [("FreezeUnit", "FreezerState"), ("RestartUnit", "InvocationID")]:
        before = host.unit(UNIT, seen)
        result = host.run("busctl", "--", "call", SERVICE, *calls[method])
        assert result.returncode == 0, result.stdout
        host.until(lambda seen=seen, before=before: host.unit(UNIT, seen) != before)
        if method == "FreezeUnit":
            host.systemctl("thaw", UNIT)
    host.until(lambda: host.state("feature-x") == "active")


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
