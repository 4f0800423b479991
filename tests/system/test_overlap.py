"""Ten callers at once, in random order, with pushes and kills between: what each was told is so.

ROUNDS and SEED in the environment make it longer, and repeat it.
"""

import os
import random
import re
import signal
import time

import pytest

import host
import registry
from test_truth import BRANCH, UP, left, runs, status, template

__all__ = ["template"]

pytestmark = [pytest.mark.each_suite, pytest.mark.soak]

ROUNDS, SEED = int(os.environ.get("ROUNDS") or 3), int(os.environ.get("SEED") or 1)


class Round:
    """The calls of one round, and what there is to check them by."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        # The IDs of the images that were pushed, oldest first, and the false answers.
        self.pushed, self.false = [], []
        self.killed = False
        self.push()

    def push(self):
        host.push(BRANCH, command=f": {time.time_ns()}; {UP}")
        self.pushed.append(registry.image_of(BRANCH))

    def call(self):
        """One caller, who comes some time in the round."""
        wait, verb = self.random.uniform(0, 2), self.random.choice(["deploy", "deploy", "undeploy"])

        def made():
            time.sleep(wait)
            newest = len(self.pushed) - 1
            answer = host.deploy(BRANCH) if verb == "deploy" else host.undeploy(BRANCH)
            if verb == "deploy" and answer.status == 200:
                image = re.search(r", image ([0-9a-f]{12})", answer.text)[1]
                if self.pushed.index(image) < newest:
                    self.false.append((newest, answer.text, self.pushed))
            elif answer.status not in (200, 409) and not self.killed:
                self.false.append(answer)

        return made

    def disturb(self):
        """Pushes, and kills the root side."""
        wait, kills = [self.random.uniform(0, 0.7) for _ in range(4)], self.random.random() < 0.5

        def made():
            for seconds in wait:
                time.sleep(seconds)
                self.push()
            processes = host.processes("buildbtw-systemctl")
            if kills and processes:
                self.killed = True
                os.kill(self.random.choice(processes), signal.SIGKILL)

        return made


@pytest.mark.parametrize("seed", range(SEED, SEED + ROUNDS))
def test_nobody_is_told_what_is_not_so(seed):
    this = Round(seed)
    host.at_once(this.disturb(), *[this.call() for _ in range(10)])
    assert not this.false
    host.idle()
    host.until(lambda: status().status != 503)
    told, is_up = status(), host.state(BRANCH) == "active"
    assert told.status in ([200, 424] if is_up and this.killed else [200] if is_up else [404, 424]), told
    assert told.status != 424 or this.killed
    if told.status == 200:
        assert f"image {runs()}" in told.text
    if not this.killed:
        assert host.noted() == ([BRANCH] if is_up else [])
    # Whatever was, the next calls work, and nothing is left.
    answer = host.deploy(BRANCH)
    assert (answer.status, f"image {this.pushed[-1]}" in answer.text, runs()) == (200, True, this.pushed[-1])
    assert host.undeploy(BRANCH).status == 200
    assert left()[0] == []
    assert [*host.STATE.iterdir(), *host.WANTS.iterdir()] == []
