"""Recurrent networks that PyTorch's exporter writes, for tests/test_onnx_import.py.

    python tests/golden/make_onnx.py   # in an environment with torch and onnx

The files of tests/golden/onnx were made by PyTorch 2.13.0 (its exporter of TorchScript) and onnx
1.23.2. ONNX Runtime judges what npdl makes of them.
"""

from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "onnx"

#: Name: kind, both directions, layers, samples first, what is read.
CASES = {
    "lstm_last_step": ("LSTM", False, 1, True, "step"),
    "lstm_both_states": ("LSTM", True, 2, True, "states"),
    "gru_both_turned": ("GRU", True, 1, False, "all"),
    "gru_two_states": ("GRU", False, 2, True, "states"),
    "rnn_both": ("RNN", True, 1, True, "all"),
    "lstm_two_turned": ("LSTM", False, 2, False, "step"),
}


class Reader(torch.nn.Module):
    """A recurrent layer, and a linear one on all steps, the last one, or the last states."""

    def __init__(self, kind, both, layers, samples_first, reads):
        super().__init__()
        options = {"batch_first": samples_first, "bidirectional": both}
        self.rnn = getattr(torch.nn, kind)(3, 4, layers, **options)
        self.head = torch.nn.Linear(4 * (1 + both), 2)
        self.samples_first, self.reads = samples_first, reads

    def forward(self, x):
        y, h = self.rnn(x)
        if self.reads == "step":
            y = y[:, -1] if self.samples_first else y[-1]
        elif self.reads == "states":
            h = h[0] if isinstance(h, tuple) else h
            y = torch.cat((h[-2], h[-1]), 1) if self.rnn.bidirectional else h[-1]
        return self.head(y)


torch.manual_seed(0)
for name, case in CASES.items():
    samples = 0 if case[3] else 1
    torch.onnx.export(
        Reader(*case).eval(),
        (torch.randn(2, 5, 3),),
        str(FOLDER / f"{name}.onnx"),
        dynamo=False,
        opset_version=17,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {samples: "N", 1 - samples: "T"}},
    )
