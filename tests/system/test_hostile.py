"""Hostile input at the real socket: a clean end each time, in bounded memory, and no job."""

import struct
import threading
import time
from contextlib import contextmanager, suppress
from socket import SHUT_WR, SO_LINGER, SOL_SOCKET

import pytest

import host
from host import over_both

MIB = 1024 * 1024
# The most that a call may ever hold in memory, in KiB.
PEAK = 4096
PATH = "/hooks/deploy-branch?branch=feature-x"


@contextmanager
def measured():
    """The peak memory of every process of ours that runs in the body, by its id, in KiB."""
    peaks = {}

    def look():
        for pid in host.processes():
            peaks[pid] = max(peaks.get(pid, 0), host.peak_memory(pid))
        time.sleep(0.002)

    with host.repeated(look):
        yield peaks
        host.idle()


# What is proper about each request, so that nothing but its flaw is in the way.
PROPER = {
    "{path}": PATH,
    "{host}": "Host: localhost",
    "{auth}": "Authorization: Bearer {token}",
    "{none}": "Content-Length: 0",
    "{50 MB}": f"Content-Length: {50 * MIB}",
}


def proper(message):
    """The bytes of a message, what is proper about it filled in."""
    for name, text in PROPER.items():
        message = message.replace(name, text)
    return message.replace("{token}", host.token()).encode("latin-1")


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
