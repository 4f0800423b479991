"""Staging runs one branch, `main`, which CI deploys or an operator by hand."""

import pytest

from conftest import assert_told, new_host


@pytest.fixture(scope="module")
def host():
    with new_host("staging", {"main": "v1"}) as host:
        host.set_up()
        yield host


def test_only_main_is_deployed(host):
    assert_told(host.deploy("feature-x"), 403, "main")
    assert_told(host.page(), 200, "version v1")
    host.push("main", "v2")
    assert "main" in host.ci_job("deploy-staging")
    assert_told(host.page(), 200, f"version v2 at https://{host.name}")
    assert host.active() == ["main"]


def test_where_nothing_is_deployed(host):
    assert_told(host.undeploy("main"), 200, "is not deployed any more")
    assert_told(host.page(), 404, "no branch runs at")
    assert_told(host.deploy("main"), 200, "is deployed")


def test_it_becomes_a_production_host(host):
    """Even where the play breaks off in between."""
    host.push("v1.2.3", "v1.2.3")
    variables = ["-e", "buildbtw_stage=production", "-e", "buildbtw_image_tag=v1.2.3"]
    host.play_until("Remove the hook", *variables)
    assert host.play(*variables)[1] == 0
    assert host.active() == ["v1.2.3"]
    assert_told(host.page(), 200, "version v1.2.3")
    assert_told(host.deploy("main"), 404, "nothing is deployed by HTTP")
    assert host.shell("systemctl list-unit-files --no-legend 'buildbtw-hook*' || true") == ""
    assert host.run("test", "-e", "/etc/buildbtw-hook").returncode == 1
