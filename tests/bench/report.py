"""The tables of table.md, made of figures.csv: report.py DIRECTORY.

Made of the file alone, so that a test can hold one to the other.
"""

import sys
from pathlib import Path

from figures import BAD_CALLERS, CALLERS, LOADED, MEGABYTES, Figures

DIRECTORY = Path(sys.argv[1])
figures = Figures.read(DIRECTORY / "figures.csv")
SERVERS = ["hook", "hook, TCP", "hook, nginx", "hook, no sandbox"]
SERVERS += ["floor", "floor, TCP", "webhook", "webhook, nginx"]


def markdown(heads, rows):
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines) + "\n"


def ratio_row(what, text):
    """A row of the first table."""
    cells = [text]
    for whom, to in [("hook", "floor"), ("hook, TCP", "floor, TCP"), ("hook", "webhook")]:
        both = (what, whom) in figures.rows and (what, to) in figures.rows
        cells.append(f"{figures.ratio(what, whom, to):.2f}" if both else "–")
    return cells + [figures.cell(what, name) for name in SERVERS]


def calls_table():
    """One caller."""
    rows = {"refused": "is refused (401)", "restart": "restarts a unit that does nothing"}
    rows |= {f"{count} instances": f"the same, {count} loaded instances" for count in LOADED}
    rows |= {"busy": "the same, a busy process on each core", "container": "redeploys a container"}
    heads = ["a call that", "hook to `floor`", "the same over TCP", "hook to `webhook`"]
    heads += SERVERS
    return markdown(heads, [ratio_row(what, text) for what, text in rows.items()])


def bursts_table():
    """Many callers."""
    compared = ["hook", "hook, TCP", "hook, nginx", "webhook", "webhook, nginx"]
    bursts = {f"{callers} at once": callers for callers in CALLERS}
    bursts["200 at once, busy"] = "200, a busy process on each core"
    rows = []
    for burst, callers in bursts.items():
        for kind, unit, digits in [
            ("time to the last", " s", 1),
            ("lost", "", 0),
            ("peak memory", " MiB", 0),
        ]:
            cells = [figures.cell(f"{burst}: {kind}", each, digits) + unit for each in compared]
            rows.append([callers, kind, *cells])
    return markdown(["callers", "", *compared], rows)


def parts_table():
    """Where the time goes."""
    names = [name for what, name in figures.rows if what == "part"]
    return markdown(["part of a call", "ms"], [[name, figures.cell("part", name, 1)] for name in names])


def redeployments_table():
    """A branch that is redeployed."""
    rows = []
    for megabytes in MEGABYTES:
        cells = [f"{megabytes} MB"]
        for whom in ["hook", "webhook"]:
            cells.append(figures.cell(f"{megabytes} MB: no answer", whom, 2) + " s")
            visits = f"{megabytes} MB: visits"
            lost = figures.cell(f"{megabytes} MB: visitors lost", whom)
            cells.append(f"{lost} of {figures.cell(visits, whom)}")
        rows.append(cells)
    return markdown(
        ["image", "hook: no answer for", "visits lost", "`webhook`: no answer for", "visits lost"], rows
    )


def others_table():
    """What is left."""
    rows = []
    for what, unit, digits in [
        ("idle: processes", "", 0),
        ("idle: memory", " MiB", 1),
        ("size of the executables", " KiB", 0),
        ("CPU time of a call", " ms", 1),
        ("CPU time of a call, with systemd's", " ms", 1),
    ]:
        rows.append([what, *(figures.cell(what, whom, digits) + unit for whom in ["hook", "webhook"])])
    for what, text in [
        ("no flood", "a good call through nginx with its limits"),
        ("flood", f"the same beside {BAD_CALLERS} callers without a token"),
    ]:
        rows.append([text, figures.cell(what, "hook, nginx") + " ms", ""])
    return markdown(["", "hook", "`webhook`"], rows)


def aims():
    """Each aim with what version 0.1 had, over TCP, and what was found, over TCP too where that differs."""
    ratio = figures.ratio

    def to_floor(what):
        return ratio(what, "hook", "floor"), f"{ratio(what, 'hook, TCP', 'floor, TCP'):.2f}"

    bursts = [of for of in figures.rows if of[0].endswith(": lost") and of[1].startswith("hook")]
    lost = sum(figures[of] for of in bursts)
    visitors_lost = sum(figures[f"{each} MB: visitors lost", "hook"] for each in MEGABYTES)
    return [
        ("a refused call, to `floor`", "1.65", 1.4, *to_floor("refused")),
        ("a restart of a do-nothing unit, to `floor`", "1.92", 1.6, *to_floor("restart")),
        ("the same with 500 loaded instances", "2.74", 2.0, *to_floor("500 instances")),
        ("a redeployment of a container, to `webhook`", "1.09", 1.0, ratio("container", "hook", "webhook")),
        ("time without an answer, to `webhook`, image of 150 MB", "0.97", 0.35,
         ratio("150 MB: no answer", "hook", "webhook")),
        ("visitors lost", "–", 0, visitors_lost),
        ("200 callers on one address, s", "16.6", 7, figures["200 at once: time to the last", "hook"]),
        ("1000 callers on one address, s", "42 on two", 38, figures["1000 at once: time to the last", "hook"]),
        ("callers lost", "0", 0, lost),
        ("CPU time of a call, ms", "33", 27, figures["CPU time of a call", "hook"]),
        ("idle: processes", "0", 0, figures["idle: processes", "hook"]),
    ]  # fmt: skip


def aims_table():
    """Which aims are met."""
    rows = [
        [words, before, f"{aim:g}", f"{found:.2f}", "".join(tcp), "met" if found <= aim else "not met"]
        for words, before, aim, found, *tcp in aims()
    ]
    return markdown(["", "version 0.1, TCP", "aim", "found", "found, TCP", ""], rows)


heading = f"{figures.run}. Medians (and quartiles) in ms where nothing else is said.\n"
tables = [calls_table(), parts_table(), bursts_table(), redeployments_table(), others_table(), aims_table()]
(DIRECTORY / "table.md").write_text("\n".join([heading, *tables]))
