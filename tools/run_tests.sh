#!/usr/bin/env bash
# Sets everything up when something is missing, then runs the tests.
#
#   bash tools/run_tests.sh [--stack official|onedl] [--python PY] [--own-venv] [PYTEST OPTIONS]
#
# Other options go to pytest; with a test file or folder among them only that is run. The exit code
# is pytest's, or one of 10 to 18 and 64 when set-up fails (see tools/setup_env.sh).
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
setup_env "$@"
cd "$REPO"

# The tests compute on tiny tensors, where threads cost more than they bring.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export MKL_NUM_THREADS=${MKL_NUM_THREADS:-1}
export OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-1}

targets=(tests)
for argument in ${REST_ARGS[@]+"${REST_ARGS[@]}"}; do
  case "$argument" in -*) continue ;; esac
  if [ -e "${argument%%::*}" ]; then targets=(); fi
done

exec "$PYTHON" -m pytest ${targets[@]+"${targets[@]}"} -q ${REST_ARGS[@]+"${REST_ARGS[@]}"}
