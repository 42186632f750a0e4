"""Upsampling of images by integer factors. Contract: ``resize_np.py``.

The threads share the rows of the small images. A few hundred pixels of a row are processed at a
time: first interpolated between the rows, then between the columns. Nearest is linear
interpolation with weight 0 for the neighbours.
"""

from libc.math cimport fabs
from libc.string cimport memcpy, memset
from npdl._ext.arrays cimport OUT, REAL, array, array_t, call_t
from npdl._ext.simd cimport real
from npdl._ext.threads cimport give, max_workers, run, scratch_t, take

cdef enum:
    BLOCK = 256  # pixels of a row at a time
    CHUNK = 8192  # elements of the large images per task


ctypedef struct resize_t:
    bint single, back, linear
    Py_ssize_t rows, per_task, h, w, sh, sw
    const void* x  # or dy
    void* y  # or dx
    double* down  # how far output k of a pixel is below its centre; `right`: right of it
    double* right


cdef inline Py_ssize_t _beside(Py_ssize_t i, double place, Py_ssize_t size) noexcept nogil:
    """The neighbour of pixel i on the side of `place`; at an edge the pixel itself."""
    return min(max(i + (1 if place > 0 else -1), 0), size - 1)


# ------------------------------------------------------------------------------------- forward

cdef inline void _mix(
    const real* a, const real* b, double weight, Py_ssize_t n, real* out, Py_ssize_t step
) noexcept nogil:
    """out[::step] = (1 - weight) a + weight b."""
    cdef Py_ssize_t j
    cdef real own = <real> (1 - weight), other = <real> weight
    if weight == 0:
        for j in range(n):
            out[j * step] = a[j]
    elif step == 1:
        for j in range(n):
            out[j] = a[j] * own + b[j] * other
    else:
        for j in range(n):
            out[j * step] = a[j] * own + b[j] * other


cdef inline void _enlarge_row(resize_t* p, Py_ssize_t r, const real* x, real* y) noexcept nogil:
    """All outputs of row r of the small images; x and y are the whole arrays."""
    cdef real mixed[BLOCK + 2]  # mixed rows, with the pixels before and after the block
    cdef Py_ssize_t i = r % p.h, k, v, first, n, left, right, wide = p.w * p.sw
    cdef const real* row = x + r * p.w
    cdef const real* other
    cdef real* out = y + r * p.sh * wide
    cdef double place, place_v
    for k in range(p.sh):
        if k > 0 and not p.linear:
            memcpy(out, out - wide, wide * sizeof(real))
            out += wide
            continue
        place = p.down[k]
        other = row + (_beside(i, place, p.h) - i) * p.w
        first = 0
        while first < p.w:
            n = min(BLOCK, p.w - first)
            left, right = max(first - 1, 0), min(first + n, p.w - 1)
            _mix(row + left, other + left, fabs(place), 1, mixed, 1)
            _mix(row + first, other + first, fabs(place), n, mixed + 1, 1)
            _mix(row + right, other + right, fabs(place), 1, mixed + n + 1, 1)
            for v in range(p.sw):
                place_v = p.right[v]
                _mix(
                    mixed + 1, mixed + (2 if place_v > 0 else 0), fabs(place_v), n,
                    out + first * p.sw + v, p.sw,
                )
            first += n
        out += wide


# ------------------------------------------------------------------------------------ backward

cdef inline void _add_row(
    const real* dy, double weight, Py_ssize_t n, Py_ssize_t step, real* sums
) noexcept nogil:
    cdef Py_ssize_t j
    cdef real factor = <real> weight
    if step == 1:
        for j in range(n):
            sums[j] += dy[j] * factor
    elif step == 2:
        for j in range(n):
            sums[j] += dy[2 * j] * factor
    else:
        for j in range(n):
            sums[j] += dy[j * step] * factor


cdef inline void _reduce_row(resize_t* p, Py_ssize_t r, const real* dy, real* dx) noexcept nogil:
    """The gradient in row r of the small images; dy and dx are the whole arrays."""
    cdef real sums[BLOCK + 2]  # sums over the rows, for one v, with the pixels beside the block
    cdef Py_ssize_t i = r % p.h, k, v, s, first, n, left, right, at, wide = p.w * p.sw
    cdef const real* image = dy + (r - i) * p.sh * wide
    cdef real* out = dx + r * p.w
    cdef double place, weight
    cdef real own, other
    memset(out, 0, p.w * sizeof(real))
    if not p.linear:
        for k in range(p.sh):
            for v in range(p.sw):
                _add_row(image + (i * p.sh + k) * wide + v, 1, p.w, p.sw, out)
        return
    first = 0
    while first < p.w:
        n = min(BLOCK, p.w - first)
        left, right = max(first - 1, 0), min(first + n + 1, p.w)
        for v in range(p.sw):
            memset(sums, 0, (right - left) * sizeof(real))
            for s in range(max(i - 1, 0), min(i + 2, p.h)):  # the rows that may read row i
                for k in range(p.sh):
                    place = p.down[k]
                    weight = 1 - fabs(place) if s == i else 0
                    if _beside(s, place, p.h) == i:
                        weight += fabs(place)
                    if weight != 0:
                        at = (s * p.sh + k) * wide + left * p.sw + v
                        _add_row(image + at, weight, right - left, p.sw, sums)
            place = p.right[v]
            own, other = <real> (1 - fabs(place)), <real> fabs(place)
            at = first - left
            for k in range(n):
                out[first + k] += sums[at + k] * own
            if place > 0:  # the pixel before reads this one, and the last one reads itself
                for k in range(1 if first == 0 else 0, n):
                    out[first + k] += sums[at + k - 1] * other
                if first + n == p.w:
                    out[p.w - 1] += sums[at + n - 1] * other
            elif place < 0:
                for k in range(n if right > first + n else n - 1):
                    out[first + k] += sums[at + k + 1] * other
                if first == 0:
                    out[0] += sums[0] * other
        first += n


# --------------------------------------------------------------------------------------- tasks

cdef inline void _rows(resize_t* p, Py_ssize_t task, const real* _) noexcept nogil:
    cdef Py_ssize_t r
    for r in range(task * p.per_task, min(p.rows, (task + 1) * p.per_task)):
        if p.back:
            _reduce_row(p, r, <const real*> p.x, <real*> p.y)
        else:
            _enlarge_row(p, r, <const real*> p.x, <real*> p.y)


cdef void _task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef resize_t* p = <resize_t*> context
    if p.single:
        _rows(p, task, <float*> NULL)
    else:
        _rows(p, task, <double*> NULL)


cdef void _resize(const array_t* small, const array_t* large, bint back, bint linear) except *:
    cdef resize_t p
    cdef scratch_t scratch
    cdef Py_ssize_t k
    memset(&p, 0, sizeof(p))
    p.single, p.back, p.linear = small.single, back, linear
    p.h, p.w = small.shape[2], small.shape[3]
    if small.shape[0] != large.shape[0] or small.shape[1] != large.shape[1]:
        raise ValueError("enlarge: both arrays must hold as many images.")
    if min(p.h, p.w, large.shape[2], large.shape[3]) < 1:
        raise ValueError("enlarge: an image must have pixels.")
    p.sh, p.sw = large.shape[2] // p.h, large.shape[3] // p.w
    if p.sh * p.h != large.shape[2] or p.sw * p.w != large.shape[3]:
        raise ValueError("enlarge: the sides must be multiples of those of the small images.")
    p.rows = small.shape[0] * small.shape[1] * p.h
    p.per_task = max(1, CHUNK // (p.sh * p.sw * p.w))
    p.x = large.data if back else small.data
    p.y = small.data if back else large.data
    scratch = take((p.sh + p.sw) * sizeof(double))
    p.down = <double*> scratch.data
    p.right = p.down + p.sh
    for k in range(p.sh):
        p.down[k] = (k + 0.5) / p.sh - 0.5 if linear else 0.0
    for k in range(p.sw):
        p.right[k] = (k + 0.5) / p.sw - 0.5 if linear else 0.0
    with nogil:
        run(_task, &p, (p.rows + p.per_task - 1) // p.per_task, max_workers())
    give(scratch)


def enlarge_forward(x, y, bint linear):
    """Upsample images."""
    cdef call_t call = call_t("enlarge_forward", REAL)
    cdef array_t x_ = array(&call, x, "x", 4, REAL), y_ = array(&call, y, "y", 4, REAL | OUT)
    _resize(&x_, &y_, False, linear)


def enlarge_backward(dy, dx, bint linear):
    """Gradient of the small images."""
    cdef call_t call = call_t("enlarge_backward", REAL)
    cdef array_t dy_ = array(&call, dy, "dy", 4, REAL), dx_ = array(&call, dx, "dx", 4, REAL | OUT)
    _resize(&dx_, &dy_, True, linear)
