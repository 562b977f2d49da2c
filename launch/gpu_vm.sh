#!/usr/bin/env bash
# Trains on one rented GPU machine, over ssh.
#
#   launch/gpu_vm.sh COMMAND HOST [--dry_run] [FLAG…]
#
#   install  uv and fer_jax           [--wheel=FILE]; without it, this checkout as it is
#   data     copies records           --source=FOLDER
#   start    trains in the background --config=C [--workdir=W] [--data_dir=D] [--config.KEY=VALUE…]
#   tail     prints what the run prints
#   status   what the run does
#   stop     stops the run, which saves first; `start` goes on from there
#   fetch    copies results and log   --workdir=W --to=FOLDER
#
# HOST is what ssh takes: user@address, or a name in ~/.ssh/config, which also has port and key. The
# machine has an NVIDIA driver of CUDA 13 (`nvidia-smi` says so). It is rented elsewhere: only its
# owner can end it, and until then it costs money, trained on or not.

set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

on_host() {
  run ssh "$host" "$1"
}

# Says that nothing here ends the costs.
account() {
  say "$host goes on and costs money until you end it where you rented it."
}

install() {
  pack
  run rsync --partial "$package" "$host:"
  on_host "$(install_command cuda gcs s3)"
}

data() {
  need source
  local source=${option[source]%/}
  [[ -d $source ]] || die "--source=$source is no folder; \`python -m data_prep\` makes one"
  on_host "mkdir -p fer_jax/data"
  run rsync --archive --partial "$source" "$host:fer_jax/data/"
  say "The records are data/${source##*/} on $host: start with --data_dir=data/${source##*/}."
}

start() {
  need config
  on_host "$(worker_command start "${train[@]}")"
  say "The run goes on without this terminal: \`tail\` shows it, \`status\` says whether it is done."
  account
}

fetch() {
  need workdir to
  local workdir=${option[workdir]%/} to=${option[to]%/}
  [[ $workdir != *://* ]] || die "--workdir=$workdir is not on $host; read it from there"
  run mkdir -p "$to/logs"
  [[ $workdir == /* ]] || workdir=fer_jax/$workdir
  run rsync --archive --partial "$host:$workdir" "$to/"
  run rsync --archive "$host:fer_jax/run/*.log" "$to/logs/"
  say "The run is $to/${workdir##*/}; the log is in $to/logs."
}

usage "$@"
host=${2-}
declare -A takes=(
  [install]="wheel" [data]="source" [start]="train"
  [tail]="" [status]="" [stop]="" [fetch]="workdir to"
)
[[ -v takes[$command] ]] || die "there is no command $command; see ${0##*/} help"
[[ -n $host && $host != -* ]] || die "after $command comes the host, as ssh takes it"
parse "${takes[$command]}" "${@:3}"

case $command in
tail) on_host "$(worker_command tail)" ;;
status)
  on_host "$status_command"
  account
  ;;
stop)
  on_host "$(worker_command stop)"
  account
  ;;
*) "$command" ;;
esac
