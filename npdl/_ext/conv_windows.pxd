"""The windows of a convolution as rows of a matrix, which tiles read in place.

Images are laid out with the channels of a pixel side by side and zeros around them. One row of a
window is then one contiguous run, and windows need not be copied, wherever they are and however
few of them are in a row:

    pixels[i, j, c] = x[c, i - PH, j - PW]
    window (i, j), its row u:  KW*C elements from  pixels[i*SH + u*DH, j*SW, 0] on

If the filters are as wide as the image, or there is a single column, all rows of a window are one
run. If columns are dilated, each pixel is a separate run. If runs are short, windows are copied
after all. Pixels in gaps between windows (large strides) are left out.

A block is the windows that a thread processes at once: whole images, or some rows of one. The
elements of a window are always in the order (u, v, c).
"""

from libc.string cimport memcpy, memset
from npdl._ext.conv cimport conv_t
from npdl._ext.simd cimport LANES_F32, opaque, real, transpose, transpose4
from npdl._ext.tile cimport ceil_div, round_up

cdef enum:
    ROOM = 65536  # elements of a block, which stay in the level-2 cache
    SHORT = 40  # runs of fewer elements are copied to whole windows
    MOST = 512  # the most windows in a block of several images
    CHUNK = 16  # elements copied at once, beyond the end of a run if necessary
    ROWS = 48  # a multiple of the rows of every tile

ctypedef struct windows_t:
    conv_t* j
    Py_ssize_t c  # channels laid out
    Py_ssize_t reach_h, reach_w  # rows and columns from the first of a window to its last
    Py_ssize_t step_h, step_w  # from one window to the next
    Py_ssize_t wide, ld  # pixels in a row, and its elements
    Py_ssize_t across, runs, run, k  # runs per row and per window; elements per run and per window
    bint in_place  # x itself has this layout
    bint whole  # windows are copied
    Py_ssize_t images, rows, strips, blocks  # images and rows per block; strips per image; blocks
    Py_ssize_t image_step  # elements from one image of a block to the next
    Py_ssize_t pixels, windows  # elements of a block, with slack to read beyond the last
    Py_ssize_t* at  # position of each window of a block
    Py_ssize_t* run_at  # position of each run in a window
    Py_ssize_t* order  # [k], position of each element in a filter


cdef inline Py_ssize_t pixel_rows(const windows_t* w, Py_ssize_t rows) noexcept nogil:
    """Rows of pixels that these rows of windows cover."""
    return (rows - 1) * w.step_h + w.reach_h


cdef inline windows_t windows_of(conv_t* j, Py_ssize_t c, bint in_place) noexcept nogil:
    """The windows over `c` channels; `in_place` allows reading them in x itself."""
    cdef windows_t w
    memset(&w, 0, sizeof(w))
    w.j, w.c = j, c
    w.reach_h, w.reach_w = (j.kh - 1) * j.dil_h + 1, (j.kw - 1) * j.dil_w + 1
    w.step_h, w.step_w = min(j.sh, w.reach_h), min(j.sw, w.reach_w)
    w.wide = (j.ow - 1) * w.step_w + w.reach_w
    w.in_place = (
        in_place
        and (c == 1 if not j.last else j.groups == 1)
        and j.ph == 0 and (j.oh - 1) * j.sh + w.reach_h <= j.h
        and j.pw == 0 and (j.ow - 1) * j.sw + w.reach_w <= j.w
    )
    if w.in_place:
        w.step_h, w.step_w, w.wide = j.sh, j.sw, j.w
    _set_runs(&w)
    w.whole = w.runs > 1 and w.run < SHORT
    if w.whole and w.in_place:  # nothing beyond x may be read
        return windows_of(j, c, False)
    return w


cdef inline void _set_runs(windows_t* w) noexcept nogil:
    cdef conv_t* j = w.j
    w.ld, w.k = w.wide * w.c, j.kh * j.kw * w.c
    w.across = 1 if j.dil_w == 1 or j.kw == 1 else j.kw
    w.runs = j.kh * w.across
    if w.across == 1 and j.dil_h == 1 and j.kw * w.c == w.ld:
        w.runs = 1
    w.run = w.k // w.runs


cdef inline void set_block(
    windows_t* w, Py_ssize_t beside, Py_ssize_t few, Py_ssize_t parts
) noexcept nogil:
    """Divide the images into blocks.

    `beside` is the number of further elements that a block holds for each window. There are at
    least `parts` blocks, unless blocks would then have fewer than `few` windows.
    """
    cdef conv_t* j = w.j
    cdef Py_ssize_t of_row = j.ow * (beside + (w.k if w.whole else 0)), first = 0, rows, fewest
    if not w.in_place:
        of_row += w.step_h * w.ld
        first = (w.reach_h - w.step_h) * w.ld
    fewest = max(ceil_div(few, j.ow), ceil_div(w.reach_h, 4 * w.step_h))
    rows = max(fewest, (<Py_ssize_t> ROOM - first) // of_row)
    if parts > j.n:
        rows = max(fewest, min(rows, ceil_div(j.oh, ceil_div(parts, max(<Py_ssize_t> 1, j.n)))))
    w.strips = ceil_div(j.oh, min(rows, j.oh))
    w.rows = ceil_div(j.oh, w.strips)
    w.strips = ceil_div(j.oh, w.rows)
    w.images = 1
    if w.strips == 1:
        w.images = min(ROOM // (j.oh * of_row + first), ceil_div(MOST, j.oh * j.ow))
        w.images = max(ceil_div(few, j.oh * j.ow), min(w.images, j.n // parts))
        w.images = min(w.images, j.n)
    w.blocks = ceil_div(j.n, w.images) * w.strips
    w.image_step = pixel_rows(w, w.rows) * w.ld
    if w.in_place:
        w.image_step = j.h * j.w * (j.c if j.last else j.groups)
    else:
        w.pixels = round_up(w.images * w.image_step + 2 * ROWS, ROWS)
    if w.whole:
        w.windows = round_up(w.images * w.rows * j.ow * w.k + 2 * ROWS, ROWS)


cdef inline Py_ssize_t positions(const windows_t* w) noexcept nogil:
    """The most windows of a block."""
    return w.images * w.rows * w.j.ow


cdef inline Py_ssize_t tables_size(const windows_t* w) noexcept nogil:
    return positions(w) + w.runs + w.k


cdef inline void set_tables(windows_t* w, Py_ssize_t* table) noexcept nogil:
    """Fill `at`, `run_at` and `order`."""
    cdef conv_t* j = w.j
    cdef Py_ssize_t n, i, q = 0, k, u, v, c
    w.at = table
    w.run_at = w.at + positions(w)
    w.order = w.run_at + w.runs
    for n in range(w.images):
        for i in range(w.rows):
            for k in range(j.ow):
                w.at[q] = n * w.image_step + i * w.step_h * w.ld + k * w.step_w * w.c
                q += 1
    for k in range(w.runs):
        w.run_at[k] = k // w.across * j.dil_h * w.ld + k % w.across * j.dil_w * w.c
    k = 0
    for u in range(j.kh):
        for v in range(j.kw):
            for c in range(w.c):
                w.order[k] = (c * j.kh + u) * j.kw + v
                k += 1


# ---------------------------------------------------------------------------------- block by block

# Some windows: those of `images` images from n on, or of some rows of image n.
ctypedef struct block_t:
    Py_ssize_t n, images, row, rows
    Py_ssize_t count  # windows
    Py_ssize_t first  # number of the first one, counted over all images


cdef inline block_t block_of(const windows_t* w, Py_ssize_t number) noexcept nogil:
    cdef block_t b
    cdef conv_t* j = w.j
    b.n = number // w.strips * w.images
    b.images = min(w.images, j.n - b.n)
    b.row = number % w.strips * w.rows
    b.rows = min(w.rows, j.oh - b.row)
    b.count = b.images * b.rows * j.ow
    b.first = (b.n * j.oh + b.row) * j.ow
    return b


cdef inline void _interleave(
    const real* x, Py_ssize_t channel_step, Py_ssize_t pixel_step, Py_ssize_t c, Py_ssize_t count,
    real* to, Py_ssize_t ld,
) noexcept nogil:
    """to[j*ld + l] = x[l*channel_step + j*pixel_step]  for j < count, l < c; one step is 1."""
    cdef Py_ssize_t x_at[LANES_F32]
    cdef Py_ssize_t to_at[LANES_F32]
    cdef Py_ssize_t i, l, first = 0, last
    if channel_step == 1:
        if pixel_step == c == ld:
            memcpy(to, x, count * c * sizeof(real))
            return
        for i in range(count):
            for l in range(c):
                to[i * ld + l] = x[i * pixel_step + l]
        return
    if c == ld == 1:
        memcpy(to, x, count * sizeof(real))
        return
    if c == 3 and ld == 3:  # as constants
        for i in range(count):
            to[3 * i] = x[i]
            to[3 * i + 1] = x[channel_step + i]
            to[3 * i + 2] = x[2 * channel_step + i]
        return
    if real is float:
        for l in range(LANES_F32):
            x_at[l], to_at[l] = l * channel_step, l * ld
    while first < count:  # a line of the cache at a time
        last = min(count, first + CHUNK)
        l = 0
        if real is float:
            while last == first + CHUNK and l + LANES_F32 <= c:
                i = first
                while i < last:
                    transpose(x + l * channel_step + i, x_at, to + i * ld + l, to_at)
                    i += LANES_F32
                l += LANES_F32
            while count >= 4 and l + 4 <= c:
                i = first
                while i < last:
                    i = min(i, count - 4)
                    transpose4(
                        x + l * channel_step + i, channel_step, to + i * ld + l,
                        to + (i + 1) * ld + l, to + (i + 2) * ld + l, to + (i + 3) * ld + l,
                    )
                    i += 4
                l += 4
        while l < c:
            for i in range(first, last):
                to[i * ld + l] = x[l * channel_step + i]
            l += 1
        first = last


ctypedef void (*interleave_f32)(
    const float*, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, float*, Py_ssize_t
) noexcept nogil
ctypedef void (*interleave_f64)(
    const double*, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, double*, Py_ssize_t
) noexcept nogil


cdef inline void interleave(
    const real* x, Py_ssize_t channel_step, Py_ssize_t pixel_step, Py_ssize_t c, Py_ssize_t count,
    real* to, Py_ssize_t ld,
) noexcept nogil:
    """`_interleave`, compiled once for all callers."""
    if real is float:
        (<interleave_f32> opaque(<void*> &_interleave[float]))(
            x, channel_step, pixel_step, c, count, to, ld
        )
    else:
        (<interleave_f64> opaque(<void*> &_interleave[double]))(
            x, channel_step, pixel_step, c, count, to, ld
        )


cdef inline void part(
    const real* pixels, Py_ssize_t ld, Py_ssize_t c, Py_ssize_t count, real* to,
    Py_ssize_t channel_step, Py_ssize_t pixel_step,
) noexcept nogil:
    """to[l*channel_step + j*pixel_step] = pixels[j*ld + l]: the inverse."""
    if channel_step == 1:
        interleave(pixels, 1, ld, c, count, to, pixel_step)
    else:  # the same transposition, its axes exchanged
        interleave(pixels, ld, 1, count, c, to, channel_step)


cdef inline Py_ssize_t _source(Py_ssize_t at, Py_ssize_t stride, Py_ssize_t reach) noexcept nogil:
    """The row of the image in row `at` of the pixels, counted from the first window."""
    return at if stride <= reach else at // reach * stride + at % reach


cdef inline void lay_out(
    const windows_t* w, const real* x, Py_ssize_t channel_step, Py_ssize_t pixel_step,
    Py_ssize_t row, Py_ssize_t rows, real* pixels,
) noexcept nogil:
    """Lay out the pixels under some rows of windows of one image, from its channels at `x`."""
    cdef conv_t* j = w.j
    cdef Py_ssize_t r, i, s, l, high = pixel_rows(w, rows), pieces = 1, length = w.wide, lo, hi
    cdef Py_ssize_t first
    cdef real* to
    if j.sw > w.reach_w:
        pieces, length = j.ow, w.reach_w
    first = row * j.sh - j.ph
    if w.wide == j.w and j.pw == 0 and pieces == 1 and j.sh <= w.reach_h:
        # no zeros between the rows: treat all of them as one
        lo = min(max(<Py_ssize_t> 0, -first), high)
        hi = max(lo, min(high, j.h - first))
        memset(pixels, 0, lo * w.ld * sizeof(real))
        if hi > lo:
            interleave(
                x + (first + lo) * j.w * pixel_step, channel_step, pixel_step, w.c,
                (hi - lo) * j.w, pixels + lo * w.ld, w.c,
            )
        memset(pixels + hi * w.ld, 0, (high - hi) * w.ld * sizeof(real))
        return
    for r in range(high):
        i = first + _source(r, j.sh, w.reach_h)
        to = pixels + r * w.ld
        if i < 0 or i >= j.h:
            memset(to, 0, w.ld * sizeof(real))
            continue
        if length == 1 and j.pw == 0 and (j.ow - 1) * j.sw < j.w:
            for l in range(w.c):
                for s in range(j.ow):
                    to[s * w.c + l] = x[l * channel_step + (i * j.w + s * j.sw) * pixel_step]
            continue
        for s in range(pieces):
            lo = min(max(<Py_ssize_t> 0, j.pw - s * j.sw), length)
            hi = max(lo, min(length, j.w + j.pw - s * j.sw))
            memset(to, 0, lo * w.c * sizeof(real))
            if hi > lo:
                interleave(
                    x + (i * j.w + s * j.sw - j.pw + lo) * pixel_step, channel_step, pixel_step,
                    w.c, hi - lo, to + lo * w.c, w.c,
                )
            memset(to + hi * w.c, 0, (length - hi) * w.c * sizeof(real))
            to += length * w.c


cdef inline void take_pixels(
    const windows_t* w, const real* pixels, real* x, Py_ssize_t c, Py_ssize_t channel_step,
    Py_ssize_t pixel_step,
) noexcept nogil:
    """The inverse for c channels of a whole image: fill x, with zeros where no window reaches."""
    cdef conv_t* j = w.j
    cdef Py_ssize_t i, k, r, l, high = pixel_rows(w, j.oh), lo, hi
    cdef bint gaps = j.sw > w.reach_w
    cdef real* to
    for i in range(j.h):
        r = i + j.ph
        if j.sh > w.reach_h:
            r = r // j.sh * w.reach_h + r % j.sh if r % j.sh < w.reach_h else high
        to = x + i * j.w * pixel_step
        lo = hi = 0
        if r < high:
            hi = max(<Py_ssize_t> 0, min(j.w, w.wide - j.pw))
        if gaps and r < high:
            for k in range(j.w):
                lo = (k + j.pw) // j.sw
                hi = (k + j.pw) % j.sw
                for l in range(c):
                    to[k * pixel_step + l * channel_step] = 0
                    if lo < j.ow and hi < w.reach_w:
                        to[k * pixel_step + l * channel_step] = pixels[
                            r * w.ld + (lo * w.reach_w + hi) * w.c + l
                        ]
            continue
        if hi > 0:
            part(
                pixels + r * w.ld + j.pw * w.c, w.c, c, hi, to, channel_step, pixel_step
            )
        for l in range(c):
            for k in range(hi, j.w):
                to[k * pixel_step + l * channel_step] = 0


cdef inline void copy_windows(
    const windows_t* w, const real* pixels, Py_ssize_t count, real* out
) noexcept nogil:
    """Copy windows one after another. Writes up to CHUNK elements beyond the last."""
    cdef Py_ssize_t runs = w.runs, run = w.run, q, r, s
    cdef const Py_ssize_t* at = w.at
    cdef const Py_ssize_t* run_at = w.run_at
    cdef const real* source
    for q in range(count):
        for r in range(runs):
            source = pixels + at[q] + run_at[r]
            s = 0
            while run - s > CHUNK // 2:  # the next run overwrites the excess
                memcpy(out + s, source + s, CHUNK * sizeof(real))
                s += CHUNK
            if s < run:
                memcpy(out + s, source + s, CHUNK // 2 * sizeof(real))
            out += run
