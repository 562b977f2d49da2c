"""`fer_jax demo`: the page in a browser whose camera plays a video, and the API for programs."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import commands
import numpy as np
import pytest
from chromium import contrast, start_chromium
from matplotlib import get_data_path
from PIL import Image

from fer_jax import demo
from fer_jax.errors import UserError
from fer_jax.inference.predictor import Predictor

# The server imports it: here that would take seconds, and every worker collects this file.
pytestmark = pytest.mark.skipif(not find_spec("gradio"), reason="the page needs the extra demo")

PAINTED = """canvas => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext(
    '2d', {willReadFrequently: true});
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  return data.filter((level, place) => place % 4 === 3 && level).length;
}"""  # the number of a canvas's pixels that are not transparent
PHOTOGRAPH = Path(get_data_path(), "sample_data/grace_hopper.jpg")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """The only folder in which the server may write."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def url(trained_workdir, home):
    """The address of a server, which SIGTERM ends with status 0 and without leaving a file."""
    port = free_port()
    command = [sys.executable, "-m", "fer_jax.demo", f"--workdir={trained_workdir}"]
    command += ["--detector=haar"]  # the fastest
    with subprocess.Popen(
        [*command, f"--port={port}"],
        env=os.environ | {"HOME": str(home), "TMPDIR": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        lines = [server.stdout.readline() for _ in range(2)]
        assert f"page at http://127.0.0.1:{port}" in lines[1], server.communicate()
        yield f"http://127.0.0.1:{port}"
        server.send_signal(signal.SIGTERM)
        output, errors = server.communicate(timeout=30)
    assert (server.returncode, output) == (0, "")
    assert "fer_jax/page" not in errors  # Gradio prints the traceback of a request that it refuses.
    assert not files(home)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium with a camera that shows a real face which moves about."""
    source = os.environ.get("FER2013_SOURCE")
    paths = sorted(Path(source).rglob("happy/*"))[:1] if source else [PHOTOGRAPH]
    with Image.open(paths[0]) as image:
        face = image.convert("RGB").resize((220, 220 * image.height // image.width))
    video = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    with video.open("wb") as file:
        for shift in (*range(0, 60, 2), *range(60, 0, -2)):
            view = Image.new("RGB", (640, 480), (90, 110, 130))
            view.paste(face, (180 + shift, 120))
            view.save(file, "JPEG", quality=90)
    with start_chromium(
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={video}",
    ) as browser:
        yield browser


@pytest.fixture
def open_page(browser, url):
    """A function that opens the page; no page may complain, or ask another host for anything."""
    heard, asked, contexts = [], [], []

    def make(width=1280, scheme="light"):
        contexts.append(
            browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,
                permissions=["camera"],
            )
        )
        page = contexts[-1].new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.wait_for_selector("#samples img")
        return page

    yield make
    for context in contexts:
        context.close()
    assert not [line for line in heard if "400 (Bad Request)" not in line]
    assert asked
    assert all(address.startswith((url, "blob:", "data:")) for address in asked)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_labels_what_the_camera_sees(open_page, width, scheme):
    page = open_page(width, scheme)
    assert "Accuracy:" in page.inner_text("#model")
    page.click("#camera")
    wait_until(page, "document.body.dataset.frames > 5")
    page.wait_for_selector("#bars .first")
    label, *shown = page.evaluate(
        "[label, ...document.querySelectorAll('#bars li')].map(one => one.innerText)"
    )
    percents = [int(row.split()[-2]) for row in shown]
    assert len(percents) == 7
    assert 95 < sum(percents) < 105
    assert f"{max(percents)} %" in label
    assert "frames/s" in page.inner_text("#status")
    wait_until(page, f"({PAINTED})(timeline)")
    assert page.evaluate(f"({PAINTED})(overlay)")

    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shades = page.evaluate(
        """[...document.querySelectorAll('section p, section span, h2')].filter(
          one => one.innerText && one.id != 'invitation').map(one => getComputedStyle(one).color)"""
    )
    ground = page.evaluate("getComputedStyle(document.querySelector('section')).backgroundColor")
    assert min(contrast(shade, ground) for shade in set(shades)) >= 4.5
    picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))
    edges = np.median([picture[:, 2], picture[:, -3]])
    assert edges < 60 if scheme == "dark" else edges > 200

    page.click("#camera")
    assert page.inner_text("#camera") == "Start camera"
    assert page.evaluate("document.getElementById('video').srcObject === null")


def test_reads_pictures_and_samples_and_explains(open_page):
    page = open_page()
    page.set_input_files("#file", PHOTOGRAPH)
    wait_until(page, "document.getElementById('status').innerText === '1 face'")
    box = page.evaluate(f"({PAINTED})(overlay)")
    page.click("#heat")
    page.wait_for_selector("#explained")
    wait_until(page, f"({PAINTED})(overlay) > {1.5 * box}")
    label = page.inner_text("#label")
    page.click("#heat")
    page.set_input_files("#file", Path(__file__))
    wait_until(page, "document.getElementById('status').innerText.includes('not a picture')")
    page.click("#samples button:nth-child(1)")  # the same photograph
    wait_until(page, "document.getElementById('status').innerText === '1 face'")
    assert page.inner_text("#label").split()[0] == label.split()[0]


def wait_until(page, condition: str) -> None:
    """Waits for JavaScript to be true; the page's policy forbids playwright's own way, eval."""
    for _ in range(300):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{condition} stays false; status: {page.inner_text('#status')}")


def post(url: str, content: bytes) -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, content)) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_answers_programs_as_the_predictor_does(url, home, trained_workdir):
    content = PHOTOGRAPH.read_bytes()
    status, answer = post(f"{url}/faces?explain=true", content)
    assert (status, answer["width"], answer["height"]) == (200, 512, 600)
    (face,) = answer["faces"]
    left, top, width, height = face["box"]
    with Image.open(PHOTOGRAPH) as picture:
        crop = picture.crop((left, top, left + width, top + height))
    prediction, heat = Predictor.from_workdir(trained_workdir).explain(crop)
    assert face["label"] == prediction.labels[0]
    assert list(face["probabilities"]) == list(prediction.classes)
    given = list(face["probabilities"].values())
    np.testing.assert_allclose(given, prediction.probabilities[0], atol=1e-4)
    np.testing.assert_allclose(face["heat"], heat[0], atol=0.006)
    # In its own process: it starts threads and warns.
    program = f"""
from gradio_client import Client, handle_file
client = Client({url!r}, verbose=False, analytics_enabled=False)
print(client.predict(handle_file({str(PHOTOGRAPH)!r}), explain=True, api_name="/predict"))
"""
    environment = os.environ | {"GRADIO_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, "-c", program]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == str(answer)
    assert not files(home)


def test_refuses_what_is_no_picture_or_too_large(url):
    blank, dark = io.BytesIO(), io.BytesIO()
    Image.new("L", (64, 64), 90).save(blank, "PNG")
    Image.new("1", (7000, 7000)).save(dark, "PNG")
    assert post(f"{url}/faces", blank.getvalue()) == (200, {"width": 64, "height": 64, "faces": []})
    status, answer = post(f"{url}/faces?whole=true", blank.getvalue())
    assert (status, answer["faces"][0]["box"]) == (200, None)
    for content, status, reason in (
        (b"", 400, "empty file"),
        (b"no picture", 400, "send JPEG or PNG"),
        (PHOTOGRAPH.read_bytes()[:20_000], 400, "truncated"),
        (dark.getvalue(), 400, "at most 40 megapixels"),
        (bytes(10_000_001), 413, "larger than 10 MB"),
    ):
        answered, answer = post(f"{url}/faces", content)
        assert (answered, reason in answer["error"]) == (status, True), answer


def test_reads_no_file_of_the_server(url, home):
    """A request of Gradio's API names a path, which may be of any file."""
    secret = {"path": str(PHOTOGRAPH), "meta": {"_type": "gradio.FileData"}}
    body = json.dumps({"data": [secret, False]}).encode()
    request = urllib.request.Request(
        f"{url}/gradio_api/call/predict", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        event = json.load(response)["event_id"]
    with urllib.request.urlopen(f"{url}/gradio_api/call/predict/{event}") as response:
        assert response.read().startswith(b"event: error")
    assert PHOTOGRAPH.exists()


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("--workdir=nowhere", "nowhere is no workdir of a run"),
        ("--port=70000", "port"),
        ("--detector=eyes", "there is no detector 'eyes'"),
        ("--host=no.such.host.invalid", "choose another --port or --host"),
    ],
)
def test_a_mistake_ends_in_one_line(flag, reason):
    result = commands.run("fer_jax.demo", "--workdir=nowhere", f"--port={free_port()}", flag)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert reason in result.stderr


def test_a_port_in_use_and_a_missing_extra_are_told(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}: Address already in use; choose"):
            demo.check_address("127.0.0.1", port)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'fer_jax\[demo\]'"):
        demo.check_gradio()
