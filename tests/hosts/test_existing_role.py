"""A review host as it is today, by a role of its own, and the steps of ansible/existing-role.md."""

import json
import re
import secrets
import textwrap

import pytest

from arch import HOOKS, SCRIPTS, TEMPLATE
from conftest import Host, assert_told
from documents import blocks

NGINX_CONF = """\
map_hash_bucket_size 128;
map $http_authorization $is_authorised {
    default 0;
    "Bearer TOKEN" 1;
}
server {
    include snippets/listen-443.conf;
    server_name HOST;
    ssl_certificate /etc/letsencrypt/live/HOST/fullchain.pem;
    ssl_certificate_key /etc/letsencrypt/live/HOST/privkey.pem;
    location /hooks {
        if ($is_authorised = 0) {
            return 401;
        }
        proxy_pass http://localhost:9000;
    }
}
server {
    include snippets/listen-443.conf;
    server_name "~^(?<branch>.+)\\.HOST$";
    ssl_certificate /etc/letsencrypt/live/HOST/fullchain.pem;
    ssl_certificate_key /etc/letsencrypt/live/HOST/privkey.pem;
    location / {
        proxy_pass http://unix:/run/buildbtw/$branch.sock;
    }
}
"""

BRANCHES = ["feature-x", "feature-y", "feature-z"]
STEPS = blocks("ansible/existing-role.md", "yaml")


class Existing(Host):
    """The review host of today."""

    token = secrets.token_hex(32)
    taken: frozenset = frozenset()

    def write(self, path, text, mode=0o644):
        super().write(
            path,
            text.replace("HOST", self.name).replace("TOKEN", self.token).replace("SIXTY-FOUR", 64 * "k"),
            mode,
        )

    def set_up(self):
        """What the hosts' own roles have put there."""
        self.write("etc/nginx/nginx.d/buildbtw.conf", NGINX_CONF)
        self.write("etc/containers/systemd/buildbtw@.container", TEMPLATE)
        self.write("etc/tmpfiles.d/buildbtw.conf", "d /run/buildbtw\n")
        self.write("etc/webhook.conf", json.dumps(HOOKS))
        for name, text in SCRIPTS.items():
            self.write(f"usr/local/bin/{name}", text, 0o755)
        self.boot()
        self.shell("systemctl enable --now nginx.service webhook.service")
        self.until("curl -s localhost:9000")

    def take(self, *steps):
        """Runs steps of the document."""
        variables = {
            "buildbtw_release": self.directory / "target/buildbtw-hook.tar.gz",
            "vault_buildbtw_deploy_token": self.token,
        }
        lines = [f"    {name}: {value}\n" for name, value in variables.items()]
        tasks = textwrap.indent("\n".join(STEPS[step] for step in steps), "    ")
        self.taken |= {*steps}
        play = self.directory / "existing.yml"
        play.write_text(f"- hosts: all\n  gather_facts: false\n  vars:\n{''.join(lines)}  tasks:\n{tasks}")
        machine = self.ansible / self.inventory / "group_vars/all/machine.yml"
        self.on_control_host("ansible-playbook", "-i", f"{self.name},", "-e", f"@{machine}", play)


@pytest.fixture(scope="module")
def host():
    host = Existing("review")
    host.set_up()
    for branch in BRANCHES:
        host.push(branch, "v1")
    yield host
    host.power_off()


def test_the_steps(host):
    for branch in BRANCHES:
        told = host.todays_ci("deploy-branch", branch)
        assert told.returncode == 0, told.stdout + host.shell("journalctl --no-pager -n 20")
        # webhook answers before the instance does.
        host.until(
            f"curl --silent --output /dev/null --unix-socket /run/buildbtw/{branch}.sock http://localhost/"
        )
        assert_told(host.page(branch), 200, "version v1")
    containers = host.shell("podman ps --quiet")

    host.take("token", "template", "install", "nginx", "symlinks")

    assert host.shell("podman ps --quiet") == containers, "what was deployed goes on"
    assert_told(host.page("feature-x"), 200, "version v1")
    listed = host.shell("ls /etc/systemd/system/buildbtw.target.wants").split()
    assert listed == [f"buildbtw@{branch}.service" for branch in BRANCHES]
    assert host.shell("find /etc/containers/systemd -type l") == ""
    passed_on = r"proxy_pass http://unix:/run/buildbtw-hook.sock;\s+proxy_read_timeout 21m;"
    assert re.search(passed_on, host.shell("nginx -T"))


def test_the_same_calls(host):
    host.push("feature-x", "v2")
    assert "branch feature-x is deployed" in host.todays_ci("deploy-branch", "feature-x").stdout
    assert_told(host.page("feature-x"), 200, "started on this database: v1 v2")
    assert "is not deployed any more" in host.todays_ci("undeploy-branch", "feature-y").stdout
    assert host.active() == ["feature-x", "feature-z"]
    host.shell("test ! -e /var/lib/buildbtw/instances/feature-y")
    refused = host.todays_ci("deploy-branch", "Feature-X")
    assert refused.returncode == 22
    assert "GitLab's slug of it is feature-x" in refused.stdout
    bad = ["-H", "Authorization: Bearer wrong"]
    assert_told(host.get("https://HOST/hooks/deploy-branch?image-tag=feature-x", *bad), 401)


def test_a_reboot(host):
    host.reboot()
    for branch in ("feature-x", "feature-z"):
        host.starts(branch)
    assert host.active() == ["feature-x", "feature-z"], "no symlink brings an undeployed branch back"
    assert_told(host.page("feature-z"), 200, "version v1")
    assert "is deployed" in host.todays_ci("deploy-branch", "feature-x").stdout


def test_a_host_of_one_branch(host):
    """The step that says which it is."""
    host.push("staging")
    host.take("branch")
    assert host.taken == STEPS.keys()
    # A host that never had it, or no longer has it.
    host.shell("apt-get purge --yes webhook")
    host.take("install")
    assert "branch staging is deployed" in host.todays_ci("deploy-branch", "staging").stdout
    refused = host.todays_ci("deploy-branch", "feature-x")
    assert refused.returncode == 22
    assert "403" in refused.stdout
