// Runs a Python script in Pyodide: node tools/pyodide.mjs FOLDER SCRIPT [ARGUMENT ...]
// FOLDER holds pyodide/, and packages.json with the files to unpack.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, script, ...rest] = process.argv.slice(2);
const { loadPyodide } = await import(pathToFileURL(`${folder}/pyodide/pyodide.mjs`).href);
const python = await loadPyodide({ indexURL: `${folder}/pyodide/` });
for (const [file, format] of JSON.parse(readFileSync(`${folder}/packages.json`))) {
  // It wants a Uint8Array; a Buffer, its subclass, fails.
  python.unpackArchive(new Uint8Array(readFileSync(`${folder}/${file}`)), format);
}
python.globals.set("arguments", python.toPy([script, ...rest]));
python.runPython("import sys; sys.argv = list(arguments)");
try {
  python.runPython(readFileSync(script, "utf-8"), { filename: script });
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
