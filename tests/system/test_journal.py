"""The trail in the journal: one record a call, with its fields, and never the token."""

from pathlib import Path

import pytest

import host
from host import bearer, call, curl, over_both

pytestmark = pytest.mark.each_suite

FIELDS = ["BUILDBTW_HOOK", "BUILDBTW_BRANCH", "HTTP_STATUS", "BUILDBTW_CALLER", "PRIORITY"]
NOTICE, WARNING, ERROR = "5", "4", "3"


def fields(record):
    """A record's fields, in the order of FIELDS."""
    return tuple(record.get(field) for field in FIELDS)


@over_both
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/hooks/deploy-branch?branch=main", ("deploy-branch", "main", "200", NOTICE)),
        ("/hooks/deploy-branch?branch=nosuch", ("deploy-branch", "nosuch", "424", ERROR)),
        ("/", (None, None, "404", NOTICE)),
    ],
)
def test_one_record_for_each_call(transport, path, expected, journal):
    answer = call(transport, path)
    hook, branch, status, priority = expected
    caller = "127.0.0.1" if transport == "tcp" else "local"
    records = journal.calls()
    assert [fields(record) for record in records] == [(hook, branch, status, caller, priority)]
    record = records[0]
    assert record["SYSLOG_IDENTIFIER"] == "buildbtw-hook"
    assert record["_UID"] != "0"
    assert 0 <= int(record["BUILDBTW_DURATION_MS"]) < 10000
    # What a person reads.
    start = f"{hook or '-'} {branch or '-'}: {status} in {record['BUILDBTW_DURATION_MS']} ms"
    assert record["MESSAGE"].startswith(f"{start} for {caller}")
    if answer.status >= 400:
        # But for what a unit wrote, which the journal has already.
        told = [line for line in answer.text.splitlines() if not line.startswith("  ")]
        assert record["MESSAGE"].endswith("; ".join(told))


@over_both
def test_record_of_a_refused_caller(transport, journal):
    assert curl(transport, "/hooks/deploy-branch?branch=main").status == 401
    caller = "127.0.0.1" if transport == "tcp" else "local"
    assert [fields(record) for record in journal.calls()] == [(None, None, "401", caller, WARNING)]


def test_no_record_is_forged(journal):
    path = "/hooks/deploy-branch?branch=x%0aPRIORITY=0%0a%0aMESSAGE=forged"
    answer = host.exchange("unix", host.request(path, credentials=host.token()))
    assert answer.status == 400
    entries = journal.entries(f"--identifier={host.USER}")
    assert [entry["HTTP_STATUS"] for entry in entries] == ["400"]
    (entry,) = entries
    assert entry["PRIORITY"] == NOTICE
    # An array of bytes is what journalctl makes of what can't be printed.
    assert isinstance(entry["MESSAGE"], str)
    assert entry["MESSAGE"].isprintable(), "one line"
    assert answer.text.removesuffix("\n").isprintable()


def test_the_token_is_nowhere(journal, token_file):
    secrets = ["a-canary.of/this+test~1==", "a-canary.of/this+test~2"]
    token_file.write_text("\n".join(secrets))
    first, second = secrets
    path = "/hooks/undeploy-branch?branch=main"
    answers = [
        curl("tcp", path, *bearer(first)),
        curl("unix", path, *bearer(second)),
        curl("tcp", "/hooks/other", *bearer(first)),
        curl("tcp", path, *bearer(first + "x")),
        curl("tcp", path, *bearer(f"{first} {second}")),
        curl("tcp", path, *bearer(first), *bearer(second)),
        curl("tcp", path, "--user", f"user:{first}"),
        curl("tcp", path, *bearer(first), "--request", "BREW"),
        curl("tcp", path, *bearer(first), "--data", "x" * 20000),
        curl("tcp", path, *bearer(first + "x" * 20000)),
        host.exchange("tcp", host.request(path, f"Authorization Bearer {first}")),
        host.exchange("tcp", host.request(path, f"Authorization: Bearer {first}\x01")),
        host.exchange("tcp", host.request(path, f"Authorization:\n Bearer {first}")),
        curl("unix", "/hooks/deploy-branch?branch=nosuch", *bearer(first)),
    ]
    expected = [200, 200, 404, 401, 401, 400, 401, 405, 413, 431, 400, 400, 400, 424]
    assert [answer.status for answer in answers] == expected

    # And while a call is under way.
    with (
        host.held("feature-x") as release,
        host.in_background(
            lambda: curl("tcp", "/hooks/deploy-branch?branch=feature-x", *bearer(first))
        ) as slow,
        host.connect("unix"),
    ):
        host.until(lambda: len(host.instances()) == 2 == len(host.processes()))
        orders = host.instances("buildbtw-systemctl")
        shown = host.systemctl("show", "--all", *host.instances(), *orders, "buildbtw-hook.socket")
        status = host.systemctl("status", "--full", *host.instances(), "buildbtw-hook.socket")
        for pid in [*host.processes(), *host.processes("buildbtw-systemctl")]:
            proc = Path(f"/proc/{pid}")
            shown += (proc / "environ").read_text() + (proc / "cmdline").read_text()
        release()
        answers.append(slow.result())

    everything = journal.export() + shown + status + "".join(map(repr, answers))
    assert "ExecStart=" in shown
    assert "CREDENTIALS_DIRECTORY=" in shown
    assert "undeploy-branch main: 200" in everything
    assert "a-canary" not in everything


# --- journalctl -x explains what an operator can do something about


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
