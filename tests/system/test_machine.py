"""What who tries it is shown, and told where no machine can run."""

import os
import pty
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest

import host


def machine(*arguments, before=(), status=0):
    """What tests/machine says, if that is its exit status."""
    result = host.run(*before, "tests/machine", *arguments)
    assert result.returncode == status, result.stdout
    return result.stdout


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


# --- Trying it


@pytest.mark.parametrize(
    ("no_color", "terminal", "bold"), [("", True, True), ("1", True, False), ("", False, False)]
)
def test_only_a_terminal_gets_escape_sequences(no_color, terminal, bold):
    """And none where NO_COLOR is set: https://no-color.org."""
    shown = ". tests/lib/try.bash; where=command; echo true | say_and_run /dev/null"
    reader, writer = pty.openpty() if terminal else os.pipe()
    subprocess.run(["bash", "-c", shown], stdout=writer, env=os.environ | {"NO_COLOR": no_color}, check=True)
    said = os.read(reader, 4096).decode()
    assert "$ true" in said
    assert ("\033" in said) == bold


def test_try_user():
    host.run("useradd", "--create-home", "visitor")
    user = pwd.getpwnam("visitor")
    as_user = ["runuser", "-u", "visitor", "--", "env", "-u", "XDG_RUNTIME_DIR"]
    said = machine("try", "--user", before=as_user, status=1)
    assert "no systemd manager of your own" in said

    host.systemctl("start", f"user@{user.pw_uid}.service")
    said = machine("try", "--user", before=as_user)
    steps = [
        "is deployed",
        "No such file",
        "is deployed",
        "is up",
        "is not one of this host",
        "is not a slug",
    ]
    steps += ["is not deployed any more", "is not deployed\n", "deploy-branch feature-x: 424", "Not shown"]
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
    for drop_ins in ("buildbtw@.socket.d", "buildbtw-proxy@.service.d"):
        shutil.rmtree(Path("/etc/systemd/system", drop_ins))
    shutil.rmtree(f"{host.TEMPLATE}.d")
    for file in host.shipped(*host.TEMPLATES):
        file.unlink()
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
        *["", "cannot read the database", "Result=exit-code", "502"],
        *["", "is deployed", "is up", "version v4"],
        *["inactive", "version v4"],
        *["is not deployed any more", "no branch runs at feature-x."],
    ]
    assert [
        text for text, part in zip(told, expected, strict=True) if part not in text or not part and text
    ] == []
    assert [text[-4:] for text in (told[8], told[9], told[-1])] == ["424\n", "502\n", "404\n"]
