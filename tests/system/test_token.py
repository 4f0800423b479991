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


@pytest.mark.parametrize(
    ("text", "let_in", "turned_away"),
    [
        ("one\r\ntwo\n", ["one", "two"], ["three", "one\ttwo", "onetwo", "on", "one two"]),
        ("# a comment\none ci\n", ["one"], ["#", "ci", "one ci"]),
        # A line that no client could send is none; the others are what they are.
        ("\xff\xfe\none\n", ["one"], ["\xff\xfe"]),
    ],
)
def test_lines(text, let_in, turned_away, token_file):
    token_file.write_bytes(text.encode("latin-1"))
    assert {token: status(token) for token in let_in} == dict.fromkeys(let_in, 404)
    assert {token: status(token) for token in turned_away} == dict.fromkeys(turned_away, 401)


def missing(file):
    """No file."""
    file.unlink()


def directory(file):
    """A directory in its place."""
    file.unlink()
    file.mkdir()


def of(content):
    """A file with this content."""
    return lambda file: file.write_bytes(content)


@pytest.mark.parametrize("unusable", [missing, directory, of(b""), of(b"# one\n"), of(b"(none)\n")])
def test_no_one_is_let_in_without_a_usable_token(unusable, token_file, journal):
    known = host.token()
    unusable(token_file)
    tried = [known, "", "one", "none", "(none)", "==", "#"]
    answers = [curl("unix", "/hooks/nothing", *bearer(each)) for each in tried]
    answers.append(curl("tcp", "/hooks/undeploy-branch?branch=main"))
    assert {answer.status for answer in answers} == {500}
    # Why is not for the caller.
    told = "this host cannot serve the call; its journal says why\n"
    assert {answer.text for answer in answers} == {told}
    messages = [record["MESSAGE"] for record in journal.calls()]
    assert len(messages) == len(answers)
    assert all("nobody is let in" in each and "no line of it is a token" in each for each in messages), (
        messages
    )
    assert {record["PRIORITY"] for record in journal.calls()} == {"3"}


@pytest.mark.each_suite
def test_no_one_is_let_in_with_a_file_that_systemd_refuses(token_file, journal):
    # A credential holds at most a mebibyte (systemd.exec(5)), so no process is started at all.
    token_file.write_bytes(b"a" * 2 * 1024 * 1024)
    with host.connect("tcp") as connection, suppress(ConnectionResetError):
        connection.sendall(host.request("/hooks/nothing", credentials="a"))
        assert host.rest_of(connection) == b""
    reasons = journal.entries("--priority=err", "--grep=Failed to set up credentials")
    assert len(reasons) == 1


def test_the_record_has_the_name_of_the_token(token_file, journal):
    token_file.write_text("first\nsecond gitlab-ci\nthird someone@example.org\n")
    for token in ("first", "second", "third", "gitlab-ci"):
        status(token)
    names = [record.get("BUILDBTW_TOKEN_NAME") for record in journal.calls()]
    assert names == [None, "gitlab-ci", "someone@example.org", None]
    messages = [record["MESSAGE"] for record in journal.calls()]
    assert " for local (gitlab-ci): nothing at" in messages[1]
    assert not any(each in text for each in ("second", "third") for text in messages)
