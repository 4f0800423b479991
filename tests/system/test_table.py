"""What a call does and does not do, by curl, over TCP and the Unix socket; the tables are in `tests/executable`."""

import pytest

import host
from host import call, curl, over_both

DEPLOY = "/hooks/deploy-branch"
UNDEPLOY = "/hooks/undeploy-branch"
POST = ["--request", "POST"]


@over_both
@pytest.mark.parametrize(
    ("path", "options", "job", "words"),
    [
        (f"{DEPLOY}?branch=main", [], "restart", "branch main is deployed"),
        (f"{DEPLOY}?image-tag=main", POST, "restart", "branch main is deployed"),
        (DEPLOY, ["--data", "x=1", "--data", "branch=main"], "restart", "branch main is deployed"),
        (f"{UNDEPLOY}?branch=main", [], "stop", "branch main was not deployed"),
    ],
)
def test_done(transport, path, options, job, words, jobs):
    answer = call(transport, path, *options)
    assert (answer.status, answer.text.split(" (")[0].strip()) == (200, words)
    assert answer.text.endswith("\n")
    assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
    assert answer.headers["cache-control"] == "no-store"
    assert host.state("main") == ("active" if job == "restart" else "inactive")
    assert jobs() == [(job, "buildbtw@main.service")]


@over_both
@pytest.mark.parametrize("path", [f"{DEPLOY}?branch=feature-x", "/hooks/nothing/here"])
def test_without_a_token_all_paths_are_one(transport, path, feature_x, jobs):
    answer = curl(transport, path)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.text.startswith("no token was sent: ")
    assert jobs() == []


def test_a_refused_branch_is_not_touched(feature_x, jobs):
    with host.drop_in("buildbtw-hook@.service", "[Service]\nEnvironment='BUILDBTW_BRANCHES=main v1'"):
        answers = [host.undeploy(branch) for branch in (feature_x, "Feature-X", "v1")]
    assert [answer.status for answer in answers] == [403, 400, 200]
    assert "branch feature-x is not allowed on this host, which takes: main v1" in answers[0].text
    assert jobs() == [("stop", "buildbtw@v1.service")]
