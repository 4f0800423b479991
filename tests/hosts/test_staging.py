"""Staging runs one branch, which CI deploys: beside nginx as today's hosts' own role sets it up."""

from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest

from conftest import assert_told, new_host

# What a play leaves: files, units, images, and what nginx is told. The certificate is the test's own, the
# machine's id systemd's.
STATE = """\
cd /
there="etc usr/local var/lib/buildbtw* -path etc/letsencrypt -prune -o"
find $there -printf '%p %M %u:%g %l\n' | sort
find $there -type f ! -path 'var/*' ! -path etc/machine-id -print0 | sort -z | xargs -0 sha256sum
systemctl list-unit-files --no-legend --plain nginx.service 'buildbtw*'
systemctl list-units --no-legend --plain --all nginx.service 'buildbtw*.socket' 'buildbtw*.timer' 'buildbtw@*' |
    awk '{ print $1, $2, $3 }'
systemctl show --property=Id,NeedDaemonReload nginx.service buildbtw-hook.socket buildbtw@staging.service
podman images --format '{{.Repository}}:{{.Tag}}' | sort
nginx -T 2>&1
"""
# What a play that broke off in any of its tasks, or an operator, has left undone or undid.
DAMAGES = """\
echo >/etc/buildbtw/image
echo BUILDBTW_GITLAB_SSH_HOST_KEY= >>/etc/buildbtw/environment
chmod 644 /etc/buildbtw/files/etc/ssh/id_ed25519
rm -r /etc/containers/systemd/buildbtw@.container.d
systemctl disable --now buildbtw-hook.socket
systemctl stop buildbtw-systemctl.socket
rm /usr/local/lib/buildbtw-hook/root/usr/local/bin/buildbtw-hook
sed -i s/staging/other/ /etc/nginx/nginx.d/buildbtw.conf
systemctl reload nginx
systemctl stop buildbtw@staging.service
"""


@pytest.fixture(scope="module")
def host():
    with new_host("staging", {"staging": "v1"}) as host:
        host.set_up()
        yield host


def test_what_is_broken_is_repaired(host):
    """To the last file; when it is run again it changes nothing."""
    sound = host.shell(STATE).splitlines()
    host.shell(DAMAGES)
    host.set_up()
    assert {*host.shell(STATE).splitlines()} ^ {*sound} == set()
    assert_told(host.page(), 200, "version v1")
    assert host.play() == (0, 0)


def test_only_its_branch_is_deployed(host):
    assert_told(host.deploy("main"), 403, "staging")
    assert_told(host.page(), 200, "version v1")
    host.push("staging", "v2")
    assert "branch staging is up" in host.ci_job("deploy-staging", "staging")
    assert_told(host.page(), 200, f"version v2 at https://{host.name}")
    assert host.active() == ["staging"]


def test_where_nothing_is_deployed(host):
    assert_told(host.call("undeploy-branch", "staging"), 200, "is not deployed any more")
    assert_told(host.page(), 404, "no branch runs at")
    assert_told(host.deploy("staging"), 200, "is deployed")


def test_a_certificate_is_asked_for_by_http(host):
    """HTTP-01, RFC 8555 section 8.3; the rest of port 80 is redirected."""
    host.write("var/lib/letsencrypt/.well-known/acme-challenge/asked", "answer")
    assert_told(host.get("http://HOST/.well-known/acme-challenge/asked"), 200, "answer")
    assert_told(host.get("http://HOST/"), 301)


def test_callers_without_the_token_hold_up_no_call(host):
    """Not even from many addresses at once."""
    call = "curl -sk -o /dev/null --max-time 60 --write-out '%{http_code} ' --resolve '*:443:127.0.0.1'"
    call += f" --interface 127.1.ADDRESS.1 -H 'Authorization: Bearer {'x' * 64}'"
    call += f" 'https://{host.name}/hooks/branch-status?branch=staging'"
    with ThreadPoolExecutor(1) as pool:
        flood = pool.submit(host.shell, f"seq 250 | xargs -P 50 -I ADDRESS {call}")
        waits = []
        while not flood.done():
            began = monotonic()
            assert_told(host.call("branch-status", "staging"), 200)
            waits.append(monotonic() - began)
    assert set(flood.result().split()) == {"401", "429"}
    assert max(waits) < 5


def test_no_secret_is_in_the_journal(host):
    """What Ansible's modules write there; the test's own calls are there too."""
    journal = host.shell("journalctl --output=cat --grep='Invoked with'")
    assert "name=nginx.service" in journal
    for secret in host.secrets.values():
        assert secret not in journal


def test_nginx_alone_can_open_the_hooks_socket(host):
    """It listens nowhere else."""
    sockets = "/run/buildbtw-hook.sock /run/buildbtw/staging/http.sock"
    assert host.shell(f"stat -c '%a %U:%G' {sockets}") == "660 root:www-data\n760 root:www-data\n"
    assert "Could not connect" in host.run("curl", "-sS", "http://127.0.0.1:9000/").stdout


def test_it_runs_another_branch(host):
    """Nothing is left of the one before."""
    host.push("next", "v3")
    host.set_up("-e", "buildbtw_branch=next")
    assert (host.active(), host.shell("ls /var/lib/buildbtw-hook")) == (["next"], "next\nnext.turn\n")
    host.until("test \"$(podman images --format '{{.Repository}}:{{.Tag}}')\" = localhost/buildbtw:next")


def test_it_becomes_a_production_host(host):
    """Even after a play that broke off where the hook's own files were gone."""
    host.push("v1.2.3", "v1.2.3")
    host.shell("rm -r /etc/buildbtw-hook /etc/systemd/system/buildbtw-{hook,systemctl}*.d")
    host.set_up("-e", "buildbtw_stage=production", "-e", "buildbtw_image_tag=v1.2.3")
    assert host.active() == ["v1.2.3"]
    assert_told(host.page(), 200, "version v1.2.3")
    assert_told(host.deploy("staging"), 404, "nothing is deployed by HTTP")
    assert host.shell("systemctl list-unit-files --no-legend 'buildbtw-hook*' || true") == ""
    assert host.run("test", "-e", "/etc/buildbtw-hook").returncode == 1
