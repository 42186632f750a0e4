"""Sphinx configuration: ``make docs`` builds the site into docs/_build/html."""

from __future__ import annotations

import inspect
import os
import posixpath
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("NPDL_BACKEND", "numpy")  # the twins will do: nothing is compiled for this

from docutils import nodes  # noqa: E402
from sphinx import addnodes  # noqa: E402

import npdl  # noqa: E402

project = "npdl"
author = "the npdl developers"
copyright = author
version = release = npdl.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
default_role = "py:obj"
highlight_language = "none"

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "none"  # the types are in the docstrings, with shapes
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_theme = "furo"
html_title = f"npdl {version}"
html_static_path = ["_static"]
html_css_files = ["npdl.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "native"

# Where the site shows Markdown files that stand elsewhere in the repository.
PAGES = {
    "ARCHITECTURE": "architecture",
    "CHANGELOG": "changelog",
    "CONTRIBUTING": "contributing",
    "README": "quickstart",
    "SECURITY": "security",
    "benchmarks/README": "performance",
    "npdl/_ext/README": "kernel-contract",
}


MODULES = {"npdl", *(f"npdl.{name}" for name in npdl.__all__)}


def lead_to_pages(app, doctree):
    """Lead links to files of the repository to the pages that show them."""
    pages = app.env.found_docs
    here = f"docs/{app.env.docname}"
    for node in list(doctree.findall(lambda n: "reftarget" in getattr(n, "attributes", ()))):
        target = node["reftarget"].partition("#")[0].removeprefix(f"{ROOT}/").removesuffix(".md")
        if not target or not (
            node.get("reftype") == "myst" or isinstance(node, addnodes.download_reference)
        ):
            continue
        for folder in (posixpath.dirname(here), ""):  # as seen from here, and from the root
            path = posixpath.normpath(posixpath.join(folder, target))
            page = PAGES.get(path) or path.removeprefix("docs/")
            if page in pages:
                link = addnodes.pending_xref(
                    "", refdomain="std", reftype="doc", reftarget=f"/{page}", refexplicit=True
                )
                link["refdoc"] = app.env.docname
                node.replace_self(link)
                link += nodes.inline("", "", *node.children[0].children)
                break


def public_name(cls):
    """Where a user finds a class, or None."""
    module = cls.__module__
    for name in (module.rpartition(".")[0], module):
        if name in MODULES and getattr(sys.modules[name], cls.__name__, None) is cls:
            return f"{name}.{cls.__name__}"
    return None


def show_public_bases(app, name, obj, options, bases):
    """Name the nearest base of a class that a user knows."""
    known = [public_name(cls) for cls in obj.__mro__[1:]]
    bases[:] = [f":py:class:`~{name}`" for name in known if name][:1] or [object]


def public_names(module):
    """The public names of a module: `__all__`, or the classes and functions that it defines."""
    own = [n for n, x in vars(module).items() if getattr(x, "__module__", "") == module.__name__]
    names = getattr(module, "__all__", own)
    return [n for n in names if not (n.startswith("_") or inspect.ismodule(getattr(module, n)))]


def groups_of(module, names):
    """Names by topic: in a package, that of the file which defines them."""
    groups = {}
    for name in names:
        file = sys.modules[getattr(module, name).__module__]
        is_one = module is npdl or not hasattr(module, "__path__") or file is module
        title = "" if is_one else re.split(r"[:;\n]", file.__doc__)[0].rstrip(".")
        groups.setdefault(title, []).append(name)
    return groups


def list_names(app, what, name, obj, options, lines):
    """Put a table of all names at the head of a module's page."""
    if what != "module":
        return
    hidden = options.get("exclude_members") or ()
    names = [public for public in public_names(obj) if public not in hidden]
    aliases = {n: getattr(getattr(obj, n), "__name__", "") for n in names}  # "": a constant
    others = [f"`{n}` for `{real}`" for n, real in aliases.items() if real not in (n, "")]
    listed = [n for n, real in aliases.items() if n == real]
    for title, group in groups_of(obj, listed).items():
        lines += ["", f"**{title}**" if title else "", "", ".. autosummary::", ""]
        lines += [f"   {n}" for n in group]
    lines += ["", f"Other names: {', '.join(others)}." if others else "", ""]


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", list_names, priority=900)  # after numpydoc
    app.connect("doctree-read", lead_to_pages)
    app.connect("autodoc-process-bases", show_public_bases)
