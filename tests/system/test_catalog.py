"""journalctl -x explains what an operator can do something about."""

import pytest

import host

pytestmark = pytest.mark.each_suite


def explained(journal, message_id):
    """What journalctl -x prints for the one record of this kind."""
    host.idle()
    options = ["--quiet", "--no-pager", "--catalog", f"--after-cursor={journal.start}"]
    host.run("journalctl", "--sync")
    return host.run("journalctl", *options, f"MESSAGE_ID={message_id}").stdout


def test_no_usable_token(token_file, journal):
    token_file.write_text("")
    assert host.curl("unix", "/hooks/deploy-branch?branch=main").status == 500
    text = explained(journal, "cc38b4abdc304ccf88b17e52827ff52d")
    assert "no line of /etc/buildbtw-hook/token is a token" in text


def test_no_template(no_template, journal):
    assert host.deploy("main").status == 500
    text = explained(journal, "3f94ff4454e64ddcadb4b04da70c8b1c")
    assert "Branch main cannot be deployed: the host has no template" in text


@pytest.mark.parametrize("options", [[], ["--header", "Prefer: respond-async"]])
def test_a_branch_that_did_not_start(options, journal):
    assert host.deploy("nosuch", *options).status == (202 if options else 424)
    text = explained(journal, "05a5b59d1eaf4cdf8151b03d583fc1d0")
    assert "Branch nosuch did not start" in text
    assert "journalctl -u buildbtw@nosuch.service -n 50" in text
    assert text.count("restart of buildbtw@nosuch.service failed") == 1
