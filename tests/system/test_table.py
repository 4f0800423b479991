"""Every row of the contract's request table, by curl, over TCP and the Unix socket."""

import pytest

import host
from host import bearer, call, curl, over_both, token

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


# What comes in, and the job that it must come to.
@over_both
@pytest.mark.parametrize(
    ("path", "options", "job", "words"),
    [
        (f"{DEPLOY}?branch=main", [], "restart", "branch main is deployed"),
        (f"{DEPLOY}?branch=main", POST, "restart", "branch main is deployed"),
        (f"{DEPLOY}?image-tag=main", [], "restart", "branch main is deployed"),
        (f"{DEPLOY}?x=1&branch=main&y=%ff", [], "restart", "branch main is deployed"),
        (f"{DEPLOY}?branch=%6dain", [], "restart", "branch main is deployed"),
        (DEPLOY, form("branch=main"), "restart", "branch main is deployed"),
        (DEPLOY, form("image-tag=main"), "restart", "branch main is deployed"),
        (DEPLOY, form("x=1", "branch=main"), "restart", "branch main is deployed"),
        (f"{UNDEPLOY}?branch=main", [], "stop", "branch main is not deployed any more"),
        (f"{UNDEPLOY}?branch=main", POST, "stop", "branch main is not deployed any more"),
        (f"{UNDEPLOY}?image-tag=main", [], "stop", "branch main is not deployed any more"),
        (UNDEPLOY, form("branch=main"), "stop", "branch main is not deployed any more"),
    ],
)
def test_done(transport, path, options, job, words, jobs):
    answer = call(transport, path, *options)
    assert (answer.status, answer.text.split(" (")[0]) == (200, words)
    assert answer.text.endswith("\n")
    assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
    assert answer.headers["cache-control"] == "no-store"
    assert host.state("main") == ("active" if job == "restart" else "inactive")
    assert jobs() == [(job, "buildbtw@main.service")]


@over_both
@pytest.mark.parametrize(
    "preference",
    ["Prefer: respond-async", "prefer: RESPOND-ASYNC", "Prefer: wait=9, respond-async; a=b"],
)
def test_queued(transport, preference):
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
    with host.held("main", "ExecStop") as release:
        answer = call(transport, f"{UNDEPLOY}?branch=main", *header(preference))
        assert answer.status == 202
        assert call(transport, f"{STATUS}?branch=main").status == 503
        host.until(lambda: host.state("main") == "deactivating")
        release()
        host.until(lambda: host.state("main") == "inactive")


@over_both
def test_queued_only_where_that_is_preferred(transport):
    answer = call(transport, f"{UNDEPLOY}?branch=main", *header("Prefer: respond-async-not"))
    assert answer.status == 200
    assert "preference-applied" not in answer.headers


SLUG = "send CI_COMMIT_REF_SLUG, 1 to 63 of 0-9 a-z -, no - at either end"
NONE = "no branch: add ?branch=BRANCH"
SEVERAL = "more than one branch"


@over_both
@pytest.mark.parametrize(
    ("path", "options", "status", "words"),
    [
        # No branch, or several.
        (DEPLOY, [], 400, NONE),
        (f"{DEPLOY}?", [], 400, NONE),
        (f"{DEPLOY}?Branch=feature-x", [], 400, NONE),
        (f"{DEPLOY}?branch[]=feature-x", [], 400, NONE),
        (f"{DEPLOY}?branch=feature-x&branch=feature-x", [], 400, SEVERAL),
        (f"{DEPLOY}?branch=feature-x&image-tag=feature-x", [], 400, SEVERAL),
        (f"{DEPLOY}?branch=feature-x", form("branch=feature-x"), 400, SEVERAL),
        (DEPLOY, form("branch=feature-x", "branch=main"), 400, SEVERAL),
        (DEPLOY, [*form("branch=feature-x"), *header("Content-Type: text/plain")], 400, NONE),
        (DEPLOY, [*header("Content-Type: application/json"), *form("{}")], 400, NONE),
        # No slug, with the slug that GitLab makes of it.
        (f"{DEPLOY}?branch=Feature-X", [], 400, f"{SLUG}; GitLab's slug of it is feature-x"),
        (f"{DEPLOY}?branch=feature/x", [], 400, f"{SLUG}; GitLab's slug of it is feature-x"),
        (f"{DEPLOY}?branch=feature%2fx", [], 400, "slug of it is feature-x"),
        (f"{DEPLOY}?branch=feature_x.", [], 400, "slug of it is feature-x"),
        (f"{DEPLOY}?branch=feature+x", [], 400, "slug of it is feature-x"),
        (f"{DEPLOY}?branch=feature-x%0a", [], 400, "slug of it is feature-x"),
        (f"{DEPLOY}?branch=feature-x%00", [], 400, "slug of it is feature-x"),
        (f"{DEPLOY}?branch=feature-x.service", [], 400, "slug of it is feature-x-service"),
        (f"{DEPLOY}?branch=-feature-x", [], 400, "slug of it is feature-x"),
        (f"{DEPLOY}?branch=--feature-x--", [], 400, "slug of it is feature-x"),
        (f"{DEPLOY}?branch=..%2f..%2ffeature-x", [], 400, "slug of it is feature-x"),
        (f"{DEPLOY}?branch=a@feature-x", [], 400, "slug of it is a-feature-x"),
        (f"{DEPLOY}?branch=fe%C3%A4ture", [], 400, "slug of it is fe-ture"),
        (f"{DEPLOY}?branch={'a' * 64}", [], 400, f"slug of it is {'a' * 63}\n"),
        (f"{DEPLOY}?branch=", [], 400, f'branch "" is not a slug: {SLUG}\n'),
        (f"{DEPLOY}?branch=..", [], 400, f'branch ".." is not a slug: {SLUG}\n'),
        (f"{DEPLOY}?branch=%2a", [], 400, f'branch "*" is not a slug: {SLUG}\n'),
        (f"{DEPLOY}?branch=%ff", [], 400, "is not a slug"),
        (f"{UNDEPLOY}?branch=feature%5Cx2d", [], 400, "slug of it is feature-x2d"),
        (UNDEPLOY, form("branch=Feature-X"), 400, "slug of it is feature-x"),
        # Malformed.
        (f"{DEPLOY}?branch=feature-x", ["--http0.9", "--request", "GET "], 400, "first line"),
        (f"{DEPLOY}?branch=feature-x", header("bad name: x"), 400, "a header line"),
        (f"{DEPLOY}?branch=feature-x", header("Content-Length: -1"), 400, "Content-Length"),
        (f"{DEPLOY}?branch=feature-x", header("Authorization: Basic eDp4"), 400, "one Auth"),
        # Another path.
        ("/", [], 404, "/hooks/deploy-branch"),
        ("/hooks", [], 404, "/hooks/deploy-branch"),
        ("/hooks/", [], 404, "/hooks/deploy-branch"),
        ("/hooks/build?branch=feature-x", [], 404, "/hooks/deploy-branch"),
        (f"{DEPLOY}/?branch=feature-x", [], 404, "/hooks/deploy-branch"),
        (f"/{DEPLOY}?branch=feature-x", [], 404, "/hooks/deploy-branch"),
        ("/hooks/x/../deploy-branch?branch=feature-x", [], 404, "/hooks/deploy-branch"),
        ("/hooks/deploy%2Dbranch?branch=feature-x", [], 404, "/hooks/deploy-branch"),
        ("/HOOKS/deploy-branch?branch=feature-x", [], 404, "/hooks/deploy-branch"),
        # Another method.
        (f"{DEPLOY}?branch=feature-x", ["--request", "PUT"], 405, "send GET or POST"),
        (f"{DEPLOY}?branch=feature-x", ["--request", "DELETE"], 405, "send GET or POST"),
        (f"{DEPLOY}?branch=feature-x", ["--request", "BREW"], 405, "send GET or POST"),
        (f"{UNDEPLOY}?branch=feature-x", ["--request", "OPTIONS"], 405, "send GET or POST"),
        (f"{UNDEPLOY}?branch=feature-x", ["--head"], 405, ""),
        # The body's length.
        (
            DEPLOY,
            [*header("Transfer-Encoding: chunked"), *form("branch=feature-x")],
            411,
            "Content-Length",
        ),
        (DEPLOY, form(f"branch=feature-x&x={'x' * 16384}"), 413, "the body is over 16384 bytes"),
        (DEPLOY, header(f"Content-Length: {'9' * 40}"), 413, "the body is over 16384 bytes"),
        # The head's.
        (
            f"{DEPLOY}?branch=feature-x",
            header(f"X: {'x' * 16384}"),
            431,
            "the head is over 16384 bytes",
        ),
        (f"{DEPLOY}?x={'x' * 16384}&branch=feature-x", [], 431, "the head is over 16384 bytes"),
    ],
)
def test_refused(transport, path, options, status, words, feature_x, jobs):
    answer = call(transport, path, *options)
    assert answer.status == status
    assert words in answer.text
    assert answer.headers.get("allow") == ("GET, POST" if status == 405 else None)
    # Whatever was asked, systemd was asked for nothing.
    assert jobs() == []
    assert host.state(feature_x) == "active"


@over_both
def test_as_much_as_allowed(transport):
    head = header(f"X: {'x' * 15000}")
    body = form(f"branch=main&x={'x' * 16000}")
    assert call(transport, UNDEPLOY, *head, *body).status == 200


WRONG = [
    [],
    ["--header", "Authorization;"],
    bearer("wrong"),
    ["--user", "x:x"],
    ["--oauth2-bearer", "wrong"],
]


@over_both
@pytest.mark.parametrize("credentials", WRONG)
@pytest.mark.parametrize("path", [f"{DEPLOY}?branch=feature-x", "/hooks/", "/hooks/nothing/here"])
def test_not_let_in(transport, credentials, path, feature_x, jobs):
    answer = curl(transport, path, *credentials)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    # One answer for all: it tells nothing of what is there.
    assert answer.text == "send Authorization: Bearer TOKEN, with a token of this host\n"
    assert jobs() == []


@pytest.mark.parametrize(
    "near",
    [
        "{token}x",
        "{token} ",
        "{token}, {token}",
        "{token} {token}",
        "x{token}",
        "",
        "{shorter}",
        "{upper}",
    ],
)
def test_not_let_in_with_a_near_token(near, jobs):
    given = near.format(token=token(), shorter=token()[:-1], upper=token().upper())
    # A trailing space is no part of a header's value (RFC 9110 section 5.5).
    expected = 404 if given == f"{token()} " else 401
    assert curl("tcp", "/hooks/", *bearer(given)).status == expected
    assert jobs() == []


@over_both
@pytest.mark.parametrize("method", ["DELETE", "POST"])
def test_the_token_comes_before_the_method_and_the_branch(transport, method):
    assert curl(transport, DEPLOY, "--request", method).status == 401


@over_both
def test_a_method_is_refused_with_the_head_alone(transport):
    answer = call(transport, f"{DEPLOY}?branch=main", "--head")
    assert (answer.status, answer.text) == (405, "")


@over_both
@pytest.mark.parametrize(
    ("branch", "status", "words"),
    [
        ("main", 200, "main is not deployed any more"),
        ("v1", 200, "v1 is not deployed any more"),
        ("feature-x", 403, "branch feature-x is not allowed on this host, which takes: main v1"),
        ("mai", 403, "not allowed"),
        ("Main", 400, "slug of it is main"),
    ],
)
def test_only_some_branches(transport, branch, status, words, feature_x, jobs):
    with host.drop_in(
        "buildbtw-hook@.service", "[Service]\nEnvironment='BUILDBTW_BRANCHES=main v1'"
    ):
        answer = host.undeploy(branch, transport=transport)
    assert answer.status == status
    assert words in answer.text
    assert jobs() == ([("stop", f"buildbtw@{branch}.service")] if status == 200 else [])


def test_no_branch_where_the_list_is_empty(jobs):
    with host.drop_in("buildbtw-hook@.service", "[Service]\nEnvironment=BUILDBTW_BRANCHES="):
        assert host.undeploy("main").status == 403
    assert jobs() == []
