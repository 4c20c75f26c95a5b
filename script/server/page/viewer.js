"use strict";
// A first look: an annotated scan, a query and its result, slice by slice along the files' third axis.

const COLOURS = [[230, 75, 53], [60, 140, 255], [0, 170, 120], [255, 150, 40], [190, 100, 230], [255, 214, 10]];
const READERS = {
  2: ["getUint8", 1], 4: ["getInt16", 2], 8: ["getInt32", 4], 16: ["getFloat32", 4], 64: ["getFloat64", 8],
  256: ["getInt8", 1], 512: ["getUint16", 2], 768: ["getUint32", 4],
};
const MAX_HEIGHT_VH = 65;
const byId = (id) => document.getElementById(id);

async function readNifti(blob) {
  const fault = (text) => new Error(`${blob.name ?? "result"}: ${text}`);
  let buffer = await blob.arrayBuffer();
  const start = new Uint8Array(buffer, 0, Math.min(2, buffer.byteLength));
  if (start[0] === 0x1f && start[1] === 0x8b) {
    const stream = new Blob([buffer]).stream().pipeThrough(new DecompressionStream("gzip"));
    buffer = await new Response(stream).arrayBuffer();
  }
  if (buffer.byteLength < 352) throw fault("not a NIfTI-1 file");
  const view = new DataView(buffer);
  const little = view.getInt32(0, true) === 348;
  if (!little && view.getInt32(0, false) !== 348) throw fault("not a NIfTI-1 file");
  const short = (at) => view.getInt16(at, little);
  const float = (at) => view.getFloat32(at, little);
  const [width, height, depth] = [42, 44, 46].map(short);
  const reader = READERS[short(70)];
  if (!reader || short(40) < 3) throw fault("not a 3D image of single values");
  const [method, step] = reader;
  const count = width * height * depth;
  const offset = float(108);
  if (buffer.byteLength < offset + count * step) throw fault("truncated file");
  const [slope, intercept] = float(112) ? [float(112), float(116)] : [1, 0];
  const voxels = new Float32Array(count);
  for (let i = 0; i < count; i += 1) voxels[i] = view[method](offset + i * step, little) * slope + intercept;
  const spacing = [80, 84].map(float);
  return { width, height, depth, voxels, spacing, axes: patientAxes(short, float) };
}

// Directions of the file's first two axes in the patient (RAS), from the sform or the qform.
function patientAxes(short, float) {
  if (short(254) > 0) return [0, 4].map((at) => [280, 296, 312].map((row) => float(row + at)));
  if (short(252) <= 0) return [[-1, 0, 0], [0, -1, 0]];
  const [b, c, d] = [256, 260, 264].map(float);
  const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d));
  return [
    [a * a + b * b - c * c - d * d, 2 * (b * c + a * d), 2 * (b * d - a * c)],
    [2 * (b * c - a * d), a * a + c * c - b * b - d * d, 2 * (c * d + a * b)],
  ];
}

// An axis is shown towards the patient's left, posterior or inferior, as radiologists expect.
function orientAxis(direction) {
  const sizes = direction.map(Math.abs);
  const dominant = sizes.indexOf(Math.max(...sizes));
  return { isFlipped: direction[dominant] > 0, edge: "RAS"[dominant] };
}

function intensityRange(voxels) {
  const step = Math.max(1, Math.floor(voxels.length / 20000));
  const sample = voxels.filter((value, i) => i % step === 0 && Number.isFinite(value)).sort();
  const at = (share) => sample[Math.min(sample.length - 1, Math.floor(share * sample.length))] ?? 0;
  return [at(0.01), Math.max(at(0.99), at(0.01) + 1e-6)];
}

class Pane {
  constructor(id) {
    this.root = byId(id);
    this.canvas = this.root.querySelector("canvas");
    this.slider = this.root.querySelector("input[type=range]");
    this.output = this.root.querySelector("output");
    this.legend = this.root.querySelector(".legend");
    this.slider.addEventListener("input", () => this.draw());
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.slider.valueAsNumber += Math.sign(event.deltaY);
      this.draw();
    }, { passive: false });
    this.root.addEventListener("dragover", (event) => {
      event.preventDefault();
      this.root.classList.add("target");
    });
    this.root.addEventListener("dragleave", () => this.root.classList.remove("target"));
    this.root.addEventListener("drop", (event) => {
      event.preventDefault();
      this.root.classList.remove("target");
      this.take([...event.dataTransfer.files]);
    });
  }

  show(image, mask = null) {
    if (mask && ["width", "height", "depth"].some((side) => mask[side] !== image[side])) mask = null;
    Object.assign(this, { image, mask, range: intensityRange(image.voxels) });
    const sliceSize = image.width * image.height;
    const counts = new Uint32Array(image.depth);
    if (mask) mask.voxels.forEach((label, i) => { if (label) counts[Math.floor(i / sliceSize)] += 1; });
    const largest = counts.indexOf(Math.max(...counts));
    this.slider.max = image.depth;
    this.slider.value = mask && counts[largest] ? largest + 1 : Math.ceil(image.depth / 2);
    this.slider.disabled = false;
    this.draw();
  }

  draw() {
    if (!this.image) return;
    const { width, height, depth, voxels, spacing, axes } = this.image;
    const [across, down] = axes.map(orientAxis);
    const start = (this.slider.valueAsNumber - 1) * width * height;
    const [low, high] = this.range;
    const opacity = byId("opacity").valueAsNumber;
    const pixels = new ImageData(width, height);
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        const from = start + (down.isFlipped ? height - 1 - y : y) * width + (across.isFlipped ? width - 1 - x : x);
        const grey = 255 * (voxels[from] - low) / (high - low);
        const label = this.mask ? this.mask.voxels[from] : 0;
        const colour = label ? colourOf(label) : null;
        const to = 4 * (y * width + x);
        for (let k = 0; k < 3; k += 1) {
          pixels.data[to + k] = colour ? (1 - opacity) * Math.min(255, grey) + opacity * colour[k] : grey;
        }
        pixels.data[to + 3] = 255;
      }
    }
    Object.assign(this.canvas, { width, height });
    this.canvas.getContext("2d").putImageData(pixels, 0, 0);
    const aspect = (width * spacing[0]) / (height * spacing[1]);
    Object.assign(this.canvas.style, { aspectRatio: aspect, width: `min(100%, ${MAX_HEIGHT_VH * aspect}vh)` });
    this.output.value = `${this.slider.value} of ${depth}; left edge: ${across.edge}, upper edge: ${down.edge}`;
  }

  describe(labels, volumes = {}) {
    this.legend.replaceChildren(...Object.entries(labels).map(([label, name]) => {
      const swatch = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
      const context = swatch.getContext("2d");
      context.fillStyle = `rgb(${colourOf(Number(label)).join(" ")})`;
      context.fillRect(0, 0, 1, 1);
      const entry = document.createElement("span");
      entry.append(swatch, label in volumes ? `${name}: ${volumes[label].toFixed(1)} ml` : name);
      return entry;
    }));
  }
}

const colourOf = (label) => COLOURS[(label - 1) % COLOURS.length];

function say(text, isError = false) {
  byId("message").textContent = text;
  byId("message").classList.toggle("error", isError);
}

async function call(path, body) {
  const token = byId("token").value;
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const isJson = typeof body === "string";
  if (isJson) headers["Content-Type"] = "application/json";
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body });
  if (response.ok) return response;
  if (response.status === 401) byId("token-field").hidden = false;
  const answer = await response.json().catch(() => ({ errors: [`the server answered ${response.status}`] }));
  throw new Error(answer.errors.join("; "));
}

async function attempt(text, action) {
  say(text);
  try {
    await action();
  } catch (error) {
    say(error.message, true);
  }
}

function form(entries) {
  const data = new FormData();
  for (const [name, value] of Object.entries(entries)) data.append(name, value);
  return data;
}

const support = new Pane("support");
const query = new Pane("query");

function showStatus(status) {
  const options = status.models.map((name) => new Option(name, name, false, name === status.model));
  byId("model").replaceChildren(...options);
  support.describe(status.labels);
  say(status.support ? `The annotated scan is ${status.support}. Choose a scan to segment.`
    : "Choose an image and its mask.");
}

const connect = () => attempt("Connecting …", async () => showStatus(await (await call("/status")).json()));

const setSupport = () => attempt("Showing the annotated scan …", async () => {
  const [image, mask] = [support.imageFile, support.maskFile];
  if (!image) return say("Choose the mask's image, too.");
  support.show(await readNifti(image), mask ? await readNifti(mask) : null);
  if (!mask) return say("Choose the image's mask, too.");
  say("Sending the annotated scan …");
  const answer = await call("/support", form({ image, label_map: mask, labels: byId("labels").value }));
  showStatus(await answer.json());
  return query.imageFile ? segment() : undefined;
});

const segment = () => attempt("Segmenting …", async () => {
  const image = await readNifti(query.imageFile);
  query.show(image);
  query.describe({});
  byId("download").hidden = true;
  const answer = await call("/segment", form({ image: query.imageFile }));
  const result = await answer.blob();
  const summary = JSON.parse(answer.headers.get("X-Result"));
  query.show(image, await readNifti(result));
  query.describe(summary.labels, summary.volumes_ml);
  URL.revokeObjectURL(byId("download").href);
  const name = query.imageFile.name.replace(/(\.nii)?(\.gz)?$/i, "_mask.nii.gz");
  Object.assign(byId("download"), { hidden: false, href: URL.createObjectURL(result), download: name });
  say(`Segmented ${query.imageFile.name}. Confidence: ${summary.confidence.toFixed(2)}. Check the mask.`);
});

support.take = (files) => {
  if (files.length > 1) {
    support.maskFile = files.find((file) => /mask|seg|label/i.test(file.name)) ?? files[1];
    support.imageFile = files.find((file) => file !== support.maskFile);
  } else if (support.imageFile && !support.maskFile) {
    [support.maskFile] = files;
  } else {
    Object.assign(support, { imageFile: files[0], maskFile: null });
  }
  setSupport();
};
query.take = ([file]) => { query.imageFile = file; segment(); };

for (const [id, pane, name] of [["support-image", support, "imageFile"], ["support-mask", support, "maskFile"]]) {
  byId(id).addEventListener("change", (event) => { pane[name] = event.target.files[0]; setSupport(); });
}
byId("query-image").addEventListener("change", (event) => query.take(event.target.files));
byId("opacity").addEventListener("input", () => { support.draw(); query.draw(); });
byId("settings").addEventListener("submit", (event) => event.preventDefault());
byId("token").addEventListener("change", connect);
byId("labels").addEventListener("change", () => { if (support.maskFile) setSupport(); });
byId("model").addEventListener("change", (event) => attempt("Loading the network …", async () => {
  const answer = await call("/load", JSON.stringify({ model: event.target.value }));
  showStatus(await answer.json());
  if (support.maskFile) await setSupport();
}));
const token = new URLSearchParams(location.hash.slice(1)).get("token");
if (token) {
  byId("token").value = token;
  history.replaceState(null, "", location.pathname); // not left in the address bar
}
connect();
