#!/usr/bin/env bash
# Sets up everything mmseg_semi needs: run it, or source it and call `setup_env "$@"`.
#
#   bash tools/setup_env.sh [--stack official|onedl] [--python PY] [--own-venv]
#
#   --stack      official (default): mmcv 2.1.0 (built from source), mmengine 0.10.7,
#                mmsegmentation 1.2.2, mmdet 3.3.0;
#                onedl: the maintained fork with the same import names. Its project publishes GPU
#                wheels of onedl-mmcv for recent torch on an index of its own: give that index to
#                pip (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL) and nothing is built here.
#   --python     the interpreter to use instead of the active environment's or PATH's python3
#   --own-venv   use the repository's own environment even when the active one has a torch
#
# Which environment: the active one (VIRTUAL_ENV, CONDA_PREFIX or python3 in PATH) when its torch
# imports, and that torch is never touched; else ./.venv (./.venv-onedl), made here. Where pip must
# not write next to that torch (PEP 668), ./.venv is made on top of it.
#
# What has to be done is decided by what can be imported (tools/setup_probe.py), so an interrupted
# run is continued by running again. pip's settings (PIP_*) are honoured: a wheel of mmcv found by
# PIP_FIND_LINKS is used instead of the build.
#
# Also read: TORCH_SPEC (default torch==2.13.0), MAX_JOBS (compiler processes), FORCE_CUDA,
# CUDA_HOME, CXX, TMPDIR, SETUP_HEARTBEAT (seconds between signs of life).
#
# Exit codes: 0 done            10 Python too old     11 Python too new   12 no usable Python
#             13 no C++ compiler (or Python headers)  14 disk full        15 pip or network failed
#             16 the other stack is installed here    17 mmcv's operators cannot be built or loaded
#             18 a directory is in the way or cannot be written           64 wrong option
#             130 interrupted
#
# When sourced, it leaves PYTHON (the interpreter), REPO and REST_ARGS (options it did not know).

readonly EX_OLD=10 EX_NEW=11 EX_PYTHON=12 EX_COMPILER=13 EX_DISK=14 EX_PIP=15 EX_STACK=16
readonly EX_BUILD=17 EX_PLACE=18 EX_USAGE=64

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
DEFAULT_TORCH=torch==2.13.0
STEPS=5

say() { printf '[set-up] %s\n' "$*"; }
die() { # CODE MESSAGE...: every line of the message goes to stderr, then the shell ends
  local code=$1
  shift
  printf '[set-up] ERROR: %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '[set-up]        %s\n' "$@" >&2
  end_setup
  exit "$code"
}

# ---------------------------------------------------------------- options

parse_options() {
  STACK=official ASKED_PYTHON='' OWN_VENV=0 REST_ARGS=()
  while [ $# -gt 0 ]; do
    case "$1" in
      --stack) STACK=${2-} && shift ;;
      --stack=*) STACK=${1#*=} ;;
      --python) ASKED_PYTHON=${2-} && shift ;;
      --python=*) ASKED_PYTHON=${1#*=} ;;
      --own-venv) OWN_VENV=1 ;;
      *) REST_ARGS+=("$1") ;;
    esac
    [ $# -eq 0 ] || shift
  done
  case "$STACK" in
    official)
      MMCV=mmcv MMCV_PIN=mmcv==2.1.0 VENV=$REPO/.venv MIN_PYTHON=3.9
      PINS='mmengine==0.10.7 mmsegmentation==1.2.2 mmdet==3.3.0' ;;
    onedl)
      MMCV=onedl-mmcv MMCV_PIN=onedl-mmcv==2.3.6 VENV=$REPO/.venv-onedl MIN_PYTHON=3.10
      PINS='onedl-mmengine==0.10.12 onedl-mmsegmentation==1.4.2 onedl-mmdetection==3.5.1' ;;
    *) die $EX_USAGE "--stack '$STACK' is not known; allowed: official, onedl" ;;
  esac
}

# ---------------------------------------------------------------- small questions

cores() { nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1; }

# True when version $1 < $2, by their first two numbers.
older() {
  local a=${1%%.*} b=${1#*.} c=${2%%.*} d=${2#*.}
  b=${b%%.*} d=${d%%.*}
  [ "$a" -lt "$c" ] || { [ "$a" -eq "$c" ] && [ "$b" -lt "$d" ]; }
}

python_version() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }
has_module() { (cd / && "$1" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$2') is None)") 2>/dev/null; }
can_import() { (cd / && "$1" -c "$2") >/dev/null 2>&1; }

# Interpreters of a fitting version, for a message.
suggest_pythons() {
  local version path found=''
  for version in 3.11 3.12 3.10; do
    path=$(command -v "python$version" 2>/dev/null) || continue
    python_version "$path" >/dev/null && found="$found $path"
  done
  if [ -n "$found" ]; then
    echo "Found here:$found. Give one with --python."
  else
    echo 'Install Python 3.10, 3.11 or 3.12 and give it with --python.'
  fi
}

# check_python PYTHON NEEDS_TORCH: ends the run when its version does not fit.
check_python() {
  local version minimum=$MIN_PYTHON why="mmseg_semi and its stack ($STACK)"
  version=$(python_version "$1") || die $EX_PYTHON "cannot run '$1'" "$(suggest_pythons)"
  if [ "$2" = 1 ] && [ -z "${TORCH_SPEC-}" ] && older $minimum 3.10; then
    minimum=3.10 why="$DEFAULT_TORCH (TORCH_SPEC chooses another one)"
  fi
  if older "$version" $minimum; then
    die $EX_OLD "Python $version ($1) is too old: $why needs $minimum to 3.12" "$(suggest_pythons)"
  elif ! older "$version" 3.13; then
    die $EX_NEW "Python $version ($1) is too new: mmcv and mmsegmentation support up to 3.12" \
      "$(suggest_pythons)"
  fi
}

# need_disk GIGABYTES DIRECTORY WHAT
need_disk() {
  local free
  free=$(df -Pk "$2" 2>/dev/null | awk 'NR == 2 {print $4}')
  [ -n "$free" ] || return 0
  [ "$free" -ge $(($1 * 1024 * 1024)) ] || die $EX_DISK \
    "the disk is too full: $2 has $((free / 1024)) MB free, $3 needs about $1 GB" \
    'Free some space there (or, for temporary files, point TMPDIR elsewhere) and run again.'
}

find_compiler() {
  local candidate
  for candidate in ${CXX:-c++ g++ clang++}; do
    "$candidate" --version >/dev/null 2>&1 && { echo "$candidate"; return 0; }
    [ -z "${CXX-}" ] || return 1 # CXX may carry options after the program
  done
  return 1
}

find_nvcc() {
  [ -x "${CUDA_HOME:-${CUDA_PATH:-/usr/local/cuda}}/bin/nvcc" ] || command -v nvcc >/dev/null
}

# ---------------------------------------------------------------- running a long command

CHILD='' LOCK='' TMP=''

# Ends what was started, and whatever it started (pip, ninja, compilers).
stop_child() {
  [ -n "$CHILD" ] || return 0
  local signal
  for signal in INT TERM KILL; do
    kill -$signal -- "-$CHILD" 2>/dev/null || break
    local tries=0
    while kill -0 -- "-$CHILD" 2>/dev/null && [ $tries -lt 25 ]; do
      sleep 0.2
      tries=$((tries + 1))
    done
  done
  CHILD=''
}

on_signal() {
  trap '' INT TERM HUP
  stop_child
  printf '\n[set-up] interrupted: run the same command again to go on from here\n' >&2
  end_setup
  exit 130
}

# The build's counter, or the last line: something that changes while the work goes on.
last_sign() {
  local count
  count=$(grep -oE '^ *\[[0-9]+/[0-9]+\]' "$1" 2>/dev/null | tail -n 1 | tr -d ' ')
  if [ -n "$count" ]; then
    echo "compiled $count"
  else
    grep -E '^ *(Collecting|Downloading|Using cached|Processing|Preparing|Building|Installing) ' "$1" |
      tail -n 1 | cut -c 1-90
  fi
}

# logged NAME COMMAND...: runs it with its output in a log, shows a sign of life now and then.
logged() {
  local log=$LOG_DIR/$1.log start=$SECONDS next=${SETUP_HEARTBEAT:-15} code=0 pause=0.02
  shift
  LOG=$log
  : >"$log" || die $EX_DISK "cannot write $log"
  set -m # a process group of its own, so that an interruption reaches all of it
  "$@" >"$log" 2>&1 </dev/null &
  CHILD=$!
  set +m
  while kill -0 "$CHILD" 2>/dev/null; do
    sleep $pause
    [ $SECONDS -eq $start ] || pause=0.5
    if [ $((SECONDS - start)) -ge "$next" ]; then
      say "    $(duration $((SECONDS - start))) ... $(last_sign "$log")"
      next=$((next + ${SETUP_HEARTBEAT:-15}))
    fi
  done
  wait "$CHILD" || code=$?
  CHILD=''
  return $code
}

duration() {
  if [ "$1" -ge 60 ]; then echo "$(($1 / 60)) min $(($1 % 60)) s"; else echo "$1 s"; fi
}

NETWORK_ERRORS='NewConnectionError|Failed to establish a new connection|NameResolutionError'
NETWORK_ERRORS="$NETWORK_ERRORS|Temporary failure in name resolution|Name or service not known"
NETWORK_ERRORS="$NETWORK_ERRORS|Network is unreachable|ConnectTimeout|ReadTimeout|ProxyError|SSLError"
NETWORK_ERRORS="$NETWORK_ERRORS|Connection refused|Connection reset|Connection aborted|Max retries"

# Ends the run after a failed command, with the code that fits its log.
fail() { # WHAT
  {
    echo "[set-up] the last lines of $LOG:"
    tail -n "${2:-25}" "$LOG" | cut -c 1-300
  } >&2
  if grep -qE 'No space left on device|Errno 28|Disk quota exceeded' "$LOG"; then
    die $EX_DISK "the disk is full: $1 failed" 'Free some space (TMPDIR too) and run again.'
  elif grep -qE "error: command .* failed|Error compiling objects|ninja: build stopped|CUDA_HOME" "$LOG"
  then
    die $EX_BUILD "$1 failed: the compiler's message is in $LOG" \
      'Out of memory? Run again with MAX_JOBS=1. With a CUDA torch, the CUDA compiler must have the' \
      "torch's CUDA version; FORCE_CUDA=0 builds the operators for the CPU only, which is enough to train."
  elif grep -qE "$NETWORK_ERRORS" "$LOG"; then
    die $EX_PIP "no network, or the package index cannot be reached: $1 failed" \
      'Check the connection and the proxy (PIP_PROXY, PIP_INDEX_URL) and run again.'
  fi
  die $EX_PIP "pip failed: $1 failed; all of its output is in $LOG" \
    'When the cause is gone, run again: what is done is not done twice.'
}

# run_pip NAME WHAT ARGUMENTS...: ends the run when pip fails.
run_pip() {
  local name=$1 what=$2
  shift 2
  logged "$name" pip_here "$@" || fail "$what"
}

# pip of the chosen environment; what torch depends on stays as it is (constraints.txt).
pip_here() {
  local command=$1
  shift
  TMPDIR=$TMP PIP_DISABLE_PIP_VERSION_CHECK=1 \
    "$PYTHON" -m pip "$command" --no-input -c "$CONSTRAINTS" "$@"
}

# begin NUMBER TEXT EXPECTED, then finish: one line before and one after the work.
begin() { say "[$1/$STEPS] $2, about $3 ..." && STEP_START=$SECONDS; }
finish() { say "    done in $(duration $((SECONDS - STEP_START)))"; }

# ---------------------------------------------------------------- lock

# Two runs at once must not write into one environment.
take_lock() {
  local file=$REPO/.venv.lock
  if command -v flock >/dev/null 2>&1; then
    { exec 9>"$file"; } 2>/dev/null || die $EX_PLACE "cannot write to $REPO"
    flock -n 9 && return
    say "another set-up of $REPO is running: waiting for it"
    until flock -w 30 9; do say '    still waiting'; done
    return
  fi
  until mkdir "$file.d" 2>/dev/null; do
    local owner=''
    [ -w "$REPO" ] || die $EX_PLACE "cannot write to $REPO"
    owner=$(cat "$file.d/pid" 2>/dev/null) || true
    if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then rm -rf "$file.d" && continue; fi
    say "another set-up of $REPO is running (process ${owner:-?}): waiting for it"
    sleep 10
  done
  LOCK=$file.d
  echo $$ >"$LOCK/pid"
}

# Gives the lock back and removes temporary files; safe to call twice.
end_setup() {
  exec 9>&-
  [ -z "$LOCK" ] || rm -rf "$LOCK"
  LOCK=''
  [ -z "${TMP-}" ] || rm -rf "$TMP"
  TMP=''
  trap - INT TERM HUP
}

# ---------------------------------------------------------------- which environment

# The interpreter that the user has active, or nothing.
active_python() {
  local candidate
  if [ -n "$ASKED_PYTHON" ]; then
    command -v "$ASKED_PYTHON" || true
    return
  fi
  for candidate in "${VIRTUAL_ENV:-/nowhere}/bin/python" "${CONDA_PREFIX:-/nowhere}/bin/python"; do
    if [ -x "$candidate" ]; then
      echo "$candidate"
      return
    fi
  done
  command -v python3 || command -v python || true
}

# probe PYTHON: what it has, in P_python, P_torch, ... (the keys of setup_probe.py) and P_JUNK.
probe() {
  local key value
  P_python='' P_external=0 P_conflict='' P_pip=0 P_tools='' P_requires='' P_broken='' P_project=''
  P_keep='' P_torch='' P_torch_cuda=0 P_mmcv='' P_mmcv_ops='' P_done='' P_JUNK=()
  while IFS='=' read -r key value; do
    case "$key" in
      junk) P_JUNK+=("$value") ;;
      python | external | conflict | pip | tools | requires | broken | project | keep | torch | \
        torch_cuda | mmcv | mmcv_ops | done) printf -v "P_$key" '%s' "$value" ;;
    esac
  done < <(cd / && "$1" -W ignore "$REPO/tools/setup_probe.py" "$STACK" "$REPO" 2>/dev/null || true)
  [ -n "$P_project" ] || die $EX_PYTHON "$1 cannot tell what it has installed; to see why:" \
    "$1 $REPO/tools/setup_probe.py $STACK $REPO"
  # The torch of an active environment imports, and is not ours to repair.
  [ "$1" != "$ACTIVE" ] || P_broken=$(printf '%s ' $P_broken | sed -E 's/(^| )torch==[^ ]*/\1/g;s/^ +//;s/ +$//')
}

# is_broken NAME: whether the probe found this distribution half-installed.
is_broken() { case " $P_broken" in *" $1=="*) ;; *) return 1 ;; esac }

is_complete() {
  [ -n "$P_torch" ] && [ -n "$P_mmcv" ] && [ "$P_mmcv_ops" = ok ] && [ "$P_project" = ok ] &&
    [ -z "$P_tools$P_requires$P_broken" ]
}

# Sets ACTIVE (what the user has), PYTHON (what will be used), ENV_KIND (active or own) and
# VENV_OPTIONS; makes nothing. The active environment is taken when its torch imports.
choose_environment() {
  ACTIVE=$(active_python) PYTHON=$VENV/bin/python ENV_KIND=own VENV_OPTIONS=()
  if [ -n "$ASKED_PYTHON" ] && [ -z "$ACTIVE" ]; then
    die $EX_PYTHON "--python '$ASKED_PYTHON' is not there" "$(suggest_pythons)"
  fi
  if [ "$OWN_VENV" = 1 ] || [ -z "$ACTIVE" ]; then return 0; fi
  case "$(cd "$(dirname "$ACTIVE")" && pwd -P)" in "$REPO"/.venv*/bin) return 0 ;; esac
  has_module "$ACTIVE" torch || return 0
  check_python "$ACTIVE" 0
  probe "$ACTIVE"
  if [ -z "$P_torch" ]; then
    say "the torch of $ACTIVE does not import: using $VENV instead"
  elif [ "$P_external" = 1 ]; then
    say "pip must not install next to the torch of $ACTIVE: using $VENV on top of it"
    VENV_OPTIONS=(--system-site-packages)
  else
    PYTHON=$ACTIVE ENV_KIND=active
  fi
}

# Whether VENV is a working environment; ends the run when it is one of another Python.
venv_works() {
  local version asked
  version=$(python_version "$PYTHON") || return 1
  has_module "$PYTHON" pip || return 1
  check_python "$PYTHON" 0
  if [ -n "$ASKED_PYTHON" ]; then
    check_python "$ACTIVE" 1
    asked=$(python_version "$ACTIVE")
    [ "${asked%.*}" = "${version%.*}" ] || die $EX_PLACE \
      "$VENV is made with Python $version, --python is $asked" "Remove $VENV and run again."
  fi
}

# Step 1: the own environment, made or repaired.
make_venv() {
  if [ -e "$VENV" ] && [ ! -e "$VENV/pyvenv.cfg" ] && [ ! -d "$VENV/setup_logs" ] &&
    [ -n "$(ls -A "$VENV")" ]; then
    die $EX_PLACE "$VENV is in the way: it is no virtual environment" 'Move it and run again.'
  fi
  [ -n "$ACTIVE" ] || die $EX_PYTHON 'no python3 in PATH' "$(suggest_pythons)"
  check_python "$ACTIVE" 1
  local gigabytes=6
  [ ${#VENV_OPTIONS[@]} -eq 0 ] || gigabytes=2 # torch is there already
  need_disk $gigabytes "$REPO" 'a new environment'
  begin 1 "making $VENV with Python $(python_version "$ACTIVE")" '10 seconds'
  if [ -e "$VENV" ] && ! python_version "$PYTHON" >/dev/null; then
    say "    $VENV is damaged (its Python does not run): making it anew"
    rm -rf "$VENV"
  fi
  prepare_logs
  local maker=venv
  has_module "$ACTIVE" ensurepip || ! has_module "$ACTIVE" virtualenv || maker=virtualenv
  if ! logged venv "$ACTIVE" -m $maker ${VENV_OPTIONS[@]+"${VENV_OPTIONS[@]}"} "$VENV"; then
    grep -qE 'No space left|Errno 28' "$LOG" && fail "making $VENV"
    tail -n 12 "$LOG" >&2
    die $EX_PYTHON "$ACTIVE cannot make a virtual environment" \
      "On Debian and Ubuntu: install the package python3-venv. $(suggest_pythons)"
  fi
  finish
}

prepare_logs() {
  LOG_DIR=$VENV/setup_logs
  [ "$ENV_KIND" = own ] || LOG_DIR=$REPO/work_dirs/setup_logs
  CONSTRAINTS=$LOG_DIR/constraints.txt
  # By default on the environment's disk: its space is checked, and what a kill left is found.
  TMP=$LOG_DIR/tmp
  [ -z "${TMPDIR-}" ] || TMP=$TMPDIR/mmseg_semi_setup
  rm -rf "$TMP"
  mkdir -p "$LOG_DIR" "$TMP" || die $EX_PLACE "cannot write to $LOG_DIR or $TMP"
}

# Pins what torch was installed with. In an own environment numpy may still move.
write_constraints() {
  local pin
  echo 'setuptools<81' >"$CONSTRAINTS" || die $EX_DISK "cannot write $CONSTRAINTS"
  for pin in $P_keep; do
    case "$ENV_KIND:${P_torch:+torch}:$pin" in own:*:numpy==* | own::*) continue ;; esac
    echo "$pin" >>"$CONSTRAINTS"
  done
}

# ---------------------------------------------------------------- before anything is changed

refuse_mixing() {
  [ -n "$P_conflict" ] || return 0
  local kind="deactivate this environment, or add --own-venv"
  [ "$ENV_KIND" = active ] || kind="remove $VENV"
  die $EX_STACK "$PYTHON has packages of another stack: $P_conflict" \
    "The official stack and the onedl fork have the same import names and would overwrite each other." \
    "To get the $STACK stack, $kind; else choose the --stack that is installed."
}

# Space, and a way to get mmcv: better said now than after a download of a gigabyte.
check_feasible() {
  local gigabytes=1
  [ -n "$P_mmcv" ] || gigabytes=2
  [ -n "$P_torch" ] || gigabytes=6
  need_disk $gigabytes "$(dirname "$LOG_DIR")" 'what is missing'
  [ -z "${TMPDIR-}" ] || need_disk 1 "$TMP" 'building and unpacking'
  [ "$P_pip" = 1 ] || has_module "$PYTHON" pip ||
    die $EX_PYTHON "$PYTHON has no pip" "Install it: $PYTHON -m ensurepip"
  MMCV_WHEEL=''
  if [ -z "$P_mmcv" ] || [ "$P_mmcv_ops" != ok ] || is_broken "$MMCV"; then
    find_mmcv_wheel
    [ -n "$MMCV_WHEEL$P_mmcv" ] || check_compiler
  fi
}

find_mmcv_wheel() {
  local directory=$TMP/mmcv_wheel file
  mkdir -p "$directory"
  if logged mmcv_wheel pip_here download -q --no-deps --only-binary "$MMCV" -d "$directory" "$MMCV_PIN"; then
    for file in "$directory"/*.whl; do MMCV_WHEEL=$file; done
    say "$MMCV_PIN: using the wheel $(basename "$MMCV_WHEEL")"
  elif grep -q 'No matching distribution' "$LOG" && ! grep -qE "$NETWORK_ERRORS" "$LOG"; then
    say "$MMCV_PIN: pip finds no wheel, it will be built from source"
  else
    fail "looking for $MMCV_PIN"
  fi
}

check_compiler() {
  find_compiler >/dev/null || die $EX_COMPILER \
    "no C++ compiler (${CXX:-c++, g++ or clang++}), and $MMCV has to be built from source" \
    'Install one (Debian, Ubuntu: build-essential), or give pip a wheel of' \
    "$MMCV_PIN built for this Python and torch: PIP_FIND_LINKS=/folder/of/wheels."
  can_import "$PYTHON" "import os, sysconfig
assert os.path.exists(os.path.join(sysconfig.get_paths()['include'], 'Python.h'))" ||
    die $EX_COMPILER "the headers of Python (Python.h) are missing, $MMCV cannot be built" \
      'Install them (Debian, Ubuntu: python3-dev).'
}

# ---------------------------------------------------------------- the steps

# Step 2. Only in an environment of our own: an active one was chosen for its torch.
install_torch() {
  [ -z "$P_torch" ] || is_broken torch || return 0
  [ "$ENV_KIND" = own ] || die $EX_BUILD "the torch of $PYTHON does not import any more"
  check_python "$PYTHON" 1
  local flags=''
  if has_module "$PYTHON" torch; then flags=--ignore-installed; fi # there, but damaged
  begin 2 "installing ${TORCH_SPEC:-$DEFAULT_TORCH}" '1 minute (CPU build) to 5 minutes (CUDA build)'
  # Unquoted: TORCH_SPEC may carry options.
  run_pip torch "installing torch" install $flags ${TORCH_SPEC:-$DEFAULT_TORCH}
  finish
}

# Step 3: first what an interruption left half-installed, then what is missing.
install_packages() {
  local name pin wanted='' repair=''
  if [ "$ENV_KIND" = own ] && [ ${#P_JUNK[@]} -gt 0 ]; then rm -rf "${P_JUNK[@]}"; fi
  for pin in $P_broken; do
    case "$pin" in torch==* | "$MMCV"==* | mmseg_semi==*) ;; *) repair="$repair $pin" ;; esac
  done
  for name in $P_requires; do
    for pin in $PINS; do
      case "$name" in "${pin%%==*}" | "${pin%%==*}"[\<\>=]*) name=$pin ;; esac
    done
    wanted="$wanted $name"
  done
  wanted="$P_tools$wanted"
  [ -n "$wanted$repair" ] || return 0
  begin 3 "installing the OpenMMLab packages ($STACK) and other requirements" '1 to 2 minutes'
  if [ -n "$repair" ]; then
    say "    repairing what was left half-installed:$repair"
    run_pip repair 'repairing packages' install --ignore-installed --no-deps $repair
  fi
  [ -z "$wanted" ] || run_pip packages 'installing packages' install $wanted
  finish
}

mmcv_loads() { can_import "$PYTHON" 'import torch, mmcv._ext'; }

# Step 4. pip's cache is left out: it does not know for which torch it built a wheel.
install_mmcv() {
  if [ -n "$P_mmcv" ] && ! is_broken "$MMCV" && mmcv_loads; then return 0; fi
  local flags='--no-deps --no-cache-dir --force-reinstall'
  if is_broken "$MMCV"; then flags='--no-deps --no-cache-dir --ignore-installed'; fi
  if [ -n "$MMCV_WHEEL" ]; then
    begin 4 "installing $(basename "$MMCV_WHEEL")" '5 seconds'
    run_pip mmcv "installing $MMCV_PIN" install $flags "$MMCV_WHEEL"
    if mmcv_loads; then
      finish
      return 0
    fi
    say "    this wheel does not load with torch $P_torch: building from source instead"
  fi
  check_compiler
  local jobs
  jobs=${MAX_JOBS:-$(build_jobs)}
  begin 4 "building mmcv's operators from source ($MMCV_PIN)" "$(build_time "$jobs")"
  say "    its output: $LOG_DIR/mmcv_build.log"
  logged mmcv_build build_mmcv "$jobs" $flags || fail "building $MMCV_PIN" 40
  mmcv_loads || {
    (cd / && "$PYTHON" -c 'import torch, mmcv._ext' 2>&1 | tail -n 3 >&2) || true
    die $EX_BUILD "$MMCV_PIN was built, but its operators do not load with torch $P_torch"
  }
  finish
}

build_mmcv() {
  local jobs=$1
  shift
  export MAX_JOBS=$jobs
  if [ "$P_torch_cuda" = 0 ]; then
    export FORCE_CUDA=0
  elif [ "$(build_target)" = CPU ]; then
    # Hidden devices keep mmcv's setup.py from building what needs the CUDA compiler.
    export FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=''
  fi
  pip_here install -v --no-build-isolation --no-binary "$MMCV" "$@" "$MMCV_PIN"
}

# CPU or CUDA: with a CUDA torch but no nvcc, or FORCE_CUDA=0, the operators are built for the CPU
# only. Training a segmentor does not need the others.
build_target() {
  if [ "$P_torch_cuda" = 0 ] || [ "${FORCE_CUDA-}" = 0 ]; then
    echo CPU
  elif [ "${FORCE_CUDA-}" = 1 ] || find_nvcc; then
    echo CUDA
  else
    echo CPU
  fi
}

# One process a core, but a compiler process takes about 1.5 GB.
build_jobs() {
  local jobs memory
  jobs=$(cores)
  memory=$(awk '/^MemAvailable/ {print int($2 / 1500000)}' /proc/meminfo 2>/dev/null) || memory=''
  if [ -n "$memory" ] && [ "$memory" -lt "$jobs" ]; then jobs=$memory; fi
  [ "$jobs" -ge 1 ] || jobs=1
  echo "$jobs"
}

# Measured: 22 minutes of one core for the CPU operators.
build_time() {
  local minutes=$((22 / $1))
  [ "$minutes" -ge 2 ] || minutes=2
  if [ "$(build_target)" = CUDA ]; then
    echo "several times $minutes minutes with $1 compiler processes (with CUDA)"
  elif [ "$P_torch_cuda" = 1 ]; then
    echo "$minutes minutes with $1 compiler processes (for the CPU: no nvcc here, or FORCE_CUDA=0)"
  else
    echo "$minutes minutes with $1 compiler processes"
  fi
}

# Step 5
install_project() {
  [ "$P_project" != ok ] || is_broken mmseg_semi || return 0
  begin 5 'installing mmseg_semi (editable)' '5 seconds'
  local flags=''
  if is_broken mmseg_semi; then flags=--ignore-installed; fi
  run_pip project 'installing mmseg_semi' install $flags --no-deps --no-build-isolation -e "$REPO"
  finish
}

run_steps() {
  prepare_logs
  write_constraints
  check_feasible
  install_torch
  probe "$PYTHON"
  [ -n "$P_torch" ] || die $EX_BUILD "torch is installed but does not import: try $PYTHON -c 'import torch'"
  write_constraints
  install_packages
  install_mmcv
  install_project
  probe "$PYTHON"
  if [ -n "$P_requires$P_broken" ]; then # what mmcv itself needs is known only now
    install_packages
    probe "$PYTHON"
  fi
  is_complete || die $EX_PIP 'pip reported success, but something is still missing:' \
    "packages: ${P_tools} ${P_requires} ${P_broken}" "mmcv: ${P_mmcv:-missing}, operators: $P_mmcv_ops" \
    "mmseg_semi: $P_project"
}

# ---------------------------------------------------------------- all of it

setup_env() {
  local start=$SECONDS
  parse_options "$@"
  trap on_signal INT TERM HUP
  take_lock
  choose_environment
  if [ "$ENV_KIND" = own ]; then
    venv_works || make_venv
    probe "$PYTHON"
  fi
  refuse_mixing
  if ! is_complete; then
    say "setting up the $STACK stack in $(environment_name)"
    run_steps
  fi
  say "ready in $(duration $((SECONDS - start))): $(environment_name), Python $P_python," \
    "torch $P_torch, $MMCV $P_mmcv"
  end_setup
  export PYTHON PATH="$(dirname "$PYTHON"):$PATH"
  if [ "$ENV_KIND" = own ]; then export VIRTUAL_ENV=$VENV; fi
}

environment_name() {
  if [ "$ENV_KIND" = own ]; then echo "$VENV"; else echo "the active environment ($PYTHON)"; fi
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  case " $* " in
    *' -h '* | *' --help '*)
      sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
      exit 0 ;;
  esac
  parse_options "$@"
  [ ${#REST_ARGS[@]} -eq 0 ] || die $EX_USAGE "unknown option: ${REST_ARGS[*]}" \
    'Allowed: --stack official|onedl, --python PY, --own-venv, --help'
  setup_env "$@"
fi
