"""The token file: who gets in, without a unit being touched."""

from contextlib import suppress

import pytest

import host
from host import bearer, curl, over_both


def status(credentials, transport="unix"):
    """What a caller with these credentials is told; 404 is for one who was let in."""
    return curl(transport, "/hooks/nothing", *bearer(credentials)).status


@pytest.mark.each_suite
@over_both
def test_rotation(transport, token_file):
    loaded = host.unit("buildbtw-hook.socket", "InvocationID")
    old, new = host.token(), "the-new-one"
    assert [status(old, transport), status(new, transport)] == [404, 401]
    token_file.write_text(f"{new}\n")
    assert [status(old, transport), status(new, transport)] == [401, 404]
    assert host.unit("buildbtw-hook.socket", "InvocationID") == loaded


def missing(file):
    """No file."""
    file.unlink()


def directory(file):
    """A directory in its place."""
    file.unlink()
    file.mkdir()


@pytest.mark.each_suite
@pytest.mark.parametrize("unusable", [missing, directory])
def test_no_one_is_let_in_without_a_token_file(unusable, token_file, journal):
    known = host.token()
    unusable(token_file)
    # The second is what the unit falls back to.
    answers = [curl("unix", "/hooks/nothing", *bearer(each)) for each in (known, "(none)")]
    answers.append(curl("tcp", "/hooks/undeploy-branch?branch=main"))
    assert {answer.status for answer in answers} == {500}
    assert all("nobody is let in" in record["MESSAGE"] for record in journal.calls())


@pytest.mark.each_suite
def test_no_one_is_let_in_with_a_file_that_systemd_refuses(token_file, journal):
    # A credential holds at most a mebibyte (systemd.exec(5)), so no process is started at all.
    token_file.write_bytes(b"a" * 2 * 1024 * 1024)
    with host.connect("tcp") as connection, suppress(ConnectionResetError):
        connection.sendall(host.request("/hooks/nothing", credentials="a"))
        assert host.rest_of(connection) == b""
    reasons = journal.entries("--priority=err", "--grep=Failed to set up credentials")
    assert len(reasons) == 1
