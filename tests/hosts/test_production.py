"""Production runs the version that its host variables say, and has no hook."""

import re

import pytest

from conftest import assert_told, new_host


@pytest.fixture(scope="module")
def host():
    with new_host("production", {"v1.2.3": "v1.2.3", "v1.2.4": "v1.2.4"}) as host:
        host.set_up()
        yield host


def set_tag(host, tag):
    file = host.ansible / host.inventory / f"host_vars/{host.name}/misc.yml"
    file.write_text(re.sub("(?m)^buildbtw_image_tag: .*", f"buildbtw_image_tag: {tag}", file.read_text()))


def test_there_is_no_hook(host):
    assert_told(host.page(), 200, f"version v1.2.3 at https://{host.name}")
    told = host.get("https://HOST/hooks/deploy-branch?branch=v1.2.3")
    assert_told(told, 404, "nothing is deployed by HTTP")
    assert host.shell("systemctl list-unit-files --no-legend 'buildbtw-hook*' || true") == ""


def test_an_upgrade(host):
    set_tag(host, "v1.2.4")
    host.set_up()
    assert_told(host.page(), 200, "this database: v1.2.3 v1.2.4")
    assert host.active() == ["v1.2.4"]
    assert host.shell("podman images --format '{{.Repository}}:{{.Tag}}'") == "localhost/buildbtw:v1.2.4\n"


def test_it_restarts_where_its_configuration_is_new(host):
    host.shell("echo BUILDBTW_OLD=1 >>/etc/buildbtw/environment")
    host.set_up()
    assert_told(host.page(), 200, "this database: v1.2.3 v1.2.4 v1.2.4")
    assert host.play() == (0, 0)


def test_a_tag_that_is_not_there_changes_nothing(host):
    set_tag(host, "v9")
    assert host.play()[1] == 1
    assert_told(host.page(), 200, "version v1.2.4")


def test_it_starts_after_the_power_failed(host):
    host.power_off()
    host.boot()
    host.starts("v1.2.4")
    assert host.active() == ["v1.2.4"]
    assert_told(host.page(), 200, "version v1.2.4")
