# shellcheck shell=bash
# The main job with the user's own systemd manager: nothing runs as root, nothing is downloaded.

# shellcheck source=try.bash source-path=SCRIPTDIR
. "${BASH_SOURCE[0]%/*}/try.bash"

check_user_manager() {
    ((EUID != 0)) || die "\"try --user\" is for an ordinary user; root has \"try\""
    export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$EUID}
    systemctl --user show --property=Version >/dev/null 2>&1 ||
        die "you have no systemd manager of your own here: log in, or ask for \"loginctl enable-linger\", on a host that systemd booted"
    [[ -z $(systemctl --user list-unit-files --no-legend 'buildbtw*') ]] ||
        die "your systemd manager has units buildbtw* already: they would be in the way"
}

build_offline() {
    local built=("$repo"/target/release/buildbtw-{hook,systemctl})
    if command -v cargo >/dev/null &&
        step "building buildbtw-hook" cargo build --manifest-path "$repo/Cargo.toml" --release --locked --offline; then
        return
    fi
    [[ -x ${built[0]} && -x ${built[1]} ]] ||
        die "it is not built yet, and to build it something is missing: run \"cargo build --release\" first"
    echo "target/release is taken as it is"
}

try_user() {
    check_linux
    check_user_manager
    try=$XDG_RUNTIME_DIR/buildbtw-try
    units=$XDG_RUNTIME_DIR/systemd/user
    trap end_try_user EXIT
    trap 'exit 130' INT TERM
    build_offline
    (umask 077 && mkdir -p "$try"/{bin,images,var/lib/buildbtw-hook} "$units" && od -An -N32 -tx1 /dev/urandom |
        tr -d ' \n' >"$try/token")
    cp -P "$repo"/target/release/buildbtw-{hook,systemctl} "$repo"/tests/fixtures/user/bin/* "$try/bin"
    cp "$repo"/tests/fixtures/user/*.{socket,service} "$units"
    systemctl --user daemon-reload
    systemctl --user start buildbtw-systemctl.socket buildbtw-hook.socket
    where="command" say_and_run "$try/token" TRY="$try" <"$repo/tests/fixtures/user/steps"
    cat <<'END'

That was the main job, as you. Not shown: what root and a user of its own are kept from (the sandbox,
the boundary between the two processes), containers and the pull of an image, nginx, a reboot.
"tests/machine try" shows those, and needs root.
END
}

end_try_user() {
    end_step
    systemctl --user stop buildbtw-{hook,systemctl}.socket 'buildbtw@*' 'buildbtw-hook@*' \
        'buildbtw-systemctl@*' 2>/dev/null || true
    rm -f "$units"/buildbtw{-hook,-systemctl}{.socket,@.service} "$units/buildbtw@.service"
    rm -rf "$try"
    systemctl --user daemon-reload
}
