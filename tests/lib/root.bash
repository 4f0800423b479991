# shellcheck shell=bash
# The roots of machines: a Debian each, built once and kept in the cache.

# shellcheck source=common.bash source-path=SCRIPTDIR
. "${BASH_SOURCE[0]%/*}/common.bash"

cache=${MACHINE_CACHE:-/var/cache/buildbtw-hook}
# Of their own, so that a test of a first run need not build them anew.
roots=${MACHINE_ROOTS:-$cache}
suite=${SUITE:-trixie}
unreleased=' forky duke sid '
packages=systemd,systemd-sysv,dbus,polkitd,podman,netavark,aardvark-dns,crun,nftables,iproute2
packages+=,mount,passwd,procps,curl,sudo,ca-certificates,busybox-static,docker-registry,skopeo
packages+=,libfaketime,python3-jinja2,python3-pytest,nginx-light,webhook,pacman-package-manager
customize=$repo/tests/fixtures/customize-root
skip=() root=''

# The root's name holds a digest of its recipe, so a changed recipe builds a new one.
root_path() {
    local recipe
    recipe=$(echo "$suite $packages" && cat "$repo/tests/fixtures/customize-root" ${customize:+"$customize"})
    echo "$roots/root-$(sha256sum <<<"$recipe" | cut -c1-12)"
}

# The path of the root, which is built where there is none yet.
built_root() {
    root=$(root_path)
    mkdir -p "$cache" "$roots"
    if [[ ! -d $root ]]; then
        [[ $unreleased != *" $suite "* ]] ||
            echo "$suite is not released: a mirror's Release file is taken even past its Valid-Until"
        step "building the machine's root (once, about a minute)" build_root ||
            die "could not build a root of $suite: it needs the network, and 500 MB in $roots"
    fi
    touch -c "$root"
    [[ -d $root ]] || die "another run has just removed $root, which was old: start again"
}

# Of two runs at once one builds, and the other waits for it. What is not built to its end never
# has the root's name.
build_root() (
    exec {lock}<"$roots"
    flock "$lock" || exit
    [[ ! -d $root ]] || exit 0
    trap 'rm -rf --one-file-system "$root.new"' EXIT
    # bash waits for mmdebstrap, which unmounts what it has mounted.
    trap 'exit 130' INT TERM
    rm -rf --one-file-system "$root.new"
    expired=()
    [[ $unreleased != *" $suite "* ]] || expired=(--aptopt='Acquire::Check-Valid-Until "false"')
    # errexit is off where a function is called before ||.
    mmdebstrap --variant=apt "${skip[@]}" "${expired[@]}" --include="$packages" \
        ${customize:+--customize-hook="$customize"} "$suite" "$root.new" || exit
    mv "$root.new" "$root" || exit
    # Recipes change: what was not used for a week is not kept. Not -mtime, which base-files sets.
    find "$roots" -maxdepth 1 -name 'root-*' -ctime +7 -exec rm -rf --one-file-system {} +
)
