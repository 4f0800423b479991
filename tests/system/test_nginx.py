"""nginx as the role configures it: whom it limits, what it refuses, and what it tells visitors."""

import http.client
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

import host

HTTPS, HTTP = 8085, 8086
# <linux/in6.h>: an address that no interface has.
IPV6_FREEBIND = 78
STUB = "/run/nginx-stub.sock"
STATUS = "/hooks/branch-status?branch=never"

NGINX = """\
daemon off;
user www-data;
error_log stderr;
events {{
}}
http {{
    access_log off;
    server {{
        listen unix:{stub};
        return 200;
    }}
    include {role};
}}
"""


@pytest.fixture(scope="module", autouse=True)
def addresses():
    """A network of which the machine has every address."""
    route = "-6 route {} local 2001:db8::/32 dev lo"
    assert host.run("ip", *route.format("add").split()).returncode == 0
    yield
    assert host.run("ip", *route.format("del").split()).returncode == 0


def nginx_before(hook, directory):
    """nginx with the role's limits, before a socket."""
    rendered = host.run("/src/tests/fixtures/nginx-configuration", "test", "", "", str(HTTPS), "limited")
    role, file = directory / "role.conf", directory / "nginx.conf"
    role.write_text(rendered.stdout.replace("unix:/run/buildbtw-hook.sock", f"unix:{hook}"))
    file.write_text(NGINX.format(stub=STUB, role=role))
    Path(STUB).unlink(missing_ok=True)
    process = subprocess.Popen(["nginx", "-c", file])
    host.until(lambda: host.run("curl", "--silent", f"http://127.0.0.1:{HTTPS}").returncode == 0)
    return process


@pytest.fixture
def nginx(tmp_path):
    """nginx before the hook."""
    with nginx_before(host.SOCKET, tmp_path) as process:
        yield
        process.terminate()


@pytest.fixture
def nginx_alone(tmp_path):
    """nginx before something that answers at once."""
    with nginx_before(STUB, tmp_path) as process:
        yield
        process.terminate()


def visit(path, source="127.0.0.1", port=HTTPS, credentials=None, name="test", timeout=60):
    """The answer to a call from an address of one's own; None if there is none in time."""
    server, family = ("::1", socket.AF_INET6) if ":" in source else ("127.0.0.1", socket.AF_INET)
    connection = http.client.HTTPConnection(server, port)
    connection.sock = socket.socket(family)
    connection.sock.settimeout(timeout)
    if family == socket.AF_INET6:
        connection.sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    connection.sock.bind((source, 0))
    connection.sock.connect((server, port))
    fields = {"Host": name}
    if credentials:
        fields["Authorization"] = f"Bearer {credentials}"
    try:
        connection.request("GET", path, headers=fields)
        answer = connection.getresponse()
        return host.Answer(answer.status, dict(answer.getheaders()), answer.read().decode())
    except TimeoutError:
        return None
    finally:
        connection.close()


def statuses(sources):
    """How calls with the token that come at the same time end; None for those that nginx has wait."""
    with ThreadPoolExecutor(60) as pool:
        told = pool.map(lambda source: visit(STATUS, source, credentials=host.token(), timeout=3), sources)
        return [answer and answer.status for answer in told]


@pytest.mark.alone
def test_addresses_of_one_64_are_one_client(nginx_alone):
    told = statuses([f"2001:db8:0:1::{n:x}" for n in range(1, 61)])
    assert set(told) == {200, 429, None}
    assert told.count(429) >= 5


@pytest.mark.alone
@pytest.mark.parametrize("network", ["2001:db8:0:{:x}::1", "127.1.0.{}"])
def test_other_networks_are_other_clients(nginx_alone, network):
    assert statuses([network.format(n) for n in range(1, 61)]) == [200] * 60


@pytest.mark.alone
def test_a_flood_of_strangers_does_not_hold_up_a_call_with_the_token(nginx):
    def asks(source="127.9.9.9"):
        begin = time.monotonic()
        assert visit(STATUS, source, credentials=host.token()).status == 404
        return time.monotonic() - begin

    quiet = max(asks() for _ in range(3))
    told, done, begin = [], Event(), time.monotonic()

    def flood(which):
        for n in range(1, 65000):
            if done.is_set():
                return
            guess = [None, "x" * 32, host.token()[:7] + "~" * 25][n % 3]
            told.append(visit(STATUS, f"127.{which}.{n >> 8}.{n & 255}", credentials=guess).status)

    with ThreadPoolExecutor(8) as pool:
        flooding = [pool.submit(flood, which) for which in range(10, 18)]
        try:
            host.until(lambda: told.count(429) > 100, 60)
            waited = max(asks() for _ in range(5))
        finally:
            done.set()
        seconds = time.monotonic() - begin
    for each in flooding:
        each.result()
    print(f"{len(told)} strangers in {seconds:.1f} s; a call {quiet:.3f} s, meanwhile {waited:.3f} s")
    assert set(told) == {401, 429}
    assert told.count(401) <= 4 * seconds + 6
    assert waited < quiet + 3


def test_a_token_in_clear_text_is_refused_and_not_redirected(nginx, journal):
    told = visit("/hooks/deploy-branch?branch=never", port=HTTP, credentials=host.token())
    assert told.status == 403
    assert "sent in clear text has to be replaced" in told.text
    assert "Location" not in told.headers
    assert journal.calls() == []
    assert visit("/", port=HTTP).headers["Location"] == "https://test/"


@pytest.mark.parametrize("name", ["never.test", "no_slug.test", "www.never.test"])
def test_a_branch_that_is_not_deployed_has_a_page_of_text(nginx_alone, name):
    told = visit("/", name=name)
    assert (told.status, told.headers["Content-Type"]) == (404, "text/plain")
    assert f"no branch runs at {name}" in told.text
