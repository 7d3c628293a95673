#!/usr/bin/env bash
# From a fresh clone to a result: sets everything up, makes the digit scenes, trains UniMatch next to
# the supervised baseline, tests both, and writes a picture and a table.
#
#   bash tools/quickstart.sh [--stack official|onedl] [--python PY] [--own-venv] [QUICKSTART OPTIONS]
#
# Other options go to tools/quickstart.py. What is complete is not done again.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
setup_env "$@"
cd "$REPO"

threads=$(cores)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$threads}
export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$threads}

"$PYTHON" tools/dataset_converters/digit_scenes.py data/digit_scenes
exec "$PYTHON" tools/quickstart.py ${REST_ARGS[@]+"${REST_ARGS[@]}"}
