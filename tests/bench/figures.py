"""What was measured: every figure once, its median and quartiles, as CSV and as the tables' cells."""

import csv
import statistics
import time

# How many call at once, how many instances are loaded, how large an image is, how many flood.
CALLERS = [1, 10, 50, 200, 1000]
LOADED = [10, 100, 500]
MEGABYTES = [15, 150, 1500]
BAD_CALLERS = 50
HEADS = ["what", "of", "unit", "median", "quartile 1", "quartile 3", "values"]


class Figures:
    """The figures in the order in which they were found: what, of whom, unit, median, quartiles."""

    def __init__(self):
        self.rows = {}
        self.run = ""

    def add_run(self, words):
        """When and where these were found."""
        self.run = words

    def add(self, what, whom, unit, values):
        """A figure of one value, or of many; its median."""
        values = sorted(values if isinstance(values, list) else [values])
        low = median = high = values[0]
        if len(values) > 1:
            low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        self.rows[what, whom] = (unit, median, low, high, len(values))
        print(f"{what:40} {whom:18} {median:10.2f} [{low:.2f} to {high:.2f}] {unit}", flush=True)
        return median

    def in_turn(self, what, rounds, calls, pause=0.05):
        """Calls that take turns, so that a change in the machine's speed meets all of them.

        `calls` gives each name a function; their durations in ms are figures of `what`.
        """
        durations = {whom: [] for whom in calls}
        for made in calls.values():
            made()
        for _ in range(rounds):
            for whom, made in calls.items():
                # The clean-up of the call before it is not part of this one.
                time.sleep(pause)
                start = time.perf_counter()
                made()
                durations[whom].append((time.perf_counter() - start) * 1e3)
        for whom, values in durations.items():
            self.add(what, whom, "ms", values)

    def __getitem__(self, of):
        """The median of (what, whom)."""
        return self.rows[of][1]

    def ratio(self, what, whom, to):
        """The median of one in medians of another."""
        return self[what, whom] / self[what, to]

    def cell(self, what, whom, digits=0):
        """The median and its quartiles, or a dash where it was not measured."""
        if (what, whom) not in self.rows:
            return "–"
        _, median, low, high, count = self.rows[what, whom]
        quartiles = f" ({low:.{digits}f}–{high:.{digits}f})" if count > 1 else ""
        return f"{median:.{digits}f}{quartiles}"

    def write(self, file):
        """All of it as CSV, below a line that says when and where."""
        with file.open("w", newline="") as out:
            out.write(f"# {self.run}\n")
            table = csv.writer(out, lineterminator="\n")
            table.writerow(HEADS)
            for (what, whom), (unit, median, low, high, count) in self.rows.items():
                table.writerow([what, whom, unit, f"{median:.3f}", f"{low:.3f}", f"{high:.3f}", count])

    @classmethod
    def read(cls, file):
        """What `write` wrote."""
        figures = cls()
        with file.open(newline="") as lines:
            figures.add_run(next(lines).removeprefix("# ").strip())
            for row in csv.DictReader(lines):
                numbers = (float(row[name]) for name in HEADS[3:6])
                figures.rows[row["what"], row["of"]] = (row["unit"], *numbers, int(row["values"]))
        return figures
