"""The tables of table.md, made of figures.csv: report.py DIRECTORY.

Made of the file alone, so that a test can hold one to the other.
"""

import sys
from pathlib import Path

from figures import read

DIRECTORY = Path(sys.argv[1])
runs = read(DIRECTORY / "figures.csv")
# By how much two runs on one machine differ.
MARGIN = 1.1
VISITS = ["small image", "150 MB", "requests of 0.5 s"]


def hook(what):
    """What was found."""
    return lambda run: run[what, "hook"]


def beside(what, *others, more=0.0, times=1.0):
    """A bound of what the same took others in the same run, together."""
    return lambda run: times * sum(run[what, other] for other in others) + more


def ratio(what, to_what, to):
    """A figure of the hook in those of another."""
    return lambda run: run[what, "hook"] / run[to_what, to]


def lost(whats, whom="hook"):
    """All that were lost."""
    return lambda run: sum(run[what, whom] for what in whats)


# Each aim: its words, its unit, what was found, and the bound that was set beforehand. Those that end in a
# number of 2026-11-26 are not to be worse than that, beyond the margin.
CALL = "a call: "
AIMS = [
    ("a redeployment of a container, idle host: its restart + its pull + 0.15 s", "ms",
     hook("redeployment"), beside("redeployment", "its restart alone", "its pull alone", more=150)),
    ("from the call to the new page under visitors: as `webhook`, small image", "s",
     hook("small image: to the new page"), beside("small image: to the new page", "webhook")),
    ("the same with an image of 150 MB", "s",
     hook("150 MB: to the new page"), beside("150 MB: to the new page", "webhook")),
    ("visits lost in redeployments, requests in flight included: 0", "",
     lost([f"{each}: visits lost" for each in VISITS]), lambda run: 0),
    ("the longest wait of a visitor, the app starting at once: 0.6 s", "s",
     hook("small image: longest of all"), lambda run: 0.6),
    ("from a visit to the page of a sleeping branch: `podman run` + 0.15 s", "ms",
     hook("from a visit to its page, asleep"),
     beside("from a visit to its page, asleep", "`podman run`", more=150)),
    ("memory of each of 100 deployed branches that nobody looks at: 0.5 MiB", "MiB",
     hook("100 branches: memory of each"), lambda run: 0.5),
    ("from boot until all 100 answer or can be woken: 2 s", "s",
     hook("100 branches: back after a boot"), lambda run: 2),
    ("a refused call, in those of `floor`: 1.67", "",
     ratio(f"{CALL}refused", f"{CALL}refused", "floor"), lambda run: 1.67 * MARGIN),
    ("a restart of a do-nothing unit, in those of `floor`: 1.91", "",
     ratio(f"{CALL}restart", f"{CALL}restart", "floor"), lambda run: 1.91 * MARGIN),
    ("CPU time of that, in the time of `floor`'s: 0.78", "",
     ratio(f"{CALL}CPU time of a restart", f"{CALL}restart", "floor"), lambda run: 0.78 * MARGIN),
    ("200 callers at once: 16.6 s", "s", hook("200 callers: to the last"), lambda run: 16.6 * MARGIN),
    ("1000 callers at once: 83.4 s", "s", hook("1000 callers: to the last"), lambda run: 83.4 * MARGIN),
    ("callers lost: 0", "", lost([f"{each} callers: lost" for each in (200, 1000)]), lambda run: 0),
]  # fmt: skip


def verdict(run, unit, found, bound):
    """What was found of an aim in a run."""
    try:
        values = found(run), bound(run)
    except KeyError:
        return "–"
    met = "met" if values[0] <= values[1] else "**not met**"
    of = " of ".join(f"{round(each, 0 if unit == 'ms' else 2):g}" for each in values)
    return f"{of} {unit}".strip() + f": {met}"


def markdown(heads, rows):
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def aims_table():
    """Which aims are met in each run."""
    rows = [[words, *(verdict(run, *rest) for run in runs)] for words, *rest in AIMS]
    # Of a run's date, cores, kernel and systemd.
    heads = [f"{words[0]}, {words[-1]}" for words in (run.run.split(", ") for run in runs)]
    return markdown(["aim: at most", *heads], rows)


def run_table(run):
    """All that was found in a run."""
    rows = []
    for what in dict.fromkeys(what for what, _ in run.rows):
        others = [of for each, of in run.rows if each == what and of not in ("hook", "webhook")]
        least = "; ".join(f"{of}: {run.cell(what, of)}" for of in others)
        rows.append([what, run.cell(what, "hook"), run.cell(what, "webhook"), least])
    return f"{run.run}. Medians (and quartiles).\n\n" + markdown(["", "hook", "`webhook`", "beside"], rows)


(DIRECTORY / "table.md").write_text("\n".join([aims_table(), *map(run_table, reversed(runs))]))
