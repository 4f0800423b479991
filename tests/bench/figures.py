"""What was measured: every figure once, its median and quartiles. The file has the last two runs."""

import csv
import statistics
import time

HEADS = ["run", "what", "of", "unit", "median", "quartile 1", "quartile 3", "values"]


class Figures:
    """The figures of a run in the order in which they were found: what, of whom, unit, median, quartiles."""

    def __init__(self, run):
        self.run = run
        self.rows = {}

    def add(self, what, whom, unit, values):
        """A figure of one value, or of many."""
        values = sorted(values if isinstance(values, list) else [values])
        low = median = high = values[0]
        if len(values) > 1:
            low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        self.rows[what, whom] = (unit, median, low, high, len(values))
        print(f"{what:40} {whom:18} {median:10.2f} [{low:.2f} to {high:.2f}] {unit}", flush=True)

    def in_turn(self, what, rounds, calls, before=lambda: time.sleep(0.05)):
        """Calls that take turns, so that a change in the machine's speed meets all of them.

        `calls` gives each name a function, which is run once before it counts; their durations in ms are
        figures of `what`. What `before` does is not part of them, nor the clean-up of the call before.
        """
        durations = {whom: [] for whom in calls}
        for _ in range(rounds + 1):
            for whom, made in calls.items():
                before()
                start = time.perf_counter()
                made()
                durations[whom].append((time.perf_counter() - start) * 1e3)
        for whom, values in durations.items():
            self.add(what, whom, "ms", values[1:])

    def __getitem__(self, of):
        """The median of (what, whom)."""
        return self.rows[of][1]

    def cell(self, what, whom):
        """The median and its quartiles, or a dash where it was not measured."""
        if (what, whom) not in self.rows:
            return "–"
        unit, median, low, high, count = self.rows[what, whom]
        digits = 0 if median >= 10 or median == int(median) else 2
        quartiles = f" ({low:.{digits}f}–{high:.{digits}f})" if count > 1 else ""
        return f"{median:.{digits}f}{quartiles} {unit}".strip()


def write(file, runs):
    """All of it as CSV."""
    with file.open("w", newline="") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(HEADS)
        for figures in runs:
            for (what, whom), (unit, *numbers, count) in figures.rows.items():
                table.writerow([figures.run, what, whom, unit, *(f"{each:.3f}" for each in numbers), count])


def read(file):
    """What `write` wrote: a list of runs, the newest last."""
    runs = {}
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            numbers = (float(row[name]) for name in HEADS[4:7])
            figures = runs.setdefault(row["run"], Figures(row["run"]))
            figures.rows[row["what"], row["of"]] = (row["unit"], *numbers, int(row["values"]))
    return list(runs.values())
