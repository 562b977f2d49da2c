#!/usr/bin/env bash
# Trains in N processes on this machine, with a log of each.
#
#   launch/local.sh N --config=CONFIG [--workdir=DIR] [--config.KEY=VALUE…]
#                     [--log_dir=DIR] [--restarts=K] [--dry_run]
#
# Every process gets its share of the GPUs or, without any, of the CPU cores. Ctrl-C or SIGTERM
# stops all at the same step, saved; a second one ends them at once. Ends with the run's status:
# 0 done, 2 a mistake, 75 stopped, above 128 if all were killed. With --restarts it starts again
# after a stop that nobody asked for, as when a process was killed, at most K times.

set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Prints a port that is free now.
free_port() {
  "$python" -c 'import socket; s = socket.create_server(("", 0)); print(s.getsockname()[1])'
}

# Prints the environment that gives process $1 its share of the devices.
share() {
  local gpus=() cores=$(($(nproc) / count)) each
  if [[ -v CUDA_VISIBLE_DEVICES ]]; then
    IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
  else
    mapfile -t gpus < <(nvidia-smi --list-gpus 2>/dev/null | sed -n 's/^GPU \([0-9]*\).*/\1/p')
  fi
  each=$((${#gpus[@]} / count))
  if ((${#gpus[@]} == 0)); then
    echo "JAX_NUM_CPU_DEVICES=${JAX_NUM_CPU_DEVICES:-$((cores > 0 ? cores : 1))}"
  elif ((each * count == ${#gpus[@]})); then
    gpus=("${gpus[@]:$1*each:each}")
    echo "CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${gpus[*]}")"
  else
    die "${#gpus[@]} GPUs cannot be shared by $count processes; give a number that divides them"
  fi
}

# Starts all processes, waits for them, and sets `status`.
run_all() {
  local port k environment
  port=$(free_port)
  processes=()
  for ((k = 0; k < count; k++)); do
    environment=$(share "$k")
    set -- env "$environment" "$python" -m fer_jax.main "${train[@]}" --log_dir="$log_dir" \
      --coordinator_address="localhost:$port" --num_processes="$count" --process_id="$k"
    if [[ -n ${option[dry_run]-} ]]; then
      quoted "$@"
      continue
    fi
    "$@" </dev/null &
    processes+=($!)
  done
  status=0
  for k in "${processes[@]}"; do
    end_of "$k"
  done
}

# Waits for a process and takes its status if it weighs more: 2 and bugs before 75 before 0.
end_of() {
  local ended
  while true; do
    ended=0 interrupted=''
    wait "$1" || ended=$?
    [[ -n $interrupted ]] || break # Otherwise a signal ended the wait, not the process.
  done
  case $ended:$status in
  0:*) ;;
  2:* | *:0) status=$ended ;;
  75:*) ((status < 128)) || status=75 ;;
  *) ((ended > 128 || status == 2)) || status=$ended ;;
  esac
}

# shellcheck disable=SC2329 # The trap calls it.
stop_all() {
  stopped=true interrupted=true
  kill -TERM "${processes[@]}" 2>/dev/null || true
}

usage "$@"
count=$command
[[ $count =~ ^[1-9][0-9]*$ ]] || die "$count is not a number of processes; see ${0##*/} help"
parse "train log_dir restarts" "${@:2}"
need config
need_numbers restarts
log_dir=${option[log_dir]-logs}
restarts=${option[restarts]-0}
python=${PYTHON:-$root/.venv/bin/python}
[[ -x $python ]] || python=python

set -m # A process group for each: the terminal's Ctrl-C reaches this script alone.
stopped='' interrupted=''
processes=()
trap stop_all HUP INT TERM
run_all
while ((status == 75 || status > 128)) && [[ -z $stopped && $restarts -gt 0 ]]; do
  restarts=$((restarts - 1))
  say "The run was stopped by a fault and starts again; $restarts more times if need be."
  run_all
done
if [[ -z ${option[dry_run]-} ]]; then
  say "Process 0 printed above; the logs of the others are in $log_dir."
fi
exit "$status"
