"""Production runs the version that its host variables say, and has no hook."""

import re

import pytest

from conftest import assert_told

STAGE = "production"
IMAGES = {"v1.2.3": "v1.2.3", "v1.2.4": "v1.2.4"}


@pytest.fixture(scope="module")
def bare_host(bare_host):
    """With the database that version 0.1 left."""
    old = "/var/lib/buildbtw/production"
    bare_host.shell(f"mkdir -p {old} && echo v0.1 >{old}/buildbtw.sqlite")
    return bare_host


def set_tag(host, tag):
    file = host.ansible / f"host_vars/{host.name}/misc.yml"
    file.write_text(re.sub("(?m)^buildbtw_image_tag: .*", f"buildbtw_image_tag: {tag}", file.read_text()))


def test_the_version_of_its_variables_runs(host):
    assert_told(host.get("https://HOST/"), 200, f"version v1.2.3 at https://{host.name},")


def test_there_is_no_hook(host):
    told = host.get("https://HOST/hooks/deploy-branch?branch=v1.2.3")
    assert_told(told, 404, "nothing is deployed by HTTP")
    assert host.shell("systemctl list-unit-files --no-legend 'buildbtw-hook*' || true") == ""


def test_an_upgrade(host):
    set_tag(host, "v1.2.4")
    assert host.play("--check", "--diff")["failed"] == 0
    assert_told(host.get("https://HOST/"), 200, "version v1.2.3")
    assert host.play()["failed"] == 0
    assert_told(host.get("https://HOST/"), 200, "version v1.2.4")
    assert_told(host.get("https://HOST/"), 200, "this database: v0.1 v1.2.3 v1.2.4")
    assert host.active() == ["v1.2.4"]


def test_a_tag_that_is_not_there_changes_nothing(host):
    running = host.active()
    set_tag(host, "v9")
    assert host.play()["failed"] == 1
    assert_told(host.get("https://HOST/"), 200, f"version {running[0]}")


def test_it_starts_after_the_power_failed(host):
    (running,) = host.active()
    host.power_off()
    host.boot()
    host.starts(running)
    assert_told(host.get("https://HOST/"), 200, f"version {running}")
