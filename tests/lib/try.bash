# shellcheck shell=bash
# The main job, shown step by step.

# shellcheck source=machine.bash source-path=SCRIPTDIR
. "${BASH_SOURCE[0]%/*}/machine.bash"

# say_and_run NAME=VALUE...: each line of the input as a person would type it, and what it prints. A
# comment is a heading.
say_and_run() {
    local line shown variable bold='' plain=''
    # https://no-color.org
    [[ ! -t 1 || -n ${NO_COLOR:-} ]] || bold=$'\033[1m' plain=$'\033[0m'
    while read -r line; do
        case $line in
            '') continue ;;
            '#'*)
                printf '\n%s\n' "${line#\# }"
                continue
                ;;
        esac
        shown=$line
        for variable in "$@"; do
            shown=${shown//\$${variable%%=*}/${variable#*=}}
        done
        printf '\n%s$ %s%s\n' "$bold" "$shown" "$plain"
        # shellcheck disable=SC2016 # expanded in the machine
        inside env "$@" bash -c 'TOKEN=$(head -n1 /etc/buildbtw-hook/token | cut -d" " -f1); eval "$1"' - "$line" </dev/null
    done
}

try() {
    prepared_machine
    # shellcheck disable=SC2016 # the fence of the README's own lines
    sed -n '/^```sh try$/,/^```$/{//!p}' "$repo/README.md" | say_and_run HOST=http://127.0.0.1:9000
    echo
    step "building a small web application in the place of buildbtw" build_backend
    step "setting up its template and nginx, as the playbook does" inside /src/tests/fixtures/review-host
    say_and_run HOST=https://buildbtw.dev.archlinux.org CURL_CA_BUNDLE=/run/review-host.crt \
        <"$repo/tests/fixtures/review-app"
}
