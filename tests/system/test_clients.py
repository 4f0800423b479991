"""Clients that would keep their connection: each call gets one that works."""

import pytest
import requests

import host
from host import bearer, run

CALLS = 100
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
    assert result.stdout.count("never") == 2 * 5, "once the branch and once its unit"
