"""Runs `python -m data_prep`."""

import sys
from collections.abc import Sequence

from data_prep.flags import parse
from fer_jax import stopping
from fer_jax.errors import DISK_ERRORS, UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0 if it is done, 2 if the user can fix it."""
    try:
        options = parse(arguments)
        from data_prep.prepare import prepare  # Takes seconds to import; --help does not wait.

        prepare(options)
    except UserError as error:
        print("data_prep:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        print(f"data_prep: {error}: make room or grant access, then run it again.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    stopping.watch()
    sys.exit(main())
