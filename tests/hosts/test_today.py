"""Today's staging host: by the second inventory, beside nginx as that host's own role sets it up."""

import os
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest

from conftest import REPO, Host, assert_told

INVENTORY = "inventories/current"
VAULT = f"{INVENTORY}/host_vars/buildbtw.archlinux.builders/vault_buildbtw.yml"
ENTRY_POINT = (REPO / "tests/hosts/entrypoint").read_text()

# What the hosts' own role for nginx has put there.
NGINX = {
    "conf.d/arch.conf": """\
log_format main '$remote_addr "$request" $status';
log_format json_main escape=json '{"client":"$remote_addr","request":"$request","status":$status}';
include /etc/nginx/nginx.d/*.conf;
""",
    "snippets/listen-80.conf": "listen 80;\nlisten [::]:80;\n",
    "snippets/listen-443.conf": "listen 443 ssl;\nlisten [::]:443 ssl;\nhttp2 on;\n",
}

# A play is cut off in each of these.
TASKS = [
    "Write the name of the image",
    "Install what differs from host to host",
    "Copy its executables",
    "Run the installer",
]


class Today(Host):
    """The staging host of today."""

    def __init__(self):
        super().__init__("builders")
        for name, text in NGINX.items():
            file = self.directory / "root/etc/nginx" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        shutil.copy(self.ansible / "group_vars/all/machine.yml", self.ansible / INVENTORY / "group_vars/all")

    def own_vault(self):
        super().own_vault(
            VAULT, ["deploy_token", "cookie_encryption_key", "gitlab_token", "oidc_client_secret", "ssh_key"]
        )

    def secret(self, key):
        return self.on_control_host("misc/get_key.py", VAULT, f"vault_buildbtw_{key}").strip()

    def play_command(self, *options):
        return super().play_command("-i", f"{INVENTORY}/hosts.yml", *options)

    def play_until(self, task):
        """The playbook, killed once it has begun a task."""
        with self.control_host_process(*self.play_command()) as play:
            for line in play.stdout:
                if line.startswith("TASK") and task in line:
                    os.killpg(play.pid, signal.SIGKILL)
                    return
        raise AssertionError(f"no task {task!r}")


@pytest.fixture(scope="module")
def host():
    host = Today()
    host.boot()
    host.push("staging", "v1", ENTRY_POINT)
    host.own_vault()
    yield host
    host.power_off()


def test_a_play_that_breaks_off_is_run_again(host):
    for task in TASKS:
        host.play_until(task)
    # nginx is to read what is new, and cannot.
    host.shell("mkdir -p /etc/nginx/nginx.d && echo nonsense >/etc/nginx/nginx.d/broken.conf")
    assert host.play()["failed"] == 1
    assert re.findall(r"TASK \[(.+)\]", host.played)[-1] == "buildbtw : Have nginx read it"
    host.shell("rm /etc/nginx/nginx.d/broken.conf")
    host.set_up()


def test_it_runs_its_branch_without_a_call(host):
    assert_told(host.get("https://HOST/"), 200, f"version v1 at https://{host.name},")
    assert host.active() == ["staging"]
    host.shell("test -e /var/lib/buildbtw-hook/staging")


def test_the_call_of_todays_ci(host):
    host.push("staging", "v2", ENTRY_POINT)
    assert "staging is deployed" in host.todays_ci("deploy-branch", "staging").stdout
    assert_told(host.get("https://HOST/"), 200, "version v2")
    refused = host.todays_ci("deploy-branch", "main")
    assert refused.returncode == 22
    assert "403" in refused.stdout


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
    assert waits
    assert max(waits) < 5


def test_nginx_alone_can_open_the_hooks_socket(host):
    """It listens nowhere else."""
    assert host.shell("stat -c '%a %U:%G' /run/buildbtw-hook.sock /run/buildbtw/staging/http.sock").split(
        "\n"
    )[:2] == [
        "660 root:www-data",
        "760 root:www-data",
    ]
    call = "curl -sv --max-time 5 --unix-socket /run/buildbtw-hook.sock http://localhost/hooks/deploy-branch"
    assert (
        "Could not connect"
        in host.run("setpriv", "--reuid=65534", "--clear-groups", "--", *call.split()).stdout
    )
    assert "Could not connect" in host.run("curl", "-sS", "http://127.0.0.1:9000/").stdout


DAMAGES = """\
systemctl disable --now buildbtw-hook.socket
systemctl stop buildbtw-systemctl.socket
rm /usr/local/lib/buildbtw-hook/root/usr/local/bin/buildbtw-hook
systemctl stop buildbtw@staging.service
"""


def test_what_is_broken_is_repaired(host):
    host.shell(DAMAGES)
    assert host.play()["failed"] == 0
    assert host.active() == ["staging"]
    host.shell("systemctl is-enabled buildbtw-hook.socket")
    assert_told(host.deploy("staging"), 200, "is deployed")


def test_an_instance_without_what_it_needs(host):
    """The stand-in's own refusals reach the caller; a play mends what was changed."""
    host.shell("chmod 644 /etc/buildbtw/files/id_ed25519")
    assert_told(host.deploy("staging"), 500, "ssh-add failed")
    for wrong in ("BUILDBTW_GITLAB_SSH_HOST_KEY=", "BUILDBTW_GITLAB_DOMAIN=https://example.org"):
        host.shell(f"echo {wrong} >>/etc/buildbtw/environment")
        assert_told(host.deploy("staging"), 500, "SSH host key is mismatching")
        host.shell("sed -i '$d' /etc/buildbtw/environment")
    assert host.play()["failed"] == 0
    assert_told(host.deploy("staging"), 200, "is deployed")
