"""An instance of buildbtw's own template: how it starts, how it ends, and who reaches it."""

import time
from pathlib import Path

import pytest

import host
from host import deploy, undeploy, visit

BRANCH = "feature-x"
SERVICE = f"buildbtw@{BRANCH}.service"
FAILED = 424
OWN_SOCKET = f"/run/buildbtw-instance/{BRANCH}/http.sock"

pytestmark = [pytest.mark.each_suite, pytest.mark.usefixtures("review_host")]


def push(version, **options):
    """Puts the stand-in for buildbtw into the registry, as a version."""
    host.push(BRANCH, backend=version, **options)


def settings(**changed):
    """The environment of the instances, with these settings beside the key."""
    lines = {"COOKIE_ENCRYPTION_KEY": 64 * "k"} | changed
    return {Path("/etc/buildbtw/environment"): "".join(f"BUILDBTW_{key}={lines[key]}\n" for key in lines)}


# --- How it starts


def test_a_branch_is_up_once_it_answers():
    push("v1")
    assert deploy(BRANCH).status == 200
    assert visit(BRANCH).text.startswith(
        f"version v1 at https://{BRANCH}.buildbtw.dev.archlinux.org, secret k"
    )


def test_one_that_needs_12_seconds():
    push("v1", variant="slow")
    begin = time.monotonic()
    assert deploy(BRANCH).status == 200
    assert time.monotonic() - begin > 12
    assert visit(BRANCH).status == 200


def test_one_that_dies():
    push("v1", variant="dies")
    begin = time.monotonic()
    answer = deploy(BRANCH)
    assert time.monotonic() - begin < 10
    assert answer.status == FAILED
    assert "Error: cannot read the database\n" in answer.text
    assert "It ended before it answered on its socket" in answer.text


def test_one_that_never_listens():
    push("v1", variant="silent")
    with host.drop_in("buildbtw@.service", "[Service]\nTimeoutStartSec=2\n"):
        begin = time.monotonic()
        answer = deploy(BRANCH)
        assert time.monotonic() - begin < 2 + 20
        assert answer.status == FAILED
        assert "It does not answer on its socket in time" in answer.text
        assert undeploy(BRANCH).status == 200


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"COOKIE_ENCRYPTION_KEY": "short"}, "Failed to parse encryption key"),
        ({"OIDC_CLIENT_ID": "x"}, "--oidc-issuer-url"),
        ({"GITLAB_DOMAIN": "https://gitlab.archlinux.org"}, "--gitlab-packages-group"),
        ({"GITLAB_DOMAIN": "https://x.org", "GITLAB_PACKAGES_GROUP": "x"}, "env var BUILDBTW_GITLAB_TOKEN"),
    ],
)
def test_settings_that_it_refuses(changed, words):
    push("v1")
    with host.files(settings(**changed)):
        answer = deploy(BRANCH)
    assert answer.status == FAILED
    assert words in answer.text


# --- How it ends


@pytest.mark.parametrize("variant", ["ends-1", "ends-143", "deaf"])
def test_a_stop_is_no_failure(variant):
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


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_one_that_ends_comes_back(signal):
    """Whatever it ended with."""
    push("v1")
    assert deploy(BRANCH).status == 200
    first = host.unit(SERVICE, "InvocationID")
    assert host.run("podman", "kill", "--signal", signal, f"buildbtw-{BRANCH}").returncode == 0
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


NO_SANDBOX = """\
[Service]
BindReadOnlyPaths=
DynamicUser=no
TemporaryFileSystem=
"""


@pytest.mark.parametrize("is_confined", [False, True], ids=["without the sandbox", "as shipped"])
def test_a_symlink_in_the_place_of_its_socket_leads_nowhere(is_confined, journal):
    push("v1")
    assert deploy(BRANCH).status == 200
    # What nginx's visitors must not reach: the hook, where a request comes in that has passed no limit.
    link = ["ln", "-sf", "/run/buildbtw-hook.sock", "/run/buildbtw/http.sock"]
    linked = host.run("podman", "exec", f"buildbtw-{BRANCH}", "busybox", *link)
    assert linked.returncode == 0, linked.stdout
    with host.drop_in("buildbtw-proxy@.service", "" if is_confined else NO_SANDBOX):
        host.systemctl("restart", f"buildbtw-proxy@{BRANCH}.service")
        told = visit(BRANCH, "/hooks/deploy-branch")
    assert told.status == (502 if is_confined else 401)
    host.idle()
    assert bool([each for each in journal.calls() if each["HTTP_STATUS"] == "401"]) != is_confined


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
