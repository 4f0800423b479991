"""Who is compared: the hook, the least that a call could cost, and what the hook replaces."""

import asyncio
import shutil
from collections import Counter
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import host

HERE = Path(__file__).parent
UNITS = Path("/run/systemd/system")
CONSTANT = "/usr/local/bin/constant"
HOOK = "/usr/local/bin/buildbtw-hook"
HOOKS = [HOOK, "/usr/local/lib/buildbtw-hook/buildbtw-systemctl"]
TOKEN = host.token()

# A kind of call: the branch that it deploys, whether it has the token, the status that it gets.
KINDS = {
    "refused": ("nothing", False, 401),
    "restart": ("nothing", True, 200),
    "container": ("review", True, 200),
}

SOCKET = """\
[Socket]
Accept=yes
ListenStream=/run/bench-{port}.sock
ListenStream=127.0.0.1:{port}
MaxConnections=2048
PollLimitIntervalSec=0
TriggerLimitIntervalSec=0
"""

# No sandbox, no other user, and a static program that looks at nothing.
FLOOR_UNIT = """\
[Unit]
CollectMode=inactive-or-failed
[Service]
ExecStart={command}
StandardError=journal
StandardInput=null
StandardOutput=null
"""

# What of the hook's unit is not its sandbox.
NO_SANDBOX = (
    "CollectMode Description ExecStart LoadCredential LogLevelMax RuntimeMaxSec SetCredential "
    "StandardError StandardInput StandardOutput SyslogIdentifier User"
).split()

# The role's own configuration in clear text, for which the callers stand for as many clients, and once
# more with its limits; and webhook's.
NGINX = """\
daemon off;
user root;
error_log /dev/null;
pid /run/bench-nginx.pid;
worker_rlimit_nofile 8192;
events {{
    worker_connections 4096;
}}
http {{
    access_log off;
    include {directory}/role-*.conf;
    server {{
        listen 127.0.0.1:9420 backlog=4096;
        location /hooks/ {{
            proxy_pass http://127.0.0.1:9300;
            proxy_read_timeout 21m;
        }}
    }}
}}
"""
# Where the branches' visitors find them, at BRANCH.localhost.
VISITED = 9400
LIMITED = 9410


@dataclass(frozen=True)
class Server:
    """Where a server of hooks is reached: a port, or a path, for each kind of call."""

    name: str
    refused: int | str
    restart: int | str | None = None
    container: int | str | None = None

    def address(self, kind):
        """The address for a kind of call; one server has the same for all."""
        return getattr(self, kind) or self.refused


HOOK_TCP = Server("hook, TCP", 9000)
HOOK_UNIX = Server("hook", host.SOCKET)
HOOK_NGINX = Server("hook, nginx", VISITED)
NO_SANDBOX_HOOK = Server("hook, no sandbox", "/run/bench-9100.sock")
FLOOR = Server("floor", *(f"/run/bench-{port}.sock" for port in (9200, 9201, 9202)))
FLOOR_TCP = Server("floor, TCP", 9200, 9201, 9202)
WEBHOOK = Server("webhook", 9300)
WEBHOOK_NGINX = Server("webhook, nginx", 9420)
ALL = [HOOK_UNIX, HOOK_TCP, HOOK_NGINX, NO_SANDBOX_HOOK, FLOOR, FLOOR_TCP, WEBHOOK, WEBHOOK_NGINX]

CGROUPS = {
    "hook": ["system-buildbtw\\x2dhook.slice", "system-buildbtw\\x2dsystemctl.slice"],
    "webhook": ["bench-webhook.service"],
}


def install_socket(name, service, port):
    """A socket unit and the service of its connections."""
    (UNITS / f"{name}.socket").write_text(SOCKET.format(port=port))
    (UNITS / f"{name}@.service").write_text(service)


def install():
    """All but the hook itself, which is installed already."""
    shutil.copy("/src/target/constant", CONSTANT)
    unit = Path("/usr/local/lib/systemd/system/buildbtw-hook@.service").read_text().splitlines()
    kept = [line for line in unit if line.startswith("[") or line.split("=")[0] in NO_SANDBOX]
    install_socket("bench-bare", "\n".join(kept) + "\n", 9100)
    commands = [CONSTANT]
    commands += [
        f"{CONSTANT} systemctl restart buildbtw@{branch}.service" for branch in ("nothing", "review")
    ]
    for port, command in zip(count(9200), commands, strict=False):
        install_socket(f"bench-floor-{port}", FLOOR_UNIT.format(command=command), port)

    # webhook(1) as the old hosts had it, but that it waits for the script.
    directory = Path("/run/webhook")
    directory.mkdir()
    hooks = (HERE / "webhook.json").read_text().replace("TOKEN", TOKEN)
    (directory / "hooks.json").write_text(hooks)
    shutil.copy(HERE / "deploy-branch", directory)
    command = f"webhook -hooks {directory}/hooks.json -ip 127.0.0.1 -port 9300"
    (UNITS / "bench-webhook.service").write_text(f"[Service]\nExecStart={command}\n")

    for port, limited in [(VISITED, []), (LIMITED, ["limited"])]:
        render = ["/src/tests/fixtures/nginx-configuration", "localhost", "", "", str(port), *limited]
        (directory / f"role-{port}.conf").write_text(host.run(*render).stdout)
    (directory / "nginx.conf").write_text(NGINX.format(directory=directory))
    (UNITS / "bench-nginx.service").write_text(f"[Service]\nExecStart=nginx -c {directory}/nginx.conf\n")

    host.systemctl("daemon-reload")
    sockets = [file.name for file in UNITS.glob("bench-*.socket")]
    host.systemctl("start", "bench-webhook.service", "bench-nginx.service", *sockets)
    for port in (9300, VISITED, LIMITED, 9420):
        host.until(lambda port=port: host.run("curl", "-s", f"http://127.0.0.1:{port}").returncode == 0)


def message(branch, authorised):
    """The bytes of a call."""
    path = f"/hooks/deploy-branch?branch={branch}"
    return host.request(path, "Connection: close", credentials=TOKEN if authorised else None)


def call(address, branch, authorised, status):
    """One call, to the end of its answer, which must have this status."""
    with connection(address) as connected:
        connected.sendall(message(branch, authorised))
        received = host.rest_of(connected)
    assert received.split(b" ", 2)[1] == str(status).encode(), received


def connection(address):
    """A connection to a port of this host, or to a Unix socket."""
    if isinstance(address, int):
        return host.socket.create_connection(("127.0.0.1", address))
    connected = host.socket.socket(host.socket.AF_UNIX)
    connected.connect(address)
    return connected


async def one_of_many(address, branch, authorised=True, source="127.0.0.1"):
    """A call among many: its status, or what became of it."""
    try:
        if isinstance(address, int):
            opened = asyncio.open_connection("127.0.0.1", address, local_addr=(source, 0))
        else:
            opened = asyncio.open_unix_connection(address)
        reader, writer = await opened
        writer.write(message(branch, authorised))
        received = await reader.read()
        writer.close()
        return received.split(b" ", 2)[1].decode() if received else "nothing"
    except OSError as error:
        return type(error).__name__


async def at_once(address, callers):
    """Callers at once, each for a branch of its own: how often each outcome."""
    calls = (one_of_many(address, f"nothing-{at}") for at in range(callers))
    return Counter(await asyncio.gather(*calls))
