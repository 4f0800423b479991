"""Raw bytes through nginx: what it lets pass is one call each, answered to the one who sent it.

What nginx refuses by itself is not here: it never reaches the hook.
"""

import re
import socket
from collections import Counter
from itertools import chain
from socket import SHUT_WR

import pytest

import host

# With a pool of connections, and as ansible has it.
PROXIES = [8080, 8081]

PATH = "/hooks/undeploy-branch"
HOST = "Host: localhost\r\n"
AUTH = "Authorization: Bearer {token}\r\n"
FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"
GET = f"GET {PATH}?branch=ours HTTP/1.1\r\n{HOST}{AUTH}"
POST = GET.replace("GET", "POST")
POST_FORM = f"POST {PATH} HTTP/1.1\r\n{HOST}{AUTH}{FORM}"
# What is to be smuggled in, and what a client sends after it, on the same connection.
HIDDEN = f"GET {PATH}?branch=hidden HTTP/1.1\r\n{HOST}{AUTH}\r\n"
NEXT = f"GET {PATH}?branch=next HTTP/1.1\r\n{HOST}{AUTH}Connection: close\r\n\r\n"
LAST_CHUNK = "0\r\n\r\n"

# What the client is answered, in turn: the branch of a call that was done, or a status.
OURS = ["ours", "next"]

# The field that frames a POST whose body is a chunk of nothing, and {hidden}.
TRANSFER_ENCODINGS = [
    # The end of the body is plain to everyone, and what follows is a request of its own.
    ("X: y\nTransfer-Encoding: chunked", ["ours", "hidden", "next"]),
    ("Transfer-Encoding: Chunked ", ["ours", "hidden", "next"]),
    # No field that nginx knows: the chunk is the next request.
    ("Transfer_Encoding: chunked", ["ours", 400]),
]

# The field that frames a POST whose body is {hidden}.
CONTENT_LENGTHS = [
    ("Content-Length:  {n} ", OURS),
    ("Content-Length: 000{n}", OURS),
    ("Content-Length: 0", ["ours", "hidden", "next"]),
    ("Content_Length: {n}", ["ours", "hidden", "next"]),
    # What follows is the rest of a body that never comes whole.
    ("Content-Length: {n}0", []),
]

TARGETS = [
    (f"http://other.example{PATH}?branch=ours", OURS),
    (f"{PATH}?branch=our%73", OURS),
    # nginx finds its location by another path than the one that it passes on.
    (f"/{PATH}?branch=hidden", [404, "next"]),
    (f"/x/..{PATH}?branch=hidden", [404, "next"]),
    (f"/%68ooks{PATH[6:]}?branch=hidden", [404, "next"]),
    (f"{PATH}%3fbranch=hidden?branch=ours", [404, "next"]),
    (f"{PATH}%20HTTP/1.1%0d%0aX:%20?branch=hidden", [404, "next"]),
    (f"{PATH}#?branch=hidden", [404, "next"]),
    (f"{PATH}?branch=ours&branch=hidden", [400, "next"]),
    (f"{PATH}?branch=ours%0d%0a%0d%0aGET%20{PATH}?branch=hidden", [400, "next"]),
    (f"{PATH}?branch=ours\xff", [400, "next"]),
]

# A field of an otherwise proper GET.
FIELDS = [
    ("X: \xe4", OURS),
    ("X: \x7f", [400, "next"]),
    ("X: y\nY: z", OURS),
    ("X", OURS),
    # What is between a client and its proxy alone, and what would change that.
    ("Connection: Authorization", OURS),
    ("Connection: close, Host", ["ours"]),
    ("Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk", OURS),
    ("Expect: 100-continue", OURS),
    ("Trailer: Authorization\r\nTE: trailers", OURS),
    # Who calls.
    ("X-Real-IP: 192.0.2.1", OURS),
    ("X_Real_IP: 192.0.2.1", OURS),
]

BODIES = [
    (f"{POST}Content-Length: {{n}}\r\n\r\n{HIDDEN}", OURS),
    (f"{GET}Content-Length: {{n}}\r\n\r\n{HIDDEN}", OURS),
    (f"{GET}{CHUNKED}\r\n{{n:x}}\r\n{HIDDEN}\r\n{LAST_CHUNK}", OURS),
    (f"{POST}{FORM}Content-Length: 13\r\n\r\nbranch=hidden", [400, "next"]),
    # A token in the body, or in a trailer, does not count.
    (f"POST {PATH} HTTP/1.1\r\n{HOST}Content-Length: {{n}}\r\n\r\n{HIDDEN}", [401, "next"]),
    (
        f"POST {PATH} HTTP/1.1\r\n{HOST}{FORM}{CHUNKED}\r\nb\r\nbranch=ours\r\n0\r\n{AUTH}\r\n",
        [401, "next"],
    ),
    # Chunks, which nginx joins.
    (f"{POST_FORM}{CHUNKED}\r\n7\r\nbranch=\r\n004\r\nours\r\n{LAST_CHUNK}", OURS),
]

NO_TOKEN = f"GET {PATH}?branch=hidden HTTP/1.1\r\n{HOST}\r\n"
LINES = [
    # Two requests, and a token for one of them.
    (f"{GET}\r\n{NO_TOKEN}", ["ours", 401, "next"]),
    (f"{NO_TOKEN}{GET}\r\n", [401, "ours", "next"]),
    (f"{GET}\r\n".replace("\r\n", "\n"), OURS),
    (f"\r\n{GET}\r\n", OURS),
    (f"{GET}\r\n".replace("GET ", "GET  "), OURS),
    (f"{GET}\r\n".replace("GET", "OPTIONS"), [405, "next"]),
    (f"{GET}Connection: close\r\n\r\n".replace("GET", "HEAD"), [405]),
    (f"{GET}Connection: keep-alive\r\n\r\n".replace("/1.1", "/1.0"), OURS),
    (f"{GET}\r\n".replace("localhost", "localhost:9000"), OURS),
]


def each(form, cases):
    """A message of a form for each of the cases, with what it is answered."""
    return [(form.replace("{}", case), answered) for case, answered in cases]


MESSAGES = {
    "transfer encodings": each(f"{POST}{{}}\r\n\r\n{LAST_CHUNK}{HIDDEN}", TRANSFER_ENCODINGS),
    "content lengths": each(f"{POST}{{}}\r\n\r\n{HIDDEN}", CONTENT_LENGTHS),
    "targets": each(f"GET {{}} HTTP/1.1\r\n{HOST}{AUTH}\r\n", TARGETS),
    "fields": each(f"{GET}{{}}\r\n\r\n", FIELDS),
    "bodies": BODIES,
    "request lines": LINES,
}


def filled(message):
    """The bytes of a message, with the token and with the length of what is hidden."""
    length = len(HIDDEN.replace("{token}", host.token()))
    message = message.replace("{n}", str(length)).replace("{n:x}", f"{length:x}")
    return message.replace("{token}", host.token()).encode("latin-1")


def answers(stream):
    """The answers on one connection."""
    found = []
    while stream:
        head, _, rest = stream.partition(b"\r\n\r\n")
        length = re.search(rb"\nContent-Length: (\d+)", head)
        size = int(length[1]) if length else 0
        # 100 Continue is not an answer.
        if length:
            found.append(host.Answer.parse(head + b"\r\n\r\n" + rest[:size]))
        stream = rest[size:]
    return found


def outcome(answer):
    """The branch that was undeployed, or a status."""
    done = re.match("branch (.+) (?:is not deployed any more|was not deployed)", answer.text)
    return done[1] if done and answer.status == 200 else answer.status


def exchange(port, message, whole=True):
    """The answers to a message and to the request after it."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(filled(message + NEXT))
        if not whole:
            connection.shutdown(SHUT_WR)
        return answers(host.rest_of(connection))


@pytest.mark.usefixtures("nginx")
@pytest.mark.parametrize("messages", MESSAGES.values(), ids=MESSAGES)
def test_nothing_is_smuggled(messages, journal, jobs):
    # The last one meets whatever is left in the pool.
    messages = [*messages, ("", ["next"])]
    # One after another: of two orders for a branch at once, one may ask for a second stop.
    forms = [[exchange(port, message, expected != []) for message, expected in messages] for port in PROXIES]
    for answered in forms:
        outcomes = [[outcome(answer) for answer in each] for each in answered]
        assert list(zip([message for message, _ in messages], outcomes, strict=True)) == messages
    done = [each for _, expected in messages for each in expected if isinstance(each, str)]
    units = [("stop", f"buildbtw@{branch}.service") for branch in len(PROXIES) * done]
    assert Counter(jobs()) == Counter(units)
    # One record for each answer but nginx's own, which are HTML.
    served = [
        str(answer.status)
        for answer in chain.from_iterable(chain.from_iterable(forms))
        if answer.headers["content-type"].startswith("text/plain")
    ]
    records = journal.calls()
    assert Counter(record["HTTP_STATUS"] for record in records) == Counter(served)
    # A head that was not understood does not say who calls.
    assert {record["BUILDBTW_CALLER"] for record in records} - {"local"} == {"127.0.0.1"}
