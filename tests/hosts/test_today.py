"""Today's inventory, on hosts that have nginx as Arch's own role sets it up."""

import secrets

from conftest import REPO, Host, assert_told, document

INVENTORY = "inventories/current"

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

# A line of the CI of today, word for word but for its variables.
CALL = 'curl --no-progress-meter --location --fail-with-body --header "Authorization: Bearer $TOKEN" '
CALL += '"https://$HOST/hooks/deploy-branch?image-tag=$TAG"'


class Today(Host):
    """One of today's hosts."""

    def __init__(self, stage):
        super().__init__(stage)
        for name, text in NGINX.items():
            file = self.directory / "root/etc/nginx" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def own_vault(self):
        """The README's first commands, then an operator's values."""
        environment = f"export HOME={self.directory}"
        made = self.on_control_host("bash", "-euc", "\n".join([environment, *document("vault")]))
        assert made.returncode == 0, made.stdout
        self.values = {name: secrets.token_hex(32) for name in ("deploy_token", "cookie_encryption_key")}
        self.values |= {name: "x" for name in ("gitlab_token", "oidc_client_secret", "ssh_key")}
        vault = self.ansible / INVENTORY / "host_vars" / self.name / "vault_buildbtw.yml"
        vault.write_text("".join(f"vault_buildbtw_{name}: {value}\n" for name, value in self.values.items()))

    def secret(self, key):
        return self.values[key]

    def play(self, *options):
        return super().play("-i", f"{INVENTORY}/hosts.yml", *options)

    def push(self, tag, version="v1", command=None):
        super().push(tag, version, command or (REPO / "tests/hosts/entrypoint").read_text())

    def call_of_today(self, tag):
        """What CI prints."""
        variables = {"TOKEN": self.token, "HOST": self.name, "TAG": tag, "CURL_CA_BUNDLE": self.certificate}
        settings = [f"{name}={value}" for name, value in variables.items()]
        return self.run("env", *settings, "bash", "-euc", CALL)


def test_staging_runs_without_a_call(today):
    host = today("builders", {"staging": "v1"})
    host.set_up()
    assert_told(host.get("HOST/"), 200, "version v1")
