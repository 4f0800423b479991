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

# tests [ARG...]: all of them, or what pytest takes the arguments for.
tests() {
    prerequisites
    (($#)) || (cd "$repo" && as_builder cargo test --locked)
    build_fixtures
    prepared_machine
    inside python3 -m pytest -p no:cacheprovider "${@:-tests/system}"
    (($#)) && return
    step "calling without D-Bus" nsenter -t "$leader" -a /src/tests/fixtures/without-dbus
    shut_down
    "$repo/tests/hosts/run"
}

bench() {
    packages+=,gnuplot-nox,webhook
    prerequisites
    build_fixtures
    prepared_machine
    inside sh -ec 'mkdir /run/bench && python3 tests/bench/measure.py /run/bench
        cd /run/bench && gnuplot /src/tests/bench/plots.gnuplot'
    as_builder cp "/proc/$leader/root/run/bench/"* "$repo/tests/bench/"
}
