"""An instance whose socket is systemd's: no visitor is lost, and each is told the truth at once."""

import http.client
import socket
import time
from pathlib import Path
from typing import NamedTuple

import pytest

import host
from host import deploy, undeploy

pytestmark = pytest.mark.each_suite

BRANCH = "feature-x"
SOCKET = Path(f"/run/buildbtw/{BRANCH}/http.sock")
SERVICE = f"buildbtw@{BRANCH}.service"


@pytest.fixture(scope="module", autouse=True)
def quadlet(nginx):
    """buildbtw's own template, and what goes with it."""
    conf = {
        Path("/etc/systemd/system/buildbtw@.socket.d/nginx.conf"): "[Socket]\nSocketGroup=www-data\n",
        Path("/etc/buildbtw/image"): "BUILDBTW_IMAGE=localhost:5000/archlinux/buildbtw/backend\n",
        Path("/etc/buildbtw/environment"): "",
        # A failure is tried again as soon as the first time.
        Path(f"{host.TEMPLATE}.d/retry.conf"): "[Service]\nRestartSteps=0\n",
        host.TEMPLATE: Path("/src/systemd/buildbtw@.container").read_text(),
    }
    push("v1")
    with host.files(host.shipped(*host.TEMPLATES) | conf):
        yield


def push(version, command=None, branch=BRANCH):
    """Puts the stand-in for buildbtw into the registry, as a version, or a command in its place."""
    host.push(branch, backend=version, command=command)


class Visit(NamedTuple):
    """What a visitor got through nginx, and in how many seconds."""

    status: int
    text: str
    waited: float


def visit(branch=BRANCH):
    """One visit of a branch."""
    begin = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", 8081, timeout=60)
    connection.request("GET", "/", headers={"Host": f"{branch}.test"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return Visit(answer.status, text, time.monotonic() - begin)


def visitors(count=20):
    """Visitors who ask without a pause; the list has their visits."""
    return host.repeated(*count * [visit])


def is_told_at_once(status):
    """Visitors are told, quickly, and none of them starts anything."""
    starts = host.unit(SERVICE, "InvocationID")
    for _ in range(5):
        told = visit()
        assert told.status == status
        assert told.waited < 1
    assert host.unit(SERVICE, "InvocationID") == starts


def branch_status():
    """What branch-status answers."""
    return host.call("unix", f"/hooks/branch-status?branch={BRANCH}").status


def test_no_visitor_is_lost_by_five_redeployments():
    push("v0")
    assert deploy(BRANCH).status == 200
    unit = host.unit(f"buildbtw@{BRANCH}.socket", "InvocationID")
    with visitors() as visits:
        for version in range(1, 6):
            push(f"v{version}")
            assert deploy(BRANCH).status == 200
            assert f"version v{version} " in visit().text, "from now on it is the new one"
    assert host.unit(f"buildbtw@{BRANCH}.socket", "InvocationID") == unit, "it was never away"
    print(f"{len(visits)} visits, the longest {max(each.waited for each in visits):.2f} s")
    assert {each.status for each in visits} == {200}
    assert {each.text.split()[1] for each in visits} == {f"v{version}" for version in range(6)}


def test_a_request_that_was_accepted_is_finished():
    assert deploy(BRANCH).status == 200
    with socket.socket(socket.AF_UNIX) as visitor:
        visitor.connect(str(SOCKET))
        visitor.sendall(b"GET / HTTP/1.0\r\n")
        with host.in_background(lambda: deploy(BRANCH)) as deployment:
            host.until(lambda: host.state(BRANCH) == "deactivating")
            visitor.sendall(b"\r\n")
            assert b"200 OK" in visitor.recv(4096)
            assert deployment.result().status == 200


def test_never_deployed():
    is_told_at_once(404)
    assert branch_status() == 404


@pytest.mark.alone
def test_undeployed(jobs):
    assert deploy(BRANCH).status == 200
    jobs()
    with visitors() as visits:
        time.sleep(0.2)  # the thing under test
        assert undeploy(BRANCH).status == 200
        assert not SOCKET.exists()
        is_told_at_once(404)
    assert {200, 404} <= {each.status for each in visits} <= {200, 404, 502}
    assert max(each.waited for each in visits) < 1
    units = [f"buildbtw@{BRANCH}.socket", f"buildbtw-pull@{BRANCH}.service", SERVICE]
    assert jobs() == [("stop", unit) for unit in units], "the socket first"
    assert host.state(BRANCH) == "inactive"
    assert branch_status() == 404
    assert host.noted() == []


@pytest.mark.alone
def test_undeployed_but_slow_to_stop():
    assert deploy(BRANCH).status == 200
    with (
        host.held(BRANCH, "ExecStop") as let_go,
        host.in_background(lambda: undeploy(BRANCH)) as undeployment,
    ):
        host.until(lambda: host.state(BRANCH) == "deactivating")
        is_told_at_once(404)
        let_go()
        assert undeployment.result().status == 200


@pytest.mark.parametrize("offset", [0, 0.1, 0.3])
@pytest.mark.parametrize("first", [deploy, undeploy])
def test_deploy_and_undeploy_at_once(first, offset):
    second = undeploy if first is deploy else deploy
    if first is undeploy:
        assert deploy(BRANCH).status == 200

    def later():
        time.sleep(offset)  # the thing under test
        return second(BRANCH)

    with visitors(5):
        host.at_once(lambda: first(BRANCH), later)
        host.idle()
        is_deployed = host.noted() == [BRANCH]
        host.until(lambda: SOCKET.exists() == is_deployed)
        assert host.state(BRANCH) == ("active" if is_deployed else "inactive")
        assert visit().status == (200 if is_deployed else 404)


@pytest.mark.alone
@pytest.mark.parametrize("first", [True, False], ids=["first", "again"])
def test_a_start_that_fails(first):
    push("v1")
    if not first:
        assert deploy(BRANCH).status == 200
    push("v1", "sleep 1; exit 3")
    with host.in_background(lambda: deploy(BRANCH)) as deployment:
        host.until(lambda: host.state(BRANCH) == "activating")
        host.until(lambda: host.state_of(f"buildbtw@{BRANCH}.socket") == "active")
        with host.in_background(lambda: host.at_once(*20 * [visit])) as waiting:
            host.until(deployment.done)
            failed = time.monotonic()
            visits = waiting.result()
            assert time.monotonic() - failed < 1, "none hangs"
    assert {each.status for each in visits} == {502}
    assert min(each.waited for each in visits) > 0.5, "until it was known"
    assert deployment.result().status == 500
    is_told_at_once(404)
    assert branch_status() == 424
    # systemd tries again, and the socket is there for as long as that takes.
    push("v2")
    host.systemctl("start", f"buildbtw-pull@{BRANCH}.service")
    host.until(lambda: visit().status == 200)
    host.until(lambda: branch_status() == 200)
    assert host.noted() == [BRANCH]


@pytest.mark.alone
def test_a_container_that_dies():
    push("v1")
    assert deploy(BRANCH).status == 200
    with visitors() as visits:
        assert host.run("podman", "kill", f"buildbtw-{BRANCH}").returncode == 0
        host.until(lambda: visit().status == 404)
        host.until(lambda: visit().status == 200)
    assert {each.status for each in visits} == {200, 404, 502}
    assert max(each.waited for each in visits) < 5, "nobody waits for RestartSec="
    host.until(lambda: branch_status() == 200)
    assert host.noted() == [BRANCH]


def test_a_container_that_ends_in_good_order():
    """Restart=on-failure leaves it: it is down until the next deployment or boot."""
    assert deploy(BRANCH).status == 200
    assert host.run("podman", "stop", f"buildbtw-{BRANCH}").returncode == 0
    # systemd stops the socket once the unit, which wants it, has ended.
    host.until(lambda: host.state(BRANCH) == "inactive" and not SOCKET.exists())
    is_told_at_once(404)
    assert branch_status() == 404


def test_a_reboot():
    push("v1")
    assert deploy(BRANCH).status == 200
    host.idle()
    # What a reboot leaves of it.
    host.systemctl("stop", SERVICE)
    host.until(lambda: not SOCKET.exists())
    is_told_at_once(404)
    assert host.systemctl("list-unit-files", "--no-legend", "buildbtw@.socket").split()[1] == "static"
    host.systemctl("start", "buildbtw-hook-restore.service")
    # It is there before it is nginx's to open.
    host.until(lambda: host.state_of(f"buildbtw@{BRANCH}.socket") == "active")
    told = visit()
    assert told.status == 200, "who comes before the container waits for it"
    host.until(lambda: branch_status() == 200)


def test_a_socket_alone_starts_nothing():
    host.systemctl("start", f"buildbtw@{BRANCH}.socket")
    host.until(lambda: not SOCKET.exists())
    is_told_at_once(404)


def in_container(*command):
    """What a command in the branch's container says."""
    return host.run("podman", "exec", f"buildbtw-{BRANCH}", "busybox", *command).stdout


def test_a_container_does_not_lead_nginx_astray():
    assert deploy(BRANCH).status == 200
    path = "/run/buildbtw/http.sock"
    for command, why in [
        (["chmod", "777", path], "Read-only file system"),
        (["umount", path], "Operation not permitted"),
        (["ls", "/run/buildbtw"], "http.sock\n"),
    ]:
        assert why in in_container(*command), command
    in_container("touch", "/run/buildbtw/other")
    assert [each.name for each in SOCKET.parent.iterdir()] == ["http.sock"], "its directory is its own"
    assert "version v" in visit().text
    # nginx's group may connect, and nobody else.
    ask = ["curl", "-sS", "--unix-socket", str(SOCKET), "http://localhost/"]
    assert "version v" in host.run("runuser", "-u", "www-data", "--", *ask).stdout
    assert "Could not connect" in host.run("runuser", "-u", "nobody", "--", *ask).stdout
    assert (SOCKET.stat().st_mode & 0o777, SOCKET.group(), SOCKET.owner()) == (0o760, "www-data", "root")


def test_what_an_instance_may():
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


# --- Images of undeployed branches


def images():
    """The names of the images that the host has."""
    return host.run("podman", "images", "--format={{.Repository}}:{{.Tag}}").stdout.split()


@pytest.fixture
def prune():
    """What the timer starts, as it is installed."""
    units = host.shipped("buildbtw-prune.service", "buildbtw-prune.timer")
    script = {Path("/usr/local/lib/buildbtw/buildbtw-prune"): Path("/src/systemd/buildbtw-prune").read_text()}
    with host.files(units | script):
        next(iter(script)).chmod(0o755)
        yield lambda: host.systemctl("start", "buildbtw-prune.service")


def test_images_of_undeployed_branches_are_pruned(prune):
    assert host.run("podman", "rmi", "--all", "--force").returncode == 0
    for branch in ["other", "stopped", "gone", "recent", "by-hand"]:
        push(f"of-{branch}", branch=branch)
        assert deploy(branch).status == 200
    for branch in ["gone", "recent", "by-hand"]:
        assert undeploy(branch).status == 200
    host.systemctl("start", "buildbtw@by-hand.service")
    # Deployed, but no container has its image.
    host.systemctl("stop", "buildbtw@stopped.service")
    prune()
    marks = Path("/var/lib/buildbtw-prune")
    assert sorted(each.name for each in marks.iterdir()) == ["gone", "recent"]
    for branch, days in [("gone", 7.1), ("recent", 6.9), ("other", 8), ("stopped", 8), ("by-hand", 8)]:
        host.run("touch", f"--date=@{time.time() - days * 86400:.0f}", str(marks / branch))
    prune()
    left = {name.rpartition(":")[2] for name in images()}
    assert left == {"other", "stopped", "recent", "by-hand"}
    # It is counted from the last time that the branch was undeployed.
    assert deploy("recent").status == 200
    prune()
    host.systemctl("stop", "buildbtw@by-hand.service")
    assert list(marks.iterdir()) == []
    with host.drop_in("buildbtw-prune.service", "[Unit]\nConditionPathIsDirectory=/nonexistent\n"):
        for branch in ["recent", "other", "stopped"]:
            assert undeploy(branch).status == 200
        prune()
    assert list(marks.iterdir()) == [], "nothing without the notes"
    assert deploy("gone").status == 200, "it is pulled again"


def test_what_was_replaced_is_pruned(prune):
    for version in ["replaced", "newer"]:
        push(version)
        assert deploy(BRANCH).status == 200
    assert "<none>:<none>" in images()
    prune()
    assert "<none>:<none>" in images(), "for as long as any other"
    with host.drop_in("buildbtw-prune.service", "[Service]\nEnvironment=BUILDBTW_PRUNE_DAYS=0\n"):
        prune()
    assert "<none>:<none>" not in images()
    assert visit().status == 200


def test_a_deployment_waits_for_the_images_to_be_looked_through(prune):
    gate = Path("/run/gate-prune")
    text = f"[Service]\nExecStartPost=/bin/sh -c 'until [ -e {gate} ]; do sleep 0.05; done'\n"
    push("v1")
    with host.drop_in("buildbtw-prune.service", text):
        host.systemctl("start", "--no-block", "buildbtw-prune.service")
        host.until(lambda: host.state_of("buildbtw-prune.service") == "activating")
        with host.in_background(lambda: deploy(BRANCH)) as deployment:
            host.until(lambda: host.unit(f"buildbtw-pull@{BRANCH}.service", "Job")["Job"])
            assert host.state_of(f"buildbtw-pull@{BRANCH}.service") == "inactive"
            gate.touch()
            assert deployment.result().status == 200
    gate.unlink()


@pytest.mark.parametrize(
    "command",
    [
        "ln -s ../buildbtw-hook.sock /run/buildbtw/x && /bin/busybox mv /run/buildbtw/x /run/buildbtw/http.sock",
        "mv /run/buildbtw/http.sock /run/buildbtw/other.sock",
        "rm /run/buildbtw/http.sock",
    ],
)
def test_a_container_cannot_put_anything_in_the_place_of_its_socket(command):
    assert deploy(BRANCH).status == 200
    tried = host.run("podman", "exec", f"buildbtw-{BRANCH}", "/bin/sh", "-c", f"/bin/busybox {command}")
    assert tried.returncode != 0
    assert "resource busy" in tried.stdout
    assert visit().text.startswith("version v1")
