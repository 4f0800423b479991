"""Branches go up and down: what each caller is told, and what then runs."""

import time

import pytest

import host
from host import deploy, over_both, undeploy

pytestmark = pytest.mark.each_suite


@pytest.fixture(scope="module", autouse=True)
def images():
    """A container that ends with an error at once, beside the ones that the machine has."""
    host.push("dies", command="exit 3")


def outcome(branch):
    """What systemd knows of a branch's unit."""
    return host.unit(f"buildbtw@{branch}.service", "ActiveState", "Result", "LoadState")


# --- One at a time


@over_both
def test_deploy_redeploy_undeploy(transport):
    assert deploy("feature-x", transport=transport).status == 200
    assert host.state("feature-x") == "active"
    first = host.container("feature-x")
    assert host.noted() == ["feature-x"]

    assert deploy("feature-x", transport=transport).status == 200
    again = host.container("feature-x")
    assert again[0] != first[0], "the container is a new one"
    assert again[1] == first[1], "the image is the same"

    answer = undeploy("feature-x", transport=transport)
    assert answer.status == 200
    assert "feature-x is not deployed any more" in answer.text
    assert host.state("feature-x") == "inactive"
    assert host.run("podman", "ps", "--all", "--quiet").stdout == ""
    assert host.noted() == []

    assert undeploy("feature-x", transport=transport).status == 200
    assert host.state("feature-x") == "inactive"


@over_both
@pytest.mark.parametrize("branch", ["nosuch", "dies"])
def test_deploy_that_fails(transport, branch):
    answer = deploy(branch, transport=transport)
    assert answer.status == 424
    assert f"restart of buildbtw@{branch}.service failed" in answer.text
    assert "Job for" in answer.text, "systemctl's words"
    assert "Result=exit-code" in answer.text, "what systemd knows"
    assert "its last lines:" in answer.text
    # Restart=on-failure: the template is about to try again, and so would the next boot be.
    assert host.state(branch) == "activating"
    assert host.noted() == [branch]
    assert undeploy(branch, transport=transport).status == 200
    assert outcome(branch)["ActiveState"] == "inactive"
    assert host.host_state() == "running"


def test_deploy_that_fails_by_timeout():
    with (
        host.drop_in("buildbtw@slow.service", "[Service]\nTimeoutStartSec=1\n"),
        host.held("slow"),
    ):
        answer = deploy("slow")
        assert answer.status == 424
        assert "Result=timeout" in answer.text
        assert undeploy("slow").status == 200


def test_a_redeployment_that_fails():
    # The branch was asked for and never undeployed: a reboot is one more try.
    assert deploy("feature-x").status == 200
    with host.drop_in("buildbtw@feature-x.service", "[Service]\nExecStartPre=/bin/false\n"):
        assert deploy("feature-x").status == 424
        assert host.noted() == ["feature-x"]
        assert undeploy("feature-x").status == 200
    assert host.noted() == []


# --- Without the template


@over_both
def test_no_template(transport, no_template):
    answer = deploy("feature-x", transport=transport)
    assert answer.status == 500
    assert "Unit buildbtw@feature-x.service not found" in answer.text
    answer = undeploy("feature-x", transport=transport)
    assert (answer.status, answer.text) == (200, "branch feature-x was not deployed\n")
    assert host.host_state() == "running"


def test_template_taken_away_from_under_a_branch():
    assert deploy("feature-x").status == 200
    with host.no_template():
        assert host.state("feature-x") == "active"
        assert undeploy("feature-x").status == 200
        assert host.state("feature-x") == "inactive"
        # Its ExecStop= went with the template, so a container that has ended may be left behind.
        host.until(lambda: host.run("podman", "ps", "--quiet").stdout == "")
    # The next calls need no one to clear it away.
    assert deploy("feature-x").status == 200
    assert host.run("podman", "ps", "--all", "--format={{.Names}}").stdout == "buildbtw-feature-x\n"
    assert undeploy("feature-x").status == 200
    assert host.run("podman", "ps", "--all", "--quiet").stdout == ""


# --- Several at once


@over_both
def test_a_slow_branch_holds_up_no_other(transport):
    with (
        host.held("feature-x") as release,
        host.in_background(lambda: deploy("feature-x", transport=transport)) as slow,
    ):
        host.until(lambda: host.state("feature-x") == "activating")
        assert deploy("main", transport=transport).status == 200
        assert undeploy("main", transport=transport).status == 200
        assert not slow.done()
        release()
        assert slow.result().status == 200
    assert host.state("feature-x") == "active"


@pytest.mark.parametrize(("branch", "status"), [("feature-x", 200), ("dies", 424)])
def test_one_branch_twice_at_once(branch, status):
    answers = host.at_once(*2 * [lambda: deploy(branch)])
    assert [answer.status for answer in answers] == [status, status]
    assert (host.state(branch) == "active") == (status == 200)
    answers = host.at_once(*2 * [lambda: undeploy(branch)])
    assert [answer.status for answer in answers] == [200, 200]
    assert host.state(branch) == "inactive"


def test_undeploy_cancels_a_deployment():
    with (
        host.held("feature-x") as release,
        host.in_background(lambda: deploy("feature-x")) as canceled,
    ):
        host.until(lambda: host.state("feature-x") == "activating")
        # Its stop waits for no start: the gate's process is killed.
        assert undeploy("feature-x").status == 200
        answer = canceled.result()
        release()
    assert answer.status == 409
    assert "was undeployed meanwhile" in answer.text
    assert host.state("feature-x") == "inactive"
    assert host.noted() == []


def test_a_deployment_waits_for_an_undeployment():
    assert deploy("feature-x").status == 200
    with (
        host.held("feature-x", "ExecStop") as release,
        host.in_background(lambda: undeploy("feature-x")) as first,
    ):
        host.until(lambda: host.state("feature-x") == "deactivating")
        with host.in_background(lambda: deploy("feature-x")) as second:
            release()
            assert (first.result().status, second.result().status) == (200, 200)
    assert host.state("feature-x") == "active"
    assert host.noted() == ["feature-x"]


# The container takes about 0.3 s to start and as long to stop, so these offsets meet every stage.
@pytest.mark.parametrize("offset", [0, 0.05, 0.15, 0.3, 0.5])
@pytest.mark.parametrize("first", [deploy, undeploy])
def test_deploy_and_undeploy_at_once(first, offset):
    second = undeploy if first is deploy else deploy
    if first is undeploy:
        assert deploy("feature-x").status == 200

    def later():
        time.sleep(offset)  # the thing under test
        return second("feature-x")

    answers = host.at_once(lambda: first("feature-x"), later)
    # What came last wins, and who was overtaken is told so.
    deployed = host.state("feature-x") == "active"
    winner, loser = answers if deployed == (first is deploy) else answers[::-1]
    assert winner.status == 200
    assert loser.status == 200 or (loser.status == 409 and "undeployed meanwhile" in loser.text)
    assert host.state("feature-x") == ("active" if deployed else "inactive")
    assert host.noted() == (["feature-x"] if deployed else [])
