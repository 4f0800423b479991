"""nginx as the role configures it: whom it limits, what it refuses, and what it tells visitors."""

import http.client
import re
import socket
import socketserver
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

import host

# nginx 1.26 and 1.30.
pytestmark = pytest.mark.each_suite

HTTPS = 8085
STUB = "/run/nginx-stub.sock"
# visitor:secret
VISITOR = "Basic dmlzaXRvcjpzZWNyZXQ="
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
    assert host.run("sysctl", "net.ipv6.ip_nonlocal_bind=1").returncode == 0
    yield
    assert host.run("ip", *route.format("del").split()).returncode == 0


def nginx_in(directory):
    """nginx with the role's limits, before something that answers at once."""
    rendered = host.run("/src/tests/fixtures/nginx-configuration", "test", "", "", str(HTTPS), "limited")
    role, file = directory / "role.conf", directory / "nginx.conf"
    role.write_text(rendered.stdout.replace("unix:/run/buildbtw-hook.sock", f"unix:{STUB}"))
    file.write_text(NGINX.format(stub=STUB, role=role))
    Path(STUB).unlink(missing_ok=True)
    process = subprocess.Popen(["nginx", "-c", file])
    host.until(lambda: host.run("curl", "--silent", f"http://127.0.0.1:{HTTPS}").returncode == 0)
    return process


@pytest.fixture
def nginx(tmp_path):
    """nginx as long as the test runs."""
    with nginx_in(tmp_path) as process:
        yield
        process.terminate()


def visit(path, source="127.0.0.1", credentials=None, name="test", timeout=60, method="GET", body=None):
    """The answer to a call from an address of one's own; None if there is none in time."""
    server = "::1" if ":" in source else "127.0.0.1"
    connection = http.client.HTTPConnection(server, HTTPS, timeout=timeout, source_address=(source, 0))
    fields = {"Host": name}
    if credentials:
        fields["Authorization"] = credentials if " " in credentials else f"Bearer {credentials}"
    try:
        connection.request(method, path, body, fields)
        answer = connection.getresponse()
        return host.Answer(answer.status, dict(answer.getheaders()), answer.read().decode())
    except TimeoutError:
        return None
    finally:
        connection.close()


def statuses(sources):
    """Statuses of simultaneous calls with the token; None if nginx delays one."""
    with ThreadPoolExecutor(60) as pool:
        told = pool.map(lambda source: visit(STATUS, source, credentials=host.token(), timeout=3), sources)
        return [answer and answer.status for answer in told]


@pytest.mark.alone
def test_addresses_of_one_64_are_one_client(nginx):
    told = statuses([f"2001:db8:0:1::{n:x}" for n in range(1, 61)])
    assert set(told) == {200, 429, None}
    assert told.count(429) >= 5


@pytest.mark.alone
@pytest.mark.parametrize("network", ["2001:db8:0:{:x}::1", "127.1.0.{}"])
def test_other_networks_are_other_clients(nginx, network):
    assert statuses([network.format(n) for n in range(1, 61)]) == [200] * 60


def test_callers_without_a_token_of_the_host_share_one_limit(token_file, tmp_path):
    other = 40 * "o"
    token_file.write_text(f"{host.token()} one\n{other} other\n")
    with nginx_in(tmp_path) as process:
        with ThreadPoolExecutor(15) as pool:
            told = list(pool.map(lambda _: visit(STATUS, credentials=other).status, range(15)))
        refused = next(answer for answer in (visit(STATUS) for _ in range(100)) if answer.status != 200)
        process.terminate()
    assert told == [200] * 15
    assert (refused.status, refused.headers["Content-Type"]) == (429, "text/plain")
    assert "ask again later" in refused.text
    assert refused.headers["Retry-After"] == "10"


def test_a_visitor_is_waited_for_as_long_as_a_start_may_take():
    role = host.run("/src/tests/fixtures/nginx-configuration", "test", "", "", str(HTTPS)).stdout
    calls, *visitors = map(int, re.findall(r"proxy_read_timeout (\d+)m;", role))
    (start,) = map(
        int, re.findall(r"TimeoutStartSec=(\d+)min", Path("systemd/buildbtw@.container").read_text())
    )
    assert (calls, min(visitors) > start) == (21, True)


# --- What visitors of an instance meet


class Instance(BaseHTTPRequestHandler):
    """An instance that does what a path says, and what it was asked."""

    protocol_version = "HTTP/1.1"
    asked: list = []

    def do_GET(self):
        self.asked.append(self.command)
        self.close_connection = True
        if self.path == "/cut" and len(self.asked) == 1 or self.path == "/dead":
            return
        if (self.headers["Connection"], self.headers["Upgrade"]) == ("upgrade", "echo"):
            self.wfile.write(b"HTTP/1.1 101 Upgrade\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
            self.wfile.write(self.rfile.readline())
            return
        if self.path == "/upload":
            self.asked.append(self.rfile.read(1))
            self.rfile.read(int(self.headers["Content-Length"]) - 1)
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        if self.path == "/events":
            self.wfile.write(b"data: first\n\n")
            self.rfile.readline()

    do_HEAD = do_POST = do_GET

    def log_message(self, *_):
        """The server has a Unix socket, whose clients have no address to log."""


@pytest.fixture
def asked():
    """What the instance of the branch `stub` was asked, since the test began."""
    directory = Path("/run/buildbtw/stub")
    directory.mkdir(parents=True)
    with socketserver.ThreadingUnixStreamServer(str(directory / "http.sock"), Instance) as server:
        (directory / "http.sock").chmod(0o777)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        Instance.asked = []
        yield Instance.asked
        server.shutdown()
    host.run("rm", "-r", directory)


def connected(request):
    """A connection to nginx on which a request to the instance was sent."""
    connection = socket.create_connection(("127.0.0.1", HTTPS), 5)
    connection.sendall(request.replace("\n", "\r\n", 2).encode())
    return connection


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "times"),
    [
        ("GET", "/cut", None, 200, 2),
        ("HEAD", "/cut", None, 200, 2),
        ("GET", "/dead", None, 502, 2),
        ("POST", "/cut", None, 502, 1),
        ("GET", "/cut", b"body", 502, 1),
        ("GET", "/cut", iter([b"chunk"]), 502, 1),
    ],
)
def test_what_was_cut_off_is_asked_once_more(nginx, asked, method, path, body, status, times):
    told = visit(path, name="stub.test", method=method, body=body)
    assert (told.status, asked) == (status, times * [method])
    if status == 502:
        assert told.headers["Content-Type"] == "text/plain"
        assert "no answer" in told.text
    assert told.headers["X-Robots-Tag"] == "noindex"


def test_an_upload_passes_as_it_comes_whatever_its_size(nginx, asked):
    with connected("POST /upload HTTP/1.0\nHost: stub.test\nContent-Length: 3000000\r\n\r\n") as connection:
        connection.sendall(b"first")
        host.until(lambda: asked == ["POST", b"f"])
        connection.sendall(2_999_995 * b"0")
        assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 200")


def test_a_stream_of_events_comes_at_once(nginx, asked):
    with connected("GET /events HTTP/1.0\nHost: stub.test\n\r\n") as connection:
        assert b"data: first\n" in connection.makefile("rb")


def test_a_web_socket_passes(nginx, asked):
    upgrade = "GET /upgrade HTTP/1.1\nHost: stub.test\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
    with connected(upgrade) as connection:
        lines = connection.makefile("rb")
        assert lines.readline().startswith(b"HTTP/1.1 101")
        connection.sendall(b"echoed\n")
        assert b"echoed\n" in lines


def test_visitors_have_passwords_and_callers_have_none(asked, tmp_path):
    visitors = Path("/run/nginx-visitors")
    visitors.write_text("visitor:{PLAIN}secret\n")
    try:
        with nginx_in(tmp_path) as process:
            told = [visit("/", name="stub.test"), visit("/cut", name="stub.test", credentials=VISITOR)]
            called = visit(STATUS, credentials=host.token())
            process.terminate()
    finally:
        visitors.unlink()
    assert [answer.status for answer in told] == [401, 200]
    assert called.status == 200
