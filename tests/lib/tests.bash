# shellcheck shell=bash
# Every test, and the bench.

# shellcheck source=machine.bash source-path=SCRIPTDIR
. "${BASH_SOURCE[0]%/*}/machine.bash"

# What the tests run in the machine beside the program itself.
build_fixtures() {
    local name
    as_builder mkdir -p "$repo/target"
    for name in constant attempt; do
        [[ $repo/target/$name -nt $repo/tests/fixtures/$name.c ]] ||
            as_builder cc -O2 -static -o "$repo/target/$name" "$repo/tests/fixtures/$name.c"
    done
    build_backend
    # libfaketime cannot be loaded into a static executable.
    (cd "$repo" && as_builder env RUSTFLAGS='' cargo build --quiet --locked --target-dir target/dynamic)
}

# tests [ARG...]: all of them; or what pytest takes the arguments for, in a machine.
tests() {
    local floor each
    prerequisites
    if (($#)); then
        [[ $* == *test_*.py* && $* != *test_packages* ]] || packages_are_current || "$repo/tests/packages"
        in_machine "$@"
        [[ $1 != tests/system ]] ||
            step "calling without D-Bus" nsenter -t "$leader" -a /src/tests/fixtures/without-dbus
        return
    fi
    # Once, for all.
    "$repo/tests/packages"
    build_fixtures
    # Most of a machine's tests wait, so all run beside each other, but for those marked `alone`.
    floor=$repo/tests/system/conftest.py
    run_beside cargo as_builder flock --shared "$floor" env --chdir="$repo" cargo test --locked
    run_beside packages flock --shared "$floor" "$repo/tests/packages" --from-source
    for each in ${SUITE:-trixie forky}; do
        run_beside "$each" env SUITE="$each" "$repo/tests/machine" test tests/system -m "$(marked "$each")"
    done
    # The hosts are Arch's, whose systemd the last one has.
    run_beside hosts flock --shared "$floor" env SUITE="$each" "$repo/tests/hosts/run"
    wait_for_those_beside
}

# marked SUITE: of two suites the first has what depends on it alone; otherwise the whole.
marked() {
    [[ -n ${SUITE:-} || $1 == forky ]] || echo each_suite
}

# What takes too long for every change, before a release.
soak() {
    prerequisites
    (cd "$repo" && as_builder env FUZZ_INPUTS="${FUZZ_INPUTS:-1000000}" cargo test --locked --test fuzz -- --nocapture)
    ROUNDS=${ROUNDS:-300} SOAK=${SOAK:-10} in_machine tests/system -m soak
}

# Whether there are packages, and nothing that they are made of is newer.
packages_are_current() {
    local deb
    deb=$(compgen -G "$repo/target/package/*.deb") &&
        [[ -z $(cd "$repo" && find src systemd Cargo.lock Cargo.toml README.md CHANGELOG.md -newer "$deb" -print -quit) ]]
}

# run_beside NAME CMD...: at the same time as what follows. Each line has the name.
run_beside() {
    local name=$1
    shift
    # In a process group, so that it ends as a whole; what prints its last words ends last.
    set -m
    ("$@" 2>&1 </dev/null | (trap '' TERM && exec sed -u "s/^/$name: /") ) &
    beside+=($!)
    set +m
}

wait_for_those_beside() {
    local run status=0
    for run in "${beside[@]}"; do
        wait "$run" || status=1
    done
    beside=()
    return "$status"
}

in_machine() {
    build_fixtures
    prepared_machine
    inside env ROUNDS="${ROUNDS:-}" SEED="${SEED:-}" SOAK="${SOAK:-}" python3 -m pytest -p no:cacheprovider "$@" || {
        local status=$?
        # Each failure came with its own part of the journal, and the last lines are the failures' names.
        is_explained=yes
        return "$status"
    }
}

# bench [NAME...]: all measurements, or the named ones, of which the figures are shown and not kept.
bench() {
    local part
    prerequisites
    build_fixtures
    built_root
    # Images of 150 MB, each pushed, pulled and unpacked, have no room in memory.
    store=$(mktemp -d "$cache/bench.XXXXXX")
    for part in containers docker-registry; do
        mkdir "$store/$part"
        [[ ! -e $root/var/lib/$part ]] || chown --reference="$root/var/lib/$part" "$store/$part"
    done
    mkdir -m 1777 "$store/tmp"
    mkdir "$store/pull"
    # Podman keeps what it downloads in the last two until it is unpacked.
    prepared_machine --bind="$store/containers:/var/lib/containers" \
        --bind="$store/docker-registry:/var/lib/docker-registry" \
        --bind="$store/tmp:/var/tmp" --bind="$store/pull:/var/cache/buildbtw-pull"
    inside sh -ec 'mkdir /run/bench && python3 tests/bench/measure.py /run/bench "$@"' sh "$@"
    (($#)) || keep_figures
}

keep_figures() {
    inside python3 tests/bench/report.py /run/bench
    as_builder cp "/proc/$leader/root/run/bench/"* "$repo/tests/bench/"
}
