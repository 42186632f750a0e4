"""Draw the pictures of docs/kernels.md, docs/pictures/kernel-*.svg."""

from __future__ import annotations

from pathlib import Path

OUT = Path(__file__).parents[1] / "docs" / "pictures"
INK, GRID, PAPER = "#24292f", "#8c959f", "#ffffff"
COLOURS = ["#fde2b8", "#c9e4c5", "#c6dbf5", "#f3cbd3"]  # of the four pixels of a window


class Picture:
    """An SVG file under construction."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="sans-serif" font-size="14" '
            f'fill="{INK}"><title>{title}</title>',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="{INK}"/></marker>'
            "</defs>",
            f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        ]

    def box(self, x, y, width, height, text="", fill=PAPER, *, round=0):
        """A box with a text in the middle."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{round}" fill="{fill}" '
            f'stroke="{GRID}"/>'
        )
        if text:
            self.text(x + width / 2, y + height / 2 + 5, text)

    def frame(self, x, y, width, height):
        """A thick frame."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="none" stroke="{INK}" '
            'stroke-width="2.5"/>'
        )

    def text(self, x, y, text, anchor="middle", size=14):
        """A line of text."""
        self.parts.append(
            f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}">{text}</text>'
        )

    def line(self, *points):
        """A line through some points, with an arrow at its end."""
        path = "M" + "L".join(f"{x} {y}" for x, y in points)
        self.parts.append(
            f'<path d="{path}" fill="none" stroke="{INK}" stroke-width="1.5" '
            'marker-end="url(#tip)"/>'
        )

    def save(self, name):
        """Write the file."""
        (OUT / name).write_text("\n".join([*self.parts, "</svg>", ""]), "utf-8")


def im2col():
    """A 4x4 image, the windows of a 2x2 filter, and their columns."""
    p = Picture(760, 250, "im2col: every window of the image becomes a column")
    letters, size = "abcdefghijklmnop", 34
    p.text(88, 24, "image, 4 × 4")
    for k, letter in enumerate(letters):
        i, j = divmod(k, 4)
        fill = COLOURS[(i - 1) * 2 + j - 1] if i in (1, 2) and j in (1, 2) else PAPER
        p.box(20 + j * size, 40 + i * size, size, size, letter, fill)
    p.frame(20 + size, 40 + size, 2 * size, 2 * size)
    p.text(88, 200, "the window at (1, 1)", size=13)
    p.line((168, 108), (212, 108))
    p.text(375, 24, "columns: one for each window, 9 in all")
    for u in range(2):
        for v in range(2):
            for i in range(3):
                for j in range(3):
                    row, col = 2 * u + v, 3 * i + j
                    fill = COLOURS[row] if (i, j) == (1, 1) else PAPER
                    letter = letters[(i + u) * 4 + j + v]
                    p.box(222 + col * size, 40 + row * size, size, size, letter, fill)
    p.frame(222 + 4 * size, 40, size, 4 * size)
    for row in range(4):
        p.text(540, 63 + row * size, f"← pixel ({row // 2}, {row % 2})", "start", 13)
    p.text(375, 200, "a row is a part of the image, shifted", size=13)
    p.text(375, 232, "output  =  filters (F × C·KH·KW)  ·  columns (C·KH·KW × OH·OW)", size=14)
    p.save("kernel-im2col.svg")


def planes():
    """The plane of an image, and the same row of the columns as a run of it."""
    p = Picture(760, 215, "The rows of the columns, read from the plane where they are")
    letters, size = "abcdefghijklmnop", 34
    p.text(20, 24, "the plane in memory, a row of the image after the other", "start")
    for k, letter in enumerate(letters):
        p.box(20 + k * size, 40, size, size, letter, "#eef1f4" if k % 4 == 3 else PAPER)
    for row, offset in enumerate((0, 1, 4, 5)):
        y = 92 + row * 28
        width = 11 * size
        p.box(20 + offset * size, y, width, 22, "", COLOURS[row])
        text = f"pixel ({row // 2}, {row % 2}) of every window: 11 numbers from offset {offset}"
        p.text(20 + offset * size + width / 2, y + 16, text, size=13)
    p.save("kernel-planes.svg")


def pooling():
    """Max pooling, forward and backward, and mean pooling."""
    p = Picture(760, 230, "Max pooling keeps the largest of each window and its position")
    size = 34
    image = [[1, 5, 2, 0], [3, 4, 7, 1], [0, 2, 1, 6], [9, 1, 3, 2]]

    def grid(x, y, rows, fill):
        for i, row in enumerate(rows):
            for j, value in enumerate(row):
                p.box(x + j * size, y + i * size, size, size, str(value), fill(i, j))

    def quarter(i, j):
        return COLOURS[i // 2 * 2 + j // 2]

    def whole(i, j):
        return COLOURS[i * 2 + j]

    p.text(88, 24, "x")
    grid(20, 40, image, quarter)
    for i, j in ((0, 1), (1, 2), (3, 0), (2, 3)):
        p.frame(20 + j * size, 40 + i * size, size, size)
    p.line((166, 108), (204, 108))
    p.text(248, 24, "y")
    grid(214, 40, [[5, 7], [9, 6]], whole)
    p.text(248, 140, "argmax")
    grid(214, 150, [[1, 6], [12, 11]], whole)
    p.text(370, 24, "dy")
    grid(336, 40, [[".1", ".2"], [".3", ".4"]], whole)
    p.text(370, 140, "argmax")
    grid(336, 150, [[1, 6], [12, 11]], whole)
    p.line((414, 108), (452, 108))
    dx = [["0"] * 4 for _ in range(4)]
    dx[0][1], dx[1][2], dx[3][0], dx[2][3] = ".1", ".2", ".3", ".4"
    p.text(530, 24, "dx: each gradient goes to the winner")
    grid(462, 40, dx, quarter)
    p.text(670, 108, "mean pooling:", size=13)
    p.text(670, 126, "a quarter to each", size=13)
    p.save("kernel-pooling.svg")


def lstm():
    """One step of an LSTM."""
    p = Picture(760, 330, "One step of an LSTM")
    p.box(20, 150, 74, 36, "x", COLOURS[2], round=6)
    p.box(20, 210, 74, 36, "h", COLOURS[1], round=6)
    p.box(20, 40, 74, 36, "c", COLOURS[0], round=6)
    p.box(140, 160, 150, 76, "", "#eef1f4", round=6)
    p.text(215, 193, "b + x w_x + h w_h")
    p.text(215, 216, "4·U numbers", size=12)
    p.line((94, 168), (138, 180))
    p.line((94, 228), (138, 216))
    gates = [("f", "σ", 110), ("i", "σ", 160), ("g", "act", 210), ("o", "σ", 260)]
    for name, act, y in gates:
        p.box(340, y, 76, 34, f"{name} = {act}", COLOURS[3], round=6)
        p.line((290, 198), (338, y + 17))
    # the cell
    p.line((94, 58), (458, 58))
    p.box(460, 42, 32, 32, "×", round=16)
    p.line((416, 127), (476, 127), (476, 76))
    p.line((492, 58), (558, 58))
    p.box(560, 42, 32, 32, "+", round=16)
    p.box(500, 178, 32, 32, "×", round=16)
    p.line((416, 177), (460, 177), (498, 190))
    p.line((416, 227), (460, 227), (498, 200))
    p.line((532, 194), (576, 194), (576, 76))
    p.line((592, 58), (664, 58))
    p.box(666, 40, 74, 36, "c'", COLOURS[0], round=6)
    # the output
    p.box(606, 130, 64, 32, "act", COLOURS[3], round=6)
    p.line((638, 58), (638, 128))
    p.box(622, 261, 32, 32, "×", round=16)
    p.line((638, 162), (638, 259))
    p.line((416, 277), (620, 277))
    p.line((654, 277), (664, 277))
    p.box(666, 259, 74, 36, "h'", COLOURS[1], round=6)
    p.text(330, 36, "c is only scaled and added to: gradients pass it unhindered", size=13)
    p.save("kernel-lstm.svg")


if __name__ == "__main__":
    im2col()
    planes()
    pooling()
    lstm()
