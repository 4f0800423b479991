# shellcheck shell=bash
# The example for GitLab CI, whose jobs a runner runs on this host, in the network of a machine.

# shellcheck source=machine.bash source-path=SCRIPTDIR
. "${BASH_SOURCE[0]%/*}/machine.bash"

runner=$repo/target/gitlab/node_modules/.bin/gitlab-ci-local
host=buildbtw.dev.archlinux.org

gitlab() {
    local tool long
    for tool in curl git npm rsync; do
        command -v "$tool" >/dev/null || die "$tool is missing"
    done
    [[ -x $runner ]] || step "fetching a runner" as_builder npm install --no-audit --no-fund \
        --prefix "$repo/target/gitlab" gitlab-ci-local@4.58.0
    prepared_machine
    step "building a small web application in the place of buildbtw" build_backend
    step "setting up its template and nginx, as the playbook does" inside /src/tests/fixtures/review-host
    make_project

    push feature-abc-1-x --backend=v1
    pipeline green 'branch feature-abc-1-x is deployed' Feature/ABC-1_x
    printf -v long 'fix-%076d' 1
    push "${long:0:63}" --backend=v1
    pipeline green "branch ${long:0:63} is deployed" "Fix/${long#fix-}"
    # shellcheck disable=SC2016 # for the container
    push broken --backend=v1 --command='echo "cannot read the database" >&2; exit 3'
    pipeline red 'cannot read the database' broken
    pipeline red "GitLab's slug of it is broken" broken --variable CI_COMMIT_REF_SLUG=Broken
    push slow --backend=v1 --variant=slow
    pipeline green 'branch slow is deployed' slow
    pipeline green 'branch slow is not deployed any more' slow stop-review
    pipeline green 'branch slow was not deployed' slow stop-review

    # The root side is away for 5 s; a caller comes again when Retry-After says so, in 30 s.
    inside systemctl stop buildbtw-systemctl.socket
    inside systemd-run --quiet --on-active=5s --timer-property=AccuracySec=100ms systemctl start buildbtw-systemctl.socket
    pipeline green 'branch broken is not deployed any more' broken stop-review

    push main --backend=v1 --variant=slow
    pipeline green 'branch main is up' main
    push main --backend=v2 --command='echo "cannot read the database" >&2; exit 3'
    pipeline red 'cannot read the database' main

    cp "$repo/tests/fixtures/gitlab-ci-today.yml" "$store/project/.gitlab-ci.yml"
    push feature-abc-1-x --backend=v2
    pipeline green 'branch feature-abc-1-x is deployed' Feature/ABC-1_x --variable CI_PIPELINE_SOURCE=merge_request_event
    pipeline green 'branch feature-abc-1-x is not deployed any more' Feature/ABC-1_x \
        --variable CI_PIPELINE_SOURCE=merge_request_event stop-review
    # It has said itself what is wrong.
    is_explained=yes
    ((wrong == 0)) || die "$wrong pipelines did not end as they should"
}
wrong=0

push() {
    inside /src/tests/fixtures/push-image "$@"
}

make_project() {
    store=$(mktemp -d "$cache/gitlab.XXXXXX")
    cp "/proc/$leader/root/run/review-host.crt" "/proc/$leader/root/etc/hosts" "$store"
    token=$(inside cut -d' ' -f1 /etc/buildbtw-hook/token)
    git init --quiet "$store/project"
    git -C "$store/project" remote add origin git@gitlab.archlinux.org:archlinux/buildbtw.git
    git -C "$store/project" -c user.name=tests -c user.email=tests@localhost commit --quiet --allow-empty --message=tests
    cp "$repo/ansible/gitlab-ci.yml" "$store/project/.gitlab-ci.yml"
}

# pipeline green|red WORDS BRANCH [OPTION...] [JOB]: runs a branch's pipeline, or the job alone, which must
# end so and have WORDS in its log.
pipeline() {
    local colour=green expected=$1 words=$2 branch=$3 start=$SECONDS verdict=ok
    shift 3
    git -C "$store/project" checkout --quiet -B "$branch"
    # A mount namespace of its own has the machine's names of hosts.
    # shellcheck disable=SC2016 # expanded there
    nsenter --net="/proc/$leader/ns/net" unshare --mount sh -c 'mount --bind "$0" /etc/hosts && exec "$@"' "$store/hosts" \
        env --chdir="$store/project" HOME="$store" CURL_CA_BUNDLE="$store/review-host.crt" "$runner" --force-shell-executor --no-color \
        --variable DEPLOY_TOKEN="$token" --variable STAGING_HOST="$host" "$@" >"$store/log" 2>&1 </dev/null || colour=red
    if [[ $colour != "$expected" ]] || ! grep -qF "$words" "$store/log"; then
        verdict="NOT $expected with those words"
        wrong=$((wrong + 1))
        cat "$store/log"
    fi
    printf '%s after %d s: %s: "%s": %s\n' "$colour" $((SECONDS - start)) "$branch${*:+ $*}" "$words" "$verdict"
}
