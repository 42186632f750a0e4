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
const execute = python.runPython(`
import sys

def execute(code, name):
    """Run a script; return its exit code."""
    sys.argv = list(arguments)
    try:
        exec(compile(code, name, "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 0

execute`);
try {
  process.exitCode = execute(readFileSync(script, "utf-8"), script);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
