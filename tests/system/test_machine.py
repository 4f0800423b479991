"""What `tests/machine try` shows."""

import os
import subprocess
from pathlib import Path

import pytest

import host


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
