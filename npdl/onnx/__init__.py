"""Level 3: models as ONNX files. Needs the package: ``pip install 'npdl[onnx]'``."""

from __future__ import annotations

try:
    import onnx as _onnx  # noqa: F401
except ImportError as error:
    rule = "npdl.onnx needs the package onnx, 1.16 or newer"
    raise ImportError(f"{rule}: pip install 'npdl[onnx]'") from error

from npdl.onnx._export import export_onnx
from npdl.onnx._import import import_onnx

__all__ = ["export_onnx", "import_onnx"]
