#!/usr/bin/env bash
# Trains on a Cloud TPU: a queued resource of one host or a pod of several, from creation to deletion.
#
#   launch/tpu_vm.sh COMMAND NAME [--zone=ZONE] [--project=PROJECT] [--dry_run] [FLAG…]
#
#   create   asks for the TPU             --accelerator_type=v5litepod-16 [--spot] [--runtime_version=V]
#   install  uv and fer_jax on all hosts  [--wheel=FILE]; without it, this checkout as it is
#   data     records for all hosts        --source=FOLDER copies it, --source=gs://BUCKET/FOLDER mounts it
#   start    trains on all hosts          --config=C [--workdir=W] [--data_dir=D] [--config.KEY=VALUE…]
#   tail     prints what a host prints    [--worker=0]
#   status   the TPU, the run and whether it costs money
#   stop     stops the run, which saves first; the TPU stays
#   fetch    copies results and logs      --workdir=W --to=FOLDER
#   delete   deletes the TPU and its disks
#   watch    all of this, until the run is done: creates the TPU, installs, copies, starts, and does
#            so again after a preemption or a lost host. The same command resumes the run.
#            takes the flags of create, install, data and start, and
#            [--every=SECONDS] [--tries=N] [--delete_at_end]
#
# --dry_run prints every command and changes nothing. W and D may be gs://BUCKET/FOLDER; a workdir
# must be, to survive the TPU. A TPU costs money from the state ACTIVE on until `delete`, trained on
# or not. With several hosts, run `ssh-add ~/.ssh/google_compute_engine` first.

set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Prints the runtime that Google names for a kind of TPU: https://cloud.google.com/tpu/docs/runtimes
runtime_version() {
  case ${option[runtime_version]-}:${option[accelerator_type]} in
  :v6e-*) echo v2-alpha-tpuv6e ;;
  :v5p-*) echo v2-alpha-tpuv5 ;;
  :v5litepod-*) echo v2-alpha-tpuv5-lite ;;
  :v[234]-*) echo tpu-ubuntu2204-base ;;
  :*) die "no runtime is known for --accelerator_type=${option[accelerator_type]}; give --runtime_version" ;;
  *) echo "${option[runtime_version]}" ;;
  esac
}

# gcloud compute tpus …, in the zone and project that were given, without questions.
tpus() {
  run gcloud compute tpus "$@" "${place[@]}" --quiet
}

# Runs a shell command on all hosts at once, or on those of --worker.
on_hosts() {
  tpus tpu-vm ssh "$name" --worker="${option[worker]-all}" --command="$1"
}

# A line of name and state for each queued resource.
queue_format='value(name.basename(),state.state)'

# Prints the state of the queued resource, or ABSENT; fails if gcloud does.
queue_state() {
  local list
  list=$(gcloud compute tpus queued-resources list --format="$queue_format" "${place[@]}" --quiet) ||
    return
  awk -v name="$name" '$1 == name { state = $2 } END { print state ? state : "ABSENT" }' <<<"$list"
}

die_without_answer() {
  die "gcloud does not answer; try \`gcloud auth login\`, --project and --zone"
}

# What is left, and what it costs.
account() {
  say "$name is $1 and costs money until \`$again delete $name${place[*]:+ ${place[*]}}\`."
}

create() {
  local runtime spot=()
  need accelerator_type
  runtime=$(runtime_version)
  if [[ -n ${option[spot]-} ]]; then
    spot=(--spot)
    say "A spot TPU costs less and may be taken away at any time; \`watch\` brings it back."
  fi
  tpus queued-resources create "$name" --node-id="$name" \
    --accelerator-type="${option[accelerator_type]}" --runtime-version="$runtime" "${spot[@]}" --async || return
  say "$name waits for a TPU, which is free. From ACTIVE on it costs money until \`delete\`: https://cloud.google.com/tpu/pricing"
}

install() {
  pack &&
    tpus tpu-vm scp "$package" "$name:" --worker=all &&
    on_hosts "$(install_command tpu gcs)"
}

data() {
  need source
  local source=${option[source]%/} folder
  folder=${source##*/}
  if [[ $source == gs://* ]]; then
    on_hosts "$(worker_command mount "$source" "$folder")" || return
  else
    [[ -d $source ]] || die "--source=$source is no folder; \`python -m data_prep\` makes one"
    on_hosts "mkdir -p fer_jax/data" &&
      tpus tpu-vm scp "$source" "$name:fer_jax/data/" --recurse --worker=all || return
  fi
  say "The records are data/$folder on all hosts: start with --data_dir=data/$folder."
}

start() {
  on_hosts "$(worker_command start --coordinator_address=auto "${train[@]}")" && started=true
}

# Starts unless a run is on: two runs cannot share the chips.
start_once() {
  need config
  local states
  states=$(on_hosts "$status_command")
  if [[ -n ${option[dry_run]-} ]]; then
    printf '%s\n' "$states"
  elif [[ $states == *": running"* ]]; then
    die "a run is on; \`stop\` it first"
  elif [[ $states == *": not installed"* ]]; then
    die "$name has no fer_jax yet; \`install\` it first"
  fi
  start
  say "The run goes on without this terminal: \`tail\` shows it, \`status\` says whether it is done."
  account "in use"
}

show_status() {
  if [[ -n ${option[dry_run]-} ]]; then
    tpus queued-resources list --format="$queue_format"
    on_hosts "$status_command"
    return
  fi
  local state
  state=$(queue_state) || die_without_answer
  case $state in
  ACTIVE)
    on_hosts "$status_command" || say "Its hosts do not answer."
    account "$state"
    ;;
  ABSENT) say "$name does not exist and costs nothing." ;;
  *) say "$name is $state: it has no hosts and costs nothing, but stays listed until \`delete\`." ;;
  esac
}

# Copies every host's log into the folder $1. From hosts, gcloud copies one at a time.
fetch_logs() {
  local hosts host
  hosts=$(tpus tpu-vm describe "$name" --format="value(networkEndpoints.len())")
  if [[ -n ${option[dry_run]-} ]]; then
    printf '%s\n' "$hosts"
    say "From each host that this counts:"
    hosts=1
  fi
  for ((host = 0; host < hosts; host++)); do
    tpus tpu-vm scp "$name:fer_jax/run/*.log" "$1" --worker="$host"
  done
}

fetch() {
  need workdir to
  local workdir=${option[workdir]%/} to=${option[to]%/}
  run mkdir -p "$to/logs"
  [[ $workdir != *://* || $workdir == gs://* ]] ||
    die "--workdir=$workdir is not on the hosts; read it from there"
  if [[ $workdir == gs://* ]]; then
    run mkdir -p "$to/${workdir##*/}"
    run gcloud storage rsync "$workdir" "$to/${workdir##*/}" --recursive
  else
    [[ $workdir == /* ]] || workdir=fer_jax/$workdir
    # Only process 0 writes the workdir.
    tpus tpu-vm scp "$name:$workdir" "$to/" --recurse --worker=0
  fi
  fetch_logs "$to/logs/"
  say "The run is $to/${workdir##*/}; the logs of all hosts are in $to/logs."
  account "still there"
}

delete() {
  tpus queued-resources delete "$name" --force || return
  say "$name and its disks are gone and cost nothing. Buckets stay, and cost what they hold."
}

# Puts all that a run needs on new hosts.
prepare() {
  install && if [[ -n ${option[source]-} ]]; then data; fi
}

# Ends the watch: deletes the TPU if that was asked for. `on_exit` says what is left.
finish() {
  if [[ -n ${option[delete_at_end]-} ]]; then
    delete && deleted=true
  fi
  exit "$1"
}

on_exit() {
  local pause
  for pause in $(jobs -p); do # The one between two looks.
    kill "$pause" 2>/dev/null || true
  done
  if [[ -z $deleted ]]; then
    account "no longer watched"
  fi
}

give_up() {
  say "$1, and is given up."
  finish 75
}

# Counts what must not go on for ever on a machine that costs money.
count_try() {
  tries=$((tries + 1))
  ((tries <= most_tries)) || give_up "It was tried $most_tries times without success"
}

# Does what the states of all hosts, $1, ask for. What ended before this watch may have been mended
# since, or have been another run: it counts only from the first start on.
handle() {
  local states=$1 status worst=0
  if [[ $states != *": "* ]]; then
    silent=$((silent + 1))
    ((silent <= most_tries)) || give_up "$name did not answer $silent times in a row"
    return
  fi
  silent=0
  if [[ $states == *": running"* ]]; then
    return # If other hosts have ended, or are new, these end by themselves.
  elif [[ -z $started || $states == *"not installed"* ]]; then
    prepare && start
    return
  fi
  while read -r status; do
    case $status in
    0) ;;
    75 | lost | 129 | 1[3-9]?) [[ $worst != 0 ]] || worst=75 ;; # Above 128: ended by a signal.
    2) worst=2 ;;
    *) [[ $worst == 2 ]] || worst=$status ;;
    esac
  done < <(sed -n 's/.*ended with status //p; s/.*not started$/lost/p' <<<"$states")
  case $worst in
  0)
    say "The run is done."
    finish 0
    ;;
  75)
    count_try
    say "The run ended before its end, on: ${states//$'\n'/, }. It goes on from its last checkpoint."
    start
    ;;
  *)
    on_hosts "$(worker_command tail)" || true
    say "The run ended with status $worst. Starting it again would not help."
    finish "$worst"
    ;;
  esac
}

watch() {
  need accelerator_type config workdir
  [[ ${option[workdir]} == *://* || ${option[workdir]} == /* ]] ||
    die "--workdir=${option[workdir]} would be lost with the TPU; give gs://BUCKET/FOLDER, or /FOLDER of a mounted disk"
  need_numbers tries
  [[ ${option[every]-60} =~ ^[0-9]*\.?[0-9]+$ ]] || die "--every=${option[every]} is not a number of seconds"
  local state last='' source=${option[source]-} tries=0 silent=0
  local most_tries=${option[tries]-10}
  if [[ -n $source && -z ${option[config.data_dir]-} ]]; then
    source=${source%/}
    train+=("--config.data_dir=data/${source##*/}")
  fi
  if [[ -n ${option[dry_run]-} ]]; then
    plan
    return
  fi
  queue_state >/dev/null || die_without_answer
  deleted='' started=''
  trap on_exit EXIT
  trap 'exit 130' INT TERM
  while true; do
    state=$(queue_state) || state=UNKNOWN
    if [[ $state != "$last" ]]; then
      say "$(date -u '+%F %T UTC'): $name is $state"
    fi
    last=$state
    # What fails is tried again: a new host does not answer at once, and networks fail.
    case $state in
    ABSENT) create || count_try ;;
    SUSPENDED) { delete && create; } || count_try ;;
    FAILED)
      tpus queued-resources describe "$name" --format="value(state.failedData.error.message)" || true
      count_try
      { delete && create; } || true
      ;;
    ACTIVE) handle "$(on_hosts "$status_command" || true)" || count_try ;;
    esac
    # In the background, so that Ctrl-C and SIGTERM are heard at once.
    sleep "${option[every]-60}" &
    wait $!
  done
}

# What watch does, once each, as a dry run prints it.
plan() {
  say "Every ${option[every]-60} seconds it asks for the state:"
  show_status
  say "While there is no TPU:"
  create
  say "Once it is ACTIVE:"
  prepare
  start
  say "After a preemption (SUSPENDED) this, and the above again:"
  delete
  if [[ -n ${option[delete_at_end]-} ]]; then
    say "At the end it deletes the TPU in the same way."
  else
    say "At the end:"
    account ACTIVE
  fi
}

usage "$@"
name=${2-}
again="launch/${0##*/}"
declare -A takes=(
  [create]="accelerator_type runtime_version spot"
  [install]="wheel"
  [data]="source"
  [start]="train"
  [tail]="worker"
  [status]=""
  [stop]=""
  [fetch]="workdir to"
  [delete]=""
)
takes[watch]="${takes[create]} ${takes[install]} ${takes[data]} ${takes[start]} every tries delete_at_end"
[[ -v takes[$command] ]] || die "there is no command $command; see ${0##*/} help"
[[ $name =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
  die "after $command comes the TPU's name: small letters, digits and hyphens"
parse "zone project ${takes[$command]}" "${@:3}"
place=(${option[zone]:+"--zone=${option[zone]}"} ${option[project]:+"--project=${option[project]}"})
[[ -n ${option[dry_run]-} ]] || command -v gcloud >/dev/null ||
  die "gcloud is missing: https://cloud.google.com/sdk/docs/install"

case $command in
start) start_once ;;
status) show_status ;;
tail)
  option[worker]=${option[worker]-0}
  on_hosts "$(worker_command tail)"
  ;;
stop)
  status=0
  on_hosts "$(worker_command stop)" || status=$?
  account "still there"
  exit "$status"
  ;;
*) "$command" ;;
esac
