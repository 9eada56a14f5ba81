#!/bin/bash
# Train with the run folder on this machine's disk, and keep copies of it in a folder that outlives the machine: a bucket.
#
#   launch/skypilot/with_bucket.sh RUN BUCKET COMMAND…
#   launch/skypilot/with_bucket.sh runs/mine /bucket/mine python scripts/launch.py … --output_dir runs/mine
#
# A mounted bucket knows no lock, no rename of folders and no "on the disk now", which whole checkpoints rest on. So the run stays on the
# disk, and each copy is one file. What is read back is verified by sft.py like every checkpoint. The command's exit code is this script's.
# EVERY: seconds between looks for a new checkpoint, 30 unless set.
set -uo pipefail
run=${1:?which run folder?}
bucket=${2:?which folder of the bucket?}
shift 2
mkdir --parents "$bucket" "$(dirname "$run")"

# Copies, the oldest first
copies() {
    find "$bucket" -name 'run-*.tar' | sort
}

# Its size stands in its name: tar takes a copy that was cut for a whole one. The two newest are kept. A file that goes away meanwhile
# makes tar complain, and spoils no other one.
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

# The newest copy that is whole, where this machine has no run yet
while [[ ! -e $run ]] && read -r packed; do
    [[ $packed == *-"$(stat --format=%s "$packed")".tar ]] || continue
    mkdir "$run.restored"
    tar --extract --file="$packed" --directory="$run.restored" && mv "$run.restored" "$run" && echo "read back $packed"
    rm --recursive --force "$run.restored"
done < <(copies | tac)

# Train; a signal goes to the command, and the copy waits for its end
"$@" &
command=$!
trap 'kill -TERM "$command" 2>/dev/null' TERM INT HUP
copy_new_checkpoints >/dev/null 2>&1 &
copier=$!
wait "$command"
code=$?
while kill -0 "$command" 2>/dev/null; do # it was `wait` that the signal ended, not the command
    wait "$command"
    code=$?
done

# Whole, with the adapter where there is one
kill "$copier" 2>/dev/null
wait "$copier" 2>/dev/null
[[ -e $run ]] && copy
exit "$code"
