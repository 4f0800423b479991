"""What `tests/machine try` shows."""

import os
import pwd
import re
import subprocess
from pathlib import Path

import pytest

import host


def test_try_user():
    host.run("useradd", "--create-home", "visitor")
    user = pwd.getpwnam("visitor")
    as_user = ["runuser", "-u", "visitor", "--", "env", "-u", "XDG_RUNTIME_DIR"]
    host.systemctl("start", f"user@{user.pw_uid}.service")
    shown = host.run(*as_user, "tests/machine", "try", "--user")
    assert shown.returncode == 0, shown.stdout
    steps = ["is deployed", "No such file", "is deployed", "is up", "is not one of this host"]
    steps += ["is not a slug", "is not deployed any more", "is not deployed\n"]
    steps += ["deploy-branch feature-x: 424", "Not shown"]
    assert re.search(".*".join(map(re.escape, steps)), shown.stdout, re.S), shown.stdout
    assert list(Path(f"/run/user/{user.pw_uid}").glob("buildbtw*")) == []
    assert list(Path(f"/run/user/{user.pw_uid}/systemd/user").iterdir()) == []

    host.systemctl("stop", f"user@{user.pw_uid}.service")
    host.run("userdel", "--remove", "visitor")


@pytest.fixture
def review_host():
    """The machine as the host of review apps, and then as it was."""
    written = [
        Path(f"{host.TEMPLATE}.d/local.conf"),
        Path("/etc/nginx/conf.d/buildbtw.conf"),
        Path("/etc/systemd/system/buildbtw-proxy@.service.d/local.conf"),
    ]
    with host.files(host.review_host() | dict.fromkeys(written, "")):
        subprocess.run(["tests/fixtures/review-host"], check=True)
        yield {"HOST": "https://buildbtw.dev.archlinux.org", "CURL_CA_BUNDLE": "/run/review-host.crt"}
        host.systemctl("stop", "nginx.service")


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
