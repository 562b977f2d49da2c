// The page of fer_jax demo: it posts pictures to /faces and draws the faces of the answers.
// All of a viewer's state is here, in the browser.
"use strict";

const LONGEST = 400; // pixels of a camera's frame that is sent; what is shown stays as it is
const QUALITY = 0.8; // of its JPEG
const SMOOTHING = 0.4; // seconds, time constant of a face's probabilities
const LOST = 1; // seconds after which a face that is not found is another face
const MINUTE = 60; // seconds of the timeline
const UNSURE = 0.5;
const GONE = "The server does not answer; is it still running?";

// Okabe and Ito's colours, which colour-blind people can tell apart.
const COLOURS = {
  angry: "#d55e00", disgust: "#009e73", fear: "#cc79a7", happy: "#e69f00",
  sad: "#2f86c6", surprise: "#7cc8f2", neutral: "#8c96a1",
};
// Viridis, from dark to bright.
const HEAT = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141],
  [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]];

const $ = (id) => document.getElementById(id);
const video = $("video"), picture = $("picture"), overlay = $("overlay"), timeline = $("timeline");

let about = { classes: [], samples: [], most_bytes: 0 };
let bars = []; // one per class: its row, fill and value
let stream = null; // of the camera
let facing = "user";
let content = null; // the picture that is shown, a Blob
let answer = null; // the last one, whose faces are tracked
let selected = null; // number of the face whose bars are shown
let explain = false;
let history = []; // [seconds, probabilities by class] of the selected face
let faceCount = 0;
let drawn = 0; // seconds, when the timeline was drawn

const seconds = () => performance.now() / 1000;
const say = (text) => { $("status").textContent = text; };
const percent = (p) => `${Math.round(100 * p)} %`;
const best = (face) => about.classes.reduce((a, b) => (face.smooth[b] > face.smooth[a] ? b : a));
const name = (face) => best(face) + (face.smooth[best(face)] < UNSURE ? "?" : "");

function colour(label) {
  const others = about.classes.filter((other) => !(other in COLOURS));
  return COLOURS[label] ?? `hsl(${(360 * others.indexOf(label)) / others.length} 60% 55%)`;
}

// Answers

async function ask(blob, whole) {
  const query = new URLSearchParams({ explain, whole });
  const response = await fetch(`faces?${query}`, { method: "POST", body: blob });
  const found = await response.json();
  if (!response.ok) throw new Error(found.error ?? response.statusText);
  return found;
}

function overlap(a, b) {
  if (!a || !b) return a === b ? 1 : 0;
  const width = Math.min(a[0] + a[2], b[0] + b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[1] + a[3], b[1] + b[3]) - Math.max(a[1], b[1]);
  const both = Math.max(0, width) * Math.max(0, height);
  return both / (a[2] * a[3] + b[2] * b[3] - both);
}

// Gives each face the number and the smoothed probabilities of the face that was there before.
function follow(found, now) {
  const before = (answer?.known ?? []).filter((face) => now - face.seen < LOST);
  for (const face of found.faces) {
    const [old] = before.filter((one) => overlap(one.box, face.box) > 0.3)
      .sort((a, b) => overlap(b.box, face.box) - overlap(a.box, face.box));
    if (old) before.splice(before.indexOf(old), 1);
    const weight = old ? 1 - Math.exp((old.seen - now) / SMOOTHING) : 1;
    face.number = old?.number ?? ++faceCount;
    face.seen = now;
    face.smooth = {};
    for (const label of about.classes) {
      const from = old?.smooth[label] ?? 0;
      face.smooth[label] = from + weight * (face.probabilities[label] - from);
    }
  }
  found.known = [...found.faces, ...before];
}

function show(found) {
  const now = seconds();
  follow(found, now);
  answer = found;
  if (!found.known.some((face) => face.number === selected)) {
    const area = (face) => (face.box ? face.box[2] * face.box[3] : 1);
    selected = [...found.faces].sort((a, b) => area(b) - area(a))[0]?.number ?? null;
  }
  if (stream) {
    if (current()) history.push([now, current().smooth]);
    while (history.length && history[0][0] < now - MINUTE - LOST) history.shift();
    if (now - drawn > 0.2) drawTimeline(now);
  }
  draw();
  write();
}

const current = () => answer?.faces.find((face) => face.number === selected);

function select(number) {
  if (selected !== number) history = [];
  selected = number;
  draw();
  write();
}

function forget() {
  answer = selected = null;
  history = [];
  draw();
  write();
}

// Words and bars

function write() {
  const face = current(), label = face && best(face);
  $("label").textContent = face
    ? `${name(face)} ${percent(face.smooth[label])}`
    : answer ? "No face found" : "No face yet";
  for (const bar of bars) {
    const p = face?.smooth[bar.label] ?? 0;
    bar.row.classList.toggle("first", bar.label === label);
    bar.fill.style.width = `${100 * p}%`;
    bar.value.textContent = face ? percent(p) : "";
  }
  const faces = answer && answer.faces.length > 1 ? answer.faces : [];
  const group = $("faces");
  while (group.children.length > faces.length) group.lastChild.remove();
  faces.forEach((one, place) => {
    const button = group.children[place] ?? group.appendChild(document.createElement("button"));
    button.textContent = `${place + 1} ${name(one)} ${percent(one.smooth[best(one)])}`;
    button.setAttribute("aria-pressed", one.number === selected);
    button.onclick = () => select(one.number);
  });
}

// Boxes and heat maps, over the video or picture

// Where the picture's pixels are in the stage.
function place() {
  const { clientWidth: width, clientHeight: height } = overlay;
  const scale = Math.min(width / answer.width, height / answer.height);
  const left = (width - scale * answer.width) / 2, top = (height - scale * answer.height) / 2;
  const mirrored = stream && video.classList.contains("mirrored");
  return ([x, y, w, h]) => [
    left + scale * (mirrored ? answer.width - x - w : x), top + scale * y, scale * w, scale * h];
}

function draw() {
  const context = fit(overlay);
  if (!answer) return;
  const toStage = place();
  const mirrored = stream && video.classList.contains("mirrored");
  for (const face of answer.faces) {
    const box = toStage(face.box ?? [0, 0, answer.width, answer.height]);
    if (face.heat) drawHeat(context, face, box, mirrored);
    if (face.box) drawBox(context, face, box);
  }
}

function drawBox(context, face, [x, y, width, height]) {
  const line = face.number === selected ? 4 : 2;
  context.beginPath();
  context.roundRect(x, y, width, height, 8);
  for (const [style, extra] of [["#000a", 2], [colour(best(face)), 0]]) {
    context.strokeStyle = style;
    context.lineWidth = line + extra;
    context.stroke();
  }
  const text = `${name(face)} ${percent(face.smooth[best(face)])}`;
  context.font = "600 15px system-ui, sans-serif";
  const wide = context.measureText(text).width + 16;
  const left = Math.max(0, Math.min(x, overlay.clientWidth - wide));
  const top = y >= 30 ? y - 28 : Math.min(y + height + 4, overlay.clientHeight - 24);
  context.fillStyle = "#000c";
  context.beginPath();
  context.roundRect(left, top, wide, 24, 6);
  context.fill();
  context.fillStyle = "#fff";
  context.textBaseline = "middle";
  context.fillText(text, left + 8, top + 12.5);
}

function drawHeat(context, { heat, tilt }, [x, y, width, height], mirrored) {
  const map = new ImageData(heat[0].length, heat.length);
  heat.flat().forEach((value, place) => {
    const step = Math.min(7.999, 8 * value), low = Math.floor(step);
    const mixed = HEAT[low].map((level, k) => level + (step - low) * (HEAT[low + 1][k] - level));
    map.data.set([...mixed, 255 * 0.65 * value], 4 * place);
  });
  const small = document.createElement("canvas");
  small.width = map.width;
  small.height = map.height;
  small.getContext("2d").putImageData(map, 0, 0);
  context.save();
  context.imageSmoothingQuality = "high";
  context.translate(x + width / 2, y + height / 2);
  if (mirrored) context.scale(-1, 1);
  context.rotate(tilt);
  context.drawImage(small, -width / 2, -height / 2, width, height);
  context.restore();
}

// Stacked areas, from the first class at the bottom; a run ends where the face was lost.
function drawTimeline(now) {
  drawn = now;
  const context = fit(timeline), { clientWidth: width, clientHeight: height } = timeline;
  const x = (time) => width * (1 - (now - time) / MINUTE);
  let run = [];
  for (const point of [...history, [Infinity]]) {
    if (!run.length || point[0] - run.at(-1)[0] < LOST) {
      run.push(point);
      continue;
    }
    let floor = run.map(() => 0);
    for (const label of run.length > 1 ? about.classes : []) {
      const top = run.map(([, p], k) => floor[k] + p[label]);
      context.beginPath();
      run.forEach(([time], k) => context.lineTo(x(time), height * (1 - top[k])));
      [...run].reverse().forEach(([time], k) =>
        context.lineTo(x(time), height * (1 - floor[run.length - 1 - k])));
      context.fillStyle = colour(label);
      context.fill();
      floor = top;
    }
    run = [point];
  }
}

// Clears a canvas, at the resolution of the screen.
function fit(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas, ratio = devicePixelRatio;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

// The camera

async function startCamera() {
  if (!navigator.mediaDevices) {
    say("Browsers give the camera only to pages at localhost or over https; "
      + "see fer_jax demo --share.");
    return;
  }
  let opened;
  try {
    opened = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: facing, width: { ideal: 640 }, height: { ideal: 480 } } });
  } catch (error) {
    say(error.name === "NotAllowedError" ? "The browser was not allowed to use the camera."
      : `There is no camera to use (${error.name}).`);
    return;
  }
  stopCamera();
  stream = opened;
  video.srcObject = stream;
  const [track] = stream.getVideoTracks();
  video.classList.toggle("mirrored", track.getSettings().facingMode !== "environment");
  track.onended = () => { stopCamera(); say("The camera has stopped."); };
  view(video);
  $("camera").textContent = "Stop camera";
  $("minute").hidden = false;
  forget();
  await video.play();
  const devices = await navigator.mediaDevices.enumerateDevices();
  $("turn").hidden = devices.filter((device) => device.kind === "videoinput").length < 2;
  watch(stream);
}

function stopCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = video.srcObject = null;
  $("camera").textContent = "Start camera";
  $("turn").hidden = true;
}

// Two frames are on their way at a time, so that two cores have work. Each of two loops sends the
// next frame when its last one is answered; an answer that a later one has overtaken is dropped.
function watch(watched) {
  const times = [];
  let taken = 0; // the last frame that was sent: presented by the video so many frames after start
  let shown = 0; // the last frame whose answer is shown
  let waited = 0;

  async function loop() {
    while (stream === watched) {
      const number = await nextFrame();
      if (number <= taken || stream !== watched) continue;
      taken = number;
      const start = seconds();
      try {
        const blob = await capture();
        const found = blob && (await ask(blob, false));
        if (stream !== watched) return;
        if (!found || number < shown) continue;
        shown = number;
        show(found);
      } catch (error) {
        if (stream !== watched) return;
        say(error instanceof TypeError ? GONE : error.message);
        await new Promise((resolve) => setTimeout(resolve, 1000));
        continue;
      }
      const now = seconds();
      waited += (now - start - waited) / Math.min(20, times.length + 1);
      times.push(now);
      while (times.length > 2 && times[0] < now - 3) times.shift();
      const rate = times.length > 1 ? (times.length - 1) / (now - times[0]) : 0;
      say(`${rate.toFixed(0)} frames/s, each answered in ${(1000 * waited).toFixed(0)} ms`);
      document.body.dataset.frames = Number(document.body.dataset.frames ?? 0) + 1;
    }
  }

  loop();
  loop();
}

// Waits for the video's next frame, and returns its number.
let painted = 0; // where a browser does not number frames
const nextFrame = () => new Promise((resolve) => {
  if (video.requestVideoFrameCallback) {
    video.requestVideoFrameCallback((_, about) => resolve(about.presentedFrames));
  } else {
    requestAnimationFrame(() => resolve(++painted));
  }
});

function capture() {
  const { videoWidth: width, videoHeight: height } = video;
  if (!width) return null;
  shape(width, height);
  const scale = Math.min(1, LONGEST / Math.max(width, height));
  const frame = new OffscreenCanvas(Math.round(scale * width), Math.round(scale * height));
  frame.getContext("2d").drawImage(video, 0, 0, frame.width, frame.height);
  return frame.convertToBlob({ type: "image/jpeg", quality: QUALITY });
}

// Pictures

async function open(blob) {
  if (!blob) return;
  stopCamera();
  forget();
  $("minute").hidden = true;
  content = blob;
  URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(blob);
  view(picture);
  await read();
}

async function read() {
  const blob = content;
  if (blob.size > about.most_bytes) {
    say(`The file is larger than ${about.most_bytes / 1e6} MB; choose a smaller one.`);
    return;
  }
  say("Reading …");
  try {
    const found = await ask(blob, true);
    if (content !== blob || stream) return;
    shape(found.width, found.height);
    answer = null; // Its faces are others, even in the same place.
    show(found);
    const count = found.faces.filter((face) => face.box).length;
    say(count ? `${count} ${count === 1 ? "face" : "faces"}`
      : "No face was found, so the picture counts as one.");
  } catch (error) {
    say(error instanceof TypeError ? GONE : error.message);
  }
}

function view(shown) {
  $("camera").classList.toggle("main", shown !== picture);
  for (const element of [video, picture, $("invitation")]) element.hidden = element !== shown;
}

// Shapes the stage like the picture, within limits.
function shape(width, height) {
  $("stage").style.aspectRatio = Math.max(0.8, Math.min(16 / 9, width / height));
}

// Set-up

async function setUp() {
  about = await (await fetch("about")).json();
  $("model").textContent = `Model: ${about.model}. Accuracy: ${about.accuracy}.`;
  $("host").textContent = location.hostname;
  $("shared").hidden = !location.hostname.endsWith("gradio.live");
  for (const label of about.classes) {
    const row = $("bars").appendChild(document.createElement("li"));
    const [title, track, value] = ["name", "track", "value"].map((kind) => {
      const part = row.appendChild(document.createElement("span"));
      part.className = kind;
      return part;
    });
    title.textContent = title.title = label;
    const fill = track.appendChild(document.createElement("div"));
    fill.className = "fill";
    fill.style.background = colour(label);
    bars.push({ label, row, fill, value });
  }
  about.samples.forEach((title, number) => {
    const button = $("samples").appendChild(document.createElement("button"));
    const image = button.appendChild(new Image());
    image.src = `samples/${number}`;
    image.alt = button.title = title;
    button.onclick = async () => open(await (await fetch(image.src)).blob());
  });
}

$("camera").onclick = () => {
  if (!stream) return startCamera();
  stopCamera();
  say("The camera is off.");
  forget();
  view($("invitation"));
};
$("turn").onclick = () => {
  facing = facing === "user" ? "environment" : "user";
  startCamera();
};
$("open").onclick = () => $("file").click();
$("file").onchange = () => { open($("file").files[0]); $("file").value = ""; };
$("heat").onclick = () => {
  explain = !explain;
  $("heat").setAttribute("aria-pressed", explain);
  $("explained").hidden = !explain;
  if (!stream && content) read();
};
const stage = $("stage");
stage.ondragover = (event) => { event.preventDefault(); stage.classList.add("over"); };
stage.ondragleave = () => stage.classList.remove("over");
stage.ondrop = (event) => {
  event.preventDefault();
  stage.classList.remove("over");
  open(event.dataTransfer.files[0]);
};
document.onpaste = (event) => open(event.clipboardData.files[0]);
overlay.onclick = (event) => {
  if (!answer) return;
  const toStage = place();
  const hit = answer.faces.find((face) => {
    const [x, y, width, height] = toStage(face.box ?? [0, 0, answer.width, answer.height]);
    return event.offsetX >= x && event.offsetX <= x + width
      && event.offsetY >= y && event.offsetY <= y + height;
  });
  if (hit) select(hit.number);
};
new ResizeObserver(draw).observe(overlay);
setUp();
