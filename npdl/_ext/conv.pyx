"""Two-dimensional convolution. Contract: ``conv_np.py``.

By direct sums (``conv_direct.pxd``), or where that is faster and allowed in Winograd's form
(``conv_winograd.pxd``).
"""

from libc.string cimport memset
from npdl._ext.activation cimport parse_act
from npdl._ext.arrays cimport OR_NONE, OUT, REAL, array, array_t, call_t, clear, same_shape
from npdl._ext.conv cimport COPIES, GROUPS, MOST_BYTES, PASS_BYTES, SLACK, conv_t
from npdl._ext.conv_direct cimport (
    backward_task,
    copy_task,
    forward_task,
    pack_for_input,
    set_offsets,
    set_parts,
)
from npdl._ext.conv_winograd cimport winograd_backward, winograd_forward, winograd_pays
from npdl._ext.simd cimport LANES_F32, LANES_F64, MR, NV, real
from npdl._ext.threads cimport aligned, give, max_workers, run, scratch_t, take
from npdl._ext.tile cimport ceil_div, round_up

cdef bint winograd_allowed = True


def set_winograd(bint allowed):
    """Whether 3x3 convolutions of float32 may run in Winograd's form."""
    global winograd_allowed
    winograd_allowed = allowed


cdef inline Py_ssize_t _lanes(const conv_t* j) noexcept nogil:
    """Numbers in a vector."""
    return LANES_F32 if j.single else LANES_F64


cdef inline Py_ssize_t _size(const conv_t* j) noexcept nogil:
    """Bytes of a number."""
    return sizeof(float) if j.single else sizeof(double)


cdef conv_t _plan(
    array_t* x, array_t* w, array_t* y,
    Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_h, Py_ssize_t pad_w, act,
) except *:
    """The sizes of a convolution, checked."""
    cdef conv_t j
    memset(&j, 0, sizeof(j))
    if y.shape[0] != x.shape[0] or w.shape[1] != x.shape[1] or w.shape[0] != y.shape[1]:
        raise ValueError("conv2d: the shapes of x, w and y do not fit.")
    if min(stride_h, stride_w) < 1 or min(pad_h, pad_w) < 0:
        raise ValueError("conv2d: strides must be at least 1, padding at least 0.")
    if max(stride_h, stride_w, pad_h, pad_w) > 0x7FFFFFFF:
        raise ValueError("conv2d: strides and padding must be below 2^31.")
    if 0 in w.shape[:4] or 0 in x.shape[1:4] or 0 in y.shape[1:4]:
        raise ValueError("conv2d: only the batch may be empty.")
    j.single, j.act = x.single, parse_act(act)
    j.x, j.filters, j.y = x.data, w.data, y.data
    j.n, j.c, j.h, j.w = x.shape[0], x.shape[1], x.shape[2], x.shape[3]
    j.f, j.kh, j.kw, j.oh, j.ow = w.shape[0], w.shape[2], w.shape[3], y.shape[2], y.shape[3]
    j.sh, j.sw, j.ph, j.pw = stride_h, stride_w, pad_h, pad_w
    j.taps_h, j.taps_w = (j.kh - 1) // j.sh + 1, (j.kw - 1) // j.sw + 1
    j.plane_h, j.plane_w = j.oh + j.taps_h - 1, j.ow + j.taps_w - 1
    j.phases_h, j.phases_w = min(j.sh, j.kh), min(j.sw, j.kw)
    j.image_step = round_up(j.c * j.phases_h * j.phases_w * j.plane_h * j.plane_w, SLACK) + SLACK
    j.span = round_up((j.oh - 1) * j.plane_w + j.ow, _lanes(&j))
    j.dz_h, j.dz_w = j.oh + 2 * (j.taps_h - 1), j.ow + 2 * (j.taps_w - 1)
    j.depth = j.c * j.kh * j.kw
    return j


def conv2d_forward(
    x, w, b, y, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_h, Py_ssize_t pad_w, act
):
    """y = f(b + w * x)."""
    cdef call_t call = call_t("conv2d_forward", REAL)
    cdef array_t x_ = array(&call, x, "x", 4, REAL), w_ = array(&call, w, "w", 4, REAL)
    cdef array_t b_ = array(&call, b, "b", 1, REAL), y_ = array(&call, y, "y", 4, REAL | OUT)
    cdef conv_t j = _plan(&x_, &w_, &y_, stride_h, stride_w, pad_h, pad_w, act)
    cdef size_t offsets = aligned((j.depth + NV) * sizeof(Py_ssize_t))
    cdef int workers = max_workers()
    cdef scratch_t s
    if b_.shape[0] != j.f:
        raise ValueError("conv2d_forward: b must have one number for each filter.")
    if j.n == 0:
        return
    j.bias = b_.data
    if winograd_allowed and winograd_pays(&j):
        winograd_forward(&j)
        return
    set_parts(&j, _lanes(&j), workers)
    j.scratch_step = aligned(j.image_step * _size(&j))
    s = take(offsets + (j.n if j.shared else workers) * j.scratch_step)
    j.offset = <Py_ssize_t*> s.data
    j.scratch = s.data + offsets
    with nogil:
        set_offsets(&j)
        if j.shared:
            run(copy_task, &j, j.n * COPIES, workers)
        run(forward_task, &j, j.n * j.row_parts * j.filter_parts, workers)
    give(s)


cdef inline void _backward(
    conv_t* j, Py_ssize_t groups, int workers, real* dw, real* db
) noexcept nogil:
    """All tasks, and the sums of what the groups found."""
    cdef const real* part_w = <const real*> j.dw
    cdef const real* part_b = <const real*> j.db
    cdef Py_ssize_t g, k, f, ldw = round_up(j.depth, NV), rows = round_up(j.f, MR)
    cdef real total
    set_offsets(j)
    if j.dx != NULL:
        pack_for_input(j, <const real*> j.filters, <real*> j.packed)
    run(backward_task, j, groups, workers)
    for f in range(j.f):
        for k in range(j.depth):
            total = 0
            for g in range(groups):
                total += part_w[(g * rows + f) * ldw + k]
            dw[f * j.depth + k] = total
        total = 0
        for g in range(groups):
            total += part_b[g * j.f + f]
        db[f] = total


def conv2d_backward(
    x, w, y, dy, dx, dw, db,
    Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_h, Py_ssize_t pad_w, act,
):
    """Gradients of `conv2d_forward`."""
    cdef call_t call = call_t("conv2d_backward", REAL)
    cdef array_t x_ = array(&call, x, "x", 4, REAL), w_ = array(&call, w, "w", 4, REAL)
    cdef array_t y_ = array(&call, y, "y", 4, REAL), dy_ = array(&call, dy, "dy", 4, REAL)
    cdef array_t dx_ = array(&call, dx, "dx", 4, REAL | OUT | OR_NONE)
    cdef array_t dw_ = array(&call, dw, "dw", 4, REAL | OUT)
    cdef array_t db_ = array(&call, db, "db", 1, REAL | OUT)
    cdef conv_t j = _plan(&x_, &w_, &y_, stride_h, stride_w, pad_h, pad_w, act)
    cdef Py_ssize_t groups, ldw = round_up(j.depth, NV), rows = round_up(j.f, MR)
    cdef Py_ssize_t depth_dx = j.f * j.kh * j.kw
    cdef Py_ssize_t one_image, size = _size(&j)
    cdef size_t offsets, filters, partial_w, partial_b
    cdef int workers = max_workers()
    cdef scratch_t s
    if not (
        same_shape(&dy_, &y_)
        and same_shape(&dw_, &w_)
        and (not dx_.given or same_shape(&dx_, &x_))
    ):
        raise ValueError("conv2d_backward: an array and its gradient must have one shape.")
    if db_.shape[0] != j.f:
        raise ValueError("conv2d_backward: db must have one number for each filter.")
    if j.n == 0:
        clear(&dw_)
        clear(&db_)
        return
    j.dy, j.dx = dy_.data, dx_.data
    if winograd_allowed and winograd_pays(&j):
        winograd_backward(&j, <float*> dw_.data, <float*> db_.data)
        return
    groups = GROUPS
    while groups > 2 and groups * rows * ldw * size > MOST_BYTES:
        groups //= 2
    j.group = ceil_div(j.n, groups)
    groups = ceil_div(j.n, j.group)
    # as many images to a pass as the level-2 cache holds, so that small ones add up to long sums
    one_image = j.image_step + rows * j.span
    j.together = max(1, min(j.group, PASS_BYTES // (j.image_step * size)))
    offsets = aligned((j.depth + NV + depth_dx) * sizeof(Py_ssize_t))
    filters = aligned(round_up(j.c, MR) * depth_dx * size)
    partial_w = aligned(groups * rows * ldw * size)
    partial_b = aligned(groups * j.f * size)
    j.scratch_step = aligned(
        (j.f * j.oh * j.ow + j.together * one_image + j.f * j.dz_h * j.dz_w + SLACK) * size
    )
    s = take(offsets + filters + partial_w + partial_b + workers * j.scratch_step)
    j.offset = <Py_ssize_t*> s.data
    j.dx_offset = j.offset + j.depth + NV
    j.packed = s.data + offsets
    j.dw = s.data + offsets + filters
    j.db = s.data + offsets + filters + partial_w
    j.scratch = s.data + offsets + filters + partial_w + partial_b
    with nogil:
        if j.single:
            _backward(&j, groups, workers, <float*> dw_.data, <float*> db_.data)
        else:
            _backward(&j, groups, workers, <double*> dw_.data, <double*> db_.data)
    give(s)
