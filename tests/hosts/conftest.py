"""A bare host, the playbook that sets it up, and what its clients and operators see of it."""

import os
import re
import secrets
import select
import shlex
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from documents import REPO, blocks

ENTER = REPO / "tests/hosts/enter"
# Each host with the inventory that it is in. The default one's other two are played with --check, by test_dev.
CURRENT = "inventories/current"
HOSTS = {
    "dev": ("buildbtw.dev.archlinux.org", "."),
    "review": ("buildbtw.archlinux.review", CURRENT),
    "staging": ("buildbtw.archlinux.builders", CURRENT),
    "production": ("buildbtw.archlinux.org", CURRENT),
}
# What the current hosts' own role for nginx has put there.
NGINX = {
    "conf.d/arch.conf": """\
log_format main '$remote_addr "$request" $status';
log_format json_main escape=json '{"client":"$remote_addr","request":"$request","status":$status}';
include /etc/nginx/nginx.d/*.conf;
""",
    "snippets/listen-80.conf": "listen 80;\nlisten [::]:80;\n",
    "snippets/listen-443.conf": "listen 443 ssl;\nlisten [::]:443 ssl;\nhttp2 on;\n",
}

# The call of today's CI, word for word but for the names of its variables.
TODAYS_CALL = """\
curl --no-progress-meter --location --fail-with-body --header "Authorization: Bearer $TOKEN" \
"https://$HOST/hooks/$HOOK?image-tag=$TAG"
"""

MACHINE_VARIABLES = f"""\
ansible_python_interpreter: /usr/bin/python3
ansible_ssh_executable: {ENTER}
ansible_ssh_pipelining: true
ansible_ssh_transfer_method: piped
buildbtw_image: localhost:5000/archlinux/buildbtw/backend
"""


def pytest_sessionstart(session):
    """Refuses to run without the machine's root and Ansible; packs the release once, for all workers."""
    if "MACHINE_ROOT" not in os.environ:
        pytest.exit("run these by tests/hosts/run", returncode=2)
    if not hasattr(session.config, "workerinput"):
        subprocess.run(["bash", "-euc", document("hosts")[1]], cwd=REPO / "ansible", check=True)


class Answer(NamedTuple):
    """What a client was told."""

    status: int
    text: str


def document(name):
    """The lines of a block of ansible/README.md."""
    return blocks("ansible/README.md")[name].splitlines()


class Host:
    """One of the inventory's hosts, as a machine."""

    def __init__(self, stage):
        self.stage = stage
        self.name, self.inventory = HOSTS[stage]
        self.directory = Path(tempfile.mkdtemp(prefix="host.", dir=os.environ["WORK"]))
        self.directory.chmod(0o755)
        for part in ("changes", "overlay", "root", "containers"):
            (self.directory / part).mkdir(parents=True)
        layers = f"upperdir={self.directory}/changes,workdir={self.directory}/overlay"
        self._mount("overlay", f"lowerdir={os.environ['MACHINE_ROOT']},{layers}", "root")
        self._mount("tmpfs", "mode=755", "containers")
        self._certificate()
        with open(self.directory / "root/etc/hosts", "a") as hosts:
            hosts.write(f"127.0.0.1 {self.name}\n")
        if self.inventory == CURRENT:
            for path, text in NGINX.items():
                self.write(f"etc/nginx/{path}", text)
        self._control_host()

    def write(self, path, text, mode=0o644):
        """A file of the host."""
        file = self.directory / "root" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def _mount(self, kind, options, part):
        subprocess.run(["mount", "-t", kind, kind, "-o", options, self.directory / part], check=True)

    def _certificate(self):
        """The one that operators would have put there."""
        self.certificate = f"/etc/letsencrypt/live/{self.name}/fullchain.pem"
        file = Path(f"{self.directory}/root{self.certificate}")
        file.parent.mkdir(parents=True)
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        command += f" -subj /CN={self.name} -addext subjectAltName=DNS:{self.name},DNS:*.{self.name}"
        command += f" -out {file} -keyout {file.with_name('privkey.pem')}"
        subprocess.run(command.split(), check=True, capture_output=True)

    def _control_host(self):
        """A copy of what the playbook is made of, since operators edit it."""
        self.environment = {
            "ANSIBLE_HOME": f"{self.directory}/.ansible",
            "ANSIBLE_NOCOLOR": "1",
            "HOME": str(self.directory),
        }
        self.ansible = self.directory / "ansible"
        shutil.copytree(REPO / "ansible", self.ansible)
        for part in ("systemd", "target"):
            (self.directory / part).symlink_to(REPO / part)
        (self.ansible / self.inventory / "group_vars/all/machine.yml").write_text(MACHINE_VARIABLES)
        variables = f"{CURRENT}/host_vars/{self.name}" if self.inventory == CURRENT else "group_vars/all"
        self.vault = self.ansible / variables / "vault_buildbtw.yml"

    # --- Power

    def boot(self):
        bind = f"--bind={self.directory}/containers:/var/lib/containers"
        self._machine = subprocess.Popen(
            [REPO / "tests/hosts/boot", self.directory / "root", bind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C is pytest's.
            start_new_session=True,
        )
        self._leader = self._machine.stdout.readline().strip()
        assert self._leader, "the machine did not boot"

    def power_off(self):
        """At once, as when the power fails."""
        self._machine.communicate()

    @contextmanager
    def booted(self):
        """Itself, running until the end of the block."""
        self.boot()
        try:
            yield self
        finally:
            self.power_off()

    def reboot(self):
        leader = os.pidfd_open(int(self._leader))
        self.run("systemctl", "reboot")
        select.select([leader], [], [], 60)
        os.close(leader)
        self.power_off()
        self.boot()

    # --- On the host

    def run(self, *command, **options):
        """A command's outcome on the host."""
        environment = os.environ | {"MACHINE_LEADER": self._leader}
        return subprocess.run(
            [ENTER, shlex.join(command)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def shell(self, line):
        """What a line of shell prints; it must succeed."""
        result = self.run("bash", "-euo", "pipefail", "-c", line)
        assert result.returncode == 0, result.stdout
        return result.stdout

    def state(self):
        """`running`, or `degraded` where a unit has failed."""
        return self.run("systemctl", "is-system-running").stdout.strip()

    def active(self):
        """The branches whose unit is active."""
        listed = self.shell("systemctl list-units --state=active --plain --no-legend 'buildbtw@*.service'")
        return [re.match(r"buildbtw@(.+)\.service ", line)[1] for line in listed.splitlines()]

    def until(self, condition):
        """Waits until a command of shell succeeds."""
        waiting = f"until {condition}; do sleep 0.2; done"
        self.shell(f"timeout 60 bash -c {shlex.quote(waiting)}")

    def starts(self, branch):
        """Waits until a branch is active, as after a boot."""
        self.until(f"systemctl is-active --quiet buildbtw@{branch}")

    def push(self, tag, version="v1", command=None):
        """A new image of the tag, into the host's registry."""
        options = ["--backend", version, "--revision", f"commit-{version}"]
        options += [] if command is None else ["--command", command]
        pushed = self.run("/src/tests/fixtures/push-image", *options, tag)
        assert pushed.returncode == 0, pushed.stdout

    # --- Its operators

    def operate(self, *command):
        """The outcome of a command that runs in the operators' ansible/."""
        return subprocess.run(
            command,
            cwd=self.ansible,
            env=os.environ | self.environment | {"MACHINE_LEADER": self._leader},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def on_control_host(self, *command):
        """What a command prints there; it must succeed."""
        result = self.operate(*command)
        assert result.returncode == 0, result.stdout
        return result.stdout

    def own_vault(self):
        """The operators' own: each of the example's values, made up."""
        self.on_control_host("bash", "-euc", "\n".join(document("vault")))
        self.environment["ANSIBLE_VAULT_PASSWORD_FILE"] = f"{self.directory}/.buildbtw_vault_password"
        example = yaml.safe_load(self.on_control_host("ansible-vault", "view", self.vault))
        self.secrets = {key: secrets.token_hex(32) for key in example}
        self.vault.write_text(yaml.safe_dump(self.secrets))
        self.on_control_host("ansible-vault", "encrypt", self.vault)

    @cached_property
    def token(self):
        stage = f"{self.stage}_" if self.inventory == "." else ""
        return self.secrets[f"vault_buildbtw_{stage}deploy_token"]

    def play(self, *options, hosts=None):
        """Runs the playbook; how many tasks changed something, and failed. A failed test shows its output."""
        inventory = ["-i", f"{CURRENT}/hosts.yml"] if self.inventory == CURRENT else []
        limit = ["-l", hosts or self.name]
        self.played = self.operate(*document("hosts")[-1].split(), *inventory, *limit, *options).stdout
        print(self.played)
        recap = self.played[self.played.index("PLAY RECAP") :]
        return tuple(sum(map(int, re.findall(rf"{name}=(\d+)", recap))) for name in ("changed", "failed"))

    def set_up(self, *options):
        """The playbook, which succeeds."""
        assert self.play(*options)[1] == 0

    # --- Its clients

    def get(self, url, *options):
        """The answer to a URL, in which HOST is this host's name, on the host and through nginx."""
        command = ["curl", "-sS", "--cacert", self.certificate, "--write-out", "\n%{http_code}"]
        command += ["--resolve", "*:443:127.0.0.1", "--resolve", "*:80:127.0.0.1"]
        text, _, status = self.run(*command, url.replace("HOST", self.name), *options).stdout.rpartition("\n")
        return Answer(int(status), text)

    def call(self, hook, branch):
        """The answer to a call of a hook, with this host's token."""
        bearer = f"Authorization: Bearer {self.token}"
        return self.get(f"https://HOST/hooks/{hook}?branch={branch}", "-H", bearer)

    def deploy(self, branch):
        return self.call("deploy-branch", branch)

    def run_version(self, branch, version="v1"):
        """Has a branch run a version."""
        self.push(branch, version)
        assert_told(self.deploy(branch), 200, "is deployed")

    def page(self, branch=None):
        """What a visitor of the host, or of a branch, gets."""
        return self.get(f"https://{branch}.HOST/" if branch else "https://HOST/")

    def ci_job(self, job, branch="feature-x"):
        """What a job of ansible/gitlab-ci.yml prints, run as a runner runs it."""
        ci = yaml.safe_load((REPO / "ansible/gitlab-ci.yml").read_text())
        variables = ci["variables"] | {"CI_COMMIT_REF_SLUG": branch, "DEPLOY_TOKEN": self.token}
        variables |= {"STAGING_HOST": self.name, "STAGING_BRANCH": branch}
        return self.on_runner("\n".join(ci[job]["script"]), variables).stdout

    def todays_ci(self, hook, tag):
        """What the job of buildbtw's CI of August 2026 prints, and its exit status."""
        return self.on_runner(TODAYS_CALL, {"TOKEN": self.token, "HOST": self.name, "HOOK": hook, "TAG": tag})

    def on_runner(self, script, variables):
        """The outcome of a job's script with its variables."""
        settings = [f"{name}={value}" for name, value in variables.items()]
        return self.run("env", f"CURL_CA_BUNDLE={self.certificate}", *settings, "bash", "-euc", script)


def assert_told(answer, status, words=""):
    assert answer.status == status, answer
    assert words in answer.text


@contextmanager
def new_host(stage, images):
    """A host before the playbook ran, with images in its registry and a vault of its operators' own.

    nginx and Podman are there, which saves half a minute; test_dev has the playbook install them.
    """
    with Host(stage).booted() as host:
        for tag, version in images.items():
            host.push(tag, version)
        host.own_vault()
        yield host
