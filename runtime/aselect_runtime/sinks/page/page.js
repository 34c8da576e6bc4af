// The live page. All text from the model or the cameras is set through textContent, so that it cannot be markup.

const [FEWEST, SHOWN] = [10, 60]; // seconds that the plots show at first and at most
const SILENCE = 5; // seconds without a frame after which the page reports it
const RETRY = [500, 1000, 2000, 4000, 8000]; // milliseconds between attempts to connect
const [TOO_MANY, GOING_AWAY] = [1013, 1001]; // codes with which the server closes a connection

const $ = (id) => document.getElementById(id);
const page = {
  model: null,
  streams: new Map(), // number -> {figure, canvas, mask, image, classes, head, at}
  selected: null,
  hidden: new Set(JSON.parse(localStorage.getItem("hidden") ?? "[]")),
  opacity: Number(localStorage.getItem("opacity") ?? 55),
  samples: [], // {at, stream, fps, age, infer}
  attempts: 0,
  events: [],
  hasRules: false, // whether the run has rules
};

// ---- connection

function connect() {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
  socket.binaryType = "arraybuffer";
  let last = Promise.resolve();
  socket.onmessage = ({ data }) => {
    if (typeof data === "string") {
      page.attempts = 0;
      setModel(JSON.parse(data));
      return;
    }
    // Messages are shown one after the other and confirmed when displayed: a hidden page confirms none and gets none.
    last = last.then(() => show(data)).catch(console.error).then(nextPaint).then(() => confirm(socket));
  };
  socket.onclose = ({ code }) => {
    document.body.dataset.connection = "lost";
    const wait = RETRY[Math.min(page.attempts++, RETRY.length - 1)];
    const why = { [TOO_MANY]: "Too many viewers", [GOING_AWAY]: "The run has ended" }[code] ?? "Connection lost";
    status("lost", `${why} – reconnecting`);
    setTimeout(connect, wait);
  };
}

const nextPaint = () => new Promise(requestAnimationFrame);
const confirm = (socket) => socket.readyState === WebSocket.OPEN && socket.send("shown");

function status(state, text) {
  $("status").dataset.state = state;
  $("status").lastElementChild.textContent = text;
}

// ---- the model: legend

function setModel(model) {
  document.body.dataset.connection = "open";
  status("connecting", "Waiting for frames");
  page.model = model;
  const kind = model.task === "seg" ? "Segmentation" : "Classification";
  $("model").textContent = `${kind}, ${model.size.join(" × ")}, ${model.precision}`;
  $("classes-title").textContent = model.task === "seg" ? "Classes" : "Scores";
  for (const id of ["opacity-row", "all-none"]) $(id).hidden = model.task !== "seg";
  $("classes").replaceChildren(...model.classes.map(classRow));
}

function classRow({ name, colour }) {
  const row = $("class").content.firstElementChild.cloneNode(true);
  const button = row.firstElementChild;
  row.querySelector(".swatch").style.background = `rgb(${colour.join(" ")})`;
  row.querySelector(".name").textContent = name;
  button.title = name;
  if (page.model.task === "seg") {
    button.setAttribute("aria-pressed", !page.hidden.has(name));
    button.onclick = () => toggle([name], page.hidden.has(name));
  } else {
    button.removeAttribute("aria-pressed");
    button.disabled = true;
  }
  return row;
}

function toggle(names, visible) {
  for (const name of names) visible ? page.hidden.delete(name) : page.hidden.add(name);
  localStorage.setItem("hidden", JSON.stringify([...page.hidden]));
  page.model.classes.forEach(({ name }, index) => {
    $("classes").children[index].firstElementChild.setAttribute("aria-pressed", !page.hidden.has(name));
  });
  repaint();
}

// ---- results

async function show(data) {
  const length = new DataView(data).getUint32(0);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  page.fresh = head.health;
  page.events = head.events;
  const before = page.streams.get(head.stream)?.head;
  if (before && before.frame === head.frame && before.t_result === head.t_result) return; // no new frame, only its health
  const start = 4 + length;
  const image = await bitmap(data.slice(start, start + head.image), "image/jpeg");
  const classes = page.model.task === "seg" ? await classMap(data.slice(start + head.image)) : null;
  const stream = page.streams.get(head.stream) ?? newStream(head.stream);
  stream.image?.close();
  Object.assign(stream, { image, classes, head, at: performance.now() });
  paint(stream);
  const latency = head.latency_ms;
  const age = (head.t_result - head.t_capture) * 1000;
  page.samples.push({ at: stream.at, stream: head.stream, fps: head.health.fps, age, infer: latency.infer ?? 0 });
  page.hasRules ||= head.zones.length > 0 || head.events.length > 0;
}

function bitmap(bytes, type) {
  return createImageBitmap(new Blob([bytes], { type }), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
}

/** Decode the class map: {width, height, indices}, the class index of each pixel. */
async function classMap(bytes) {
  const image = await bitmap(bytes, "image/png");
  const { width, height } = image;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  image.close();
  const grey = context.getImageData(0, 0, width, height).data;
  const indices = new Uint8Array(width * height);
  for (let pixel = 0; pixel < indices.length; pixel++) indices[pixel] = grey[4 * pixel];
  return { width, height, indices };
}

function newStream(number) {
  $("empty").hidden = true;
  const figure = $("stream").content.firstElementChild.cloneNode(true);
  const stream = { figure, canvas: figure.querySelector("canvas"), mask: new OffscreenCanvas(1, 1) };
  figure.onclick = () => select(number);
  figure.querySelector(".full").onclick = () => {
    document.fullscreenElement ? document.exitFullscreen() : figure.requestFullscreen();
  };
  page.streams.set(number, stream);
  const after = [...page.streams.keys()].sort((a, b) => a - b).find((other) => other > number);
  $("streams").insertBefore(figure, after === undefined ? null : page.streams.get(after).figure);
  $("streams").classList.toggle("many", page.streams.size > 1);
  if (page.selected === null) select(number);
  return stream;
}

function select(number) {
  page.selected = number;
  for (const [other, { figure }] of page.streams) figure.setAttribute("aria-current", other === number);
}

function paint(stream) {
  const { canvas, image, classes } = stream;
  if (canvas.width !== image.width || canvas.height !== image.height) {
    canvas.width = image.width;
    canvas.height = image.height;
  }
  const context = canvas.getContext("2d");
  context.globalAlpha = 1;
  context.drawImage(image, 0, 0);
  if (classes) paintClasses(context, stream);
  context.globalAlpha = 1;
  paintZones(context, stream.head);
}

function paintClasses(context, { canvas, classes, mask }) {
  mask.width = classes.width;
  mask.height = classes.height;
  mask.getContext("2d").putImageData(coloured(classes), 0, 0);
  context.globalAlpha = page.opacity / 100;
  context.imageSmoothingQuality = "high";
  context.drawImage(mask, 0, 0, canvas.width, canvas.height);
}

/** Draw outlines and names of the zones; a zone with an active event is red. */
function paintZones(context, head) {
  const { width, height } = context.canvas;
  const unit = Math.max(1, width / 640);
  const active = new Set(head.events.filter(({ state, input }) => state === "start" && input === head.stream)
    .map(({ zone }) => zone));
  context.lineJoin = "round";
  context.textBaseline = "top";
  context.font = `600 ${13 * unit}px system-ui, sans-serif`;
  for (const { name, points } of head.zones) {
    context.beginPath();
    for (const [x, y] of points) context.lineTo(x * width, y * height);
    context.closePath();
    outlined(context, unit, active.has(name) ? "#ff4d4d" : "#fff", () => context.stroke());
    const [x, y] = points.reduce((best, point) => (point[1] < best[1] || (point[1] === best[1] && point[0] < best[0]) ? point : best));
    outlined(context, unit, active.has(name) ? "#ff4d4d" : "#fff", (outline) => {
      const [left, top] = [Math.min(x * width + 5 * unit, width - context.measureText(name).width - 5 * unit), y * height + 5 * unit];
      outline ? context.strokeText(name, left, top) : context.fillText(name, left, top);
    });
  }
}

/** Draw twice, first wider in black, so that the shape is visible on any image. */
function outlined(context, unit, colour, draw) {
  context.strokeStyle = "rgb(0 0 0 / .7)";
  context.lineWidth = 4 * unit;
  draw(true);
  context.strokeStyle = context.fillStyle = colour;
  context.lineWidth = 1.8 * unit;
  draw(false);
}

/** The class map as an image in the class colours; hidden classes are transparent. */
function coloured({ width, height, indices }) {
  const palette = new Uint32Array(256);
  page.model.classes.forEach(({ name, colour: [red, green, blue] }, index) => {
    palette[index] = page.hidden.has(name) ? 0 : ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  });
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer); // assumes a little-endian processor, as all browsers have
  for (let pixel = 0; pixel < indices.length; pixel++) pixels[pixel] = palette[indices[pixel]];
  return image;
}

function repaint() {
  for (const stream of page.streams.values()) if (stream.image) paint(stream);
}

// ---- figures, four times a second

function update() {
  const now = performance.now();
  page.samples = page.samples.filter(({ at }) => now - at < SHOWN * 1000);
  const shown = span(page.samples, now);
  const mine = page.samples.filter(({ stream }) => stream === page.selected);
  const stream = page.streams.get(page.selected);
  if (page.fresh) health(page.fresh);
  for (const [number, each] of page.streams) caption(each, number, now);
  if (stream) shares(stream.head);
  events(page.events, page.streams.size > 1);
  plot($("fps-plot"), now, shown, [{ colour: "--accent", points: page.samples.map(({ at, fps }) => [at, fps]) }]);
  plot($("latency-plot"), now, shown, [
    { colour: "--second", points: mine.map(({ at, infer }) => [at, infer]) },
    { colour: "--accent", points: mine.map(({ at, age }) => [at, age]) },
  ]);
  const latest = mine.findLast(({ at }) => now - at < SILENCE * 1000);
  const silent = Math.min(...[...page.streams.values()].map(({ at }) => now - at)) / 1000;
  $("fps-now").textContent = silent > SILENCE ? "–" : `${page.fresh.fps.toFixed(1)} fps`; // `silent` is Infinity without a stream
  $("latency-now").textContent = latest ? `${latest.age.toFixed(latest.age < 100 ? 1 : 0)} ms` : "–";
  if (document.body.dataset.connection !== "open" || !page.streams.size) return;
  const lost = page.fresh.sources.filter(({ state }) => state === "lost").length;
  if (silent > SILENCE) status("connecting", `No new frame for ${Math.floor(silent)} s`);
  else if (lost) status("connecting", `${lost} of ${page.fresh.sources.length} cameras lost`);
  else if (stale(now)) status("connecting", `${stale(now)} of ${page.streams.size} streams stopped`);
  else status("live", "Live");
}

/** Streams that should deliver frames, since their source has not ended, and have not for a while. */
function stale(now) {
  return [...page.streams].filter(
    ([number, { at }]) => now - at > SILENCE * 1000 && page.fresh.sources[number]?.state !== "ended",
  ).length;
}

function caption(stream, number, now) {
  const { head, figure, at } = stream;
  const source = page.fresh.sources[number];
  figure.dataset.state = source?.state === "lost" ? "lost" : now - at > SILENCE * 1000 ? "silent" : "live";
  figure.querySelector(".name").textContent = head.source;
  figure.querySelector(".name").title = head.source;
  figure.querySelector("canvas").setAttribute("aria-label", head.source);
  const figures = figure.querySelector(".figures");
  const fault = source?.state === "lost" ? source.fault.replace(`${head.source}: `, "") : ""; // the name is beside it
  figures.textContent = fault || new Date(head.t_capture * 1000).toLocaleTimeString();
  figures.title = `frame ${head.frame.toLocaleString()}`;
}

function shares(head) {
  const values = head.areas ?? head.top;
  const ranks = new Map(Object.keys(head.top ?? {}).map((name, rank) => [name, rank]));
  page.model.classes.forEach(({ name }, index) => {
    const row = $("classes").children[index];
    const share = Object.hasOwn(values, name) ? values[name] : 0;
    row.hidden = !Object.hasOwn(values, name);
    row.style.order = ranks.get(name) ?? 0; // a classification shows the top classes, highest score first
    row.querySelector(".share").textContent = `${(share * 100).toFixed(1)} %`;
    row.querySelector(".bar").style.width = `${share * 100}%`;
  });
}

function health(figures) {
  const rows = [
    ...figures.stalled.map((stage) => ["Stalled", stage, "bad"]),
    ...figures.sinks.filter(({ state }) => state !== "working").map(({ name, state }) => [name, state, "bad"]),
    ["Frames", figures.frames.toLocaleString()],
    ["Running", duration(figures.seconds)],
    ["Dropped", figures.dropped.toLocaleString()],
    ...(figures.repeated ? [["Repeated", figures.repeated.toLocaleString()]] : []),
    ["Reconnects", figures.reconnects.toLocaleString()],
  ];
  for (const [zone, degrees] of Object.entries(figures.temperatures)) rows.push([zone, `${degrees.toFixed(0)} °C`]);
  if (figures.power_mode) rows.push(["Power mode", figures.power_mode]);
  $("health").replaceChildren(...rows.flatMap(([term, value, mark]) => {
    const [name, text] = [document.createElement("dt"), document.createElement("dd")];
    [name.textContent, name.title, text.textContent, text.className] = [term, term, value, mark ?? ""];
    return [name, text];
  }));
}

/** The latest events, newest first. */
function events(latest, several) {
  $("events").hidden = !page.hasRules;
  $("event-list").replaceChildren(...[...latest].reverse().map(({ state, rule, zone, source, start, seconds, peak, class: name }) => {
    const row = $("event").content.firstElementChild.cloneNode(true);
    row.dataset.state = state;
    row.querySelector(".name").textContent = row.querySelector(".name").title = rule;
    row.querySelector(".value").textContent = `${(peak * 100).toFixed(1)} %`;
    row.querySelector(".place").textContent = [name, zone, several ? source : null].filter(Boolean).join(" · ");
    const time = new Date(start * 1000).toLocaleTimeString();
    row.querySelector(".when").textContent = state === "start" ? `since ${time}` : `${time}, ${duration(Math.round(seconds))}`;
    return row;
  }));
}

function duration(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].map(([size, unit], index, all) => [
    Math.floor((index ? seconds % all[index - 1][0] : seconds) / size), unit,
  ]);
  const first = parts.findIndex(([count]) => count);
  return parts.slice(first < 0 ? 3 : first).slice(0, 2).map(([count, unit]) => `${count} ${unit}`).join(" ");
}

// ---- plots

/** Seconds that the plots show: what there is, so that a plot is not empty at first. */
function span(samples, now) {
  const age = samples.length ? (now - samples[0].at) / 1000 : 0;
  return Math.min(SHOWN, Math.max(FEWEST, Math.ceil(age)));
}

function plot(canvas, now, shown, lines) {
  const ratio = devicePixelRatio;
  canvas.dataset.seconds = shown;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const [left, bottom, top] = [36, height - 16, 6];
  const most = niceCeiling(Math.max(...lines.flatMap(({ points }) => points.map(([, value]) => value)), 1));
  const x = (at) => width - ((now - at) / (shown * 1000)) * (width - left);
  const y = (value) => bottom - (value / most) * (bottom - top);

  context.font = `11px ${style.fontFamily}`;
  context.fillStyle = colour("--soft");
  context.strokeStyle = colour("--line");
  context.lineWidth = 1;
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const value of [0, most / 2, most]) {
    context.beginPath();
    context.moveTo(left, Math.round(y(value)) + 0.5);
    context.lineTo(width, Math.round(y(value)) + 0.5);
    context.stroke();
    context.fillText(String(value), left - 6, y(value));
  }
  context.textBaseline = "alphabetic";
  for (const ago of [0, Math.round(shown / 2), shown]) {
    context.textAlign = ago === 0 ? "right" : ago === shown ? "left" : "center";
    context.fillText(ago ? `−${ago} s` : "now", x(now - ago * 1000), height - 2);
  }
  for (const { colour: name, points } of lines) {
    context.beginPath();
    points.forEach(([at, value], index) => {
      // A pause is drawn as a gap, not as a line; a frame on its own as a dot.
      const joined = index && at - points[index - 1][0] < SILENCE * 1000;
      joined ? context.lineTo(x(at), y(value)) : context.moveTo(x(at), y(value));
      if (!joined) context.lineTo(x(at), y(value));
    });
    context.strokeStyle = colour(name);
    context.lineWidth = 1.5;
    context.lineJoin = context.lineCap = "round";
    context.stroke();
  }
}

/** The smallest number not below the value that is 1, 2, 4, 5 or 10 times a power of ten. */
function niceCeiling(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 10].map((step) => step * unit).find((limit) => limit >= value) ?? value;
}

// ---- controls

function setOpacity(value) {
  page.opacity = Number(value);
  localStorage.setItem("opacity", value);
  $("opacity").value = value;
  $("opacity-value").textContent = `${value} %`;
  repaint();
}

$("opacity").oninput = ({ target }) => setOpacity(target.value);
$("all").onclick = () => toggle(page.model.classes.map(({ name }) => name), true);
$("none").onclick = () => toggle(page.model.classes.map(({ name }) => name), false);
setOpacity(page.opacity);
setInterval(update, 250);
connect();
