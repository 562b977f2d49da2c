"""Files that a user names by a path or a URL, downloaded once and checked by their digest."""

import hashlib
import http.client
import os
import shutil
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from fer_jax.errors import UserError
from fer_jax.paths import user_path


def fetch(
    file: str,
    sha256: str,
    *,
    option: str = "pretrained.file",
    digest_option: str = "pretrained.sha256",
) -> Path:
    """Returns the local path of a path or URL, after checking its digest.

    Args:
      file: a path, or an http or https URL. A downloaded file is kept in
        `~/.cache/fer_jax/pretrained`.
      sha256: hexadecimal digest of the file. A URL needs it; a path without one is not checked.
      option: name of the option whose value is `file`, for messages.
      digest_option: name of the option whose value is `sha256`.

    Raises:
      UserError: the file cannot be fetched, or it has another digest.
    """
    sha256 = sha256.lower()
    url = urlsplit(file)
    if url.scheme not in ("http", "https"):
        path = user_path(file)
        if path.exists() and not path.is_file():  # Opening a pipe would block for ever.
            raise UserError(f"{option} {file} is not a file; give another")
        if sha256:
            _check_digest(file, path, sha256, option, digest_option)
        return path
    if not sha256:
        flag = digest_option if digest_option.startswith("--") else f"--config.{digest_option}"
        raise UserError(f"{option} {file} is a URL: give its SHA-256 too, as {flag}")
    path = Path.home() / ".cache" / "fer_jax" / "pretrained" / sha256 / Path(url.path).name
    if not path.exists():  # A file in a folder named after its digest was checked already.
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            _download(file, partial, path.name)
            _check_digest(file, partial, sha256, option, digest_option)
            partial.replace(path)
        except (OSError, http.client.HTTPException) as error:
            raise UserError(
                f"cannot download {file}: {error}; download it yourself and give its path"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
    return path


def _download(url: str, path: Path, name: str) -> None:
    with urllib.request.urlopen(url, timeout=60) as response, path.open("wb") as output:
        size = int(response.headers.get("Content-Length", 0)) or None
        bar = tqdm.wrapattr(response, "read", total=size, desc=name, miniters=1)
        with bar as body:
            shutil.copyfileobj(body, output)


def _check_digest(file: str, path: Path, sha256: str, option: str, digest_option: str) -> None:
    try:
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {option} {file}: {error}; check the path") from error
    if digest != sha256:
        raise UserError(
            f"{option} {file} has SHA-256 {digest}, not {sha256}; "
            f"give another file, or correct {digest_option}"
        )
