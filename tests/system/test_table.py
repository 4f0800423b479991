"""Every status that a call can get, by curl, over TCP and the Unix socket."""

import pytest

import host
from host import bearer, call, curl, over_both

DEPLOY = "/hooks/deploy-branch"
UNDEPLOY = "/hooks/undeploy-branch"
STATUS = "/hooks/branch-status"
POST = ["--request", "POST"]
ASYNC = ["--header", "Prefer: respond-async"]


def form(*fields):
    """The curl options that POST a form."""
    return [option for field in fields for option in ("--data", field)]


def header(text):
    """The curl options that send a header."""
    return ["--header", text]


# One row a class; the tables are in src and tests/executable.
@over_both
@pytest.mark.parametrize(
    ("path", "options", "job", "words"),
    [
        (f"{DEPLOY}?branch=main", [], "restart", "branch main is deployed"),
        (f"{DEPLOY}?image-tag=main", POST, "restart", "branch main is deployed"),
        (DEPLOY, form("x=1", "branch=main"), "restart", "branch main is deployed"),
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
def test_queued(transport):
    preference = "Prefer: wait=9, respond-async; a=b"
    with host.held("main") as release:
        answer = call(transport, f"{DEPLOY}?branch=main", *header(preference))
        assert answer.status == 202
        assert answer.headers["preference-applied"] == "respond-async"
        assert "is accepted; branch-status tells the outcome" in answer.text
        # The status knows of it before systemd does.
        assert call(transport, f"{STATUS}?branch=main").status == 503
        host.until(lambda: host.state("main") == "activating")
        release()
        host.until(lambda: host.state("main") == "active")


CHUNKED = [*header("Transfer-Encoding: chunked"), *form("branch=feature-x")]
SLUG = "send CI_COMMIT_REF_SLUG, 1 to 63 of 0-9 a-z -, no - at either end"


@pytest.mark.parametrize(
    ("path", "options", "status", "words"),
    [
        (DEPLOY, [], 400, "no branch: add ?branch=BRANCH"),
        (f"{DEPLOY}?branch=feature-x", form("branch=feature-x"), 400, "more than one branch"),
        (f"{DEPLOY}?branch=Feature%2fX", [], 400, f"{SLUG}; GitLab's slug of it is feature-x"),
        (f"{DEPLOY}?branch=feature-x.service", [], 400, "slug of it is feature-x-service"),
        (f"{DEPLOY}?branch=..", [], 400, f'branch ".." is not a slug: {SLUG}\n'),
        (UNDEPLOY, form("branch=feature-x\\x2d"), 400, "slug of it is feature-x-x2d"),
        (f"{DEPLOY}?branch=feature-x", ["--http0.9", "--request", "GET "], 400, "first line"),
        (f"{DEPLOY}?branch=feature-x", header("bad name: x"), 400, "a header line"),
        (f"{DEPLOY}?branch=feature-x", header("Authorization: Basic eDp4"), 400, "one Auth"),
        ("/", [], 404, "/hooks/deploy-branch"),
        ("/hooks/x/../deploy-branch?branch=feature-x", [], 404, "/hooks/deploy-branch"),
        (f"{DEPLOY}?branch=feature-x", ["--request", "BREW"], 405, "send GET or POST"),
        (f"{UNDEPLOY}?branch=feature-x", ["--head"], 405, ""),
        (DEPLOY, CHUNKED, 411, "Content-Length"),
        (DEPLOY, form(f"branch=feature-x&x={'x' * 16384}"), 413, "the body is over 16384 bytes"),
        (f"{DEPLOY}?x={'x' * 16384}&branch=feature-x", [], 431, "the head is over 16384 bytes"),
    ],
)
def test_refused(path, options, status, words, feature_x, jobs):
    answer = call("tcp", path, *options)
    assert answer.status == status
    assert words in answer.text
    assert answer.headers.get("allow") == ("GET, POST" if status == 405 else None)
    # Whatever was asked, systemd was asked for nothing.
    assert jobs() == []
    assert host.state(feature_x) == "active"


@over_both
@pytest.mark.parametrize("credentials", [[], bearer("wrong"), ["--user", "x:x"]])
@pytest.mark.parametrize("path", [f"{DEPLOY}?branch=feature-x", "/hooks/", "/hooks/nothing/here"])
def test_not_let_in(transport, credentials, path, feature_x, jobs):
    answer = curl(transport, path, *credentials)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    # One answer for all paths: it tells nothing of what is there.
    assert answer.text.startswith("the token that was sent is not" if credentials else "no token was sent: ")
    assert jobs() == []


@over_both
@pytest.mark.parametrize("method", ["DELETE", "POST"])
def test_the_token_comes_before_the_method_and_the_branch(transport, method):
    assert curl(transport, DEPLOY, "--request", method).status == 401


@pytest.mark.parametrize(
    ("allowed", "branch", "status", "words"),
    [
        ("main v1", "v1", 200, "v1 was not deployed"),
        ("main v1", "feature-x", 403, "branch feature-x is not allowed on this host, which takes: main v1"),
        ("", "main", 403, "not allowed"),
    ],
)
def test_only_some_branches(allowed, branch, status, words, feature_x, jobs):
    with host.drop_in("buildbtw-hook@.service", f"[Service]\nEnvironment='BUILDBTW_BRANCHES={allowed}'"):
        answer = host.undeploy(branch)
    assert answer.status == status
    assert words in answer.text
    assert jobs() == ([("stop", f"buildbtw@{branch}.service")] if status == 200 else [])
