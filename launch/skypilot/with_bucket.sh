#!/bin/bash
# Train with the run folder on the local disk, and keep copies of it in a folder that survives the machine: a bucket.
#
#   launch/skypilot/with_bucket.sh RUN BUCKET COMMAND…
#   launch/skypilot/with_bucket.sh runs/mine /bucket/mine python scripts/launch.py … --output_dir runs/mine
#
# A mounted bucket has no locks, no folder renames and no fsync, which complete checkpoints depend on. So the run stays on the local
# disk, and each copy is one file. sft.py verifies what is restored like every checkpoint. The exit code is the command's.
# EVERY: seconds between checks for a new checkpoint (default: 30).
set -uo pipefail
run=${1:?which run folder?}
bucket=${2:?which folder of the bucket?}
shift 2
mkdir --parents "$bucket" "$(dirname "$run")"

# Copies, oldest first
copies() {
    find "$bucket" -name 'run-*.tar' | sort
}

# The name contains the size, because tar accepts a truncated copy. The two newest are kept. A file that disappears meanwhile
# makes tar complain, but does not affect the others.
copy() {
    local packed="$run.$BASHPID.tar"
    tar --create --file="$packed" --exclude=unfinished --exclude=LOCK --directory="$run" . 2>/dev/null
    cp "$packed" "$bucket/run-$(date +%s%N)-$(stat --format=%s "$packed").tar"
    rm "$packed"
    copies | head --lines=-2 | xargs --no-run-if-empty rm
}

copy_new_checkpoints() {
    local seen='' now
    while sleep "${EVERY:-30}"; do
        now=$(find "$run/checkpoints" -maxdepth 1 -name 'checkpoint-*' 2>/dev/null | sort)
        [[ $now != "$seen" ]] && copy
        seen=$now
    done
}

# Restore the newest complete copy if this machine has no run yet
while [[ ! -e $run ]] && read -r packed; do
    [[ $packed == *-"$(stat --format=%s "$packed")".tar ]] || continue
    mkdir "$run.restored"
    tar --extract --file="$packed" --directory="$run.restored" && mv "$run.restored" "$run" && echo "restored $packed"
    rm --recursive --force "$run.restored"
done < <(copies | tac)

# Train; signals are forwarded to the command, and the last copy waits for it
"$@" &
command=$!
trap 'kill -TERM "$command" 2>/dev/null' TERM INT HUP
copy_new_checkpoints >/dev/null 2>&1 &
copier=$!
wait "$command"
code=$?
while kill -0 "$command" 2>/dev/null; do # the signal ended `wait`, not the command
    wait "$command"
    code=$?
done

# A last complete copy, with the adapter if there is one
kill "$copier" 2>/dev/null
wait "$copier" 2>/dev/null
[[ -e $run ]] && copy
exit "$code"
