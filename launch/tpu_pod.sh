#!/usr/bin/env bash
# Starts `tokjax train` on a Cloud TPU pod: asks for the machines, copies this repository to them, runs, gives them back.
#
#     export NAME=hat ZONE=us-central1-a TYPE=v5litepod-16 VERSION=v2-alpha-tpuv5-lite
#     launch/tpu_pod.sh all --config hat:paper --workdir /mnt/runs/hat
#
# or one step after the other: create, install, train ARGUMENTS..., delete. Needs: gcloud, logged in to a project with a
# quota of TPUs; this repository as a git checkout (what is committed is copied); a --workdir that all machines see, such as
# a Filestore share or a bucket mounted by gcsfuse, for which MOUNT is a command that runs on each. Variables:
#     NAME      of the queued resource and its node     ZONE     as in us-central1-a
#     TYPE      accelerator type                        VERSION  runtime version of that type
#     SPOT=1    machines that may be preempted          MOUNT    as in 'sudo mount -o rw 10.0.0.2:/runs /mnt/runs'
#
# A preempted run goes on where it saved when the same command runs again:
#     while launch/tpu_pod.sh all ...; code=$?; [ $code -ne 0 ] && [ $code -ne 2 ]; do sleep 60; done  # 2: a mistake
set -euo pipefail

: "${NAME:?set NAME, of the queued resource}" "${ZONE:?set ZONE, as in us-central1-a}"
step=${1:?give a step: create, install, train, delete, or all}
shift

queued() { gcloud compute tpus queued-resources "$1" "$NAME" --zone "$ZONE" "${@:2}"; }
everywhere() { gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker all --command "$1"; }

create() {
    : "${TYPE:?set TYPE, as in v5litepod-16}" "${VERSION:?set VERSION, as in v2-alpha-tpuv5-lite}"
    queued create --node-id "$NAME" --accelerator-type "$TYPE" --runtime-version "$VERSION" ${SPOT:+--spot}
    local state
    while true; do
        state=$(queued describe --format 'value(state.state)')
        echo "$NAME: $state"
        case $state in
            ACTIVE) return ;;
            FAILED | SUSPENDING | SUSPENDED | DELETING)
                echo "$NAME is $state; gcloud compute tpus queued-resources describe $NAME --zone $ZONE says why" >&2
                return 1
                ;;
        esac
        sleep "${POLL_SECONDS:-30}"
    done
}

install() {
    local archive
    archive=$(mktemp -d)
    git -C "$(dirname "$0")/.." archive --prefix tokjax/ --output "$archive/tokjax.tar.gz" HEAD
    gcloud compute tpus tpu-vm scp "$archive/tokjax.tar.gz" "$NAME:" --zone "$ZONE" --worker all
    rm -r "$archive"
    everywhere "set -e; tar xzf tokjax.tar.gz; sudo apt-get install -yq python3.11-venv || sudo apt-get install -yq python3-venv
python=\$(command -v python3.11 || command -v python3); \$python -m venv venv; venv/bin/pip install -q './tokjax[tpu]'"
}

train() {
    local mount=''
    if [ -n "${MOUNT:-}" ]; then
        mount="mountpoint -q /mnt/runs || { sudo mkdir -p /mnt/runs && $MOUNT; } || exit; "
    fi
    everywhere "${mount}venv/bin/tokjax train$(printf ' %q' "$@")"
}

delete() { queued delete --force --quiet; }

case $step in
    create | install | delete) "$step" ;;
    train) train "$@" ;;
    all)
        trap delete EXIT
        create
        install
        train "$@"
        ;;
    *)
        echo "no step $step; give create, install, train, delete, or all" >&2
        exit 2
        ;;
esac
