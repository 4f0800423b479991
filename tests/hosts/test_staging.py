"""Staging runs one branch, `main`, which CI deploys or an operator by hand."""

import json

import pytest

from conftest import assert_told, document

STAGE = "staging"
IMAGES = {"main": "v1", "feature-x": "v1"}


@pytest.fixture(scope="module")
def host(host_to_be):
    """Played once: test_today has a staging host on which the second play changes nothing."""
    assert host_to_be.play()["failed"] == 0
    return host_to_be


def test_only_main_is_deployed(host):
    assert_told(host.deploy("feature-x"), 403, "main")
    assert_told(host.get("https://HOST/"), 200, "version v1")
    host.push("main", "v2")
    assert "main" in host.ci_job("deploy-staging")
    assert_told(host.get("https://HOST/"), 200, f"version v2 at https://{host.name},")
    assert host.active() == ["main"]


def test_a_deployment_by_hand(host):
    """The operators' line out of ansible/README.md, but for its curl, which is the host's."""
    (line,) = document("redeploy")
    expanded = host.on_control_host("bash", "-euc", f"printf '%s\n' {line.removeprefix('curl ')}")
    assert_told(host.curl(*expanded.splitlines()), 200, "is deployed")


def test_where_nothing_is_deployed(host):
    assert_told(host.undeploy("main"), 200, "is not deployed any more")
    assert_told(host.get("https://HOST/"), 404, "no branch runs at")
    assert_told(host.deploy("main"), 200, "is deployed")


def test_secret_files_of_one_name_are_refused(host):
    files = [{"path": f"/etc/{directory}/key", "content": directory} for directory in ("one", "other")]
    assert host.play("-e", json.dumps({"buildbtw_files": files}))["failed"] == 1
    assert "have the same last part" in host.played


def test_another_branch_takes_its_place(host):
    assert host.play("-e", "buildbtw_branch=feature-x")["failed"] == 0
    assert host.active() == ["feature-x"]
    assert host.shell("ls /var/lib/buildbtw-hook").split() == ["feature-x"]
    assert_told(host.get("https://HOST/"), 200, "version v1")


def test_it_becomes_a_production_host(host):
    """Even where the play breaks off in between."""
    variables = ["-e", "buildbtw_stage=production", "-e", "buildbtw_image_tag=main"]
    host.play_until("Remove what the hook read", *variables)
    assert host.play(*variables)["failed"] == 0
    assert_told(host.deploy("main"), 404, "nothing is deployed by HTTP")
    assert host.shell("systemctl list-unit-files --no-legend 'buildbtw-hook*' || true") == ""
    assert host.run("test", "-e", "/etc/buildbtw-hook").returncode == 1
