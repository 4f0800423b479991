"""What a call costs by itself, next to a static C program that writes a constant."""

import os
import socket
import statistics
import time

import pytest

import host

EXECUTABLE = "/usr/local/bin/buildbtw-hook"
CONSTANT = "/src/target/constant"
REQUEST = host.request("/hooks/deploy-branch?branch=main")


def milliseconds_to_answer(program, credentials):
    """From exec to the end of the answer, on a connection as systemd hands it over."""
    ours, theirs = socket.socketpair()
    ours.sendall(REQUEST)
    environment = {"LISTEN_FDS": "1", "CREDENTIALS_DIRECTORY": credentials}
    null = os.open(os.devnull, os.O_WRONLY)
    actions = [
        (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3),
        (os.POSIX_SPAWN_DUP2, null, 2),
    ]
    start = time.perf_counter()
    process = os.posix_spawn(program, [program], environment, file_actions=actions)
    theirs.close()
    with ours:
        assert host.answer_on(ours).status == 401
    duration = time.perf_counter() - start
    os.close(null)
    os.waitpid(process, 0)
    return duration * 1e3


@pytest.mark.alone
def test_an_answer_takes_little_more_than_a_constant(tmp_path):
    (tmp_path / "token").write_text("secret\n")
    programs = (EXECUTABLE, CONSTANT)
    # In turn, so that a change in the machine's speed meets both.
    rounds = [[milliseconds_to_answer(each, str(tmp_path)) for each in programs] for _ in range(200)]
    more = statistics.median(hook - constant for hook, constant in rounds)
    print(f"{more:.2f} ms more, the median of 200 pairs")
    assert more <= 2
