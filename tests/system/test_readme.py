"""The README's commands do what it says, read from its own text."""

import re
import shutil
from pathlib import Path

import pytest

import host
from documents import blocks

# The blocks in ```sh NAME fences; tests/machine and tests/hosts run what is not run here.
BLOCKS = blocks("README.md") | blocks("systemd/from-webhook.md") | blocks("systemd/review-apps.md")


def run_block(name):
    """Each line of a block as a shell would run it, with its output; all must succeed."""
    outputs = []
    for line in BLOCKS[name].splitlines():
        variables = f"HOST=http://127.0.0.1:9000 TOKEN={host.token()}"
        result = host.run("bash", "-c", f"{variables}; {line}")
        assert result.returncode == 0, f"{line}\n{result.stdout}"
        outputs.append(result.stdout)
    return outputs


def test_install_block():
    (output,) = run_block("install")
    curl = output.splitlines()[-1]
    assert curl.startswith("curl ")
    assert host.token() not in output
    answer = host.run("bash", "-c", curl).stdout
    assert "branch main is deployed" in answer
    assert host.undeploy("main").status == 200


def test_try_block():
    deployed, status, undeployed, journal = run_block("try")
    assert "branch feature-x is deployed" in deployed
    assert "branch feature-x is up" in status
    assert "branch feature-x is not deployed any more" in undeployed
    assert "deploy-branch feature-x: 200" in journal


@pytest.mark.parametrize("document", ["README.md", "ansible/gitlab-ci.yml"])
def test_the_status_is_asked_to_the_end(document):
    """Whatever curl makes of Retry-After: so often, with so long in between, is as long as it may take."""
    (line,) = re.findall(r"(--retry .*)\n?.*branch-status", Path(document).read_text())
    times, delay, longest = map(int, re.findall(r"--retry(?:-delay|-max-time)? (\d+)", line))
    assert times * delay >= longest


def test_follow_block_with_a_slow_start():
    with host.drop_in("buildbtw@feature-x.service", "[Service]\nExecStartPre=sleep 3\n"):
        accepted, up = run_block("follow")
    assert "branch feature-x is accepted" in accepted
    assert "branch feature-x is up" in up
    assert host.undeploy("feature-x").status == 200


def test_debug_block(token_file):
    token_file.write_text(f"{host.token()} name\n")
    assert host.deploy("feature-x").status == 200
    status, listed, records, instance, sockets = run_block("debug")
    assert status.startswith("HTTP/1.0 200 OK")
    assert "buildbtw@feature-x.service" in listed
    assert "deploy-branch feature-x: 200" in records
    assert "buildbtw@feature-x.service" in instance
    assert sockets.count("active (listening)") == 2
    assert host.undeploy("feature-x").status == 200


@pytest.fixture
def edited():
    """Drop-ins that an operator makes are gone afterwards."""
    yield
    for directory in Path("/etc/systemd/system").glob("buildbtw-*.d"):
        shutil.rmtree(directory)
    host.systemctl("daemon-reload")
    host.systemctl("restart", "buildbtw-hook.socket")


def test_configure_block(edited):
    run_block("configure")
    environment = host.unit("buildbtw-systemctl@x.service", "Environment")["Environment"].split()
    assert "BUILDBTW_LOG_LINES=5" in environment


def effect():
    """What the examples can change."""
    listening = host.unit("buildbtw-hook.socket", "Listen", "PollLimitBurst")
    calls = host.unit("buildbtw-hook@x.service", "Environment", "RuntimeMaxUSec")
    return [listening, calls, host.unit("buildbtw-systemctl@x.service", "Environment", "RuntimeMaxUSec")]


def test_examples_change_nothing_until_uncommented(edited):
    before = effect()
    units = ("buildbtw-hook.socket", "buildbtw-hook@.service", "buildbtw-systemctl@.service")
    for change in (str, lambda text: re.sub(r"(?m)^#(?=\w)", "", text)):
        for unit in units:
            text = change(Path(f"systemd/{unit}.conf").read_text())
            host.run("systemctl", "edit", "--stdin", unit, input=text)
        if change is str:
            assert effect() == before, "nothing is set that an operator did not uncomment"
    host.systemctl("restart", "buildbtw-hook.socket")
    assert effect() != before
    assert "/run/buildbtw-hook.sock" in host.systemctl("show", "--property=Listen", "buildbtw-hook.socket")
    assert host.deploy("feature-x").status == 200
    assert host.undeploy("feature-x").status == 200
    assert host.deploy("feature-y").status == 403
    for unit in ("buildbtw-hook.socket", "buildbtw-hook@test.service"):
        assert host.run("systemd-analyze", "--man=no", "verify", unit).stdout == ""


@pytest.fixture
def bare_host():
    """A host without anything that the page on review apps has; it is as it was afterwards."""
    servers = blocks("systemd/review-apps.md", "nginx")["servers"]
    url = Path(f"{host.TEMPLATE}.d/url.conf")
    files = dict.fromkeys([*host.review_host(), *host.sleep_after("1s"), url], "")
    with host.files(files | {Path("/etc/nginx/conf.d/review-apps.conf"): servers}):
        host.systemctl("start", "nginx.service")
        yield
        host.systemctl("stop", "nginx.service")


def test_a_host_of_review_apps(bare_host, monkeypatch):
    def visit(name, *options):
        return host.run("curl", "-s", "-H", f"Host: {name}", *options).stdout

    monkeypatch.chdir("systemd")
    for name, text, ours in [
        ("settings", "registry.example.org", "localhost:5000"),
        ("sleep", "sed '", "sed 's/=30min/=1s/; "),
    ]:
        monkeypatch.setitem(BLOCKS, name, BLOCKS[name].replace(text, ours))
    # As after a boot: it must not hold awake what it wanted before.
    host.systemctl("start", "buildbtw.target")
    run_block("files")
    run_block("settings")
    host.push("feature-x", backend="v1")
    assert host.deploy("feature-x").status == 200
    page = "version v1 at https://feature-x.review.example.org"
    assert visit("feature-x.review.example.org", "http://127.0.0.1/").startswith(page)
    called = visit("review.example.org", *host.bearer(host.token()), "http://127.0.0.1/hooks/list-branches")
    assert called.startswith("feature-x up ")
    assert "404" in visit("other.review.example.org", "http://127.0.0.1/")
    run_block("sleep")
    assert host.deploy("feature-x").status == 200
    host.until(lambda: "is asleep" in host.status("feature-x").text)
    assert visit("feature-x.review.example.org", "http://127.0.0.1/").startswith(page)
    assert host.undeploy("feature-x").status == 200


@pytest.fixture
def webhook(token_file):
    """webhook itself, as the page has it, in the hook's place."""
    page = "systemd/from-webhook.md"
    template = Path("/etc/systemd/system/buildbtw@.service")
    # Read anew, so that it is seen to be written.
    token_file.write_text(f"{host.token()} name\n")
    texts = {
        template: blocks(page, "ini")["template"],
        Path("/etc/webhook.conf"): blocks(page, "json")["hooks"].replace("TOKEN", host.token()),
        Path("/usr/local/bin/deploy-branch"): '#!/bin/sh -e\n[ "$1" != broken ]\nmkdir -p "/run/app-$1"\n',
        Path("/usr/local/bin/undeploy-branch"): '#!/bin/sh -e\nrm -r "/run/app-$1"\n',
    }
    host.run("systemd/install", "--uninstall")
    with host.files(texts):
        host.systemctl("start", "webhook.service")
        yield
        host.systemctl("disable", "--now", "webhook.service")
    host.run("systemd/install")


def test_moving_from_webhook(webhook):
    def deploy(branch):
        answer = host.deploy(branch, transport="tcp")
        return answer.status, answer.text.partition("(")[0]

    def refused():
        answer = host.curl("tcp", "/hooks/deploy-branch?branch=main")
        return answer.status, answer.text

    def listens():
        return host.run("curl", "--silent", "http://127.0.0.1:9000").returncode == 0

    app = Path("/run/app-main")
    host.until(listens)
    assert deploy("main") == (200, "")
    assert deploy("broken") == (200, ""), "whatever comes of it"
    assert refused() == (200, "Hook rules were not satisfied.")
    host.until(app.exists)
    run_block("moving")
    assert host.TOKEN_FILE.read_text() == f"{host.token()}\n"
    app.rmdir()
    assert deploy("main") == (200, "branch main is deployed ")
    assert app.exists()
    assert "branch main is up" in host.status("main").text
    assert deploy("broken")[0] == 424
    assert refused()[0] == 401
    assert host.undeploy("main").status == 200
    assert not app.exists()
    run_block("back")
    host.until(listens)
    assert deploy("main") == (200, "")
    host.until(app.exists)
    app.rmdir()
