"""Every answer is true, every reason whole, and the next call works, whatever a pull or a start does."""

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

import host
import registry
from host import deploy, undeploy

pytestmark = pytest.mark.each_suite

BRANCH = "feature-x"
UNIT, PULL = f"buildbtw@{BRANCH}.service", f"buildbtw-pull@{BRANCH}.service"
SHIPPED = ["buildbtw-pull@.service", "buildbtw-pull", "buildbtw-prune.service", "buildbtw-prune"]
# Rounds of what is random; the seed of the first repeats them.
ROUNDS, SEED = int(os.environ.get("ROUNDS") or 3), int(os.environ.get("SEED") or 1)
UP = "touch /up; trap 'exit 0' TERM; while :; do sleep 1 & wait; done"


@pytest.fixture(scope="module", autouse=True)
def template():
    """The pull and the prune that are shipped, and a container that takes what is there."""
    quadlet = "[Container]\nImage=localhost/buildbtw:%i\nPull=never\n[Service]\nSuccessExitStatus=137\n"
    conf = {
        Path("/etc/buildbtw/image"): "BUILDBTW_IMAGE=localhost:5000/buildbtw\n",
        Path(f"{host.TEMPLATE}.d/pull.conf"): quadlet,
    }
    with host.files(host.shipped(*SHIPPED) | conf):
        yield


@pytest.fixture
def line():
    """A way to the registry whose speed the test sets."""
    with registry.line() as opened:
        yield opened


def push(version, megabytes=0, tag=BRANCH, command=UP):
    """Pushes an image that can be told from the others; its ID."""
    host.push(tag, command=f": {version}; {command}", megabytes=megabytes)
    return registry.image_of(tag)


def runs():
    """The ID of the image that the branch runs."""
    return host.container(BRANCH)[1].removeprefix("sha256:")[:12]


def assert_deployed(image, *answers):
    """It runs that image, and all were told so."""
    assert runs() == image
    for answer in answers:
        assert (answer.status, f"image {image}" in answer.text) == (200, True), answer
    told = host.status(BRANCH)
    assert told.status == 200
    assert re.search(rf"is up since 20\S+Z \({UNIT}\), image {image}\n", told.text)


def until_pulling():
    host.until(lambda: host.state_of(PULL) == "activating")


# --- Calls that overlap


def test_a_push_during_a_pull_reaches_both_callers(line):
    push("v1", megabytes=4)
    line.rate = 2_000_000
    with host.in_background(lambda: deploy(BRANCH)) as first:
        until_pulling()
        newest = push("v2")
        second = deploy(BRANCH)
    assert_deployed(newest, first.result(), second)


def test_a_pull_that_hangs_is_begun_anew_by_the_next_call(line):
    newest = push("hangs", megabytes=4)
    line.rate = 2_000_000
    with host.in_background(lambda: deploy(BRANCH)) as first:
        until_pulling()
        time.sleep(1)  # it is in the midst of the image
        line.rate = 0
        time.sleep(0.5)
        assert host.state_of(PULL) == "activating"
        assert not first.done()
        line.rate = None
        begin = time.monotonic()
        second = deploy(BRANCH)
        assert time.monotonic() - begin < 10
    assert_deployed(newest, first.result(), second)


def test_a_start_of_the_same_image_is_joined(recorder):
    image = push("slow")
    recorder.jobs()
    with host.held(BRANCH) as let_go, host.in_background(lambda: deploy(BRANCH)) as first:
        host.until(lambda: host.state(BRANCH) == "activating")
        started = host.unit(UNIT, "InvocationID")
        with host.in_background(lambda: deploy(BRANCH)) as second:
            host.until(lambda: f" start -- {UNIT}\n" in recorder.log.read_text())
            let_go()
    assert_deployed(image, first.result(), second.result())
    assert host.unit(UNIT, "InvocationID") == started, "there was no other start"


def test_nobody_is_told_that_an_image_runs_before_it_does():
    """Callers who waited for one pull come to the start at the same moment: none may take the old instance for it."""
    push("good")
    assert deploy(BRANCH).status == 200
    for version in range(5):
        push(f"bad{version}", command="exit 3")
        calls = [lambda wait=wait: time.sleep(wait / 25) or deploy(BRANCH) for wait in range(4)]
        assert {answer.status for answer in host.at_once(*calls)} == {424}
        push(f"good{version}")
        assert deploy(BRANCH).status == 200


def test_a_start_of_another_image_is_replaced_and_its_caller_is_told():
    old = push("old")
    with host.held(BRANCH) as let_go, host.in_background(lambda: deploy(BRANCH)) as first:
        host.until(lambda: host.state(BRANCH) == "activating")
        started = host.unit(UNIT, "InvocationID")
        newest = push("new")
        with host.in_background(lambda: deploy(BRANCH)) as second:
            host.until(lambda: host.unit(UNIT, "InvocationID") not in (started, {"InvocationID": ""}))
            let_go()
    assert_deployed(newest, first.result(), second.result())
    assert f"which a later call brought while {old} was started" in first.result().text


# --- What was cut off


def test_a_deployment_that_is_cut_off_in_its_pull(line):
    image = push("v1")
    assert deploy(BRANCH).status == 200
    push("v2", megabytes=4)
    line.rate = 100_000
    with host.in_background(lambda: deploy(BRANCH)) as call:
        until_pulling()
        (process,) = host.processes("buildbtw-systemctl")
        os.kill(process, signal.SIGKILL)
        answer = call.result()
    assert (answer.status, "retry-after" in answer.headers) == (503, False)
    host.systemctl("stop", PULL)
    host.boot()
    assert runs() == image
    told = host.status(BRANCH)
    assert told.status == 424
    assert "was cut off before it was done: deploy or undeploy the branch again" in told.text
    assert f"{BRANCH} cut-off " in host.listed()
    line.rate = None
    assert_deployed(registry.image_of(BRANCH), deploy(BRANCH))


# --- Reasons


def test_the_registry_is_down(journal):
    push("v1")
    assert deploy(BRANCH).status == 200
    before = host.container(BRANCH)
    host.systemctl("stop", "docker-registry.service")
    try:
        answer = deploy(BRANCH)
        assert answer.status == 502
        assert f"restart of {PULL} failed" in answer.text
        assert "connection refused" in answer.text, "podman's words"
        assert "what ran before still runs" in answer.text
        told = host.status(BRANCH)
        assert (told.status, told.text) == (424, answer.text)
    finally:
        host.systemctl("start", "docker-registry.service")
        host.until(lambda: host.run("curl", "-sf", "http://localhost:5000/v2/").returncode == 0)
    assert host.container(BRANCH) == before, "it was not touched"
    assert host.noted() == [BRANCH]
    (record,) = [each for each in journal.calls() if each["HTTP_STATUS"] == "502"]
    assert record["MESSAGE_ID"] == "f3f70ffc2bb74611b102d323dc4d46fc"
    # With it back, nobody has to help.
    assert deploy(BRANCH).status == 200
    assert host.status(BRANCH).status == 200


@pytest.mark.soak
def test_the_words_of_a_pull_that_ends_at_once():
    """journald then finds no process, and the record is without the invocation of its unit."""
    rounds = 10 * host.SOAK
    words = "[Service]\nExecStart=\nExecStart=/bin/sh -c 'echo words of %i; exit 3'\n"
    with host.drop_in("buildbtw-pull@.service", words):
        told = [deploy(f"quick-{n}").text.splitlines() for n in range(rounds)]
    assert [lines[-1] for lines in told] == [f"    words of quick-{n}" for n in range(rounds)]


def test_a_host_without_the_name_of_its_image():
    file = Path("/etc/buildbtw/image")
    with host.files({file: ""}):
        empty = deploy(BRANCH)
        file.unlink()
        for answer in (empty, deploy(BRANCH)):
            assert answer.status == 502
            assert f"write BUILDBTW_IMAGE=REGISTRY/NAME to {file}" in answer.text


def test_a_registry_that_needs_a_login():
    push("private")
    settings = {Path("/etc/buildbtw/image"): "BUILDBTW_IMAGE=localhost:5002/buildbtw\n"}
    auth = "/etc/buildbtw/auth.json"
    with registry.with_login(), host.files(settings):
        answer = deploy(BRANCH)
        assert answer.status == 502
        assert "authentication required" in answer.text
        login = ["podman", "login", "--authfile", auth, "-u", "ci", "-p", "secret", "localhost:5002"]
        assert host.run(*login).returncode == 0
        with Path("/etc/buildbtw/image").open("a") as file:
            file.write(f"REGISTRY_AUTH_FILE={auth}\n")
        assert_deployed(registry.image_of(BRANCH), deploy(BRANCH))
        Path(auth).unlink()


def failing(command):
    """What is told of a container that fails like that."""
    push("fails", command=command)
    answer = deploy(BRANCH)
    assert answer.status == 424
    return answer.text.splitlines()


def test_twenty_lines_are_twenty():
    told = failing("i=0; while [ $i -lt 30 ]; do i=$((i + 1)); echo line $i; done; sleep 0.3; exit 3")
    own = [line for line in told if "    line " in line]
    assert own[-1] == "    line 30"
    assert "" not in [line.strip() for line in told]
    assert len(told[told.index("  its last lines:") + 1 :]) == 20


def test_lines_that_journald_dropped_are_said_to_be_missing():
    told = failing("busybox seq 150000; echo the reason >&2; sleep 1; exit 3")
    assert "  it wrote so much that journald may have dropped lines; the last that it has:" in told


@pytest.mark.parametrize("how", ["dependency", "start limit", "masked"])
def test_lines_of_an_earlier_start_are_no_reason(how):
    """Where no start began there are none."""
    push("fails", command="echo an earlier start; sleep 0.3; exit 3" if how == "start limit" else UP)
    deploy(BRANCH)
    push("v2")
    limit = "StartLimitIntervalSec=1h\nStartLimitBurst=1\n[Service]\nRestart=no"
    unit = f"Requires=fails.service\nAfter=fails.service\n{limit if how == 'start limit' else ''}"
    fails = "[Unit]\nCollectMode=inactive-or-failed\n[Service]\nType=oneshot\nExecStart=false\n"
    with (
        host.files({Path("/run/systemd/system/fails.service"): fails}),
        host.drop_in(UNIT, f"[Unit]\n{unit}\n"),
    ):
        if how == "masked":
            host.systemctl("mask", "--runtime", UNIT)
        answer = deploy(BRANCH)
        host.systemctl("unmask", "--runtime", UNIT)
        assert answer.status == (500 if how == "masked" else 424)
        assert "last lines" not in answer.text, answer.text
        assert undeploy(BRANCH).status == 200


def test_no_other_user_says_which_start_failed():
    """The record is systemd's own; whoever takes over the hook may write one like it."""
    host.run("systemd-run", "--unit=secret", "--wait", "sh", "-c", "echo not for callers; sleep 0.5")
    fields = ["--output=cat", "--output-fields=_SYSTEMD_INVOCATION_ID", "_SYSTEMD_UNIT=secret.service"]
    secret = host.run("journalctl", *fields).stdout.split()[0]
    record = f"MESSAGE_ID=be02cf6855d2428ba40df7e9d022f03d\nUNIT={UNIT}\nINVOCATION_ID={secret}\nMESSAGE=x\n"
    logger = ["runuser", "-u", host.USER, "--", "logger", "--journald"]
    with host.repeated(lambda: subprocess.run(logger, input=record, text=True, check=True)):
        told = failing("echo its own words >&2; sleep 1; exit 3")
    assert "    its own words" in told
    assert "    not for callers" not in told


# --- What is left behind


def images():
    """What there is, once nothing more is removed."""
    host.settle()
    listed = host.run("podman", "images", "--all", "--format={{.Repository}}:{{.Tag}} {{.ID}}")
    return listed.stdout.splitlines()


def downloaded():
    """How much of pulls is not an image yet, in KiB."""
    return int(host.run("du", "-skc", "/var/tmp", "/var/cache/buildbtw-pull").stdout.split()[-2])


def test_nothing_is_left_of_pulls_that_were_ended(line):
    push("large", megabytes=8)
    before = downloaded()
    for _ in range(3):
        line.rate = 4_000_000
        with host.in_background(lambda: deploy(BRANCH)) as call:
            until_pulling()
            time.sleep(1)
            assert downloaded() > before + 1000, "it is in the midst of it"
            assert undeploy(BRANCH).status == 200
            assert call.result().status == 409
    assert (images(), downloaded()) == ([], before)
    assert not list(Path("/run/buildbtw-pull").iterdir())


def test_nothing_is_left_of_what_was_replaced():
    for version in range(7):
        newest = push(f"v{version}", megabytes=1)
        assert deploy(BRANCH).status == 200
    assert images() == [f"localhost/buildbtw:{BRANCH} {newest}"]
    # Nor of the image's old name.
    insecure = {Path("/etc/buildbtw/image"): "BUILDBTW_IMAGE=localhost:5000/renamed\n"}
    with host.files(insecure):
        renamed = host.run(
            "skopeo", "copy", "--src-tls-verify=false", "--dest-tls-verify=false",
            f"docker://localhost:5000/buildbtw:{BRANCH}", f"docker://localhost:5000/renamed:{BRANCH}",
        )  # fmt: skip
        assert renamed.returncode == 0, renamed.stdout
        assert deploy(BRANCH).status == 200
        assert images() == [f"localhost/buildbtw:{BRANCH} {newest}"]
    assert undeploy(BRANCH).status == 200
    assert images() == []


def test_no_image_is_removed_while_it_is_pulled():
    # The removal is held up once it knows that nobody needs the image.
    held, go = Path("/run/rmi-held"), Path("/run/rmi-go")
    podman = f"""#!/bin/sh
case $1 in rmi) touch {held} && until [ -e {go} ]; do sleep 0.05; done ;; esac
exec /usr/bin/podman "$@"
"""
    image = push("pulled")
    assert deploy(BRANCH).status == 200
    with host.files({Path("/usr/local/bin/podman"): podman}):
        assert undeploy(BRANCH).status == 200
        host.until(held.exists)
        with host.held(BRANCH) as let_go, host.in_background(lambda: deploy(BRANCH)) as call:
            # The pull waits, or else is over by then.
            time.sleep(2)
            go.touch()
            host.until(lambda: host.state(BRANCH) == "activating" and host.is_pruned())
            let_go()
        assert_deployed(image, call.result())
    for file in (held, go):
        file.unlink()


def test_what_others_have_stays():
    push("main", tag="main")
    assert host.run("podman", "pull", "-q", "localhost:5000/buildbtw:main").returncode == 0
    assert host.run("podman", "tag", "localhost:5000/buildbtw:main", "localhost/other:main").returncode == 0
    assert deploy(BRANCH).status == 200
    assert undeploy(BRANCH).status == 200
    assert [image.split()[0] for image in images()] == ["localhost/other:main"]
    host.run("podman", "rmi", "localhost/other:main")


# --- What is deployed, and for how long


def test_list_shows_failed_branches():
    image = push("listed")
    dies = push("dies", tag="dies", command="exit 3")
    assert deploy(BRANCH).status == 200
    assert deploy("dies").status == 424
    assert deploy("nosuch").status == 502
    listed = rf"dies failed - {dies}\n{BRANCH} up 20\S+Z {image}\nnosuch failed - -\n"
    assert re.fullmatch(listed, host.listed())
    assert host.noted() == ["dies", BRANCH]
    for branch in ("dies", "nosuch", BRANCH):
        assert undeploy(branch).status == 200
    assert host.listed() == ""


def test_timer_undeploys_expired_branches(journal, token_file):
    def expire():
        # The name in the first line is too long for a token's line.
        tokens = token_file.read_text()
        token_file.write_text(f"none {65 * 'n'}\n{tokens}")
        host.systemctl("start", "buildbtw-hook-expire.service")
        token_file.write_text(tokens)

    push("expires")
    # nginx alone may open the socket, as the role has it.
    settings = "PollLimitIntervalSec=0\nSocketMode=0660\nSocketGroup=www-data"
    expiring = host.clock("buildbtw-systemctl", "Environment=BUILDBTW_EXPIRE_DAYS=30")
    with host.throttle(settings), expiring as moved:
        assert deploy(BRANCH).status == 200
        assert host.listed().endswith(" expires in 30 d\n")
        moved("+29d")
        expire()
        assert host.listed().endswith(" expires in 1 d\n")
        moved("+31d")
        assert host.listed().endswith(" expired\n")
        # What is being deployed has not expired.
        with host.held(BRANCH) as let_go, host.in_background(lambda: deploy(BRANCH)) as call:
            host.until(lambda: host.state(BRANCH) == "activating")
            expire()
            let_go()
            assert call.result().status == 200
        assert host.noted() == [BRANCH]
        expire()
        assert (host.noted(), host.state(BRANCH)) == ([], "inactive")
        (_, record) = [each for each in journal.calls() if each.get("BUILDBTW_HOOK") == "expire-branch"]
        assert (record["HTTP_STATUS"], record["BUILDBTW_BRANCH"]) == ("200", BRANCH)
        # It comes back.
        moved("+0")
        assert deploy(BRANCH).status == 200


# --- All of it at once


class Round:
    """Ten callers at once, in random order, with pushes and kills between; and what there is to check them by."""

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


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(SEED, SEED + ROUNDS))
def test_ten_callers_in_random_order(seed, journal):
    this = Round(seed)
    host.at_once(this.disturb(), *[this.call() for _ in range(10)])
    assert not this.false
    host.idle()
    host.until(lambda: host.status(BRANCH).status != 503)
    told, is_up = host.status(BRANCH), host.state(BRANCH) == "active"
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
    assert images() == []
    assert [*host.STATE.iterdir(), *host.WANTS.iterdir()] == []
    # A removal of images that made way for the next one has not failed.
    pruned = journal.entries("--identifier=systemd", "--unit=buildbtw-prune.service")
    assert not [each["MESSAGE"] for each in pruned if "Failed with" in each["MESSAGE"]]
