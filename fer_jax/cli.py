"""How every command starts and ends: flags by absl, one line and exit status 2 for a mistake."""

import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging

from fer_jax.errors import UserError


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main` with the arguments that are no flags.

    What the user can mend, a wrong flag or a `UserError`, ends in one line on standard error and
    exit status 2; Ctrl-C in 130; anything else in its traceback and 1.
    """
    try:
        app.run(lambda arguments: _exit_on_user_error(main, arguments), flags_parser=_parse)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # Whoever read the lines, such as `head`, wants no more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def use_huge_pages() -> None:
    """Starts the command anew, in its place, so that its memory comes in large pages under Linux.

    XLA on a CPU allocates the intermediate results of each step anew, and a page of them is handed
    out at its first touch: with small ones this takes up to a quarter of the time, see
    `benchmarks/huge_pages.md`. The GNU C library reads at the start alone that it is to ask for
    large ones; `GLIBC_TUNABLES` goes before where it names `glibc.malloc.hugetlb`.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if platform.libc_ver()[0] == "glibc" and "glibc.malloc.hugetlb" not in tunables:
        os.environ["GLIBC_TUNABLES"] = f"{tunables}:glibc.malloc.hugetlb=1".lstrip(":")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def set_up_jax() -> None:
    """Chooses devices and a cache for compiled programs; call it before JAX is used.

    Compiled programs, small ones too, are kept between runs in `~/.cache/fer_jax`, unless
    `JAX_COMPILATION_CACHE_DIR` and JAX's other variables say otherwise.
    """
    # Not at the top: a wrong flag is told without waiting seconds for JAX to be imported.
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
    """Raises `UserError` where words follow the command that are no flags."""
    if arguments[1:]:
        raise UserError(f"unexpected {' '.join(arguments[1:])!r}; give options as --name=value")


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        arguments: list[str] = flags.FLAGS(argv)
        if "config" in flags.FLAGS:
            flags.FLAGS.config.lock()  # A file that could not be read is told at the first use.
    except SystemExit:  # Of --help, which absl ends with status 1.
        sys.exit(0)
    except BrokenPipeError:
        raise
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # config_flags reports a misspelt key, a value of a wrong type, or a missing file in any of
        # these ways, some of them over several lines.
        _exit(error)
    if flags.FLAGS["verbosity"].using_default_value:
        # absl would raise it to INFO, and the libraries' notes would bury the table of epochs.
        logging.set_verbosity(logging.WARNING)
    return arguments


def _exit_on_user_error(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> None:
    try:
        main(arguments)
    except UserError as error:
        _exit(error)


def _exit(error: Exception) -> NoReturn:
    cause = error.args[0] if error.args else error
    if isinstance(cause, KeyError):  # config_flags wraps one, whose text would be a repr.
        cause = f"no config key {cause.args[0]}"
    print(f"error: {' '.join(str(cause).split())}", file=sys.stderr)
    sys.exit(2)
