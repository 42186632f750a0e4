// The page: it starts the worker, draws what it tells, and sends it what is drawn.

const $ = (id) => document.getElementById(id);
const worker = new Worker("worker.js", { type: "module" });
let history = [];
let trained = false;

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

// -------------------------------------------------------------------------------- training

worker.onmessage = ({ data }) => {
  if (data.ready) {
    $("state").textContent = `Ready: ${data.ready}`;
    $("train").disabled = false;
  } else if (data.epoch) {
    history.push(data);
    document.dispatchEvent(new CustomEvent("epoch", { detail: data })); // the tests listen
    drawCurves(Number($("epochs").value));
    $("state").textContent = `Epoch ${data.epoch} is done.`;
    $("figures").textContent =
      `loss ${data.loss.toFixed(4)}, accuracy ${(100 * data.accuracy).toFixed(1)}\u00a0%, ` +
      `on the test digits ${(100 * data.test).toFixed(1)}\u00a0%; ${data.seconds.toFixed(2)}\u00a0s an epoch`;
  } else if (data.done) {
    trained = true;
    $("train").disabled = $("sample").disabled = false;
    $("train").textContent = "Train on";
    $("state").textContent = "Trained. Now draw a digit.";
    read();
  } else if (data.probabilities) {
    show(data.probabilities);
  } else if (data.sample) {
    erase();
    drawSmall(data.sample);
    worker.postMessage({ read: data.sample });
  } else if (data.error) {
    $("state").textContent = data.error;
  }
};
worker.onerror = (event) => {
  $("state").textContent = `The worker failed: ${event.message || "a file is missing"}`;
};

$("train").addEventListener("click", () => {
  const epochs = Math.min(50, Math.max(1, Math.round(Number($("epochs").value)) || 1));
  $("epochs").value = epochs;
  $("train").disabled = true;
  $("state").textContent = "Training…";
  history = [];
  worker.postMessage({ train: epochs });
});

function drawCurves(epochs) {
  const [left, right, top, bottom] = [40, 410, 12, 192];
  const low = Math.min(0.9, ...history.map((h) => Math.floor(10 * Math.min(h.accuracy, h.test)) / 10));
  const x = (epoch) => (epochs < 2 ? left : left + ((epoch - 1) / (epochs - 1)) * (right - left));
  const y = (value) => bottom - ((value - low) / (1 - low)) * (bottom - top);
  const svg = (tag, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const parts = [];
  for (let k = 0; k <= 2; k++) {
    const value = low + ((1 - low) * k) / 2;
    parts.push(svg("line", { class: "axis", x1: left, x2: right, y1: y(value), y2: y(value) }));
    parts.push(svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, `${Math.round(100 * value)} %`));
  }
  parts.push(svg("text", { x: left, y: 212, "text-anchor": "middle" }, "1"));
  if (epochs > 1) parts.push(svg("text", { x: right, y: 212, "text-anchor": "end" }, `epoch ${epochs}`));
  for (const [key, name] of [["accuracy", "train"], ["test", "test"]]) {
    const points = history.map((h) => [x(h.epoch), y(h[key])]);
    parts.push(svg("polyline", { class: name, points: points.join(" ") }));
    const [cx, cy] = points[points.length - 1];
    parts.push(svg("circle", { class: name, cx, cy, r: 4 }));
  }
  $("curves").replaceChildren(...parts);
}

// --------------------------------------------------------------------------------- drawing

const canvas = $("canvas");
const pen = canvas.getContext("2d", { willReadFrequently: true });
let drawing = false;

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

function erase() {
  pen.clearRect(0, 0, canvas.width, canvas.height);
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  drawing = true;
  pen.lineWidth = 22;
  pen.lineCap = pen.lineJoin = "round";
  pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--pen");
  pen.beginPath();
  pen.moveTo(...place(event));
  pen.lineTo(...place(event));
  pen.stroke();
});
canvas.addEventListener("pointermove", (event) => {
  if (!drawing) return;
  pen.lineTo(...place(event));
  pen.stroke();
});
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, () => {
    drawing = false;
    read();
  });
}
$("clear").addEventListener("click", () => {
  erase();
  drawSmall(new Array(64).fill(0));
  $("bars").replaceChildren();
  $("answer").textContent = trained ? "Draw a digit." : "Train first, then draw.";
});
$("sample").addEventListener("click", () => worker.postMessage({ sample: true }));

/** The drawing as 8 x 8 numbers from 0 to 1: its box, as high as the picture, in the middle. */
function pixels() {
  const { width, height } = canvas;
  const ink = pen.getImageData(0, 0, width, height).data;
  let [left, right, top, bottom] = [width, -1, height, -1];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (ink[4 * (y * width + x) + 3] > 127) {
        left = Math.min(left, x); right = Math.max(right, x);
        top = Math.min(top, y); bottom = Math.max(bottom, y);
      }
    }
  }
  if (right < 0) return null;
  const size = Math.max(right - left, bottom - top) + 1;
  const [x0, y0] = [(left + right + 1 - size) / 2, (top + bottom + 1 - size) / 2];
  const result = [];
  for (let row = 0; row < 8; row++) {
    for (let column = 0; column < 8; column++) {
      let [sum, count] = [0, 0];
      for (let i = 0; i < 8; i++) {
        for (let j = 0; j < 8; j++) {
          const x = Math.floor(x0 + (size * (column + (j + 0.5) / 8)) / 8);
          const y = Math.floor(y0 + (size * (row + (i + 0.5) / 8)) / 8);
          const inside = x >= 0 && x < width && y >= 0 && y < height;
          sum += inside && ink[4 * (y * width + x) + 3] > 127;
          count++;
        }
      }
      result.push(sum / count);
    }
  }
  return result;
}

function read() {
  const drawn = pixels();
  if (!drawn) return;
  drawSmall(drawn);
  if (trained) worker.postMessage({ read: drawn });
}

function drawSmall(values) {
  const small = $("small").getContext("2d");
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const image = small.createImageData(8, 8);
  values.forEach((value, i) => {
    const shade = dark ? 255 * value : 255 * (1 - value);
    image.data.set([shade, shade, shade, 255], 4 * i);
  });
  small.putImageData(image, 0, 0);
}

function percent(p) {
  return `${(100 * p).toFixed(1)}\u00a0%`;
}

function show(probabilities) {
  const best = probabilities.indexOf(Math.max(...probabilities));
  $("answer").textContent = `This is a ${best}, with a probability of ${percent(probabilities[best])}.`;
  $("bars").replaceChildren(
    ...probabilities.map((p, digit) => {
      const item = make("li");
      const rod = make("span", undefined, "rod");
      const bar = make("i");
      bar.style.width = `${100 * p}%`;
      rod.append(bar);
      item.append(make("span", digit), rod, make("span", percent(p)));
      return item;
    }),
  );
}
