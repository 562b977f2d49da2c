"""Paths as users give them: expanded, and refused where no file can have them."""

from pathlib import Path

import pytest

from fer_jax.errors import UserError
from fer_jax.paths import check_folder, user_path


def test_a_path_may_start_at_a_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert user_path("~/a") == Path("/somewhere/a")
    assert user_path("a/~b") == Path("a/~b")
    assert user_path("/".join(200 * [19 * "x"])) == Path("/".join(200 * [19 * "x"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the path is empty; give one"),
        ("a\0b", r"the path 'a\x00b' has a null character; give another"),
        ("a/" + 128 * "é" + "/b", "a name in the path has 256 bytes; give 255 or fewer"),
        (2048 * "x/", "the path has over 4,095 bytes; give a shorter one"),
        ("~nouser/x", "~nouser is no user's home folder; give another path"),
    ],
)
def test_a_path_that_no_file_can_have_is_refused(text, message):
    with pytest.raises(UserError) as caught:
        user_path(text)
    assert str(caught.value) == message


def test_a_folder_to_write_to_exists_or_can_be_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, tmp_path / "new/er", Path("new"), Path()):
        check_folder("--output", path)
    assert not list(tmp_path.iterdir())
    Path("file").write_text("")
    Path("link").symlink_to("nowhere")
    for path in ("file", "file/below", "link", "link/below"):
        with pytest.raises(UserError) as caught:
            check_folder("--output", Path(path))
        expected = f"--output={path} cannot be a folder: {path[:4]} is a file; choose another"
        assert str(caught.value) == expected
    with pytest.raises(UserError, match=r"--output=/proc/new cannot be written to: .*; choose"):
        check_folder("--output", Path("/proc/new"))
