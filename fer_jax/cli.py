"""The command `fer_jax`, and how every command starts and ends.

Flags are absl's. A mistake ends in one line and exit status 2.
"""

import contextlib
import gc
import os
import platform
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.tuple_parser import TupleParser

from fer_jax import stopping
from fer_jax.config import load_config, suggest
from fer_jax.errors import DISK_ERRORS, STATUS, UserError
from fer_jax.paths import is_url, user_place
from fer_jax.processes import worker

COMMANDS = {
    "prepare": (
        "data_prep",
        "turns FER-2013 into records",
        "--source sample --data_dir data/sample",
    ),
    "audit": ("fer_jax.audit", "finds leaks, copies, wrong labels", "--data_dir=data/fer2013"),
    "train": ("fer_jax.main", "trains a config, or resumes", "--config=quickstart"),
    "evaluate": (
        "fer_jax.evaluate",
        "evaluates a run on a split",
        "--workdir=runs/quickstart --split=public_test",
    ),
    "predict": (
        "fer_jax.predict",
        "predicts pictures, videos, a camera",
        "photo.jpg --detect_faces --output=labelled",
    ),
    "demo": ("fer_jax.demo", "serves a page with your camera", "--port=7860"),
    "export": ("fer_jax.export", "writes ONNX, StableHLO", "--format=onnx --output=faces.onnx"),
    "compare": ("fer_jax.compare", "puts runs side by side", "runs/cnn runs/resnet"),
    "summary": ("fer_jax.summary", "lists a network's layers", "--config=resnet"),
}
"""Module, description and example arguments of each command."""

flags.disclaim_key_flags()  # A flag defined here belongs to the command that asks for it.


def main() -> None:
    """Runs the command that the first argument names, as `python -m` runs its module."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print("usage: fer_jax COMMAND ARGUMENTS, or fer_jax COMMAND --help\n")
        for command, (_, description, example) in COMMANDS.items():
            print(f"  {command:8}  {description:35}  fer_jax {command} {example}")
        return
    if name not in COMMANDS:
        _exit(UserError(f"there is no command {name!r}{suggest(name, COMMANDS)}"))
    sys.argv[1:] = arguments
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)


def run(
    main: Callable[[Sequence[str]], None], define_flags: Callable[[], Any] | None = None
) -> None:
    """Runs `main` with the arguments that are not flags.

    A wrong flag, a `UserError` or a disk that is full or read-only ends in one line on standard
    error and exit status 2. SIGTERM and Ctrl-C end in status 75, see `fer_jax.stopping`, and any
    other exception in a traceback and status 1.

    Args:
      main: the command. It finds its flags in `flags.FLAGS`.
      define_flags: function that defines the flags. It is called only when the command starts, so
        importing a command's module adds no flags to another program.
    """
    worker.adopt()
    stopping.watch(worker.relay())
    if define_flags:
        define_flags()
    try:
        app.run(lambda arguments: _exit_on_user_error(main, arguments), flags_parser=_parse)
    except BrokenPipeError:  # The reader, such as `head`, has closed the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def define_config(default: str | None = None, *, what: str) -> flags.FlagHolder:
    """Defines --config, which takes a name or a path, and --config.KEY for each knob."""
    # No default yet: absl would parse it before our parser is in place.
    holder = config_flags.DEFINE_config_file("config", None, what)
    flags.FLAGS["config"].parser = _ConfigParser()
    if default is None:
        flags.mark_flag_as_required("config")
    else:
        flags.set_default(holder, default)
    config_flags.register_flag_parser_for_type(tuple, _WordsParser())
    return holder


def define_path(
    name: str,
    help: str,
    default: str | None = None,
    *,
    required: bool = False,
    remote: bool = False,
) -> None:
    """Defines a flag whose value is a `Path`, or None; with `remote` also a URL, which is text."""
    parser = _PathParser(remote)
    serializer: flags.ArgumentSerializer = flags.ArgumentSerializer()
    flags.DEFINE(
        parser,
        name,
        default,
        help,
        serializer=serializer,
        required=required,
        allow_override=True,  # absl has a --log_dir, which it does not use here.
    )


class _PathParser(flags.ArgumentParser):
    """Reads a path, or with `remote` a path or a URL, and refuses what can be neither."""

    def __init__(self, remote: bool):
        super().__init__()
        self._remote = remote

    def parse(self, argument: str | Path) -> Path | str:
        if is_url(argument) and not self._remote:
            raise ValueError("it is a URL; give a path on this machine")
        try:
            return user_place(argument)
        except UserError as error:
            raise ValueError(str(error)) from None

    def flag_type(self) -> str:
        return "path or URL" if self._remote else "path"


class _ConfigParser(flags.ArgumentParser):
    """Loads the config, and refuses flags for knobs that the config does not have."""

    def parse(self, argument: str) -> ConfigDict:
        config = load_config(argument)
        for path in re.findall(r"^--?(?:no)?config\.([\w.]+)", "\n".join(sys.argv), re.MULTILINE):
            node = config
            for key in path.split("."):
                keys = dict.fromkeys(node) if isinstance(node, ConfigDict) else {}
                if key not in keys:
                    raise UserError(f"there is no --config.{path}{suggest(key, keys)}")
                node = node[key]
        return config

    def flag_type(self) -> str:
        return "name or path"


class _WordsParser(TupleParser):
    """Reads `angry,happy` as two words and "" as none; ml_collections reads either as one."""

    def parse(self, argument: Any) -> tuple:
        if argument == "":
            return ()
        values = super().parse(argument)
        if len(values) == 1 and isinstance(values[0], str) and values[0] == argument:
            return tuple(word.strip() for word in argument.split(","))
        return values


def use_huge_pages() -> None:
    """Restarts the command in the same process, so that Linux gives it memory in huge pages.

    On a CPU, XLA allocates new memory for the intermediate results of every step, and the kernel
    maps each page at its first access. With huge pages a step was up to 1.24 times as fast, see
    `benchmarks/speed/huge_pages.md`. The GNU C library reads this setting only when a program
    starts. A `GLIBC_TUNABLES` that names `glibc.malloc.hugetlb` takes precedence.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if platform.libc_ver()[0] == "glibc" and "glibc.malloc.hugetlb" not in tunables:
        os.environ["GLIBC_TUNABLES"] = f"{tunables}:glibc.malloc.hugetlb=1".lstrip(":")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def set_up_jax() -> None:
    """Chooses devices and a cache for compiled programs; call it before JAX is used.

    Compiled programs, even small ones, are kept between runs in `~/.cache/fer_jax`, unless
    `JAX_COMPILATION_CACHE_DIR` and JAX's other variables say otherwise.
    """
    # Imported here: a wrong flag is reported without waiting seconds for JAX.
    import jax

    from fer_jax.devices import use_cores

    use_cores()
    cache = {
        "jax_compilation_cache_dir": str(Path.home() / ".cache" / "fer_jax"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    for name, value in cache.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def refuse_arguments(arguments: Sequence[str]) -> None:
    """Raises `UserError` if there are arguments that are not flags."""
    if arguments[1:]:
        raise UserError(f"unexpected {' '.join(arguments[1:])!r}; give options as --name=value")


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        arguments: list[str] = flags.FLAGS(argv)
    except SystemExit:  # absl ends --help with status 1.
        sys.exit(0)
    except BrokenPipeError:
        raise
    except (UserError, flags.Error, LookupError, TypeError, ValueError) as error:
        # config_flags raises any of these for a value of a wrong type, in one line or several.
        _exit(error)
    if flags.FLAGS["verbosity"].using_default_value:
        # absl would raise it to INFO, and the libraries' notes would bury the table of epochs.
        logging.set_verbosity(logging.WARNING)
    # Orbax and asyncio log the traceback of an error that Orbax raises, too.
    logging.get_absl_handler().addFilter(lambda record: record.exc_info is None)
    sys.unraisablehook = _tell_unraisable
    return arguments


def _tell_unraisable(unraisable: Any) -> None:
    """Prints an exception that nobody can catch, but not TensorStore's after a failed save."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _exit_on_user_error(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> None:
    try:
        main(arguments)
        gc.freeze()  # Python would look for garbage as it ends, 0.4 s in all that was imported.
    except UserError as error:
        _exit(error)
    except stopping.Stopped as stopped:
        print(stopped, file=sys.stderr)
        worker.last_words(stopping.STATUS, str(stopped))
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            _exit(UserError(f"{error}; make room or grant access, then run the same command again"))
        if not worker.is_worker():
            raise
        if isinstance(error, BrokenPipeError):
            _exit(UserError("nobody reads the output any more; start the same command again"))
        # Another process's end may be the reason, and then nobody wants to see a traceback.
        worker.last_words(1, f"{type(error).__name__}: {error}", traceback.format_exc())
        _end_at_once(1)


def _exit(error: Exception) -> NoReturn:
    line = " ".join(str(error).split())
    print(f"error: {line}", file=sys.stderr)
    worker.last_words(STATUS, line)
    if worker.is_worker():
        _end_at_once(STATUS)
    sys.exit(STATUS)


def _end_at_once(status: int) -> NoReturn:
    """Ends a worker; at an orderly exit JAX waits for the others, which wait for this one."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(status)
