"""The host of review apps: any branch, deployed by a hook and seen through nginx."""

import json
import re

import pytest

from conftest import Host, assert_told, document, new_host


@pytest.fixture(scope="module")
def bare_host():
    """Without what the playbook installs, and with the example's vault."""
    with Host("dev").booted() as host:
        host.shell("apt-get purge --yes nginx podman webhook")
        yield host


@pytest.fixture(scope="module")
def host_to_be(bare_host):
    """The same, with the operators' own vault."""
    bare_host.own_vault()
    return bare_host


@pytest.fixture(scope="module")
def host(host_to_be):
    """Set up."""
    host_to_be.set_up()
    return host_to_be


# --- The playbook


def test_what_cannot_work_is_refused(bare_host):
    """All of it at once, and before anything is changed."""
    wrong = {
        "buildbtw_deploy_tokens": [{"name": "two words", "token": 32 * "x"}],
        "buildbtw_environment": {
            "BUILDBTW_COOKIE_ENCRYPTION_KEY": 63 * "x",
            "BUILDBTW_GITLAB_DOMAIN": "https://example.org\nBUILDBTW_GITLAB_TOKEN=x",
            "BUILDBTW_GITLAB_SSH_HOST_KEY": "example.org key",
            "BUILDBTW_GITLAB_TOKEN_PATH": "/token",
            "BUILDBTW_OIDC_ADMIN_GROUPS": "admins",
        },
    }
    assert bare_host.play("-e", json.dumps(wrong)) == (0, 1)
    for words in (
        "password is the example's",
        "Each of buildbtw_deploy_tokens",
        "has a second line",
        "does not have 64 characters",
        "lacks BUILDBTW_GITLAB_PACKAGES_GROUP BUILDBTW_OIDC_",
    ):
        assert words in bare_host.played


def test_a_check_changes_nothing(host_to_be):
    """Of each host of the inventory."""
    assert host_to_be.play("--check", "--diff", hosts="all")[1] == 0
    for package in ("nginx", "podman"):
        assert host_to_be.run("which", package).returncode == 1


def test_the_playbook(host):
    """Which changes nothing when it is run again."""
    assert host.play() == (0, 0)
    verify = "systemd-analyze verify --generators=true --man=no buildbtw@feature-x.service 2>&1"
    said = host.shell(f"{verify} || echo failed").splitlines()
    # systemd 262 says so of its generators' own sandbox, in a container.
    assert [line for line in said if not line.startswith("Read-only bind remount failed, ignoring")] == []
    assert host.state() == "running", host.shell("systemctl --failed; journalctl -b -n 60")


# --- What clients are told


@pytest.mark.parametrize(
    ("status", "words", "url", "options"),
    [
        (301, "", "http://feature-x.HOST/", []),
        (403, "has to be replaced", "http://HOST/hooks/deploy-branch?branch=feature-x", ["-L"]),
        (200, "at https://BRANCH.HOST", "https://HOST/", []),
        (404, "no branch runs at", "https://feature-x.HOST/", []),
        (404, "no branch runs at", "https://feature_x.HOST/", []),
        (404, "no branch runs at", "https://www.feature-x.HOST/", ["--insecure"]),
        (401, "Bearer", "https://HOST/hooks/deploy-branch?branch=feature-x", []),
        (413, "at most 16 KiB", "https://HOST/hooks/deploy-branch", ["--data", f"branch={20000 * '0'}"]),
    ],
)
def test_where_nothing_is_deployed(host, status, words, url, options):
    assert_told(host.get(url, *options), status, words.replace("HOST", host.name))


def test_a_branch_from_its_first_deployment_to_its_last(host):
    host.push("feature-x", "v1")
    told = host.ci_job("deploy-review", "feature-x")
    assert re.search("branch feature-x is deployed .*, image [0-9a-f]{12} revision commit-v1", told)
    assert_told(host.page("feature-x"), 200, f"version v1 at https://feature-x.{host.name}")
    host.run_version("feature-x", "v2")
    assert_told(host.page("feature-x"), 200, "this database: v1 v2")
    assert "feature-x is not deployed any more" in host.ci_job("stop-review", "feature-x")
    assert_told(host.page("feature-x"), 404, "no branch runs at")
    host.shell("test ! -e /var/lib/buildbtw/feature-x")


def test_what_nobody_deploys_expires(host):
    host.run_version("old")
    link = "/etc/systemd/system/buildbtw.target.wants/buildbtw@old.service"
    host.shell(f"touch --no-dereference --date='15 days ago' {link}")
    host.shell("systemctl start buildbtw-hook-expire.service")
    assert_told(host.page("old"), 404, "no branch runs at")


def test_what_a_client_claims_to_be_is_not_believed(host):
    host.run_version("visited")
    assert "gitlab" in host.shell("journalctl -t buildbtw-hook -n 1"), "the holder of the token"
    claim = ["-H", "X-Real-IP: 192.0.2.1"]
    assert_told(host.get("https://visited.HOST/", *claim), 200, "x-real-ip: 127.0.0.1")
    assert_told(host.get("https://HOST/hooks/deploy-branch", *claim), 401, "Bearer")
    assert re.search("401 .* for 127.0.0.1", host.shell("journalctl -t buildbtw-hook -n 1"))


def test_a_reboot_brings_back_what_was_deployed(host):
    host.run_version("breaks")
    # What was pulled last is broken, and only a boot starts it.
    host.push("breaks", command="exit 3")
    host.shell("systemctl start buildbtw-pull@breaks")
    host.reboot()
    host.starts("visited")
    host.until("journalctl -b -u buildbtw@breaks | grep -q 'Scheduled restart job'")
    assert host.active() == ["visited"]
    assert_told(host.page("visited"), 200, "version v1")
    assert_told(host.page("feature-x"), 404, "no branch runs at")
    assert_told(host.call("undeploy-branch", "breaks"), 200, "is not deployed any more")
    assert host.state() == "running", host.shell("systemctl --failed; journalctl -b -n 60")


def test_an_operator_reads_a_token(host):
    """By misc/get_key.py, as in the line of ansible/README.md that deploys by hand."""
    (line,) = document("redeploy")
    expanded = host.on_control_host("bash", "-euc", f"printf '%s\n' {line.removeprefix('curl ')}")
    assert f"Authorization: Bearer {host.secrets['vault_buildbtw_staging_deploy_token']}" in expanded


def test_the_review_host():
    """Its instances sleep, if its variables say so."""
    with new_host("review", {"feature-x": "v1"}) as host:
        host.set_up("-e", "buildbtw_sleep_after=2s")
        assert "feature-x is deployed" in host.todays_ci("deploy-branch", "feature-x").stdout
        page = host.get("https://feature-x.HOST/", "--http2")
        assert_told(page, 200, f"version v1 at https://feature-x.{host.name}")
        host.until("! systemctl is-active --quiet buildbtw@feature-x")
        assert_told(host.page("feature-x"), 200, "this database: v1 v1")
        assert "is not deployed any more" in host.todays_ci("undeploy-branch", "feature-x").stdout
        assert_told(host.page("feature-x"), 404, "no branch runs at")
