"""What tests/machine does on machines and after ends that it was not made for."""

import os
import pwd
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

import host

KEPT = Path("/run/buildbtw-hook-machine")


def machine(*arguments, before=(), status=0):
    """What tests/machine says, if that is its exit status."""
    result = host.run(*before, "tests/machine", *arguments)
    assert result.returncode == status, result.stdout
    return result.stdout


@pytest.fixture
def tools():
    """Makes an executable that comes before any other of its name, for any user."""
    directory = Path("/run/tools")
    directory.mkdir()

    def tool(name, script):
        (directory / name).write_text(f"#!/bin/sh\n{script}\n")
        (directory / name).chmod(0o755)
        return f"PATH={directory}:{os.environ['PATH']}"

    yield tool
    shutil.rmtree(directory)


# --- Where no machine can run


@pytest.mark.parametrize(
    ("before", "why"),
    [
        (["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"], "root may not mount here"),
        (["unshare", "--user", "--map-root-user", "--mount"], "root is a user namespace's here"),
        (
            ["unshare", "--mount", "sh", "-c", 'mount --rbind / /mnt && exec chroot /mnt /src/"$@"', "sh"],
            "chroot",
        ),
    ],
)
def test_a_host_that_cannot_run_a_machine_is_told_why(before, why):
    said = machine("run", "true", before=before, status=1)
    assert why in said
    assert len(said.splitlines()) == 1


def test_other_systems_are_told_what_would_help(tools):
    said = machine("run", "true", before=["env", tools("uname", "echo Darwin")], status=1)
    assert said.startswith("tests/machine: it needs Linux")


def test_too_old_a_rust_is_found_before_packages_are_installed(tools, tmp_path):
    tools("apt-get", f"touch {tmp_path}/asked")
    tools("cargo", "")
    said = machine("run", "true", before=["env", tools("rustc", "echo rustc 1.75.0")], status=1)
    assert re.search("Rust 1.75.0 is too old.* cargo-web", said)
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    ("distribution", "command"),
    [("arch", "pacman -S"), ("manjaro\nID_LIKE=arch", "pacman -S"), ("fedora", "dnf install")],
)
def test_packages_are_named_in_the_words_of_the_distribution(tmp_path, distribution, command):
    """Even where apt is there, which mmdebstrap brings."""
    (tmp_path / "os-release").write_text(f"ID={distribution}\n")
    found = f". tests/lib/common.bash; os_release={tmp_path}/os-release; install_missing this that"
    said = host.run("bash", "-c", found)
    assert said.stdout == f"tests/machine: install these first: {command} this that\n"


def test_a_shell_without_a_terminal_does_not_wait():
    said = machine("shell", status=1)
    assert "needs a terminal" in said


def test_settings_survive_sudo(tools):
    path = tools("sudo", 'echo "$@"')
    before = ["setpriv", "--reuid=nobody", "env", path, "SUITE=forky", "FUZZ_INPUTS=7"]
    assert machine("test", before=before) == "-- env SUITE=forky FUZZ_INPUTS=7 tests/machine test\n"


# --- Roots


@pytest.fixture
def build_root(tools, tmp_path):
    """Starts a run that needs a root, with this in place of mmdebstrap; and the cache."""
    cache = tmp_path / "cache"
    script = (
        f". tests/lib/machine.bash; set -e; cache={cache}; trap finish EXIT; trap 'exit 130' INT; built_root"
    )

    def build(mmdebstrap):
        # Its last argument but none is the directory.
        path = tools("mmdebstrap", f'for root; do :; done; mkdir "$root"; {mmdebstrap}')
        return subprocess.Popen(["env", path, "bash", "-c", script], start_new_session=True)

    return build, cache


def test_a_root_whose_building_failed_is_not_kept(build_root):
    build, cache = build_root
    assert build("exit 1").wait() == 1
    assert list(cache.iterdir()) == []


def test_a_root_whose_building_was_interrupted_is_not_kept(build_root):
    build, cache = build_root
    run = build("sleep 60")
    host.until(lambda: list(cache.glob("root-*.new")))
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait() == 130
    assert list(cache.iterdir()) == []


def test_two_first_runs_share_one_whole_root(build_root, tmp_path):
    build, cache = build_root
    slowly = f'echo >>{tmp_path}/built; sleep 0.5; touch "$root/whole"'
    runs = [build(slowly), build(slowly)]
    assert [run.wait() for run in runs] == [0, 0]
    assert (tmp_path / "built").read_text() == "\n"
    (root,) = cache.iterdir()
    assert (root / "whole").exists()


# --- The machine that was kept


@pytest.fixture
def kept():
    """A process, and notes that it is the machine that was kept, started then."""
    with subprocess.Popen(["sleep", "60"]) as process:
        stat = Path(f"/proc/{process.pid}/stat").read_text()

        def note(earlier):
            KEPT.write_text(f"{process.pid} {int(stat.split()[21]) - earlier} buildbtw-hook-0\n")
            return process

        yield note
        KEPT.unlink(missing_ok=True)
        process.kill()


def test_a_pid_that_is_another_process_by_now_is_left_alone(kept):
    process = kept(earlier=1)
    said = machine("stop", status=1)
    assert "no machine is running" in said
    assert process.poll() is None
    assert not KEPT.exists()


def test_a_second_machine_is_not_kept(kept):
    kept(earlier=0)
    said = machine("try", "--keep", status=1)
    assert "a machine is kept already" in said
    assert KEPT.exists()


def test_what_is_kept_is_ended(kept):
    process = kept(earlier=0)
    assert machine("stop") == ""
    assert process.wait() == -signal.SIGKILL
    assert not KEPT.exists()


# --- Trying it


def test_try_user():
    host.run("useradd", "--create-home", "visitor")
    user = pwd.getpwnam("visitor")
    as_user = ["runuser", "-u", "visitor", "--", "env", "-u", "XDG_RUNTIME_DIR"]
    said = machine("try", "--user", before=as_user, status=1)
    assert "no systemd manager of your own" in said

    host.systemctl("start", f"user@{user.pw_uid}.service")
    said = machine("try", "--user", before=as_user)
    steps = ["is deployed", "No such file", "is deployed", "is up", "send Authorization", "is not a slug"]
    steps += ["is not deployed any more", "is not deployed\n", "deploy-branch feature-x: 500", "Not shown"]
    at = 0
    for step in steps:
        at = said.index(step, at)
    assert list(Path(f"/run/user/{user.pw_uid}").glob("buildbtw*")) == []
    assert list(Path(f"/run/user/{user.pw_uid}/systemd/user").iterdir()) == []

    host.systemctl("stop", f"user@{user.pw_uid}.service")
    host.run("userdel", "--remove", "visitor")


@pytest.fixture
def review_host():
    """The machine as the host of review apps, and then as it was."""
    template = host.TEMPLATE.read_bytes()
    subprocess.run(["tests/fixtures/review-host"], check=True)
    yield {"HOST": "https://buildbtw.dev.archlinux.org", "CURL_CA_BUNDLE": "/run/review-host.crt"}
    host.systemctl("stop", "nginx.service")
    host.TEMPLATE.write_bytes(template)
    Path("/etc/nginx/conf.d/buildbtw.conf").unlink()
    shutil.rmtree("/etc/systemd/system/buildbtw@.socket.d")
    for unit in host.TEMPLATES:
        Path("/etc/systemd/system", unit).unlink()
    host.systemctl("daemon-reload")


def test_the_review_app_that_try_shows(review_host):
    environment = os.environ | review_host | {"TOKEN": host.token()}
    told = [
        host.run("bash", "-c", line, env=environment).stdout
        for line in Path("tests/fixtures/review-app").read_text().splitlines()
        if not line.startswith("#")
    ]
    expected = [
        *["", "is deployed", "version v1 at https://feature-x."],
        *["", "is deployed", "version v2 at https://feature-x."],
        *["", "cannot read the database", "Result=exit-code", "no branch runs at"],
        *["", "is deployed", "is up", "version v4"],
        *["is not deployed any more", "no branch runs at feature-x."],
    ]
    assert [
        text for text, part in zip(told, expected, strict=True) if part not in text or not part and text
    ] == []
    assert [text[-4:] for text in (told[8], told[9], told[-1])] == ["424\n", "404\n", "404\n"]
