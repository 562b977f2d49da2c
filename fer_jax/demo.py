"""Serves a page in the browser that reads expressions from a camera, a picture or a sample.

Example:
  python -m fer_jax.demo

The page is at http://127.0.0.1:7860, for this machine alone, until --host or --share opens it to
others. It loads nothing from elsewhere. Pictures are processed in memory and not kept.

Exit status: 0 after Ctrl-C or SIGTERM, which is how a server ends; 2 for a mistake in the command.
"""

import functools
import importlib.util
import os
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from fer_jax import cli, stopping
from fer_jax.errors import UserError


def define_flags() -> None:
    """Defines --workdir and the other flags."""
    cli.define_path("workdir", "Folder of a run; default: the model that ships.", remote=True)
    flags.DEFINE_string("checkpoint", "best", "best, latest or a step.")
    flags.DEFINE_string("detector", None, "What finds the faces.")
    cli.define_path("detector_file", "File of a detector that needs one, such as yunet.")
    flags.DEFINE_integer("port", 7860, "Port of the page.", lower_bound=1, upper_bound=65535)
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen at; 0.0.0.0 for every network.")
    flags.DEFINE_bool("share", False, "Open a public address through Gradio's tunnel.")


def main(arguments: Sequence[str]) -> None:
    """Serves the page until a signal ends it."""
    options = flags.FLAGS
    cli.refuse_arguments(arguments)
    check_gradio()
    check_address(options.host, options.port)
    if options.checkpoint != "best" and not options.workdir:
        raise UserError("--checkpoint chooses one of a run; give its --workdir too")

    from fer_jax.inference import detectors

    name = options.detector or detectors.DEFAULT
    detector = detectors.choose_detector(name, options.detector_file)
    cli.set_up_jax()
    with tempfile.TemporaryDirectory(prefix="fer_jax_demo_") as folder:
        # Gradio reads these when it is imported. It would report its use, and keep uploads.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        os.environ["GRADIO_TEMP_DIR"] = folder

        from fer_jax.inference.predictor import Predictor
        from fer_jax.inference.trained import copied_run, load_trained
        from fer_jax.page.answer import answer, describe
        from fer_jax.workdir import SHIPPED

        with copied_run(options.workdir or SHIPPED, options.checkpoint) as copy:
            model = load_trained(copy.folder, options.checkpoint)
            about = describe(copy.folder, model)
        predictor = Predictor(model)
        predictor(np.zeros((48, 48), np.uint8))  # Compiles the program before the first frame.

        from fer_jax.page.server import create_server, delete_old_uploads, serving

        ask = functools.partial(answer, predictor, detector=detector)
        server = create_server(ask, about, Path(folder))
        with (
            serving(server, options.host, options.port, share=options.share) as public,
            stopping.deferred() as stop,
        ):
            host = f"[{options.host}]" if ":" in options.host else options.host
            print(f"{about['model']}: {about['accuracy']}")
            print(f"page at http://{host}:{options.port}; Ctrl-C ends it", flush=True)
            if public:
                print(f"and for everybody who knows it at {public}", flush=True)
            while not stop.asked:
                delete_old_uploads(Path(folder))
                time.sleep(0.5)


def check_gradio() -> None:
    """Raises `UserError` if the extra of this command is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs Gradio: pip install 'fer_jax[demo]'")


def check_address(host: str, port: int) -> None:
    """Raises `UserError` if a server cannot listen at `host` and `port`."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"cannot listen at {host}, port {port}: {reason}; choose another --port or --host"
        ) from None


if __name__ == "__main__":
    cli.run(main, define_flags)
