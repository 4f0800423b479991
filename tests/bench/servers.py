"""What is compared: the hook, the least that a call could cost, and what the hook replaces."""

import asyncio
import json
import shutil
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import arch
import host

UNITS = Path("/run/systemd/system")
CONSTANT = "/usr/local/bin/constant"
TOKEN = host.token()

# Every connection a process, without a sandbox, as root, that looks at nothing; the second restarts the unit.
FLOORS = {
    "refused": ("/run/bench-refused.sock", CONSTANT),
    "restart": ("/run/bench-restart.sock", f"{CONSTANT} systemctl restart buildbtw@nothing.service"),
}
SOCKET = """\
[Socket]
Accept=yes
ListenStream={path}
PollLimitIntervalSec=0
TriggerLimitIntervalSec=0
"""
SERVICE = """\
[Unit]
CollectMode=inactive-or-failed
[Service]
ExecStart={command}
StandardError=journal
StandardInput=null
StandardOutput=null
"""

# The role's own configuration in clear text; and as Arch's hosts pass visitors on.
NGINX = """\
daemon off;
user www-data;
error_log /dev/null;
pid /run/bench-nginx.pid;
events {}
http {
    access_log off;
    include /run/bench-role.conf;
    server {
        listen 9400;
        server_name "~^(?<branch>.+)\\.webhook$";
        location / {
            proxy_pass http://unix:/run/buildbtw/$branch.sock;
        }
    }
}
"""
VISITED = 9400


def ours(text):
    """A text of Arch's under another name, so that both templates are on one host and take turns."""
    return text.replace("buildbtw@", "arch@").replace("=buildbtw-%i", "=arch-%i")


def arch_host():
    """The files of Arch's host."""
    template = ours(arch.TEMPLATE).replace("HOST", "arch").replace("SIXTY-FOUR", 64 * "k")
    return {
        Path("/etc/containers/systemd/arch@.container"): template,
        Path("/run/webhook.json"): json.dumps(arch.HOOKS),
        **{Path(f"/usr/local/bin/{name}"): ours(text) for name, text in arch.SCRIPTS.items()},
    }


@contextmanager
def floor():
    """The units of the least that a call could cost, in the body."""
    shutil.copy("/src/target/constant", CONSTANT)
    units = {}
    for kind, (path, command) in FLOORS.items():
        units[UNITS / f"bench-{kind}.socket"] = SOCKET.format(path=path)
        units[UNITS / f"bench-{kind}@.service"] = SERVICE.format(command=command)
    with host.files(units):
        sockets = [f"bench-{kind}.socket" for kind in FLOORS]
        host.systemctl("start", *sockets)
        yield
        host.systemctl("stop", *sockets)


@contextmanager
def both_hosts():
    """What is shipped, and Arch's set-up beside it, behind one nginx."""
    render = ["/src/tests/fixtures/nginx-configuration", "hook", "", "", str(VISITED)]
    commands = {"webhook": "webhook -hooks /run/webhook.json -port 9300", "nginx": "nginx -c /run/bench.conf"}
    services = {UNITS / f"bench-{name}.service": f"[Service]\nExecStart={command}\n"
                for name, command in commands.items()}  # fmt: skip
    configuration = {
        Path("/run/bench-role.conf"): host.run(*render).stdout,
        Path("/run/bench.conf"): NGINX,
    }
    with host.files(host.review_host() | arch_host() | configuration | services):
        names = [f"bench-{name}.service" for name in commands]
        host.systemctl("start", *names)
        for port in (9300, VISITED):
            host.until(lambda port=port: host.run("curl", "-s", f"http://127.0.0.1:{port}").returncode == 0)
        yield
        host.forget_branches()
        host.run("systemctl", "stop", "arch@*.service", *names)
        for link in Path("/etc/containers/systemd").glob("arch@?*.container"):
            link.unlink()


def message(branch, authorised=True):
    """The bytes of a call."""
    path = f"/hooks/deploy-branch?image-tag={branch}"
    return host.request(path, "Connection: close", credentials=TOKEN if authorised else None)


def answer(address, sent):
    """What comes on a connection to a port, or to a Unix socket, for these bytes."""
    is_port = isinstance(address, int)
    with host.socket.socket(host.socket.AF_INET if is_port else host.socket.AF_UNIX) as connection:
        connection.connect(("127.0.0.1", address) if is_port else address)
        connection.sendall(sent)
        return host.rest_of(connection)


def call(address, branch, authorised=True):
    """One call, to the end of its answer."""
    received = answer(address, message(branch, authorised))
    assert received.split(b" ", 2)[1] == (b"200" if authorised else b"401"), received


def deploy(whom, branch):
    """A deployment by one of the two."""
    call(host.SOCKET if whom == "hook" else 9300, branch)


async def one_of_many(branch):
    """A call among many: its status, or what became of it."""
    try:
        reader, writer = await asyncio.open_unix_connection(host.SOCKET)
        writer.write(message(branch))
        received = await reader.read()
        writer.close()
        return received.split(b" ", 2)[1].decode() if received else "nothing"
    except OSError as error:
        return type(error).__name__


async def at_once(callers):
    """Callers at once, each for a branch of its own: how often each outcome."""
    return Counter(await asyncio.gather(*(one_of_many(f"nothing-{at}") for at in range(callers))))
