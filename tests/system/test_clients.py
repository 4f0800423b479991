"""Clients that would keep their connection: each call gets one that works."""

import pytest
import requests

import host
from host import bearer, run

CALLS = 20
PROXY = "http://127.0.0.1:8080"


def many(base):
    """The statuses of many calls in a row by one session, GET and POST by turns."""
    statuses = []
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {host.token()}"
        for _ in range(CALLS // 2):
            url = f"{base}/hooks/undeploy-branch"
            statuses.append(session.get(f"{url}?branch=never", timeout=60).status_code)
            statuses.append(session.post(url, {"branch": "never"}, timeout=60).status_code)
    return statuses


def test_requests_session(journal):
    assert many("http://127.0.0.1:9000") == CALLS * [200]
    assert len(journal.calls()) == CALLS


def test_nginx_keepalive(nginx, journal):
    assert many(PROXY) == CALLS * [200]
    records = journal.calls()
    assert len(records) == CALLS
    assert {record["BUILDBTW_CALLER"] for record in records} == {"127.0.0.1"}


def test_the_caller_behind_nginx(nginx, journal):
    # What a caller claims to be is not what the proxy says of it.
    command = ["curl", "--silent", "--interface", "127.0.0.2", "--header", "X-Real-IP: 192.0.2.1"]
    command += ["--write-out", "%{http_code}", "--output", "/dev/null"]
    url = f"{PROXY}/hooks/deploy-branch?branch=main"
    assert run(*command, *bearer(host.token()), url).stdout == "200"
    assert run(*command, url).stdout == "401"
    callers = [(record["HTTP_STATUS"], record["BUILDBTW_CALLER"]) for record in journal.calls()]
    assert callers == [("200", "127.0.0.2"), ("401", "127.0.0.2")]


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2"])
def test_curl_reads_every_answer_of_one_run(version):
    url = "http://127.0.0.1:9000/hooks/undeploy-branch?branch=never"
    result = run("curl", "--silent", "--show-error", version, *bearer(host.token()), *5 * [url])
    assert result.returncode == 0
    assert result.stdout == 5 * "branch never was not deployed\n"


def test_a_host_as_webhook_was_on_it(nginx, journal):
    """Its nginx looks at the token, and CI's own line follows redirections and sends an image-tag."""
    line = ["curl", "--no-progress-meter", "--location", "--fail-with-body"]
    url = "http://127.0.0.1:8082/hooks/deploy-branch?image-tag=main"
    deployed = run(*line, *bearer(host.token()), url)
    assert (deployed.returncode, deployed.stdout.split(" (")[0]) == (0, "branch main is deployed")
    refused = run(*line, *bearer("wrong"), url)
    assert refused.returncode == 22
    assert "401" in refused.stdout
    not_a_slug = run(*line, *bearer(host.token()), url.replace("main", "Main"))
    assert not_a_slug.returncode == 22
    assert "GitLab's slug of it is main" in not_a_slug.stdout
    assert [record["HTTP_STATUS"] for record in journal.calls()] == ["200", "400"]


def test_an_absolute_form_target(jobs):
    """As a client sends it that takes the hook for a proxy."""
    url = "http://localhost/hooks/undeploy-branch?branch=main"
    result = run("curl", "--silent", "--proxy", "http://127.0.0.1:9000", *bearer(host.token()), url)
    assert result.stdout.startswith("branch main was not deployed")
    assert jobs() == [("stop", "buildbtw@main.service")]
