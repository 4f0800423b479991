"""Hostile input at the real socket: a clean end each time, in bounded memory, and no job."""

import os
import ssl
import struct
import threading
from contextlib import contextmanager, suppress
from socket import SHUT_WR, SO_LINGER, SOL_SOCKET

import pytest

import host
from host import over_both

MIB = 1024 * 1024
# The most that a call may ever hold in memory, in KiB.
PEAK = 4096
PATH = "/hooks/deploy-branch?branch=feature-x"


def client_hello():
    """The first bytes of a TLS client."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read().decode("latin-1")


@contextmanager
def measured():
    """The peak memory of every process of ours that runs in the body, by its id, in KiB."""
    peaks, over = {}, threading.Event()

    def watch():
        while not over.wait(0.002):
            for pid in host.processes():
                peaks[pid] = max(peaks.get(pid, 0), host.peak_memory(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
        host.idle()
    finally:
        over.set()
        watcher.join()


# What is proper about each request, so that nothing but its flaw is in the way.
PROPER = {
    "{path}": PATH,
    "{host}": "Host: localhost",
    "{auth}": "Authorization: Bearer {token}",
    "{none}": "Content-Length: 0",
    "{50 MB}": f"Content-Length: {50 * MIB}",
    "{chunked}": "Transfer-Encoding: chunked",
}


def proper(message):
    """The bytes of a message, what is proper about it filled in."""
    for name, text in PROPER.items():
        message = message.replace(name, text)
    return message.replace("{token}", host.token()).encode("latin-1")


@over_both
@pytest.mark.parametrize(
    ("message", "status"),
    [
        # Not HTTP/1.
        ("\0" * 100, 400),
        (client_hello(), 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 400),
        ("GET {path}\r\n\r\n", 400),
        ("GET {path} HTTP/0.9\r\n{host}\r\n{auth}\r\n\r\n", 400),
        ("GET {path} HTTP/2.0\r\n{host}\r\n{auth}\r\n\r\n", 400),
        ("GET {path} http/1.1\r\n{host}\r\n{auth}\r\n\r\n", 400),
        ("SSH-2.0-OpenSSH_10.0\r\n\r\n", 400),
        # Lines and bytes.
        ("GET {path} HTTP/1.1\n{host}\n{auth}\n\n", 400),
        ("GET {path} HTTP/1.1\r\n{host}\r\n{auth}\n\r\n", 400),
        ("GET {path} HTTP/1.1\r\n{host}\r\n{auth}\r\rX: y\r\n\r\n", 400),
        ("\r\nGET {path} HTTP/1.1\r\n{host}\r\n{auth}\r\n\r\n", 400),
        ("GET  {path} HTTP/1.1\r\n{host}\r\n{auth}\r\n\r\n", 400),
        ("GET {path} HTTP/1.1 x\r\n{host}\r\n{auth}\r\n\r\n", 400),
        ("GET\t{path}\tHTTP/1.1\r\n{host}\r\n{auth}\r\n\r\n", 400),
        ("GET {path}\0 HTTP/1.1\r\n{host}\r\n{auth}\r\n\r\n", 400),
        ("GET {path}\xff HTTP/1.1\r\n{host}\r\n{auth}\r\n\r\n", 400),
        ("GET {path} HTTP/1.1\r\n{host}\r\n{auth}\r\nX: \0\r\n\r\n", 400),
        ("GET {path} HTTP/1.1\r\n{host}\r\n{auth}\r\nX: \xe4\r\n\r\n", 400),
        ("GET {path} HTTP/1.1\r\n{host}\r\n{auth}\r\nX : y\r\n\r\n", 400),
        ("GET {path} HTTP/1.1\r\n{host}\r\n{auth}\r\n: y\r\n\r\n", 400),
        ("GET {path} HTTP/1.1\r\n{host}\r\n{auth}\r\n folded\r\n\r\n", 400),
        ("GET {path} HTTP/1.1\r\n {host}\r\n{auth}\r\n\r\n", 400),
        # Not one of what there must be one of, or two of what there may be one of.
        ("GET {path} HTTP/1.1\r\n{auth}\r\n\r\n", 400),
        ("GET {path} HTTP/1.1\r\n{host}\r\n{host}\r\n{auth}\r\n\r\n", 400),
        ("GET {path} HTTP/1.1\r\n{host}\r\n{auth}\r\n{auth}\r\n\r\n", 400),
        ("POST {path} HTTP/1.1\r\n{host}\r\n{auth}\r\n{none}\r\n{none}\r\n\r\n", 400),
        ("POST {path} HTTP/1.1\r\n{host}\r\n{auth}\r\n{none}\r\n{chunked}\r\n\r\n", 411),
        ("POST {path} HTTP/1.1\r\n{host}\r\n{auth}\r\nContent-Length: +0\r\n\r\n", 400),
        ("POST {path} HTTP/1.1\r\n{host}\r\n{auth}\r\nContent-Length: 0, 0\r\n\r\n", 400),
        # Sizes.
        ("G" * 20000, 431),
        ("GET /" + "x" * 20000, 431),
        ("GET {path} HTTP/1.1\r\n{host}\r\n{auth}\r\n" + 4000 * "X: y\r\n" + "\r\n", 431),
        # Targets.
        ("GET /%2e%2e/hooks/deploy-branch HTTP/1.1\r\n{host}\r\n{auth}\r\n\r\n", 404),
        ("OPTIONS * HTTP/1.1\r\n{host}\r\n{auth}\r\n\r\n", 404),
        ("CONNECT localhost:5000 HTTP/1.1\r\n{host}\r\n{auth}\r\n\r\n", 404),
    ],
)
def test_refused(transport, message, status, jobs):
    assert host.exchange(transport, proper(message)).status == status
    assert jobs() == []


@over_both
def test_a_thousand_headers_are_a_head_like_any_other(transport, jobs):
    fields = 1000 * ["X: y"]
    path = "/hooks/undeploy-branch?branch=main"
    with measured() as peaks:
        message = host.request(path, *fields, credentials=host.token())
        assert host.exchange(transport, message).status == 200
    assert max(peaks.values()) < PEAK
    assert jobs() == [("stop", "buildbtw@main.service")]


def flood(transport, head, filler):
    """Sends a head and then 50 MB, as far as that is taken; the answer, and how much was sent."""
    sent = 0

    def send():
        nonlocal sent
        # The hook closes the connection on what is too much.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(head)
            while sent < 50 * MIB:
                connection.sendall(filler)
                sent += len(filler)
            connection.shutdown(SHUT_WR)

    with host.connect(transport) as connection:
        sender = threading.Thread(target=send)
        sender.start()
        answer = host.answer_on(connection)
        sender.join()
    return answer, sent


@over_both
@pytest.mark.parametrize(
    ("head", "filler", "status"),
    [
        ("GET {path} HTTP/1.1\r\n{host}\r\n{auth}\r\nX: ", "x", 431),
        ("GET {path} HTTP/1.1\r\n{host}\r\n{auth}\r\n", "X: y\r\n", 431),
        ("GET {path}", "&x=y", 431),
        ("POST {path} HTTP/1.1\r\n{host}\r\n{auth}\r\n{50 MB}\r\n\r\n", "x", 413),
        # More than was announced: what is past the end is no part of the request.
        ("GET {path}. HTTP/1.1\r\n{host}\r\n{auth}\r\n\r\n", "\0", 400),
        ("POST {path}. HTTP/1.1\r\n{host}\r\n{auth}\r\n{none}\r\n\r\n", "x", 400),
    ],
)
def test_flood(transport, head, filler, status, jobs):
    peaks = {}
    # On a busy host a call can be over before it was looked at.
    while not peaks:
        with measured() as peaks:
            answer, sent = flood(transport, proper(head), filler.encode() * (MIB // len(filler)))
    assert answer.status == status
    assert sent > MIB // 2, "there was something to bound"
    assert max(peaks.values()) < PEAK
    assert jobs() == []


def test_random_bytes(jobs):
    # 512 bytes: not one of them is a request, and most have no line end.
    for _ in range(8):
        with host.connect("unix") as connection:
            connection.sendall(os.urandom(512))
            connection.shutdown(SHUT_WR)
            assert host.answer_on(connection).status == 400
    assert jobs() == []


@over_both
@pytest.mark.parametrize(
    "message",
    [
        "",
        "G",
        "GET {path}\r\n",
        "GET {path} HTTP/1.1\r\n{host}\r\n{auth}\r\n\r",
        "POST {path} HTTP/1.1\r\n{host}\r\n{auth}\r\nContent-Length: 2\r\n\r\nx",
    ],
)
def test_a_client_that_ends_too_soon(transport, message, jobs):
    with host.connect(transport) as connection:
        connection.sendall(proper(message))
        connection.shutdown(SHUT_WR)
        answer = host.answer_on(connection)
    assert answer.status == 400
    assert "ended before the request was whole" in answer.text
    assert jobs() == []


@over_both
def test_a_client_that_does_not_wait(transport, journal, jobs):
    """The job is done all the same, as a CI job that is canceled may leave it."""
    with host.connect(transport) as connection:
        # Closed with this, the connection is reset.
        connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(host.request(PATH, credentials=host.token()))
        host.until(host.processes)
        host.until(lambda: host.state("feature-x") != "inactive")
    (record,) = journal.calls()
    assert record["HTTP_STATUS"] == "200"
    assert jobs() == [("restart", "buildbtw@feature-x.service")]
    assert host.state("feature-x") == "active"


@over_both
def test_one_request_a_connection(transport, jobs):
    one = host.request("/hooks/undeploy-branch?branch=main", credentials=host.token())
    two = host.request(PATH, credentials=host.token())
    assert host.exchange(transport, one + two).status == 200
    assert jobs() == [("stop", "buildbtw@main.service")]


@over_both
def test_a_body_that_waits_to_be_asked_for(transport):
    body = b"branch=main"
    fields = ["Content-Type: application/x-www-form-urlencoded", "Expect: 100-continue"]
    fields.append(f"Content-Length: {len(body)}")
    path = "/hooks/undeploy-branch"
    with host.connect(transport) as connection:
        connection.sendall(host.request(path, *fields, method="POST", credentials=host.token()))
        interim = connection.recv(1000)
        assert interim.startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert host.answer_on(connection).status == 200
