"""Images, or some rows of them, with the channels of a pixel side by side and zeros around them."""

from libc.string cimport memset
from npdl._ext.simd cimport LANES_F32, transpose, transpose4

cdef enum:
    CHANNELS = 16  # channels laid out together
    TOGETHER = 16  # pixels of a channel laid out together

# Where an image, or some rows of it, lies in its padded pixels.
ctypedef struct area_t:
    Py_ssize_t high, wide, ld  # padded pixels: rows, columns, elements per pixel
    Py_ssize_t top, left  # rows and columns of zeros
    Py_ssize_t first, rows, cols  # first row of the image, number of its rows and columns


cdef inline area_t area_of(
    Py_ssize_t h, Py_ssize_t w, Py_ssize_t top, Py_ssize_t left, Py_ssize_t high, Py_ssize_t wide,
    Py_ssize_t ld,
) noexcept nogil:
    """An image of h x w in high x wide pixels, its first row at `top`, which may be negative."""
    cdef area_t a
    a.high, a.wide, a.ld = high, wide, ld
    a.top, a.left, a.first = max(<Py_ssize_t> 0, top), left, max(<Py_ssize_t> 0, -top)
    a.rows = max(<Py_ssize_t> 0, min(h - a.first, high - a.top))
    a.cols = min(w, wide - left)
    return a


cdef inline Py_ssize_t area_size(const area_t* a) noexcept nogil:
    """Number of elements in the padded pixels."""
    return a.high * a.wide * a.ld


cdef inline void clear_border(const area_t* a, float* pixels) noexcept nogil:
    cdef Py_ssize_t i, row = a.wide * a.ld, left = a.left * a.ld, right = left + a.cols * a.ld
    memset(pixels, 0, a.top * row * sizeof(float))
    for i in range(a.top, a.top + a.rows):
        memset(pixels + i * row, 0, left * sizeof(float))
        memset(pixels + i * row + right, 0, (row - right) * sizeof(float))
    i = a.top + a.rows
    memset(pixels + i * row, 0, (a.high - i) * row * sizeof(float))


cdef inline void lay_out(
    const area_t* a, const float* x, Py_ssize_t count, Py_ssize_t step, Py_ssize_t w,
    Py_ssize_t channel, float* pixels,
) noexcept nogil:
    """Copy a block of CHANNELS, from `channel` on, to the pixels; zeros if x has fewer.

    x has `count` channels, with rows of w elements and `step` elements from one channel to the
    next. Copying row by row fills each cache line before the next one.
    """
    cdef Py_ssize_t _, j, c, l, ld = a.ld, last = min(<Py_ssize_t> CHANNELS, ld - channel)
    cdef float* row = pixels + (a.top * a.wide + a.left) * ld + channel
    cdef float* to
    if count >= last and a.cols == w and a.rows * w >= TOGETHER:
        _lay_out_whole(a, x, step, last, row)
        return
    for _ in range(a.rows):
        c = 0
        while c + 4 <= min(count, last) and a.cols >= 4:
            j = 0
            while j < a.cols:
                j = min(j, a.cols - 4)
                to = row + j * ld + c
                transpose4(x + c * step + j, step, to, to + ld, to + 2 * ld, to + 3 * ld)
                j += 4
            c += 4
        for j in range(a.cols):
            for l in range(c, last):
                row[j * ld + l] = x[l * step + j] if l < count else 0
        x += w
        row += a.wide * ld


cdef inline void _lay_out_whole(
    const area_t* a, const float* x, Py_ssize_t step, Py_ssize_t channels, float* pixels
) noexcept nogil:
    """The same for contiguous whole rows of x and whole vectors of channels.

    TOGETHER elements at once: a whole cache line, which might be evicted later.
    """
    cdef Py_ssize_t x_at[LANES_F32]
    cdef Py_ssize_t to_at[TOGETHER]
    cdef Py_ssize_t count = a.rows * a.cols, at = 0, row, col, l, c
    for l in range(LANES_F32):
        x_at[l] = l * step
    while at < count:
        at = min(at, count - TOGETHER)
        row, col = at // a.cols, at % a.cols
        for l in range(TOGETHER):
            to_at[l] = (row * a.wide + col) * a.ld
            col += 1
            if col == a.cols:
                row, col = row + 1, 0
        c = 0
        while c < channels:
            l = 0
            while l < TOGETHER:
                transpose(x + c * step + at + l, x_at, pixels + c, to_at + l)
                l += LANES_F32
            c += LANES_F32
        at += TOGETHER
