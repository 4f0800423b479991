"""Today's hosts: by the second inventory, beside nginx as those hosts' own role sets it up."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic

import pytest

from conftest import Host, assert_told
from documents import REPO

INVENTORY = "inventories/current"
KEYS = ["cookie_encryption_key", "gitlab_token", "oidc_client_secret", "ssh_key"]
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
    "Copy them to the host",
    "Run the installer",
]

# What a play leaves: files, units, images, and what nginx is told. The certificate is the test's own, the
# machine's id systemd's.
STATE = """\
cd /
there="etc usr/local var/lib/buildbtw* -path etc/letsencrypt -prune -o"
find $there -printf '%p %M %u:%g %l\n' | sort
find $there -type f ! -path 'var/*' ! -path etc/machine-id -print0 | sort -z | xargs -0 sha256sum
systemctl list-unit-files --no-legend --plain nginx.service 'buildbtw*'
systemctl list-units --no-legend --plain --all nginx.service 'buildbtw*.socket' 'buildbtw*.timer' 'buildbtw@*'
systemctl show --property=Id,NeedDaemonReload nginx.service buildbtw-hook.socket buildbtw@staging.service
podman images --format '{{.Repository}}:{{.Tag}}' | sort
nginx -T 2>&1
"""


class Today(Host):
    """One of them."""

    def __init__(self, stage):
        super().__init__(stage)
        self.vault = f"{INVENTORY}/host_vars/{self.name}/vault_buildbtw.yml"
        for name, text in NGINX.items():
            file = self.directory / "root/etc/nginx" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        shutil.copy(self.ansible / "group_vars/all/machine.yml", self.ansible / INVENTORY / "group_vars/all")

    def own_vault(self):
        super().own_vault(self.vault, KEYS if self.stage == "production" else ["deploy_token", *KEYS])

    def operated_as(self, other):
        """Another's vault and variables."""
        shutil.copytree(other.ansible, self.ansible, dirs_exist_ok=True)
        self.environment |= {"ANSIBLE_VAULT_PASSWORD_FILE": other.environment["ANSIBLE_VAULT_PASSWORD_FILE"]}

    def state_lines(self):
        """Each fact about the host that a play is there for; what is not there yet is told by an error."""
        return {*self.run("bash", "-euo", "pipefail", "-c", STATE).stdout.splitlines()}

    def secret(self, key):
        return self.on_control_host("misc/get_key.py", self.vault, f"vault_buildbtw_{key}").strip()

    def play_command(self, *options):
        return super().play_command("-i", f"{INVENTORY}/hosts.yml", *options)


@contextmanager
def today(stage, tag):
    """A host before the playbook ran, with the image of a tag."""
    with Today(stage).booted() as host:
        host.push(tag, "v1", ENTRY_POINT)
        yield host


@pytest.fixture(scope="module")
def host():
    """The staging host."""
    with today("builders", "staging") as host:
        host.own_vault()
        host.set_up()
        yield host


@pytest.fixture(scope="module")
def undisturbed(host):
    """The state of a host on which no play broke off."""
    return {*host.shell(STATE).splitlines()}


def assert_made_good(broken, undisturbed):
    """The next play ends in the state of a host on which none broke off."""
    assert broken.state_lines() != undisturbed
    assert broken.play()["failed"] == 0
    assert broken.state_lines() ^ undisturbed == set()
    assert_told(broken.get("https://HOST/"), 200, "version v1")
    assert_told(broken.call("branch-status", "staging"), 200, "is up")


@pytest.mark.parametrize("task", TASKS)
def test_a_play_that_breaks_off_is_run_again(host, undisturbed, task):
    with today("builders", "staging") as broken:
        broken.operated_as(host)
        broken.play_until(task)
        assert_made_good(broken, undisturbed)


def test_a_play_that_fails_is_run_again(host, undisturbed):
    """nginx is to read what is new, and cannot."""
    with today("builders", "staging") as broken:
        broken.operated_as(host)
        broken.shell("mkdir -p /etc/nginx/nginx.d && echo nonsense >/etc/nginx/nginx.d/broken.conf")
        assert broken.play()["failed"] == 1
        assert re.findall(r"TASK \[(.+)\]", broken.played)[-1] == "buildbtw : Have nginx read it"
        broken.shell("rm /etc/nginx/nginx.d/broken.conf")
        assert_made_good(broken, undisturbed)


def test_the_review_host():
    with today("review", "feature-x") as host:
        host.own_vault()
        assert host.play()["failed"] == 0
        assert "feature-x is deployed" in host.todays_ci("deploy-branch", "feature-x").stdout
        page = host.get("https://feature-x.HOST/", "--http2")
        assert_told(page, 200, f"version v1 at https://feature-x.{host.name}, secret")
        assert "is not deployed any more" in host.todays_ci("undeploy-branch", "feature-x").stdout
        assert_told(host.get("https://feature-x.HOST/"), 404, "no branch runs at")


def test_the_production_host():
    with today("production", "v1.2.3") as host:
        host.own_vault()
        assert host.play()["failed"] == 0
        assert_told(host.get("https://HOST/"), 200, f"version v1 at https://{host.name},")
        assert_told(host.get("https://HOST/hooks/deploy-branch"), 404, "nothing is deployed by HTTP")


def test_it_runs_its_branch_without_a_call(host):
    assert_told(host.get("https://HOST/"), 200, f"version v1 at https://{host.name},")
    assert host.active() == ["staging"]
    host.shell("test -e /var/lib/buildbtw-hook/staging")


def test_a_certificate_is_asked_for_by_http(host):
    """HTTP-01, RFC 8555 section 8.3; the rest of port 80 is redirected."""
    challenge = ".well-known/acme-challenge"
    host.shell(
        f"cd /var/lib && mkdir -p letsencrypt/{challenge} && echo answer >letsencrypt/{challenge}/asked"
    )
    assert_told(host.get(f"http://HOST/{challenge}/asked"), 200, "answer")
    assert_told(host.get("http://HOST/"), 301)


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


def test_no_secret_is_in_the_journal(host):
    """What Ansible's modules write there; the test's own calls are there too."""
    journal = host.shell("journalctl --output=cat --grep='Invoked with'")
    assert "name=buildbtw-hook.socket" in journal
    for key in ["deploy_token", *KEYS]:
        assert host.secret(key) not in journal


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


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ([], "unbound variable"),
        (["BUILDBTW_GITLAB_DOMAIN=https://one.org"], "unbound variable"),
        (
            ["BUILDBTW_GITLAB_DOMAIN=https://one.org", "BUILDBTW_GITLAB_SSH_HOST_KEY=two.org key"],
            "mismatching",
        ),
        (
            ["BUILDBTW_GITLAB_DOMAIN=https://one.org", "BUILDBTW_GITLAB_SSH_HOST_KEY=one.org key"],
            "must exist",
        ),
    ],
)
def test_what_the_stand_in_refuses(host, variables, words):
    """As the real entry point does."""
    refused = host.run("env", "--ignore-environment", *variables, "/src/tests/hosts/entrypoint")
    assert refused.returncode == 1
    assert words in refused.stdout


def test_an_instance_without_what_it_needs(host):
    """Its words reach the caller."""
    for wrong in ("BUILDBTW_GITLAB_SSH_HOST_KEY=", "BUILDBTW_GITLAB_DOMAIN=https://example.org"):
        host.shell(f"echo {wrong} >>/etc/buildbtw/environment")
        assert_told(host.deploy("staging"), 500, "SSH host key is mismatching")
        host.shell("sed -i '$d' /etc/buildbtw/environment")
    host.shell("chmod 644 /etc/buildbtw/files/id_ed25519")
    assert_told(host.deploy("staging"), 500, "ssh-add failed")


DAMAGES = """\
systemctl disable --now buildbtw-hook.socket
systemctl stop buildbtw-systemctl.socket
rm /usr/local/lib/buildbtw-hook/root/usr/local/bin/buildbtw-hook
echo BUILDBTW_GITLAB_SSH_HOST_KEY= >>/etc/buildbtw/environment
chmod 644 /etc/buildbtw/files/id_ed25519
systemctl stop buildbtw@staging.service
"""


def test_what_is_broken_is_repaired(host):
    host.shell(DAMAGES)
    assert host.play()["failed"] == 0
    assert host.active() == ["staging"]
    host.shell("systemctl is-enabled buildbtw-hook.socket")
    assert_told(host.deploy("staging"), 200, "is deployed")
