"""What tests in machines are marked with: a plugin for pytest, inside of a machine and outside."""

import os
from fcntl import LOCK_EX, LOCK_SH, LOCK_UN, flock
from pathlib import Path

import pytest

MARKS = [
    "alone: asserts a time, so nothing else of the suite runs meanwhile",
    "each_suite: depends on systemd's or Podman's version, so it runs on both Debians",
    "soak: does more of the same with SOAK=N",
]
# Every machine has the same files. Whoever wants the floor alone first takes the queue, or the others,
# who share it, would never leave it.
FLOOR, QUEUE = (os.open(Path(__file__).with_name(name), os.O_RDONLY) for name in ("marks.py", "documents.py"))


def pytest_configure(config):
    """Makes the marks known."""
    for mark in MARKS:
        config.addinivalue_line("markers", mark)


def is_alone(item):
    """Whether a test wants the floor to itself."""
    return item is not None and item.get_closest_marker("alone") is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Tests marked `alone` that follow each other keep the floor."""
    if not getattr(item.config, "has_floor", False):
        flock(QUEUE, LOCK_EX)
        flock(FLOOR, LOCK_EX if is_alone(item) else LOCK_SH)
        flock(QUEUE, LOCK_UN)
    try:
        return (yield)
    finally:
        item.config.has_floor = is_alone(item) and is_alone(nextitem)
        if not item.config.has_floor:
            flock(FLOOR, LOCK_UN)
