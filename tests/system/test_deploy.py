"""Branches go up and down: what each caller is told, what then runs, and what the next boot starts."""

import re
from pathlib import Path

import pytest

import host
from host import deploy, over_both, undeploy

pytestmark = pytest.mark.each_suite

BRANCH = "feature-x"


@pytest.fixture(scope="module", autouse=True)
def images():
    """A container that ends with an error at once, beside the ones that the machine has."""
    host.push("dies", command="exit 3")


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
    assert host.state(branch) == "inactive"


def test_template_removed_while_deployed():
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


def test_all_lists_agree_after_a_boot():
    def branches_in(text):
        return re.findall(r"(?m)^\W*buildbtw@(\S+)\.service", text)

    branches = [f"b-{number:02}" for number in range(30)]
    stay = [branch for branch in branches if branch[-1] in "12345678"]
    with host.do_nothing():
        told = host.at_once(*[lambda branch=branch: deploy(branch) for branch in branches])
        assert {answer.status for answer in told} == {200}
        gone = set(branches) - set(stay)
        told = host.at_once(*[lambda branch=branch: undeploy(branch) for branch in gone])
        assert {answer.status for answer in told} == {200}
        host.boot()
        assert branches_in(host.systemctl("list-dependencies", "--plain", "buildbtw.target")) == stay
        active = ["--state=active", "buildbtw@*.service"]
        assert branches_in(host.systemctl("list-units", "--plain", "--no-legend", *active)) == stay
        listed = host.listed().splitlines()
        assert [line.split()[:2] for line in listed] == [[branch, "up"] for branch in stay]


def test_data_goes_where_the_host_says_so():
    data = Path(f"/var/lib/review/{BRANCH}")
    state = f"[Service]\nStateDirectory=review/{BRANCH}\n"
    clean = "[Service]\nEnvironment=BUILDBTW_CLEAN=state\n"
    with host.drop_in(f"buildbtw@{BRANCH}.service", state):
        assert deploy(BRANCH).status == 200
        (data / "database").write_text("old")
        assert undeploy(BRANCH).status == 200
        assert (data / "database").exists(), "off unless the host says so"
        with host.drop_in("buildbtw-systemctl@.service", clean):
            assert deploy(BRANCH).status == 200
            assert undeploy(BRANCH).status == 200
            assert not data.exists()
            assert undeploy(BRANCH).status == 200, "again, with nothing there"
            # A branch that failed has data too.
            with host.drop_in(f"buildbtw@{BRANCH}.service", "[Service]\nExecStartPost=false\n"):
                assert deploy(BRANCH).status == 424
            assert data.exists()
            assert undeploy(BRANCH).status == 200
            assert not data.exists()


def test_deployments_that_hang_do_not_hold_up_others():
    branches = [f"hangs-{number}" for number in range(30)]
    hang = "[Service]\nExecStart=\nExecStart=sh -c 'case %i in hangs*) sleep 600;; esac'\n"
    with host.do_nothing(), host.drop_in("buildbtw@.service", hang + "TimeoutStartSec=infinity\n"):
        calls = [lambda branch=branch: deploy(branch) for branch in branches]
        with host.in_background(lambda: host.at_once(*calls)) as hanging:
            host.until(lambda: all(host.state(each) == "activating" for each in branches), 60)
            assert deploy(BRANCH).status == 200
            for branch in branches:
                assert undeploy(branch).status == 200
            answers = hanging.result()
    assert {answer.status for answer in answers} == {409}
