"""The server of the page: its files, pictures in and faces out, and Gradio's API for programs.

The page posts each picture to `/faces`, where it is decoded and answered in memory. Programs may do
the same, or call `/predict` through Gradio's client, which uploads a file first. That file lies in
a temporary folder until it is answered, or for a minute.
"""

import asyncio
import contextlib
import io
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio
from fastapi import HTTPException, Request, Response
from fastapi.responses import JSONResponse

from fer_jax.errors import UserError
from fer_jax.page.answer import MOST_BYTES
from fer_jax.page.samples import make_samples

Answer = Callable[..., dict[str, Any]]
"""A function from a picture's file, `explain` and `whole` to its faces."""

_STATIC = Path(__file__).with_name("static")
_FILES = {"page.css": "text/css", "page.js": "text/javascript"}
_HEADERS = {
    # A browser refuses to load or send anything else, from wherever.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' blob: data:; media-src blob:; base-uri 'none'; "
    "form-action 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_MOST_WAITING = 64  # pictures; a viewer's page sends the next one after the answer
_UPLOAD_SECONDS = 60  # after which an upload that nobody asked about is deleted


def create_server(ask: Answer, about: dict[str, Any], uploads: Path) -> gradio.Server:
    """Returns the server, which `serving` starts. Every viewer's state is in the viewer's browser.

    Args:
      ask: `fer_jax.page.answer.answer` with its model and detector.
      about: what the page says about the model: its `classes`, `model` and `accuracy`.
      uploads: Gradio's folder for uploaded files.
    """
    server = gradio.Server(title="fer_jax", docs_url=None, redoc_url=None, openapi_url=None)
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="answer")
    samples = make_samples()
    about = {
        **about,
        "samples": [title for title, _ in samples],
        "most_bytes": MOST_BYTES,
    }
    waiting = 0

    @server.api_route("/", methods=["GET", "HEAD"])
    def page() -> Response:
        return _file("index.html", "text/html")

    @server.get("/page/{name}")
    def file(name: str) -> Response:
        if name not in _FILES:
            raise HTTPException(404)
        return _file(name, _FILES[name])

    @server.get("/about")
    def facts() -> Response:
        return JSONResponse(about, headers=_HEADERS)

    @server.get("/samples/{number}")
    def sample(number: int) -> Response:
        if not 0 <= number < len(samples):
            raise HTTPException(404)
        content = samples[number][1]
        kind = "image/png" if content.startswith(b"\x89PNG") else "image/jpeg"
        return Response(content, media_type=kind, headers=_HEADERS)

    @server.post("/faces")
    async def faces(request: Request, explain: bool = False, whole: bool = False) -> Response:
        nonlocal waiting
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > MOST_BYTES:
                return _refuse(413, f"the file is larger than {MOST_BYTES / 1e6:.0f} MB")
        if waiting >= _MOST_WAITING:
            return _refuse(503, "too many pictures are waiting; try again")
        waiting += 1
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                pool, lambda: ask(bytes(content), explain=explain, whole=whole)
            )
        except UserError as error:
            return _refuse(400, str(error))
        finally:
            waiting -= 1
        return JSONResponse(found, headers=_HEADERS)

    @server.api(name="predict", concurrency_limit=2)
    def predict(picture: gradio.FileData, explain: bool = False) -> dict:
        """Returns width and height of a picture, and its faces: box, label, probabilities."""
        uploaded: Any = picture  # a dict, whatever the annotation says
        path = Path(uploaded["path"]).resolve()
        if not path.is_relative_to(uploads.resolve()):  # The request names it, whatever it is.
            raise gradio.Error("upload the picture, as handle_file does", print_exception=False)
        try:
            return ask(path.read_bytes(), explain=explain, whole=True)
        except (OSError, UserError) as error:
            raise gradio.Error(str(error), print_exception=False) from None
        finally:
            path.unlink(missing_ok=True)

    return server


@contextlib.contextmanager
def serving(server: gradio.Server, host: str, port: int, *, share: bool) -> Iterator[str]:
    """Serves, and yields the public address if `share` asks for one, or "".

    Raises:
      UserError: the server cannot listen there, or there is no way to a public address.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):  # Gradio tells in several lines what is told below.
            _, _, public = server.launch(
                server_name=host,
                server_port=port,
                share=share,
                max_file_size=MOST_BYTES,
                prevent_thread_lock=True,
                quiet=True,
                show_error=True,
                inline=False,
                ssr_mode=False,
                mcp_server=False,
            )
    except OSError as error:
        raise UserError(f"cannot listen at {host}, port {port}: {error}") from None
    try:
        if share and not public:
            raise UserError(f"--share: {said.getvalue()}")
        yield public or ""
    finally:
        server.get_blocks().close(verbose=False)


def delete_old_uploads(uploads: Path) -> None:
    """Deletes what was uploaded a minute ago and never asked about, and the empty folders."""
    for path in uploads.rglob("*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_ctime > _UPLOAD_SECONDS:
                path.rmdir() if path.is_dir() else path.unlink()


def _file(name: str, kind: str) -> Response:
    return Response((_STATIC / name).read_bytes(), media_type=kind, headers=_HEADERS)


def _refuse(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status, headers=_HEADERS)
