"""An instance of buildbtw's own template: how it starts, how it ends, and who reaches it."""

import time
from pathlib import Path

import pytest

import host
from host import deploy, undeploy, visit

BRANCH = "feature-x"
SERVICE = f"buildbtw@{BRANCH}.service"
OWN_SOCKET = f"/run/buildbtw-instance/{BRANCH}/http.sock"

pytestmark = [pytest.mark.each_suite, pytest.mark.usefixtures("review_host")]


def push(version, **options):
    """Puts the stand-in for buildbtw into the registry, as a version."""
    host.push(BRANCH, backend=version, **options)


# --- How it starts


def test_one_that_needs_12_seconds_is_deployed_once_it_answers():
    push("v1", variant="slow")
    begin = time.monotonic()
    assert deploy(BRANCH).status == 200
    assert time.monotonic() - begin > 12
    url = f"https://{BRANCH}.buildbtw.dev.archlinux.org"
    assert visit(BRANCH).text.startswith(f"version v1 at {url}, secret k")


def test_one_that_dies():
    push("v1", variant="dies")
    begin = time.monotonic()
    answer = deploy(BRANCH)
    assert time.monotonic() - begin < 10
    assert answer.status == 424
    assert "Error: cannot read the database\n" in answer.text
    assert "It ended before it answered on its socket" in answer.text


def test_one_that_never_listens():
    push("v1", variant="silent")
    with host.drop_in("buildbtw@.service", "[Service]\nTimeoutStartSec=2\n"):
        begin = time.monotonic()
        answer = deploy(BRANCH)
        assert time.monotonic() - begin < 2 + 20
        assert answer.status == 424
        assert "Result=timeout" in answer.text
        assert "It does not answer on its socket in time" in answer.text
        assert undeploy(BRANCH).status == 200


# --- How it ends


@pytest.mark.parametrize("variant", ["ends-1", "ends-143", "deaf"])
def test_a_stop_is_not_a_failure(variant):
    """Twice, since what the first one left is what the second one finds."""
    push("v1", variant=variant)
    assert deploy(BRANCH).status == 200
    for _ in range(2):
        begin = time.monotonic()
        assert deploy(BRANCH).status == 200
        assert time.monotonic() - begin < 30
        assert visit(BRANCH).status == 200
    host.systemctl("stop", SERVICE)
    assert host.unit(SERVICE, "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}


def test_one_that_ends_comes_back():
    """Whatever it ended with."""
    push("v1")
    assert deploy(BRANCH).status == 200
    first = host.unit(SERVICE, "InvocationID")
    assert host.run("podman", "kill", "--signal", "TERM", f"buildbtw-{BRANCH}").returncode == 0
    host.until(lambda: visit(BRANCH).status == 502)
    host.until(lambda: visit(BRANCH).status == 200)
    assert host.unit(SERVICE, "InvocationID") != first


# --- Who reaches it


def ask(user, socket):
    """What a user of the host gets from a socket."""
    command = ["curl", "-sS", "--max-time", "5", "--unix-socket", socket, "http://localhost/"]
    return host.run("runuser", "-u", user, "--", *command).stdout


def test_nginx_reaches_it_and_no_other_user():
    push("v1")
    assert deploy(BRANCH).status == 200
    visitors = f"/run/buildbtw/{BRANCH}/http.sock"
    assert ask("www-data", visitors).startswith("version v1")
    for user, socket in [("nobody", visitors), ("nobody", OWN_SOCKET), ("www-data", OWN_SOCKET)]:
        assert "Could not connect" in ask(user, socket), (user, socket)


def test_a_symlink_in_the_place_of_its_socket_leads_nowhere(journal):
    push("v1")
    assert deploy(BRANCH).status == 200
    # What nginx's visitors must not reach: the hook, where a request comes in that has passed no limit.
    link = ["ln", "-sf", "/run/buildbtw-hook.sock", "/run/buildbtw/http.sock"]
    linked = host.run("podman", "exec", f"buildbtw-{BRANCH}", "busybox", *link)
    assert linked.returncode == 0, linked.stdout
    host.systemctl("restart", f"buildbtw-proxy@{BRANCH}.service")
    assert visit(BRANCH, "/hooks/deploy-branch").status == 502
    assert [each["HTTP_STATUS"] for each in journal.calls()] == ["200"]


def test_what_an_instance_may():
    push("v1")
    assert deploy(BRANCH).status == 200
    process = host.run("podman", "inspect", "--format={{.State.Pid}}", f"buildbtw-{BRANCH}").stdout.strip()
    status = Path(f"/proc/{process}/status").read_text().split()
    for field in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"]:
        assert int(status[status.index(field) + 1], 16) == 0, field
    assert status[status.index("NoNewPrivs:") + 1] == "1"
    assert f"/buildbtw.slice/{SERVICE}/" in Path(f"/proc/{process}/cgroup").read_text()
    assert host.unit(SERVICE, "MemoryMax") == {"MemoryMax": str(2**30)}
    assert host.unit("buildbtw.slice", "MemoryMax")["MemoryMax"] != "infinity"
    assert Path(f"/var/lib/buildbtw/{BRANCH}").stat().st_mode & 0o777 == 0o700
