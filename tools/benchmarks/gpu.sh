#!/usr/bin/env bash
# Runs all benchmarks of operations and training steps and joins their tables.
#
#   bash tools/benchmarks/gpu.sh [--toy] [FOLDER]
#
# Writes FOLDER/benchmarks.md and benchmarks.json (work_dirs/benchmarks by default); PYTHON is the
# interpreter. --toy has sizes for a CPU.
set -euo pipefail
toy=
if [ "${1:-}" = --toy ]; then toy=1; shift; fi
case "${1:-}" in -*)
  echo "gpu.sh: unknown option $1; there are --toy and then a FOLDER" >&2
  exit 2
  ;;
esac
folder=${1:+$(realpath -m "$1")}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder=${folder:-work_dirs/benchmarks}
mkdir -p "$folder"
pages=()

# run NAME TOOL OPTIONS...: writes the page NAME.
run() {
  local page="$folder/$1.md" tool="tools/benchmarks/$2.py"
  shift 2
  echo "$tool $*"
  "${PYTHON:-python}" "$tool" --out "$page" "$@" > /dev/null || {
    echo "gpu.sh: $tool has failed, see above; --toy needs no GPU" >&2
    exit 1
  }
  pages+=("$page")
}

if [ -n "$toy" ]; then
  small=(--threads 1 --crop 64 --repeats 1)
  step=(--network unet --crop 64 --step-repeats 1)
  run corrmatch corrmatch "${small[@]}" --only regions --size 33 --shapes 8 --grid 9
  run rankmatch rankmatch "${small[@]}" --only rank --grid 9 --channels 8 --agents 8
  run s4mc s4mc "${small[@]}" --only quantile --values 1000
  run weighting weighting "${small[@]}" --only bank
  run step step --method unimatch "${step[@]}"
  run frameworks frameworks --network unet --crop 32 --batch 2 --repeats 1 --frameworks fixmatch
  run training training "${step[@]}" --repeats 1
  run data data --scale 0.1 --images 2 --repeats 1
  run growth growth --threads 1 --scale 0.3 --repeats 1
else
  gpu=(--device cuda)
  for method in corrmatch rankmatch s4mc weighting; do run "$method" "$method" "${gpu[@]}"; done
  for crop in 321 513; do
    methods=(unimatch corrmatch rankmatch s4mc weighting)
    run "step_$crop" step "${gpu[@]}" --crop "$crop" --batch 4 --method "${methods[@]}"
  done
  run frameworks frameworks "${gpu[@]}" --network deeplabv3plus_r50 --batch 4 --repeats 5
  run training training "${gpu[@]}" --batch 4 --step-repeats 5 --compile
  run data data --repeats 3
  run growth growth "${gpu[@]}"
fi
"${PYTHON:-python}" tools/benchmarks/join_tables.py "${pages[@]}" --out "$folder"
