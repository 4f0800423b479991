"""Pull first: a deployment runs the new image, or says why not and leaves what runs."""

import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

import host
from host import deploy, undeploy

pytestmark = pytest.mark.each_suite

BRANCH = "feature-x"
PULL = "buildbtw-pull@.service"
SHIPPED = [PULL, "buildbtw-pull", "buildbtw-prune.service", "buildbtw-prune"]
ASYNC = ["--header", "Prefer: respond-async"]
RETRY = ["--retry", "60", "--retry-delay", "2", "--retry-max-time", "120"]


@pytest.fixture(scope="module", autouse=True)
def pull_unit():
    """The template that is shipped, and a container that takes what is there."""
    conf = {
        Path("/etc/buildbtw/image"): "BUILDBTW_IMAGE=localhost:5000/buildbtw\n",
        Path(f"{host.TEMPLATE}.d/pull.conf"): "[Container]\nImage=localhost/buildbtw:%i\nPull=never\n",
    }
    host.push(BRANCH)
    with host.files(host.shipped(*SHIPPED) | conf):
        yield


@contextmanager
def no_registry():
    """The registry is down."""
    host.systemctl("stop", "docker-registry.service")
    try:
        yield
    finally:
        host.systemctl("start", "docker-registry.service")
        host.until(lambda: host.run("curl", "-sf", "http://localhost:5000/v2/").returncode == 0)


def status(branch, *options):
    """What branch-status answers."""
    return host.call("unix", f"/hooks/branch-status?branch={branch}", *options)


def newer(version, command="touch /up; trap 'exit 0' TERM; while :; do sleep 1 & wait; done"):
    """Pushes an image that can be told from the others."""
    host.push(BRANCH, command=f": {version}; {command}")


def test_the_newer_image_runs(jobs):
    assert deploy(BRANCH).status == 200
    assert jobs() == [
        ("restart", f"buildbtw-pull@{BRANCH}.service"),
        ("restart", f"buildbtw@{BRANCH}.service"),
    ]
    before = host.container(BRANCH)
    newer("newer")
    assert deploy(BRANCH).status == 200
    assert host.container(BRANCH)[1] != before[1]
    jobs()
    assert undeploy(BRANCH).status == 200
    assert jobs() == [
        ("stop", f"buildbtw-pull@{BRANCH}.service"),
        ("stop", f"buildbtw@{BRANCH}.service"),
    ]


def test_the_registry_is_down(journal):
    assert deploy(BRANCH).status == 200
    before = host.container(BRANCH)
    with no_registry():
        answer = deploy(BRANCH)
        assert answer.status == 502
        assert f"restart of buildbtw-pull@{BRANCH}.service failed" in answer.text
        assert "connection refused" in answer.text, "podman's words"
        assert "what ran before still runs" in answer.text
        told = status(BRANCH)
        assert (told.status, told.text) == (424, answer.text)
    assert host.container(BRANCH) == before, "it was not touched"
    assert host.noted() == [BRANCH]
    (record,) = [each for each in journal.calls() if each["HTTP_STATUS"] == "502"]
    assert record["MESSAGE_ID"] == "f3f70ffc2bb74611b102d323dc4d46fc"
    # With it back, nobody has to help.
    assert deploy(BRANCH).status == 200
    assert status(BRANCH).status == 200


def test_the_tag_is_gone():
    answer = deploy("nosuch")
    assert answer.status == 502
    assert "manifest unknown" in answer.text
    assert "what ran before" not in answer.text
    assert host.noted() == []
    told = status("nosuch")
    assert (told.status, told.text) == (424, answer.text)
    assert undeploy("nosuch").status == 200
    assert status("nosuch").status == 404


@pytest.mark.soak
def test_the_words_of_a_pull_that_ends_at_once():
    """journald then finds no process, and the record is without the invocation of its unit."""
    rounds = 10 * host.SOAK
    words = "[Service]\nExecStart=\nExecStart=/bin/sh -c 'echo words of %i; exit 3'\n"
    with host.drop_in(PULL, words):
        told = [deploy(f"quick-{n}").text.splitlines() for n in range(rounds)]
    assert [lines[-1] for lines in told] == [f"    words of quick-{n}" for n in range(rounds)]


def test_a_boot_pulls_nothing():
    assert deploy(BRANCH).status == 200
    running = host.container(BRANCH)
    newer("not deployed")
    host.idle()
    with no_registry():
        host.boot()
    assert host.container(BRANCH)[1] == running[1], "what was deployed"


def test_a_pull_that_cannot_begin():
    """systemctl's exit status is then what it is where there is no such template."""
    with host.drop_in(PULL, "[Unit]\nRequires=nosuch.service\n"):
        answer = deploy(BRANCH)
    assert answer.status == 500
    assert "Unit nosuch.service not found" in answer.text


@contextmanager
def slow_pull(seconds):
    """Every pull takes longer."""
    with host.drop_in(PULL, f"[Service]\nExecStartPre=sleep {seconds}\n"):
        yield


def test_followed_by_its_status():
    """The README's way for a CI job that does not keep a connection open for minutes."""
    assert deploy(BRANCH).status == 200
    before = host.container(BRANCH)
    newer("followed")
    with slow_pull(3):
        assert deploy(BRANCH, *ASYNC).status == 202
        told = status(BRANCH)
        assert (told.status, told.headers["retry-after"]) == (503, "2")
        assert host.container(BRANCH) == before, "it runs until the new one is there"
        retried = subprocess.run(
            ["curl", "-sS", "--unix-socket", host.SOCKET, *host.bearer(host.token()), *RETRY]
            + ["--fail-with-body", f"http://localhost/hooks/branch-status?branch={BRANCH}"],
            capture_output=True,
            text=True,
        )
    assert retried.returncode == 0, retried
    assert f"branch {BRANCH} is up" in retried.stdout
    assert host.container(BRANCH)[1] != before[1]
