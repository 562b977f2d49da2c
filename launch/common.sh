# shellcheck shell=bash
# Functions of tpu_vm.sh, gpu_vm.sh and local.sh, which source this file.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "${0##*/}: needs bash 4.4 or newer, not $BASH_VERSION; on a Mac: brew install bash" >&2
  exit 2
fi
# shellcheck disable=SC2034 # The scripts use it.
command=${1-help}
# The flags of the command line: option[zone]=…; and those that the training command takes as they are.
declare -A option=()
train=()
# Flags without a value.
switches=" delete_at_end dry_run spot "
# The checkout, from the current folder: "." in the checkout itself.
root=${BASH_SOURCE[0]%/*}
if [[ $root == launch ]]; then
  root=.
elif [[ $root == */launch ]]; then
  root=${root%/launch}
else
  root=$root/..
fi

# Ends with one line and status 2: the user can mend it.
die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 2
}

# Prints a line; in a dry run as a comment, so that the output is a script.
say() {
  printf '%s%s\n' "${option[dry_run]:+# }" "$*"
}

# Prints the text at the top of the script, where that is asked for, and ends.
usage() {
  [[ $command == help || " $* " == *" --help "* ]] || return 0
  sed -n '2,/^$/{/^$/d;s/^# \{0,1\}//;p}' "$0"
  exit
}

# Prints words as a shell reads them back.
quoted() {
  local word line=
  for word; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      word=${word@Q}
    fi
    line+="$word "
  done
  printf '%s\n' "${line% }"
}

# Runs a command; in a dry run prints it.
run() {
  if [[ -n ${option[dry_run]-} ]]; then
    quoted "$@"
  else
    "$@"
  fi
}

# Reads flags into `option` and `train`. $1 names the flags that the command takes; with `train`
# among them it also takes --config, --workdir, --config.KEY, and --data_dir for --config.data_dir.
parse() {
  local names=" $1 dry_run " flag key
  shift
  for flag; do
    [[ $flag == --?* ]] || die "$flag is not a flag; give flags as --NAME=VALUE"
    key=${flag#--} key=${key%%=*}
    if [[ $names == *" train "* && $key =~ ^(config|workdir|data_dir|config\..+)$ ]]; then
      key=${key/#data_dir/config.data_dir}
    elif [[ $names != *" $key "* || $key == train ]]; then
      names=${names/ train / config workdir data_dir config.KEY }
      names=${names% } names=${names// / --}
      die "there is no --$key here; there are ${names# }"
    elif [[ $switches == *" $key "* ]]; then
      [[ $flag != *=* ]] || die "--$key takes no value"
      option[$key]=true
      continue
    fi
    [[ $flag == *=?* ]] || die "--$key needs a value: --$key=VALUE"
    [[ -z ${option[$key]-} ]] || die "--$key is given twice"
    option[$key]=${flag#*=}
    case $key in
    config) train=("--$key=${flag#*=}" "${train[@]}") ;; # It comes before its knobs.
    workdir | config.*) train+=("--$key=${flag#*=}") ;;
    esac
  done
}

# Ends unless these flags are whole numbers, where they are given.
need_numbers() {
  local key
  for key; do
    [[ ${option[$key]-0} =~ ^(0|[1-9][0-9]*)$ ]] || die "--$key=${option[$key]} is not a number"
  done
}

# Ends unless all these flags are given.
need() {
  local key
  for key; do
    [[ -n ${option[$key]-} ]] || die "--$key=VALUE is missing; see ${0##*/} help"
  done
}

# Packs what a machine installs: the checkout, with changes that are not committed, or a wheel.
pack() {
  local wheel=${option[wheel]-} files
  package=$root/dist/fer_jax.tar.gz
  if [[ -n $wheel ]]; then
    [[ -f $wheel && $wheel == *.whl ]] || die "--wheel=$wheel is not a wheel; \`uv build\` makes one"
  else
    git -C "$root" rev-parse --quiet --verify HEAD >/dev/null 2>&1 ||
      die "$root is no git checkout; give --wheel=FILE"
  fi
  run mkdir -p "$root/dist" || return
  if [[ -n $wheel ]]; then
    wheel=$(realpath "$wheel")
    run tar -czf "$package" -C "$root" launch/worker.sh -C "${wheel%/*}" "${wheel##*/}"
    return
  fi
  files=(git -C "$root" ls-files -z --cached --others --exclude-standard)
  if [[ -n ${option[dry_run]-} ]]; then
    printf '%s | %s\n' "$(quoted "${files[@]}")" \
      "$(quoted tar -C "$root" --ignore-failed-read --null -T - -czf "$package")"
  else
    "${files[@]}" | tar -C "$root" --ignore-failed-read --null -T - -czf "$package"
  fi
}

# The shell command that calls worker.sh on a machine.
worker_command() {
  quoted fer_jax/launch/worker.sh "$@"
}

# The shell command that a machine runs to install the package with extras of pyproject.toml.
install_command() {
  printf '%s' "mkdir -p fer_jax && tar -xzf fer_jax.tar.gz -C fer_jax launch/worker.sh && " \
    "$(worker_command install "$@")"
}

# The shell command for the state, from a machine that may not have worker.sh yet.
# shellcheck disable=SC2016,SC2034 # The machine expands it; the scripts use it.
status_command='fer_jax/launch/worker.sh status 2>/dev/null || echo "$(hostname): not installed"'
