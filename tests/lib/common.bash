# shellcheck shell=bash
# What each command needs: words to the user, a sound environment, the program built.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

die() {
    echo "tests/machine: $*" >&2
    exit 1
}

is_running() {
    kill -0 -- "$1" 2>/dev/null
}

# step TEXT CMD...: run CMD quietly, show that it runs and how long it took; on failure, its output.
step() {
    local text=$1 log file start=$SECONDS status=0
    shift
    file=$(mktemp)
    exec {log}<>"$file"
    # Nothing is left of it, however this ends.
    rm "$file"
    printf '%s ' "$text"
    # In a process group of its own, so that it ends as a whole.
    set -m
    "$@" >"/proc/$BASHPID/fd/$log" 2>&1 </dev/null {log}>&- &
    stepping=$!
    set +m
    while is_running "$stepping"; do
        sleep 0.1
        (((SECONDS - start) % 5 == 4)) && {
            printf .
            sleep 1
        }
    done
    wait "$stepping" || status=$?
    stepping=''
    if ((status)); then
        printf ' failed\n'
        cat "/proc/$BASHPID/fd/$log" >&2
    else
        printf ' %d s\n' $((SECONDS - start))
    fi
    exec {log}>&-
    return "$status"
}
stepping=''

# Ends a step that Ctrl-C came in the midst of, once it has put away what it made.
end_step() {
    [[ -n $stepping ]] || return 0
    end_group "$stepping"
    stepping=''
}

# Ends a process group, and waits for it to be gone.
end_group() {
    kill -TERM -- "-$1" 2>/dev/null || true
    while is_running "-$1"; do
        sleep 0.1
    done
}

# As root, with the settings that sudo would drop.
be_root() {
    local setting settings=()
    ((EUID != 0)) || return 0
    command -v sudo >/dev/null || die "run it as root: sudo is missing"
    for setting in FUZZ_INPUTS MACHINE_CACHE MACHINE_ROOTS NO_COLOR ROUNDS SEED SOAK SUITE; do
        [[ -z ${!setting:-} ]] || settings+=("$setting=${!setting}")
    done
    exec sudo -- env "${settings[@]}" "$@"
}

check_linux() {
    [[ $(uname -s) == Linux ]] ||
        die "it needs Linux: run it in a virtual machine of Debian, Ubuntu, Arch or Fedora"
}

# Says within a second why no machine can run here.
check_host() {
    local no_mount mount_of_root='grep mnt_id /proc/self/fdinfo/3 3</'
    no_mount="root may not mount here, as in an ordinary container: run it on the host or in a virtual machine, or start the container with --privileged"
    [[ -e /proc/self/ns/mnt ]] || die "it needs /proc, which is not mounted here"
    [[ $(</proc/self/uid_map) =~ ^\ +0\ +0\ +4294967295$ ]] ||
        die "root is a user namespace's here, as in a rootless container: run it on the host or in a virtual machine"
    unshare --mount --propagation unchanged true 2>/dev/null || die "$no_mount"
    # To enter a mount namespace is to be at its root, even from a chroot.
    [[ $(sh -c "$mount_of_root") == "$(nsenter --mount=/proc/self/ns/mnt sh -c "$mount_of_root" 2>/dev/null)" ]] ||
        die "it cannot work in a chroot, where no file system can be made the root: run it outside, or boot this directory with systemd-nspawn or as a virtual machine"
    unshare --mount mount -t tmpfs tmpfs /tmp 2>/dev/null || die "$no_mount"
}

# Under sudo the toolchain is the calling user's, and so are the files in target/.
as_builder() {
    if [[ -n ${SUDO_USER:-} && $SUDO_USER != root ]]; then
        local home
        home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
        runuser -u "$SUDO_USER" -- env HOME="$home" PATH="$home/.cargo/bin:$PATH" "$@"
    else
        "$@"
    fi
}

check_rust() {
    local oldest found how
    oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$repo/Cargo.toml")
    how="install it from https://rustup.rs, or on Debian 13: apt install cargo-web rustc-web"
    found=$(as_builder rustc --version 2>/dev/null | cut -d' ' -f2) || found=''
    if [[ -z $found ]] || ! as_builder cargo --version >/dev/null 2>&1; then
        die "Rust $oldest or newer is missing: $how"
    fi
    [[ $(printf '%s\n' "$oldest" "$found" | sort -V | head -n1) == "$oldest" ]] ||
        die "Rust $found is too old, $oldest is needed: $how"
}

prerequisites() {
    local missing=()
    check_host
    check_rust
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
    command -v systemd-nspawn >/dev/null || missing+=(systemd-container)
    [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] || missing+=(debian-archive-keyring)
    install_missing "${missing[@]}"
}

# install_missing PACKAGE...: by Debian's names; other package managers are left to their users.
install_missing() {
    (($#)) || return 0
    command -v apt-get >/dev/null || die "install these first, which Debian calls: $*"
    step "installing $*" install_packages "$@" || die "could not install $*: install them by hand"
}

install_packages() {
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@"
}

build() {
    step "building buildbtw-hook" as_builder env --chdir="$repo" cargo build --release --locked
}

# What the tests run in a container in place of buildbtw.
# The target is named since macros, which are loaded into the compiler, cannot be static.
build_backend() {
    local target
    target=$(uname -m)-unknown-linux-gnu
    as_builder env --chdir="$repo" cargo build --release --locked --target "$target" \
        --manifest-path tests/fixtures/backend/Cargo.toml --target-dir target/fixtures &&
        as_builder ln -sf "fixtures/$target/release/backend" "$repo/target/backend"
}
