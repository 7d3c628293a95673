#!/usr/bin/env bash
# Runs all benchmarks of operations and training steps, joins their tables and prints them.
#
#   bash tools/benchmarks/gpu.sh [--cpu | --toy] [FOLDER]
#
# Writes FOLDER/benchmarks.md and benchmarks.json (work_dirs/benchmarks by default); PYTHON is the
# interpreter. --cpu has the five ratios that docs/performance.md begins with, at their sizes, on
# one thread of a CPU. --toy has all tools at sizes at which no ratio of time means much. What a
# tool that fails has finished is joined, too; one that is stopped ends the script, and it joins
# what is there.
set -euo pipefail
mode=gpu
case "${1:-}" in
  --cpu | --toy)
    mode=${1#--}
    shift
    ;;
esac
if [ $# -gt 1 ] || [[ "${1:-}" == -* ]]; then
  echo "gpu.sh: cannot read $*; give --cpu or --toy, or neither, and then a FOLDER" >&2
  exit 2
fi
folder=${1:+$(realpath -m "$1")}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder=${folder:-work_dirs/benchmarks}
mkdir -p "$folder"
pages=()
failed=()
stopped=
trap 'stopped=1' INT TERM

# run NAME TOOL OPTIONS...: writes the page NAME.
run() {
  local page="$folder/$1.md" tool="tools/benchmarks/$2.py" status=0
  shift 2
  if [ -n "$stopped" ]; then return; fi
  echo "$tool $*"
  rm -f "$page"
  "${PYTHON:-python}" "$tool" --out "$page" "$@" > /dev/null || status=$?
  if [ "$status" -ge 128 ]; then stopped=1; fi
  if [ "$status" -gt 0 ]; then failed+=("$tool"); fi
  if [ -f "$page" ]; then pages+=("$page"); fi
}

if [ "$mode" = cpu ]; then
  one=(--threads 1)
  run rankmatch step "${one[@]}" --method rankmatch --step-repeats 1
  run corrmatch corrmatch "${one[@]}" --only pixels
  run data data --only voc12
  run plan training "${one[@]}" --only plan
  run ema training "${one[@]}" --only ema
elif [ "$mode" = toy ]; then
  small=(--threads 1 --crop 64 --repeats 1)
  step=(--network unet --crop 64 --step-repeats 1)
  run corrmatch corrmatch "${small[@]}" --only pixels --grid 33
  run rankmatch rankmatch "${small[@]}" --only rank --grid 9 --channels 8 --agents 8
  run s4mc s4mc "${small[@]}" --only quantile --values 1000
  run weighting weighting "${small[@]}" --only bank
  run step step --method unimatch rankmatch "${step[@]}"
  run frameworks frameworks --network unet --crop 32 --batch 2 --repeats 1 --frameworks fixmatch
  run training training "${step[@]}" --repeats 1
  run data data --scale 0.1 --images 2 --repeats 1
  run growth growth --threads 1 --scale 0.3 --repeats 1
else
  "${PYTHON:-python}" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' || {
    echo "gpu.sh: torch sees no GPU; give --cpu or --toy, which need none" >&2
    exit 1
  }
  gpu=(--device cuda)
  for method in corrmatch rankmatch s4mc weighting; do run "$method" "$method" "${gpu[@]}"; done
  for crop in 321 513; do
    run "step_$crop" step "${gpu[@]}" --crop "$crop" --batch 4 --step-repeats 5
  done
  run frameworks frameworks "${gpu[@]}" --network deeplabv3plus_r50 --batch 4 --repeats 5
  run training training "${gpu[@]}" --batch 4 --step-repeats 5 --compile
  run data data
  run growth growth "${gpu[@]}"
fi
if [ ${#pages[@]} -gt 0 ]; then
  "${PYTHON:-python}" tools/benchmarks/join_tables.py "${pages[@]}" --out "$folder"
  cat "$folder/benchmarks.md"
fi
if [ -n "$stopped" ]; then
  echo "gpu.sh: stopped in ${failed[*]:-between two tools}" >&2
  exit 130
fi
if [ ${#failed[@]} -gt 0 ]; then
  echo "gpu.sh: ${failed[*]} failed, see above" >&2
  exit 1
fi
