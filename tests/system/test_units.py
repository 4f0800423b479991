"""The units as systemd has them: sound, confined, and nothing of them runs between calls."""

import re
from pathlib import Path

import pytest

import host
from host import run

pytestmark = pytest.mark.each_suite

EXECUTABLE = Path("/usr/local/bin/buildbtw-hook")
ROOT_SIDE = Path("/usr/local/lib/buildbtw-hook/buildbtw-systemctl")
UNITS = [
    "buildbtw-hook.socket",
    "buildbtw-hook@.service",
    "buildbtw-systemctl.socket",
    "buildbtw-systemctl@.service",
    "buildbtw-hook-token.service",
    "buildbtw-hook-expire.service",
    "buildbtw-hook-expire.timer",
    "buildbtw.target",
]


@pytest.fixture
def waiting():
    """A call that waits for its client to say more: its unit and its process."""
    with host.connect("tcp"):
        (pid,) = host.until(host.processes)
        (unit,) = host.instances()
        yield unit, pid


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_no_fault_with_a_unit(unit):
    result = run("systemd-analyze", "--recursive-errors=no", "--man=no", "verify", unit)
    assert (result.returncode, result.stdout) == (0, "")


def test_exposure_is_bounded(waiting):
    unit, _ = waiting
    result = run("systemd-analyze", "security", "--no-pager", unit)
    exposure = re.search(r"Overall exposure level for (\S+): (\S+)", result.stdout)
    assert exposure[1] == unit
    assert float(exposure[2]) <= 0.5, result.stdout


def test_who_a_call_is(waiting):
    unit, pid = waiting
    status = Path(f"/proc/{pid}/status").read_text()
    uid = run("id", "--user", host.USER).stdout.strip()
    assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in status
    assert re.findall(r"Cap...:\t(\d+)", status) == ["0" * 16] * 5
    assert "NoNewPrivs:\t1\n" in status
    assert "Seccomp:\t2\n" in status
    own = {kind: Path(f"/proc/{pid}/ns/{kind}").readlink() for kind in ("net", "mnt", "user")}
    ours = {kind: Path(f"/proc/self/ns/{kind}").readlink() for kind in own}
    assert not own.items() & ours.items(), "no namespace is the host's"


def test_nothing_runs_between_calls():
    assert host.undeploy("main").status == 200
    host.idle()
    assert run("pgrep", "--uid", host.USER).stdout == ""
    for name in ("buildbtw-hook", "buildbtw-systemctl"):
        assert host.processes(name) == host.instances(name) == []
    for unit in ("buildbtw-hook.socket", "buildbtw-systemctl.socket"):
        assert host.systemctl("is-active", unit) == "active"


def test_size_of_the_executable():
    for executable in (EXECUTABLE, ROOT_SIDE):
        assert executable.stat().st_size < 1.8 * 1024 * 1024
        assert b"\0.symtab\0" not in executable.read_bytes(), "it is stripped"


def test_only_what_is_declared_is_listened_to():
    listening = run("ss", "--listening", "--numeric", "--no-header", "--tcp", "--unix").stdout
    ours = [line for line in listening.splitlines() if "9000" in line or "buildbtw" in line]
    assert sorted(line.split()[4] for line in ours) == [
        "/run/buildbtw-hook.sock",
        "/run/buildbtw-systemctl.sock",
        "127.0.0.1:9000",
    ]
