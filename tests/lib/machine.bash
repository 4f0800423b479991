# shellcheck shell=bash
# A machine: a root under systemd-nspawn, booted in a second and gone afterwards.

# shellcheck source=root.bash source-path=SCRIPTDIR
. "${BASH_SOURCE[0]%/*}/root.bash"

kept=/run/buildbtw-hook-machine
hierarchies=(/sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd)
name=buildbtw-hook-$$
nspawn='' leader=''

# boot OPTION...: the machine of $root, with options that say where its changes go.
boot() {
    local scope=() console file
    file=$(mktemp)
    exec {console}<>"$file"
    rm "$file"
    [[ -d /run/systemd/system ]] && scope=(systemd-run --quiet --scope -p Delegate=yes --unit="$name")
    (
        ((${#scope[@]})) || own_cgroup
        # In a session of its own, or Ctrl-C would reach the machine before it reaches us.
        exec env SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 setsid "${scope[@]}" systemd-nspawn --quiet --boot \
            -D "$root" "$@" --register=no --keep-unit --machine="$name" \
            --link-journal=no --private-network --resolv-conf=off \
            --bind-ro="$repo:/src" --system-call-filter='add_key keyctl bpf' --console=pipe \
            </dev/null >&"$console" 2>&1 {console}>&-
    ) &
    nspawn=$!
    step "booting the machine" wait_until_up || {
        cat "/proc/$BASHPID/fd/$console" >&2
        die "the machine did not boot"
    }
    exec {console}>&-
    leader=$(find_leader)
}

# On a host that systemd did not boot, the machine gets a cgroup of its own in
# each hierarchy that systemd uses, or two machines would share one.
own_cgroup() {
    local hierarchy
    for hierarchy in "${hierarchies[@]}"; do
        [[ -e $hierarchy/cgroup.procs ]] || continue
        mkdir -p "$hierarchy/$name"
        echo "$BASHPID" >"$hierarchy/$name/cgroup.procs"
    done
}

# The machine's PID 1: the child of nspawn (which systemd-run --scope executes in place) in another
# PID namespace than ours. Before that there are children that still see the host's root, and the
# host's own systemd.
find_leader() {
    local pid ours
    ours=$(readlink /proc/self/ns/pid)
    for pid in $(<"/proc/$nspawn/task/$nspawn/children"); do
        [[ $(readlink "/proc/$pid/ns/pid") == "$ours" ]] || echo "$pid"
    done
} 2>/dev/null

wait_until_up() {
    local i
    for ((i = 0; i < 300; i++)); do
        is_running "$nspawn" || return 1
        leader=$(find_leader) || true
        [[ -n $leader && -e /proc/$leader/root/run/systemd/private ]] && break
        sleep 0.1
    done
    [[ -e /proc/$leader/root/run/systemd/private ]] || return 1
    nsenter -t "$leader" -a systemctl is-system-running --wait || {
        nsenter -t "$leader" -a systemctl --failed --no-pager
        return 1
    }
}

# In the machine a command is a transient service: a bare nsenter would bypass
# the machine's own seccomp filter and capabilities.
inside() {
    nsenter -t "$leader" -a systemd-run --quiet --wait --pipe --collect \
        --working-directory=/src --setenv=HOME=/root --setenv=PYTHONDONTWRITEBYTECODE=1 \
        --setenv=PYTHONPATH=/src/tests/lib:/src/tests/system -- "$@"
}

shut_down() {
    [[ -n $nspawn ]] || return 0
    # With PID 1 of the machine goes all that runs there. nspawn outlives it to put away its mounts
    # and locks.
    leader=$(find_leader) || true
    kill -KILL ${leader:+"$leader"} 2>/dev/null || true
    local i
    for ((i = 0; i < 100; i++)); do
        is_running "$nspawn" || break
        sleep 0.05
    done
    kill -KILL "$nspawn" 2>/dev/null || true
    wait "$nspawn" 2>/dev/null || true
    nspawn='' leader=''
    remove_cgroups "$name"
}

remove_cgroups() {
    local hierarchy i
    for hierarchy in "${hierarchies[@]}"; do
        [[ -d $hierarchy/$1 ]] || continue
        for ((i = 0; i < 50; i++)); do
            find "$hierarchy/$1" -depth -type d -exec rmdir {} + 2>/dev/null && break
            sleep 0.1
        done
    done
}

# prepared_machine [OPTION...]: a machine with the program installed as an operator installs it.
prepared_machine() {
    prerequisites
    build
    built_root
    (($#)) || set -- --tmpfs=/var/lib/containers:mode=0755
    boot --volatile=overlay "$@"
    step "installing buildbtw-hook in it, with a registry, an image and a template" \
        inside /src/tests/fixtures/prepare
}

# --- The machine that `try --keep` left running

# Takes it up, if it is still the process that was kept.
find_kept() {
    local pid its_name
    [[ -e $kept ]] || return 1
    read -r pid its_name <"$kept"
    if ! grep -qsze "--machine=$its_name" "/proc/$pid/cmdline"; then
        remove_cgroups "$its_name"
        rm -f "$kept"
        return 1
    fi
    nspawn=$pid name=$its_name
    leader=$(find_leader)
}

refuse_second_kept() {
    if (find_kept); then
        die "a machine is kept already: end it with tests/machine stop"
    fi
}

keep_machine() {
    # Two at once: the second finds the file.
    (set -o noclobber && echo "$nspawn $name" >"$kept") 2>/dev/null ||
        die "a machine was kept meanwhile: end it with tests/machine stop"
    is_ours=no
}

stop_kept() {
    find_kept || die "no machine is running"
    shut_down
    rm -f "$kept"
}

kept_or_new_machine() {
    if find_kept; then
        is_ours=no
    else
        prepared_machine
    fi
}

# --- The end

# Whether the machine ends with this run, and whether its journal says why a run failed.
is_ours=yes is_explained=no
# The process groups that run beside us, and a directory that goes with us.
beside=() store=''

finish() {
    local status=$? run
    trap '' INT TERM
    end_step
    for run in "${beside[@]}"; do
        end_group "$run"
    done
    if [[ -n $leader && $is_explained == no && $status != 0 && $status != 130 ]]; then
        echo "--- the machine's journal, its last 100 lines:" >&2
        nsenter -t "$leader" -a journalctl --no-pager -n 100 >&2 || true
    fi
    [[ $is_ours == no ]] || shut_down
    [[ -z $store ]] || rm -rf --one-file-system "$store"
    exit "$status"
}
