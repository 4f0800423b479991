"""A client that sends 50 MB is answered, and costs no memory."""

from contextlib import suppress

import pytest

import host

MIB = 1024 * 1024
# The most that a call may ever hold in memory, in KiB.
PEAK = 4096
LINE = "POST /hooks/deploy-branch?branch=feature-x HTTP/1.1\r\nHost: localhost\r\n"


@host.over_both
@pytest.mark.parametrize(
    ("head", "filler", "status"),
    [(LINE, "X: y\r\n", 431), (f"{LINE}Content-Length: {50 * MIB}\r\n\r\n", "x", 413)],
)
def test_50_mb_cost_no_memory(transport, head, filler, status):
    peaks = []
    with host.connect(transport) as connection:
        (pid,) = host.until(host.processes)
        with (
            host.repeated(lambda: peaks.append(host.peak_memory(pid))),
            host.in_background(lambda: host.answer_on(connection)) as answer,
            suppress(BrokenPipeError, ConnectionResetError),
        ):
            connection.sendall(head.replace("Host", f"Authorization: Bearer {host.token()}\r\nHost").encode())
            for _ in range(50):
                connection.sendall(filler.encode() * (MIB // len(filler)))
    assert answer.result().status == status
    assert 0 < max(peaks) < PEAK
