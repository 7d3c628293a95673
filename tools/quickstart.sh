#!/usr/bin/env bash
# From a fresh clone to a result: sets everything up, makes a data set, trains UniMatch next to the
# supervised baseline, tests both, and writes a picture and a table.
#
#   bash tools/quickstart.sh [--data digit-scenes|land-cover] [--stack official|onedl] [--python PY]
#                            [--own-venv] [QUICKSTART OPTIONS]
#
# Digit scenes (default) are drawn; land cover is real, and installs the packages that it needs.
# Other options go to tools/quickstart.py. What is complete is not done again.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
parse_options "$@"
words=" ${REST_ARGS[*]-} "
words=${words//--data=/--data }
case "$words" in # before the set-up, which takes minutes
  *' --data digit-scenes '* | *' --data land-cover '*) ;;
  *' --data '*)
    value=${words#* --data }
    die "--data '${value%% *}' is not known; allowed: digit-scenes, land-cover" ;;
esac
setup_env "$@"
cd "$REPO"
case "$words" in *' --data land-cover '*) setup_land_cover ;; esac

threads=$(cores)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$threads}
export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$threads}

exec "$PYTHON" tools/quickstart.py ${REST_ARGS[@]+"${REST_ARGS[@]}"}
