#!/usr/bin/env bash
# Runs on a rented machine, where tpu_vm.sh and gpu_vm.sh call it: installs, starts, watches, stops.
#
#   worker.sh install EXTRA…        unpacks ../fer_jax.tar.gz, a checkout or a wheel, and installs
#                                   it with extras (cuda, tpu, gcs, s3), uv and Python
#   worker.sh mount gs://BUCKET/FOLDER NAME
#                                   shows the folder of a bucket, read-only, as data/NAME
#   worker.sh start FLAG…           trains in the background; the machine may be left alone
#   worker.sh status                one line: what the run does, or its exit status
#   worker.sh tail                  what the run prints, until it ends
#   worker.sh stop                  stops the run, which saves first

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$HOME/.local/bin:$PATH
export PYTHONSAFEPATH=1 # A wheel is what runs, even where an older checkout lies in this folder.
python=.venv/bin/python
log=run/output_$(hostname).log

die() {
  printf 'worker.sh: %s\n' "$*" >&2
  exit 2
}

install_all() {
  local extras=("$@") wheel
  [[ $(state) != running ]] || die "a run is on; stop it first"
  rm -f ./*.whl
  tar -xzf ../fer_jax.tar.gz
  if ! command -v uv >/dev/null; then
    curl -LsSf https://astral.sh/uv/install.sh | sh
  fi
  wheel=$(find . -maxdepth 1 -name '*.whl' -print -quit)
  if [[ -n $wheel ]]; then
    uv venv --quiet --allow-existing --python 3.12 .venv
    uv pip install --quiet --python "$python" "${wheel}[$(IFS=, && echo "${extras[*]}")]"
  else
    uv sync --quiet --no-dev "${extras[@]/#/--extra=}"
  fi
  echo "$(hostname): installed"
}

# https://cloud.google.com/storage/docs/cloud-storage-fuse/install
install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc url=https://packages.cloud.google.com/apt
  curl -fsSL "$url/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $url gcsfuse-$(lsb_release -c -s) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get update -qq
  sudo apt-get install -y -qq gcsfuse
}

mount_bucket() {
  local bucket=${1#gs://} name=$2 folder=()
  if [[ $bucket == */* ]]; then
    folder=(--only-dir "${bucket#*/}")
  fi
  command -v gcsfuse >/dev/null || install_gcsfuse
  mkdir -p "data/$name"
  mountpoint -q "data/$name" ||
    gcsfuse --implicit-dirs -o ro "${folder[@]}" "${bucket%%/*}" "data/$name"
  echo "$(hostname): gs://$bucket is data/$name"
}

# Prints what the run does.
state() {
  local pid
  pid=$(cat run/pid 2>/dev/null || true)
  if [[ ! -x $python ]]; then
    echo "not installed"
  elif [[ -z $pid ]]; then
    echo "not started"
  elif [[ -s run/status ]]; then
    echo "ended with status $(<run/status)"
  elif grep -qs fer_jax "/proc/$pid/cmdline"; then
    echo "running"
  else
    echo "ended with status lost" # The machine started anew, or ran out of memory.
  fi
}

start() {
  [[ $(state) != "not installed" ]] || die "install first"
  [[ $(state) != running ]] || die "a run is on; stop it first"
  mkdir -p run
  rm -f run/pid run/status
  printf '\n%s: %s\n' "$(date -u '+%F %T UTC')" "$*" >>"$log"
  setsid launch/worker.sh supervise "$@" </dev/null >>"$log" 2>&1 &
  until [[ -s run/pid ]]; do
    kill -0 $! 2>/dev/null || die "the run does not start; see fer_jax/$log"
    sleep 0.05
  done
  echo "$(hostname): started"
}

# Is the parent of the run, in the background: keeps its exit status.
supervise() {
  local status=0
  "$python" -m fer_jax.main "$@" &
  echo $! >run/pid
  wait $! || status=$?
  echo "$status" >run/status
}

stop() {
  local seconds=0
  if [[ $(state) == running ]]; then
    kill -TERM "$(<run/pid)" 2>/dev/null || true
    while [[ $(state) == running && $seconds -lt 120 ]]; do
      sleep 1
      seconds=$((seconds + 1))
    done
  fi
  echo "$(hostname): $(state)"
}

case ${1-help} in
install) install_all "${@:2}" ;;
mount) mount_bucket "$2" "$3" ;;
start) start "${@:2}" ;;
supervise) supervise "${@:2}" ;;
status) echo "$(hostname): $(state)" ;;
tail)
  [[ -s run/pid ]] || die "nothing was started here"
  exec tail -n 40 --follow=name --pid="$(<run/pid)" "$log"
  ;;
stop) stop ;;
*) sed -n '2,/^$/{/^$/d;s/^# \{0,1\}//;p}' "$0" ;;
esac
