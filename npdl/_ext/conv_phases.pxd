"""The gradient of the input as dense products, one for each phase of the stride.

A row of dx gets terms from every SH-th row of a filter only (one that is dilated, if there is no
stride, from every row). Rows of one phase a,

    dx[i*SH + a] = Σ_t Σ_f dz[f, i + (a + PH)//SH - t] · w[f, u0 + t*SH],   u0 = (a + PH) mod SH

and columns alike, are thus a correlation without a stride. With the filters of a pixel of dz side
by side, a tap (t of rows, t of columns) is a product of shifted pixels with a panel of the filters:
nothing is multiplied by zero, and nothing is added up in memory.

A tap is summed over the filters first, and the taps are added in the order in which
``conv_gradients.pxd`` adds the windows of a pixel, so both give the same bits. float32 only.

A block is some images or, of a single image, some rows of all its phases. Where most taps of small
images are outside, pixels at one place of many images are taken together, without these taps. The
forward pass of images of a few pixels is computed like this too, with turned filters.
"""

from libc.string cimport memcpy, memset
from npdl._ext.activation cimport LINEAR, act_span, act_t, pull_back_span
from npdl._ext.conv cimport conv_t
from npdl._ext.conv_products cimport DEPTH, channel_step, start_of
from npdl._ext.conv_windows cimport interleave, part
from npdl._ext.simd cimport EDGE_FORMS, LANES_F32, TALL
from npdl._ext.threads cimport aligned, of_worker, run
from npdl._ext.tile cimport (
    NARROW, WIDEST, ceil_div, form_tiles, narrow_panel_t, round_up, tall_panel_t,
)

cdef enum:
    FEWEST = 16  # filters; with fewer, loading and storing a tile costs more than its products
    FEW_PIXELS = 16  # of an image whose output is computed phase by phase
    TOGETHER = 48  # pixels of dx that go through all taps together; whole tiles of any form
    PIXELS = 256  # about as many pixels of a phase are in a block
    NUMBERS = 131072  # of a block, which stay in the level-2 cache

ctypedef struct phases_t:
    conv_t* j
    act_t act
    const float* bias  # [c] or NULL
    bint narrow  # panels of one vector
    bint turned  # the forward pass: filters turned, their two axes of channels exchanged
    bint by_place  # pixels at the same place of all images together, by taps inside the input
    Py_ssize_t mr, nr, panels
    Py_ssize_t top, left  # taps of a phase beyond the first one
    Py_ssize_t rows, strips  # rows of a phase in a block; blocks of an image
    Py_ssize_t images, blocks
    Py_ssize_t high, wide  # pixels of dz that a block reads from one image
    Py_ssize_t step, numbers  # of those pixels; of all pixels of a block
    float* packed  # the filters, [tap][panel][f][nr]
    char* scratch
    size_t scratch_step


cdef inline bint has_phases(const conv_t* j) noexcept nogil:
    """Whether this is faster: many channels, and few windows that end beyond the input."""
    return (
        EDGE_FORMS and j.single and j.groups == 1
        and (j.dil_h == 1 or j.sh == 1) and (j.dil_w == 1 or j.sw == 1)
        and FEWEST <= j.f <= DEPTH
        and 3 * round_up(j.c, 16) <= 4 * j.c
        and 3 * j.h * j.w <= 4 * j.oh * j.sh * j.ow * j.sw
    )


cdef inline void _pack(phases_t* p, Py_ssize_t f) noexcept nogil:
    """One filter, a row of all panels."""
    cdef conv_t* j = p.j
    cdef Py_ssize_t taps = j.kh * j.kw, tap, c
    cdef Py_ssize_t of_panel = j.f * p.nr, of_tap = p.panels * of_panel
    cdef const float* w = <const float*> j.filters + f * j.c * taps
    cdef float* to = p.packed + f * p.nr
    for c in range(p.panels * p.nr):
        if p.turned:
            w = <const float*> j.filters + (c * j.f + f) * taps + taps - 1
        for tap in range(taps):
            if c >= j.c:
                to[tap * of_tap] = 0
            elif p.turned:
                to[tap * of_tap] = w[-tap]
            else:
                to[tap * of_tap] = w[tap]
        w += taps
        to += 1
        if (c + 1) % p.nr == 0:
            to += of_panel - p.nr


cdef inline void _pack_task(void* context, Py_ssize_t f, int worker) noexcept nogil:
    _pack(<phases_t*> context, f)


cdef inline void _lay_out_rows(
    const phases_t* p, Py_ssize_t n, Py_ssize_t row, float* pixels, float* room
) noexcept nogil:
    """The pixels of f'(z) dy of image n under the rows of dx from `row` on, zeros around them."""
    cdef conv_t* j = p.j
    cdef Py_ssize_t first = row + j.ph // j.sh - p.top, begin = j.pw // j.sw - p.left, f, r
    cdef Py_ssize_t r0 = max(<Py_ssize_t> 0, first), r1 = max(r0, min(j.oh, first + p.high))
    cdef Py_ssize_t lo = max(<Py_ssize_t> 0, -begin), hi = max(lo, min(p.wide, j.ow - begin))
    cdef Py_ssize_t count = (r1 - r0) * j.ow, plane = j.oh * j.ow, across = plane
    cdef Py_ssize_t at = start_of(j, n, j.f, 0, plane) + r0 * j.ow * (j.f if j.last else 1)
    cdef const float* y = <const float*> j.y + at
    cdef const float* dz = <const float*> j.dy + at
    if j.act.code != LINEAR:
        if j.last:
            pull_back_span(j.act, y, dz, room, count * j.f)
        else:
            for f in range(j.f):
                pull_back_span(j.act, y + f * plane, dz + f * plane, room + f * count, count)
        dz, across = room, count
    for r in range(p.high):
        if first + r < r0 or first + r >= r1:
            memset(pixels, 0, p.wide * j.f * sizeof(float))
        else:
            memset(pixels, 0, lo * j.f * sizeof(float))
            at = ((first + r - r0) * j.ow + begin + lo) * (j.f if j.last else 1)
            interleave(
                dz + at, channel_step(j, across), j.f if j.last else 1, j.f, hi - lo,
                pixels + lo * j.f, j.f,
            )
            memset(pixels + hi * j.f, 0, (p.wide - hi) * j.f * sizeof(float))
        pixels += p.wide * j.f


cdef inline bint _is_inside(Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    return 0 <= i < n


cdef inline Py_ssize_t _inside(
    Py_ssize_t size, Py_ssize_t out, Py_ssize_t taps, Py_ssize_t pad, Py_ssize_t dil
) noexcept nogil:
    """Pairs of a tap and a window whose pixel is inside, along an axis."""
    cdef Py_ssize_t pairs = 0, u
    for u in range(taps):
        pairs += max(
            <Py_ssize_t> 0, min(out, size + pad - u * dil) - max(<Py_ssize_t> 0, pad - u * dil)
        )
    return pairs


cdef inline Py_ssize_t _pairs(const conv_t* j) noexcept nogil:
    """Pairs of a tap and a window whose pixel is inside an image, without a stride."""
    return (
        _inside(j.h, j.oh, j.kh, j.ph, j.dil_h) * _inside(j.w, j.ow, j.kw, j.pw, j.dil_w)
    )


cdef inline bint has_turned_phases(const conv_t* j) noexcept nogil:
    """Whether the output of a few pixels is computed like this: most of a window is outside."""
    cdef conv_t t
    if j.groups > 1 or j.sh > 1 or j.sw > 1 or j.h * j.w > FEW_PIXELS:
        return False
    if 2 * _pairs(j) >= j.kh * j.kw * j.oh * j.ow:
        return False
    t = turned_conv(j)
    return has_phases(&t)


cdef inline conv_t turned_conv(const conv_t* j) noexcept nogil:
    """The convolution whose gradient of the input is the output of this one, without a stride.

    And whose output is the gradient of the input of this one.
    """
    cdef conv_t t = j[0]
    t.c, t.f, t.h, t.w, t.oh, t.ow = j.f, j.c, j.oh, j.ow, j.h, j.w
    t.ph, t.pw = (j.kh - 1) * j.dil_h - j.ph, (j.kw - 1) * j.dil_w - j.pw
    t.x, t.y, t.dy, t.dx, t.act.code, t.act.steepness = j.dy, j.dx, j.x, j.y, LINEAR, 1
    return t


cdef inline void _phase(
    const phases_t* p, Py_ssize_t images, Py_ssize_t rows, Py_ssize_t a, Py_ssize_t b,
    const float* pixels, float* out,
) noexcept nogil:
    """out[n, i*SH + a, k*SW + b, c] of a phase that has so many rows in the block.

    `out` is 0, for phases that no tap reaches.
    """
    cdef conv_t* j = p.j
    cdef float block[TOGETHER * WIDEST]
    cdef Py_ssize_t at[TOGETHER + NARROW]
    cdef Py_ssize_t to[TOGETHER]
    cdef Py_ssize_t cols = ceil_div(j.w - b, j.sw), n, i, k, s, q, r, row, col
    cdef Py_ssize_t u0 = (a + j.ph) % j.sh, v0 = (b + j.pw) % j.sw, count, width, u, v
    cdef Py_ssize_t below = (a + j.ph) // j.sh - j.ph // j.sh + p.top
    cdef Py_ssize_t right = (b + j.pw) // j.sw - j.pw // j.sw + p.left
    cdef const float* source
    cdef const float* panel
    cdef const float* start
    if cols <= 0 or u0 >= j.kh or v0 >= j.kw:
        return
    for s in range(p.panels):
        width = min(p.nr, j.c - s * p.nr)
        n = i = k = 0
        while n < images:
            count, row, col = 0, i, k
            while count < TOGETHER and n < images:
                at[count] = n * p.step + (i * p.wide + k) * j.f
                to[count] = ((n * p.rows * j.sh + i * j.sh + a) * j.w + k * j.sw + b) * j.c
                count += 1
                if p.by_place:
                    n += 1
                    continue
                k += 1
                if k == cols:
                    i, k = i + 1, 0
                if i == rows:
                    n, i = n + 1, 0
            if p.by_place and n == images and (k + 1 < cols or i + 1 < rows):  # the next place
                n, k = 0, k + 1
                if k == cols:
                    i, k = i + 1, 0
            for q in range(count, round_up(count, p.mr)):
                at[q] = at[count - 1]  # a short tile repeats its last row
            start = NULL
            u = u0 + (j.kh - 1 - u0) // j.sh * j.sh
            while u >= 0:
                v = v0 + (j.kw - 1 - v0) // j.sw * j.sw
                while v >= 0:
                    if p.by_place and not (
                        _is_inside(row + j.ph - u * j.dil_h, j.oh)
                        and _is_inside(col + j.pw - v * j.dil_w, j.ow)
                    ):
                        v -= j.sw
                        continue
                    source = pixels + (
                        (below - u * j.dil_h // j.sh) * p.wide + right - v * j.dil_w // j.sw
                    ) * j.f
                    panel = p.packed + ((u * j.kw + v) * p.panels + s) * j.f * p.nr
                    q = 0
                    while q < count:
                        start = NULL if start == NULL else block + q * p.nr
                        if p.narrow:
                            form_tiles(
                                1, j.f, source, at + q, 1, 0, panel, block + q * p.nr, p.nr,
                                start, p.nr, False,
                                <narrow_panel_t*> NULL,
                            )
                        else:
                            form_tiles(
                                1, j.f, source, at + q, 1, 0, panel, block + q * p.nr, p.nr,
                                start, p.nr, False,
                                <tall_panel_t*> NULL,
                            )
                        q += p.mr
                    start = block
                    v -= j.sw
                u -= j.sh
            if start == NULL:  # no tap is inside
                memset(block, 0, count * p.nr * sizeof(float))
            for q in range(count):
                for r in range(width):
                    out[to[q] + s * p.nr + r] = block[q * p.nr + r]


cdef inline void _input_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    """A block of dx."""
    cdef phases_t* p = <phases_t*> context
    cdef conv_t* j = p.j
    cdef Py_ssize_t n0 = task // p.strips * p.images, images = min(p.images, j.n - n0)
    cdef Py_ssize_t row = task % p.strips * p.rows, plane = j.h * j.w, n, a, b, q, c, rows
    cdef float* pixels = <float*> (p.scratch + worker * p.scratch_step)
    cdef float* out = pixels + p.images * p.step
    cdef float* image
    cdef float* to
    for n in range(images):
        _lay_out_rows(p, n0 + n, row, pixels + n * p.step, out)
    if j.sh > j.kh or j.sw > j.kw:
        memset(out, 0, images * p.rows * j.sh * j.w * j.c * sizeof(float))
    for a in range(j.sh):
        rows = min(p.rows, ceil_div(j.h - a, j.sh) - row)
        for b in range(j.sw if rows > 0 else 0):
            _phase(p, images, rows, a, b, pixels, out)
    rows = min(p.rows * j.sh, j.h - row * j.sh)
    for n in range(images):
        image = out + n * p.rows * j.sh * j.w * j.c
        if p.bias != NULL:
            for q in range(rows * j.w):
                for c in range(j.c):
                    image[q * j.c + c] += p.bias[c]
        if p.act.code != LINEAR:
            act_span(p.act, image, image, rows * j.w * j.c)
        to = <float*> j.dx + start_of(j, n0 + n, j.c, 0, plane)
        to += row * j.sh * j.w * (j.c if j.last else 1)
        part(image, j.c, j.c, rows * j.w, to, channel_step(j, plane), j.c if j.last else 1)


cdef inline void _plan(phases_t* p, int workers) noexcept nogil:
    cdef conv_t* j = p.j
    cdef Py_ssize_t rows = ceil_div(j.h, j.sh), cols = ceil_div(j.w, j.sw), of_row, first, room
    cdef Py_ssize_t images
    p.narrow = LANES_F32 == 16 and round_up(j.c, 16) < round_up(j.c, 32)
    p.mr, p.nr = TALL, 2 * LANES_F32
    if p.narrow:
        p.mr, p.nr = NARROW, LANES_F32
    p.panels = ceil_div(j.c, p.nr)
    p.top, p.left = (j.kh - 1) * j.dil_h // j.sh, (j.kw - 1) * j.dil_w // j.sw
    p.wide = cols + p.left + (j.sw - 1 + j.pw) // j.sw - j.pw // j.sw
    of_row = p.wide * j.f + j.sh * j.w * j.c
    p.rows = min(rows, max(p.top + 1, NUMBERS // of_row))
    if j.n < workers:
        p.rows = min(p.rows, ceil_div(rows, ceil_div(workers, j.n)))
    p.strips = ceil_div(rows, p.rows)
    p.rows = ceil_div(rows, p.strips)
    p.strips = ceil_div(rows, p.rows)
    p.images = 1
    if p.strips == 1:
        p.images = max(<Py_ssize_t> 1, min(PIXELS // (rows * cols), NUMBERS // (rows * of_row)))
        p.images = max(
            <Py_ssize_t> 1, j.n // round_up(ceil_div(j.n, p.images), <Py_ssize_t> 2 * workers)
        )
        if j.sh == 1 and j.sw == 1 and rows * of_row * TOGETHER <= 2 * NUMBERS:
            images = min(<Py_ssize_t> TOGETHER, round_up(ceil_div(j.n, workers), p.mr))
            p.by_place = (
                _pairs(j) * ceil_div(images, p.mr) * p.images
                < j.kh * j.kw * ceil_div(p.images * rows * cols, p.mr) * min(images, j.n)
            )
            if p.by_place:
                p.images = min(images, j.n)
    p.blocks = ceil_div(j.n, p.images) * p.strips
    p.high = p.rows + p.top + (j.sh - 1 + j.ph) // j.sh - j.ph // j.sh
    p.step = p.high * p.wide * j.f
    room = p.images * p.rows * j.sh * j.w * j.c
    first = p.high * j.ow * j.f  # f'(z) dy is there before dx
    p.numbers = p.images * p.step + max(room, first)
    p.scratch_step = of_worker(p.numbers * sizeof(float), workers)


cdef inline size_t phases_plan(
    phases_t* p, conv_t* j, const void* bias, act_t act, bint turned, int workers
) noexcept nogil:
    """Set all sizes; return the bytes that `phases_pack` fills.

    `turned`: j is the `turned_conv` of a forward pass.
    """
    memset(p, 0, sizeof(phases_t))
    p.turned = turned
    p.j, p.act, p.bias = j, act, <const float*> bias
    _plan(p, workers)
    return aligned(j.kh * j.kw * p.panels * j.f * p.nr * sizeof(float))


cdef inline void phases_pack(phases_t* p, char* at, int workers) noexcept nogil:
    p.packed = <float*> at
    run(_pack_task, p, p.j.f, workers)


cdef inline void phases_multiply(phases_t* p, char* scratch, int workers) noexcept nogil:
    """dx, or the output of the transposed convolution: f(b + dx)."""
    p.scratch = scratch
    run(_input_task, p, p.blocks, workers)
