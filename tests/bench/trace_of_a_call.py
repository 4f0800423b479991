"""Where the time of a call goes, in parts that add up: the times that systemd keeps of each unit.

Nothing is traced that would cost time: a unit that stays loaded after its process has ended still
says when it began, when its process was forked, and when that was handed over to the executable
(`ExecMainHandoffTimestampMonotonic`, org.freedesktop.systemd1(5)).
"""

import time

import host

STAYS = "[Service]\nRemainAfterExit=yes\n"
OURS = ["buildbtw-hook", "buildbtw-systemctl"]


def times(unit):
    """When its process was forked, when its executable took over, and when it was up, in ms."""
    names = ["ExecMainStart", "ExecMainHandoff", "ActiveEnter"]
    shown = host.unit(unit, *(f"{name}TimestampMonotonic" for name in names))
    return [int(shown[f"{name}TimestampMonotonic"]) / 1e3 for name in names]


def one_call(call, branch):
    """The parts of one call in ms, by name. What they add up to is what the caller waited."""
    start = time.monotonic() * 1e3
    call()
    end = time.monotonic() * 1e3
    forked, executed, _ = times(host.instances("buildbtw-hook")[0])
    root_forked, root_executed, _ = times(host.instances("buildbtw-systemctl")[0])
    unit_forked, unit_executed, unit_up = times(f"buildbtw@{branch}.service")
    marks = {
        "accept and fork": forked,
        "the hook's sandbox": executed,
        "request and order; the root side's fork": root_forked,
        "the root side's start": root_executed,
        "systemctl and the unit's stop": unit_forked,
        "the unit's start": unit_executed,
        "the unit's process and its job's end": unit_up,
        "outcome and answer": end,
    }
    begun = [start, *marks.values()]
    host.systemctl("stop", *(f"{name}@*.service" for name in OURS))
    return {name: mark - before for (name, mark), before in zip(marks.items(), begun, strict=False)}


def parts(rounds, call, branch):
    """The parts of many calls: a list in ms for each name, and for `whole`."""
    with host.drop_in(f"{OURS[0]}@.service", STAYS), host.drop_in(f"{OURS[1]}@.service", STAYS):
        calls = []
        for _ in range(rounds):
            time.sleep(0.05)
            calls.append(one_call(call, branch))
    durations = {name: [each[name] for each in calls] for name in calls[0]}
    return durations | {"whole": [sum(each.values()) for each in calls]}
