"""The host of review apps: any branch, deployed by a hook and seen through nginx."""

import re

import pytest

from conftest import assert_told, at_once

STAGE = "dev"
IMAGES = {}


# --- The playbook


@pytest.fixture(scope="module")
def bare_host(bare_host):
    bare_host.shell("apt-get purge --yes --autoremove nginx podman webhook")
    return bare_host


def test_the_example_vault_lets_no_one_in(bare_host):
    assert bare_host.play("--check")["failed"] == 1
    assert "password is the example's" in bare_host.played


def test_a_check_changes_nothing(host_to_be):
    assert host_to_be.play("--check", "--diff")["failed"] == 0
    for package in ("nginx", "podman"):
        assert host_to_be.run("which", package).returncode == 1


def test_systemd_finds_no_fault_in_the_units(host):
    verify = "systemd-analyze verify --generators=true --man=no buildbtw@feature-x.service 2>&1"
    said = host.shell(f"{verify} || echo failed").splitlines()
    # systemd 262 says so of its generators' own sandbox, in a container.
    assert [line for line in said if not line.startswith("Read-only bind remount failed, ignoring")] == []
    assert host.state() == "running"


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
        (413, "Too Large", "https://HOST/hooks/deploy-branch", ["--data", f"branch={20000 * '0'}"]),
    ],
)
def test_where_nothing_is_deployed(host, status, words, url, options):
    assert_told(host.get(url, *options), status, words.replace("HOST", host.name))


def test_a_branch_from_its_first_deployment_to_its_last(host):
    page = "https://feature-x.HOST/"
    host.run_version("feature-x", "v1")
    known = f"version v1 at https://feature-x.{host.name}, secret {host.secret('cookie_encryption_key')}"
    assert_told(host.get(page), 200, known)
    assert_told(host.get(page), 200, f"Host: feature-x.{host.name}")
    host.run_version("feature-x", "v2")
    assert_told(host.get(page), 200, "version v2")
    assert_told(host.get(page), 200, "this database: v1 v2")
    assert_told(host.undeploy("feature-x"), 200, "is not deployed any more")
    assert_told(host.undeploy("feature-x"), 200)
    assert_told(host.get(page), 404, "no branch runs at")
    host.shell("test ! -e /var/lib/buildbtw/feature-x")


def test_what_a_client_claims_to_be_is_not_believed(host):
    host.run_version("visited")
    claim = ["-H", "X-Real-IP: 192.0.2.1"]
    assert_told(host.get("https://visited.HOST/", *claim), 200, "X-Real-IP: 127.0.0.1")
    assert_told(host.get("https://HOST/hooks/deploy-branch", *claim), 401, "Bearer")
    record = host.shell("journalctl -t buildbtw-hook -n 1")
    assert re.search("401 .* for 127.0.0.1", record)


def test_the_jobs_of_gitlab(host):
    host.push("reviewed", "v2")
    assert "reviewed is deployed" in host.ci_job("deploy-review", "reviewed")
    assert_told(host.get("https://reviewed.HOST/"), 200, "version v2")
    assert "reviewed is not deployed any more" in host.ci_job("stop-review", "reviewed")
    assert_told(host.get("https://reviewed.HOST/"), 404, "no branch runs at")


def test_a_backend_that_does_not_answer(host):
    host.run_version("deaf", "deaf")
    assert_told(host.get("https://deaf.HOST/"), 502, "Bad Gateway")


def test_a_backend_that_ends_at_once(host):
    host.push("dies", command="exit 3")
    assert_told(host.deploy("dies"), 500, "exit-code")
    assert_told(host.get("https://dies.HOST/"), 404, "does not start")
    assert_told(host.undeploy("dies"), 200, "is not deployed any more")


def test_ten_branches_at_once(host):
    branches = [f"b{number}" for number in range(10)]
    for branch in branches:
        host.push(branch)
    for answer in at_once(host.deploy, branches):
        assert_told(answer, 200, "is deployed")
    for branch in ("b0", "b9"):
        assert_told(host.get(f"https://{branch}.HOST/"), 200, "version v1")
    assert_told(host.undeploy("b9"), 200)


def test_a_hundred_calls_at_once(host):
    """What waits in nginx is given up after a while, the rest is told so."""
    command = "curl -sko /dev/null --resolve *:443:127.0.0.1 --max-time 3 --write-out %{http_code}\\n"
    command += (
        f" --parallel --parallel-immediate --parallel-max 100 https://{host.name}/hooks/deploy-branch?[1-100]"
    )
    assert "429" in host.run(*command.split()).stdout


# --- Failures


def test_the_registry_is_down(host):
    host.run_version("kept")
    host.shell("systemctl stop docker-registry")
    deployed = host.deploy("kept")
    assert_told(deployed, 500, "connection refused")
    assert_told(deployed, 500, "what ran before still runs")
    assert_told(host.get("https://kept.HOST/"), 200, "version v1")
    assert_told(host.deploy("new"), 500, "connection refused")
    assert_told(host.get("https://new.HOST/"), 404, "no branch runs at")
    assert_told(host.undeploy("new"), 200)
    host.shell("systemctl start docker-registry")
    host.until("curl -sf http://localhost:5000/v2/")


def test_an_image_is_not_in_the_registry(host):
    host.run_version("gone")
    images = "http://localhost:5000/v2/archlinux/buildbtw/backend/manifests"
    head = host.shell(f"curl -sfI -H 'Accept: application/vnd.oci.image.manifest.v1+json' {images}/gone")
    (digest,) = [line.split()[1] for line in head.splitlines() if line.startswith("Docker-Content-Digest")]
    host.shell(f"curl -sfX DELETE {images}/{digest}")
    for branch in ("gone", "never"):
        assert_told(host.deploy(branch), 500, "manifest unknown")
    assert_told(host.get("https://gone.HOST/"), 200, "version v1")
    assert_told(host.undeploy("never"), 200)


def test_the_disk_is_full(host):
    host.run_version("full")
    host.run_version("other")
    host.push("full", "v2")
    filled = "/var/lib/containers/full"
    assert host.run("dd", "if=/dev/zero", f"of={filled}", "bs=1M").returncode == 1
    assert_told(host.deploy("full"), 500, "no space left")
    for branch in ("full", "other"):
        assert_told(host.get(f"https://{branch}.HOST/"), 200, "version v1")
    host.shell(f"rm {filled}")
    assert_told(host.deploy("full"), 200, "is deployed")
    assert_told(host.get("https://full.HOST/"), 200, "version v2")


def test_a_container_that_ignores_term_is_killed(host):
    # The socket is for the process that LISTEN_PID names (sd_listen_fds(3)).
    backend = 'sh -c \'LISTEN_PID=$$ exec /backend "$@"\' sh "$@"'
    host.push("stubborn", command=f"trap '' TERM; {backend} & while :; do sleep 1; done")
    assert_told(host.deploy("stubborn"), 200, "is deployed")
    assert_told(host.undeploy("stubborn"), 200, "is not deployed any more")
    assert "resorting to SIGKILL" in host.shell("journalctl -u buildbtw@stubborn")
    assert host.state() == "running"


def test_a_reboot_brings_back_what_was_deployed(host):
    for branch in ("well", "breaks", "away"):
        host.run_version(branch)
    assert_told(host.undeploy("away"), 200)
    deployed = set(host.active())
    assert deployed & {"well", "breaks", "away"} == {"well", "breaks"}
    # What was pulled last is broken, and only a boot starts it.
    host.push("breaks", command="exit 3")
    host.shell("systemctl start buildbtw-pull@breaks")
    host.reboot()
    for branch in deployed - {"breaks"}:
        host.starts(branch)
    host.until("journalctl -b -u buildbtw@breaks | grep -q 'Scheduled restart job'")
    assert set(host.active()) == deployed - {"breaks"}
    assert_told(host.get("https://well.HOST/"), 200, "version v1")
    assert_told(host.get("https://away.HOST/"), 404, "no branch runs at")
    # Between two tries: who comes during one waits, and is told 502 when it fails.
    host.until("test ! -e /run/buildbtw/breaks/http.sock")
    assert_told(host.get("https://breaks.HOST/"), 404, "does not start")
    assert "Failed to start" in host.shell("journalctl -b -u buildbtw@breaks")
    assert_told(host.undeploy("breaks"), 200, "is not deployed any more")
    assert host.state() == "running"
