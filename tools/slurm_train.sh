#!/usr/bin/env bash
# Train on a Slurm cluster.
#   bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]
# As a batch job it is requeued before its time limit and goes on where it was:
#   sbatch --requeue --signal=B:USR1@120 --wrap "exec bash tools/slurm_train.sh PARTITION ..."
# GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS are read from the environment.
set -eu
if [ $# -lt 4 ]; then
    echo "usage: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments]" >&2
    exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
WORK_DIR=$4
shift 4
GPUS=${GPUS:-4}
GPUS_PER_NODE=${GPUS_PER_NODE:-4}
for NUMBER in "GPUS=$GPUS" "GPUS_PER_NODE=$GPUS_PER_NODE" "CPUS_PER_TASK=${CPUS_PER_TASK:-5}"; do
    case ${NUMBER#*=} in
    '' | *[!0-9]* | 0*)
        echo "error: ${NUMBER%%=*} must be a whole number >= 1, got '${NUMBER#*=}'" >&2
        exit 2
        ;;
    esac
done
if ! command -v srun >/dev/null; then
    echo "error: there is no srun here: run this where Slurm is, or take tools/dist_train.sh" >&2
    exit 1
fi
ROOT=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
SIGNAL=
if [ -z "${SLURM_JOB_ID:-}" ]; then
    SIGNAL=--signal=USR1@120 # the ranks themselves get it, save and end
elif [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then
    case " $* " in *" --resume"*) ;; *) set -- "$@" --resume ;; esac
fi
# SRUN_ARGS holds several arguments and is split on purpose.
# shellcheck disable=SC2086
srun --partition="$PARTITION" --job-name="$JOB_NAME" \
    --gres=gpu:"$GPUS_PER_NODE" --ntasks="$GPUS" --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 $SIGNAL ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$ROOT/tools/train.py" "$CONFIG" --work-dir="$WORK_DIR" \
    --launcher slurm "$@" &
STEP=$!
LIMIT=
trap 'LIMIT=1; kill -USR1 "$STEP"' USR1
trap 'kill -TERM "$STEP"' TERM
trap 'kill -INT "$STEP"' INT
STATUS=0
while :; do # a signal ends the wait before the step
    wait "$STEP" && STATUS=0 || STATUS=$?
    kill -0 "$STEP" 2>/dev/null || break
done
if [ -n "$LIMIT" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$STATUS"
