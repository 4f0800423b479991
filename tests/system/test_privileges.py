"""What the hook's user may do on the host: restart and stop a branch's unit, and nothing else.

Each attempt is made twice: as the user alone, as polkit sees it, and in the sandbox of the hook's
own service, as one would who took over the process that reads from the network.
"""

import pwd
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import host

WORKSPACE = Path("/run/attempt")
SCRIPT = WORKSPACE / "script"
OUTPUT = WORKSPACE / "output"
PROBE = Path("/run/systemd/system/sandbox-probe.service")
# What is here was made by root on the hook's behalf.
EVIL = Path("/run/evil")

# How systemd, polkit and the kernel say no.
REFUSED = re.compile(
    "Interactive authentication required|Access denied|Permission denied|Operation not permitted"
    "|Read-only file system|Authentication is required"
)


def as_user(script):
    """Runs a shell script as the hook's user, without its sandbox."""
    identity = [f"--reuid={host.USER}", f"--regid={host.USER}", "--init-groups"]
    return host.run("setpriv", *identity, "sh", "-c", script, stdin=subprocess.DEVNULL)


def in_sandbox(script):
    """Runs a shell script in a copy of the hook's own service."""
    SCRIPT.write_text(script)
    subprocess.run(["systemctl", "start", "--wait", PROBE.name], check=False)
    output, _, status = OUTPUT.read_text().rpartition("status=")
    return subprocess.CompletedProcess(script, int(status), output)


@pytest.fixture(scope="module", autouse=True)
def probe():
    """The hook's service with a shell script in the place of the executable."""
    WORKSPACE.mkdir(exist_ok=True)
    # Its root has none of the host's files but /usr: the script comes in from outside.
    run = "/usr/bin/sh -c 's=$$(cat); (eval \"$$s\") </dev/null 2>&1; echo status=$$?'"
    unit = host.systemctl("cat", "buildbtw-hook@.service")
    unit, replaced = re.subn(r"(?m)^ExecStart=.*", f"ExecStart={run}", unit)
    assert replaced == 1
    unit = re.sub(r"(?m)^StandardInput=.*", f"StandardInput=file:{SCRIPT}", unit)
    unit = re.sub(r"(?m)^StandardOutput=.*", f"StandardOutput=truncate:{OUTPUT}", unit)
    PROBE.write_text(unit)
    host.systemctl("daemon-reload")
    yield
    PROBE.unlink()
    shutil.rmtree(WORKSPACE)
    host.systemctl("daemon-reload")


@pytest.fixture(params=[as_user, in_sandbox], ids=["as its user", "in its sandbox"])
def attempt(request):
    """The two ways in which an attempt is made."""
    return request.param


@pytest.fixture(autouse=True)
def nothing_evil():
    """No attempt may get root to do anything."""
    yield
    made = EVIL.exists()
    EVIL.unlink(missing_ok=True)
    assert not made


def property_of(name, value):
    """A unit's property."""
    return host.unit(name, value)[value]


# --- What works


def test_restart_and_stop_of_a_branch(attempt):
    unit = "buildbtw@feature-x.service"
    result = attempt(f"systemctl restart {unit}")
    assert (result.returncode, result.stdout) == (0, "")
    assert host.state("feature-x") == "active"
    first = property_of(unit, "InvocationID")
    assert attempt(f"systemctl restart {unit}").returncode == 0
    assert property_of(unit, "InvocationID") != first
    assert attempt(f"systemctl stop {unit}").returncode == 0
    assert host.state("feature-x") == "inactive"


def test_who_it_is(attempt):
    result = attempt("id -u; id -g; id -G; grep -E '^(NoNewPrivs|Cap...):' /proc/self/status")
    own = pwd.getpwnam(host.USER)
    assert 0 not in (own.pw_uid, own.pw_gid)
    assert result.stdout.splitlines()[:3] == [str(own.pw_uid), *2 * [str(own.pw_gid)]]
    if attempt is in_sandbox:
        assert "NoNewPrivs:\t1" in result.stdout
        assert re.findall(r"Cap...:\t(\d+)", result.stdout) == ["0" * 16] * 5


# --- Other units, other verbs


# Other units by a verb that is allowed, and a branch's own by every verb that is not.
OTHERS = [
    "buildbtw-hook.socket",
    "buildbtw-hook-restore.service",
    "docker-registry.service",
    "dbus.service",
    "systemd-journald.service",
    "reboot.target",
    "buildbtw.service",
    "buildbtw@Bad.service",
    "buildbtw@bad-.service",
    "buildbtw@a.b.service",
    "buildbtw@a_b.service",
    r"buildbtw@a\x2db.service",
    f"buildbtw@{'a' * 64}.service",
    "buildbtw@feature-x.timer",
    "buildbtw@feature-x.socket",
    "buildbtw@feature-x.service.evil.service",
    "xbuildbtw@feature-x.service",
    "buildbtw@@feature-x.service",
    "buildbtwx@feature-x.service",
    "buildbtw@feature-xxservice.service.service",
]


@pytest.mark.parametrize("unit", OTHERS)
def test_no_other_unit(attempt, unit):
    # Not by systemctl, which says no to some of these names itself.
    ask = "busctl -- call org.freedesktop.systemd1 /org/freedesktop/systemd1"
    ask += " org.freedesktop.systemd1.Manager"
    for method in "RestartUnit", "StopUnit":
        result = attempt(f"{ask} {method} ss '{unit}' replace")
        assert result.returncode != 0
        assert REFUSED.search(result.stdout), result.stdout


@pytest.fixture(scope="module")
def running():
    """The unit of a running branch, and its invocation, which no attempt may change."""
    assert host.deploy("feature-x").status == 200
    unit = "buildbtw@feature-x.service"
    yield unit, property_of(unit, "InvocationID")
    assert host.undeploy("feature-x").status == 200


@pytest.mark.parametrize(
    "command",
    [
        "start", "reload", "try-restart", "reload-or-restart", "try-reload-or-restart",
        "condrestart", "isolate", "kill", "kill --kill-whom=main", "clean", "freeze", "thaw",
        "reset-failed", "enable", "reenable", "disable", "mask", "mask --runtime", "unmask",
        "preset", "revert", "link", "add-wants multi-user.target", "edit --stdin --full",
        "set-property --runtime",
    ],
)  # fmt: skip
def test_no_other_verb(attempt, command, feature_x, running):
    unit, invocation = running
    last = "CPUWeight=1" if "set-property" in command else ""
    target = SCRIPT if command == "link" else unit
    result = attempt(f"echo | systemctl --no-ask-password {command} {target} {last}")
    assert result.returncode != 0, result.stdout
    assert REFUSED.search(result.stdout), result.stdout
    assert property_of(unit, "InvocationID") == invocation
    assert property_of(unit, "FreezerState") == "running"
    assert property_of(unit, "CPUWeight") == "[not set]"
    assert property_of(unit, "UnitFileState") == "generated"


@pytest.mark.parametrize(
    "command",
    [
        "daemon-reload", "daemon-reexec", "reboot", "reboot --force", "poweroff", "halt",
        "soft-reboot", "emergency", "rescue", "exit", "default",
        "set-environment LD_PRELOAD=/tmp/x", "set-default rescue.target", "log-level debug",
        "service-watchdogs no", "start nginx.service", "start --no-block nginx.service",
        "start --job-mode=isolate nginx.service", "enable --now nginx.service",
        "kill --signal=KILL nginx.service docker-registry.service",
        "stop nginx.service docker-registry.service", "disable --now buildbtw-hook.socket",
        "set-property docker-registry.service CPUWeight=1", "mask buildbtw-hook.socket",
    ],
)  # fmt: skip
def test_nothing_of_the_manager(attempt, command):
    units = ["docker-registry.service", "buildbtw-hook.socket", "init.scope"]
    before = [host.unit(unit, "InvocationID", "ActiveState", "UnitFileState") for unit in units]
    result = attempt(f"systemctl --no-ask-password {command}")
    assert result.returncode != 0, result.stdout
    assert REFUSED.search(result.stdout), result.stdout
    after = [host.unit(unit, "InvocationID", "ActiveState", "UnitFileState") for unit in units]
    assert after == before
    assert property_of("nginx.service", "ActiveState") == "inactive"
    assert property_of("docker-registry.service", "CPUWeight") == "[not set]"


# --- Commands as root


SYSTEMD_RUN = "systemd-run --no-ask-password --unit=buildbtw@evil"
TRANSIENT = (
    "busctl -- call org.freedesktop.systemd1 /org/freedesktop/systemd1"
    " org.freedesktop.systemd1.Manager StartTransientUnit 'ssa(sv)a(sa(sv))'"
    " buildbtw@evil.service {mode} 1"
    f" ExecStart 'a(sasb)' 1 /bin/sh 3 sh -c 'id >{EVIL}' false 0"
)


@pytest.mark.parametrize("template", ["there", "missing"])
@pytest.mark.parametrize(
    "command",
    [
        f"{SYSTEMD_RUN}.service --wait --pipe id",
        f"{SYSTEMD_RUN}.service --wait sh -c 'id >{EVIL}'",
        f"{SYSTEMD_RUN}.service --on-active=1 sh -c 'id >{EVIL}'",
        f"{SYSTEMD_RUN} --scope id",
        "systemd-run --no-ask-password --wait --pipe id",
        "run0 --no-ask-password id",
        TRANSIENT.format(mode="replace"),
        TRANSIENT.format(mode="fail"),
        TRANSIENT.format(mode="ignore-dependencies"),
    ],
)
def test_no_command_as_root(attempt, command, template, request):
    if template == "missing":
        request.getfixturevalue("no_template")
    result = attempt(command)
    assert result.returncode != 0, result.stdout
    assert REFUSED.search(result.stdout), result.stdout
    assert "uid=0" not in result.stdout
    # Nor does the verb that is allowed finish what was begun.
    attempt("systemctl restart buildbtw@evil.service")


# --- Files, processes and the network


@pytest.mark.parametrize(
    "file",
    [
        "/etc/containers/systemd/buildbtw@.container",
        "/etc/containers/systemd/evil.container",
        "/etc/systemd/system/evil.service",
        "/run/systemd/system/evil.service",
        "/run/systemd/system.control/evil.service",
        "/run/systemd/transient/evil.service",
        "/etc/polkit-1/rules.d/50-buildbtw-hook.rules",
        "/etc/polkit-1/rules.d/99-evil.rules",
        "/etc/buildbtw-hook/token",
        "/etc/buildbtw-hook/evil",
        "/usr/local/bin/buildbtw-hook",
        "/run/credentials/evil",
        "/var/lib/evil",
        "/root/evil",
    ],
)
def test_no_write(attempt, file):
    before = Path(file).read_bytes() if Path(file).exists() else None
    result = attempt(f"echo evil >>'{file}'")
    assert result.returncode != 0
    assert re.search("Permission denied|Read-only file system|Directory nonexistent", result.stdout)
    assert (Path(file).read_bytes() if Path(file).exists() else None) == before


@pytest.mark.parametrize("file", [host.TOKEN_FILE, "/etc/shadow", "/proc/1/environ"])
def test_no_read(attempt, file):
    result = attempt(f"cat {file}")
    assert result.returncode != 0
    assert re.search("Permission denied|No such file", result.stdout)


# What one of these is mounted on, find takes for a file.
NEITHER_SOCKET_NOR_DEVICE = "-exec test ! -S '{}' ';' -exec test ! -c '{}' ';'"


def test_only_its_own_files_are_writable():
    everywhere = "find / -path /proc -prune -o -writable '(' -type d -o -type f ')'"
    result = in_sandbox(f"{everywhere} {NEITHER_SOCKET_NOR_DEVICE} -print 2>/dev/null")
    files = [str(path) for path in [host.SLOTS, *host.SLOTS.iterdir(), host.STATE]]
    assert sorted(result.stdout.splitlines()) == sorted(files)


def test_of_the_hosts_files_it_sees_its_own_alone():
    others = " ".join(f"-path {path} -prune -o" for path in ["/proc", "/sys", "/usr"])
    everywhere = f"find / {others} -type f {NEITHER_SOCKET_NOR_DEVICE} -print"
    seen = in_sandbox(f"{everywhere} 2>/dev/null").stdout.splitlines()
    # The credential, os-release, and the slots.
    known = ("/run/credentials/", "/run/host/", f"{host.SLOTS}/")
    assert [file for file in seen if not file.startswith(known)] == []
    assert in_sandbox("ls /boot /home /root /srv /var/lib/containers").stdout.count("cannot") == 5


@pytest.mark.parametrize("address", ["127.0.0.1:5000", "127.0.0.1:9000", "localhost:5000"])
def test_no_network(address):
    reach = f"curl --silent --show-error --max-time 5 http://{address}/v2/"
    assert as_user(reach).returncode == 0, "it is there to be reached"
    # 7: could not connect; 6: could not resolve, which takes a socket as well.
    result = in_sandbox(reach)
    assert result.returncode in (6, 7), result.stdout


def test_no_other_process():
    result = in_sandbox("ls /proc | grep -c '^[0-9]'; ls /proc/1")
    # Its own few: two shells, ls and grep.
    assert int(result.stdout.split()[0]) <= 5, result.stdout
    assert "cannot access '/proc/1'" in result.stdout


def test_no_signal_to_another_process():
    registry = property_of("docker-registry.service", "MainPID")
    result = in_sandbox(f"kill -0 {registry}; kill -KILL 1")
    assert result.returncode != 0
    assert result.stdout.count("No such process") + result.stdout.count("not permitted") == 2
    assert property_of("docker-registry.service", "MainPID") == registry


@pytest.mark.parametrize(
    "call",
    ["unshare --user true", "unshare --mount true", f"chmod u+s {host.STATE}", f"mount -t tmpfs x {host.STATE}",
     "dmesg", "date --set=12:00", "hostname evil", f"mknod {host.STATE}/y b 7 0",
     "setpriv --reuid=0 true", "sysctl -w kernel.panic=1"],
)  # fmt: skip
def test_no_privileged_system_call(call):
    result = in_sandbox(f"touch {host.STATE}/x; {call}")
    assert result.returncode not in (0, 127), result.stdout


# --- What someone in it can do, as the README says

LIST_SESSIONS = "org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager ListSessions"


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("cat $CREDENTIALS_DIRECTORY/token", "{token}"),
        (f"touch {host.STATE}/main && ls {host.STATE}", "main"),
        ("systemctl show --property=Id,ActiveState buildbtw-hook.socket", "ActiveState=active"),
        ("systemctl list-units --no-legend docker-registry.service", "docker-registry"),
        ("BUILDBTW_BRANCHES=main systemctl restart buildbtw@feature-x.service", ""),
        (f"flock --nonblock {host.SLOTS}/slot-0 echo taken", "taken"),
        (f"busctl call {LIST_SESSIONS}", "a(susso)"),
        ("python3 -c 'print(6 * 7)'", "42"),
    ],
)
def test_what_works(command, output):
    result = in_sandbox(command)
    assert result.returncode == 0, result.stdout
    assert output.format(token=host.token()) in result.stdout


def test_records_under_any_name(journal):
    fields = r"MESSAGE=forged\nPRIORITY=3\nSYSLOG_IDENTIFIER=sshd\n"
    assert in_sandbox(f"printf '{fields}' | logger --journald").returncode == 0
    (record,) = journal.entries("--identifier=sshd")
    assert (record["MESSAGE"], record["_UID"]) == ("forged", str(pwd.getpwnam(host.USER).pw_uid))
