// A worker that runs Python: training would stop the page otherwise.

async function get(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} is missing`);
  return response;
}

async function start() {
  const packages = await (await get("packages.json")).json();
  const { loadPyodide } = await import("./pyodide/pyodide.mjs");
  const python = await loadPyodide({ indexURL: new URL("pyodide/", self.location).href });
  for (const [file, format] of packages) {
    python.unpackArchive(await (await get(file)).arrayBuffer(), format);
  }
  python.runPython(await (await get("train.py")).text());
  return python;
}

const python = start();
python.then(
  (py) => postMessage({ ready: py.globals.get("about")() }),
  (error) => {
    postMessage({
      error:
        `Python could not be loaded: ${error.message}. The site needs the files that ` +
        "`python tools/browser.py site` puts beside this page, and a web server.",
    });
  },
);

self.onmessage = async ({ data }) => {
  const { globals } = await python;
  try {
    if (data.train) globals.get("train")(data.train, (figures) => postMessage(JSON.parse(figures)));
    if (data.read) postMessage({ probabilities: JSON.parse(globals.get("read")(JSON.stringify(data.read))) });
    if (data.sample) postMessage({ sample: JSON.parse(globals.get("sample")()) });
    if (data.train) postMessage({ done: true });
  } catch (error) {
    postMessage({ error: error.message });
  }
};
