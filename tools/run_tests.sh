#!/usr/bin/env bash
# Sets everything up when something is missing, then runs the tests on all cores.
#
#   bash tools/run_tests.sh [--stack official|onedl] [--python PY] [--own-venv] [PYTEST OPTIONS]
#
# Other options go to pytest; with a test file or folder among them only that is run (add -n 0 to
# stay in one process). The exit code is pytest's, or 1 when set-up fails.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
setup_env "$@"
cd "$REPO"

# The tests compute on tiny tensors, where threads cost more than they bring.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export MKL_NUM_THREADS=${MKL_NUM_THREADS:-1}
export OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-1}

# Compiled modules are kept: the tests start many processes, and pytest rewrites 250 files.
unset PYTHONDONTWRITEBYTECODE

targets=(tests)
for argument in ${REST_ARGS[@]+"${REST_ARGS[@]}"}; do
  case "$argument" in -*) continue ;; esac
  if [ -e "${argument%%::*}" ]; then targets=(); fi
done

# Tests of a file stay on one worker, so that what they share is made once; see tests/conftest.py.
exec "$PYTHON" -m pytest ${targets[@]+"${targets[@]}"} -q -n "$(cores)" --dist loadgroup \
  --no-loadscope-reorder ${REST_ARGS[@]+"${REST_ARGS[@]}"}
