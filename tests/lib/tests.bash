# shellcheck shell=bash
# Every test, and the bench.

# shellcheck source=machine.bash source-path=SCRIPTDIR
. "${BASH_SOURCE[0]%/*}/machine.bash"

# What the tests run in the machine beside the program itself.
build_fixtures() {
    local name
    as_builder mkdir -p "$repo/target"
    for name in constant attempt; do
        as_builder cc -O2 -static -o "$repo/target/$name" "$repo/tests/fixtures/$name.c"
    done
    build_backend
    # libfaketime gets into no static executable.
    (cd "$repo" && as_builder env RUSTFLAGS='' cargo build --quiet --locked --target-dir target/dynamic)
}

# tests [ARG...]: all of them, in the machines of each suite; or what pytest takes the arguments for.
tests() {
    prerequisites
    if (($#)); then
        in_machine "$@"
        return
    fi
    (cd "$repo" && as_builder cargo test --locked)
    "$repo/tests/packages"
    # The hosts are Arch: Debian's next has the systemd that they have.
    for suite in ${SUITE:-trixie forky}; do
        echo "in a machine of Debian's $suite:"
        in_machine tests/system
        step "calling without D-Bus" nsenter -t "$leader" -a /src/tests/fixtures/without-dbus
        shut_down
    done
    hosts
}

in_machine() {
    build_fixtures
    prepared_machine
    inside python3 -m pytest -p no:cacheprovider "$@"
}

# The hosts of each suite at the same time: most of it is waiting.
hosts() {
    local status=0 log of=() suite run
    log=$(mktemp -d)
    for suite in ${SUITE:-trixie forky}; do
        SUITE=$suite "$repo/tests/hosts/run" >"$log/$suite" 2>&1 &
        of+=("$suite:$!")
    done
    for run in "${of[@]}"; do
        wait "${run#*:}" || status=1
        echo "the three hosts, of Debian's ${run%:*}:"
        cat "$log/${run%:*}"
    done
    rm -r "$log"
    return "$status"
}

bench() {
    packages+=,gnuplot-nox,webhook
    prerequisites
    build_fixtures
    prepared_machine
    inside sh -ec 'mkdir /run/bench && python3 tests/bench/measure.py /run/bench
        python3 tests/bench/report.py /run/bench
        cd /run/bench && gnuplot /src/tests/bench/plots.gnuplot'
    as_builder cp "/proc/$leader/root/run/bench/"* "$repo/tests/bench/"
}
