"""The site builds without a warning, works offline, and names only things that exist."""

import importlib.util
import re
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from fer_jax.config import load_config
from fer_jax.data.contract import CLASS_NAMES

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / name for name in ("README.md", "launch/README.md")]
PAGES += [REPOSITORY / "fer_jax/weights/README.md"]
PAGES += sorted([*REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("benchmarks/**/*.md")])
COMMANDS = (
    "train",
    "evaluate",
    "predict",
    "demo",
    "export",
    "compare",
    "summary",
    "prepare",
    "audit",
)

SOURCES = "".join(
    path.read_text()
    for folder in ("benchmarks", "data_prep", "fer_jax")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name + page.stem)


class _Links(HTMLParser):
    """The addresses that a page of HTML names, those that it loads, and its anchors."""

    def __init__(self, page: Path):
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.anchors.add(value)
            if name == "src" or (name == "href" and tag == "link"):
                self.loaded.append(value)
            elif name == "href":
                self.links.append(value)
            if tag == "meta" and name == "content" and "url=" in value:
                self.links.append(value.partition("url=")[2])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", "."]
    done = subprocess.run([*command, folder], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_built_and_no_link_or_picture_is_dead(site):
    pages = {path: _Links(path) for path in site.rglob("*.html")}
    for source in PAGES:
        assert site / source.relative_to(REPOSITORY).with_suffix(".html") in pages
    dead = []
    for page, found in pages.items():
        for address in found.links + found.loaded:
            parts = urlsplit(address)
            if parts.scheme:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            known = target.exists() if not parts.fragment else target in pages
            if not known or (parts.fragment and parts.fragment not in pages[target].anchors):
                dead.append(f"{page.relative_to(site)}: {address}")
    assert not dead


def test_the_site_loads_nothing_from_the_network(site):
    for page in site.rglob("*.html"):
        for address in _Links(page).loaded:
            assert urlsplit(address).scheme in ("", "data"), f"{page.name} loads {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\(['\"]?(https?:)?//", style.read_text()), style


@each_page
def test_every_link_between_files_works_in_the_repository_too(page):
    for address in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        parts = urlsplit(address)
        assert parts.scheme or (page.parent / parts.path).exists(), address


@each_page
def test_every_command_config_file_flag_and_knob_exists(page):
    text = page.read_text()
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module), module
    for command in re.findall(r"fer_jax ([a-z]+)(?: --|`)", text):
        assert command in COMMANDS, command
    paths = r"`((?:configs|benchmarks|data_prep|fer_jax|launch|tests)/[\w./]*)[`:]"
    for path in re.findall(paths, text) + re.findall(r"--config=([\w./]+\.py)", text):
        assert (REPOSITORY / path).exists(), path
    for name in re.findall(r"--config=([a-z_/]+)(?![\w./])", text):
        load_config(name)
    for options in re.findall(r"(?:python -m|^fer_jax) (.*)", text, re.MULTILINE):
        for flag in re.findall(r"--([a-z_]+)", options):
            assert f'"{flag}"' in SOURCES or f'"--{flag}"' in SOURCES, flag
    for knob in re.findall(r"--config\.([\w.]+)=", text):
        configs = map(load_config, ("cnn", "efficientnet", "ready", "published/vgg16_transfer"))
        assert any(_has(config, knob.split(".")) for config in configs), knob


def _has(config, keys: list[str]) -> bool:
    for key in keys:
        if key not in config:
            return False
        config = config[key]
    return True


def test_the_model_that_extend_adds_is_one():
    (code,) = re.findall(r" +```python\n(.*?)```", _read("extend"), re.DOTALL)
    names: dict = {}
    exec(compile(textwrap.dedent(code), "extend.md", "exec"), names)
    arguments = {"num_classes": len(CLASS_NAMES), "dtype": jnp.dtype("float32")}

    def logits():
        return names["tiny"](**arguments, rngs=nnx.Rngs(0))(jnp.zeros((2, 48, 48, 1)))

    assert jax.eval_shape(logits).shape == (2, len(CLASS_NAMES))


def _read(name: str) -> str:
    return (REPOSITORY / "docs" / f"{name}.md").read_text()
