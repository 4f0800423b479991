"""The token file: who gets in, without a unit being touched."""

import pytest

import host
from host import bearer, curl, over_both

pytestmark = pytest.mark.each_suite


def status(credentials, transport="unix"):
    """What a caller with these credentials is told; 404 is for one who was let in."""
    return curl(transport, "/hooks/nothing", *bearer(credentials)).status


@over_both
def test_a_replaced_token_is_in_force_at_the_next_call(transport, token_file):
    loaded = host.unit("buildbtw-hook.socket", "InvocationID")
    old, new = host.token(), "the-new-one"
    assert [status(old, transport), status(new, transport)] == [404, 401]
    token_file.write_text(f"{new}\n")
    assert [status(old, transport), status(new, transport)] == [401, 404]
    assert host.unit("buildbtw-hook.socket", "InvocationID") == loaded


def test_no_one_is_let_in_without_a_token_file(token_file, journal):
    known = host.token()
    token_file.unlink()
    # The second is what the unit falls back to.
    answers = [curl("unix", "/hooks/nothing", *bearer(each)) for each in (known, "(none)")]
    answers.append(curl("tcp", "/hooks/undeploy-branch?branch=main"))
    assert {answer.status for answer in answers} == {500}
    assert all("nobody is let in" in record["MESSAGE"] for record in journal.calls())
