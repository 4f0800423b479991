# shellcheck shell=bash
# Every test, and the bench.

# shellcheck source=machine.bash source-path=SCRIPTDIR
. "${BASH_SOURCE[0]%/*}/machine.bash"

# What the tests run in the machine beside the program itself.
build_fixtures() {
    local source
    for source in constant.c attempt.c; do
        compile "$source" cc -O2 -static
    done
    build_backend
    # libfaketime cannot be loaded into a static executable.
    (cd "$repo" && as_builder env RUSTFLAGS='' cargo build --quiet --locked --target-dir target/dynamic)
}

# tests [ARG...]: all of them; or what pytest takes the arguments for, in a machine.
tests() {
    prerequisites
    if (($#)); then
        [[ $* == *test_*.py* && $* != *test_packages* ]] || packages_are_current || "$repo/tests/packages"
        in_machine "$@"
        [[ $* != tests/system ]] ||
            step "calling without D-Bus" nsenter -t "$leader" -a /src/tests/fixtures/without-dbus
        return
    fi
    (cd "$repo" && as_builder cargo test --locked)
    "$repo/tests/packages"
    # Once, for both.
    build_fixtures
    in_each_suite "$repo/tests/machine" test tests/system
    in_each_suite "$repo/tests/hosts/run"
}

# Whether there are packages, and nothing that they are made of is newer.
packages_are_current() {
    local deb
    deb=$(compgen -G "$repo/target/package/*.deb") &&
        [[ -z $(cd "$repo" && find src systemd Cargo.lock -newer "$deb" -print -quit) ]]
}

# in_each_suite CMD...: for each Debian at the same time, since Debian's next has the systemd of Arch,
# which the hosts are. Each line says of which suite it is.
in_each_suite() {
    local suite run status=0
    # In a process group each, so that they end as a whole; what prints their last words ends last.
    set -m
    for suite in ${SUITE:-trixie forky}; do
        (SUITE=$suite "$@" 2>&1 </dev/null | (trap '' TERM && exec sed -u "s/^/$suite: /") ) &
        beside+=($!)
    done
    set +m
    for run in "${beside[@]}"; do
        wait "$run" || status=1
    done
    beside=()
    return "$status"
}

in_machine() {
    build_fixtures
    prepared_machine
    inside python3 -m pytest -p no:cacheprovider "$@" || {
        local status=$?
        # Each failure came with its own part of the journal, and the last lines are the failures' names.
        is_explained=yes
        return "$status"
    }
}

# bench [NAME...]: all measurements, or the named ones, of which the figures are shown and not kept.
bench() {
    local part
    packages+=,gnuplot-nox,webhook
    prerequisites
    build_fixtures
    built_root
    # Images of 1.5 GB, each pushed, pulled and unpacked, have no room in memory.
    store=$(mktemp -d "$cache/bench.XXXXXX")
    for part in containers docker-registry; do
        mkdir "$store/$part"
        [[ ! -e $root/var/lib/$part ]] || chown --reference="$root/var/lib/$part" "$store/$part"
    done
    mkdir -m 1777 "$store/tmp"
    prepared_machine --bind="$store/containers:/var/lib/containers" \
        --bind="$store/docker-registry:/var/lib/docker-registry" --bind="$store/tmp:/var/tmp"
    inside sh -ec 'mkdir /run/bench && python3 tests/bench/measure.py /run/bench "$@"' sh "$@"
    (($#)) || keep_figures
}

keep_figures() {
    inside sh -ec 'python3 tests/bench/report.py /run/bench
        cd /run/bench && gnuplot /src/tests/bench/plots.gnuplot'
    as_builder cp "/proc/$leader/root/run/bench/"* "$repo/tests/bench/"
}
