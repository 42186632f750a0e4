"""Two-dimensional convolution. Contract: ``conv_np.py``.

By direct sums (``conv_direct.pxd``), or where that is faster and allowed in Winograd's form
(``conv_winograd.pxd``).
"""

from libc.string cimport memset
from npdl._ext.activation cimport parse_act
from npdl._ext.conv cimport COPIES, GROUPS, MOST_BYTES, PASS_BYTES, SLACK, conv_t
from npdl._ext.conv_direct cimport (
    backward_task,
    copy_task,
    forward_task,
    pack_for_input,
    set_offsets,
    set_parts,
)
from npdl._ext.conv_winograd cimport (
    winograd_forward,
    winograd_input,
    winograd_pays,
    winograd_weights,
)
from npdl._ext.simd cimport MR, NV, real, same_shape
from npdl._ext.threads cimport aligned, give, max_workers, run, scratch_t, take
from npdl._ext.tile cimport ceil_div, lanes, round_up

cdef bint winograd_allowed = True


def set_winograd(bint allowed):
    """Whether 3x3 convolutions of float32 may run in Winograd's form."""
    global winograd_allowed
    winograd_allowed = allowed


cdef conv_t _plan(
    const real[:, :, :, ::1] x,
    const real[:, :, :, ::1] w,
    const real[:, :, :, ::1] y,
    Py_ssize_t stride_h,
    Py_ssize_t stride_w,
    Py_ssize_t pad_h,
    Py_ssize_t pad_w,
    act,
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
    j.single, j.act = real is float, parse_act(act)
    j.n, j.c, j.h, j.w = x.shape[0], x.shape[1], x.shape[2], x.shape[3]
    j.f, j.kh, j.kw, j.oh, j.ow = w.shape[0], w.shape[2], w.shape[3], y.shape[2], y.shape[3]
    j.sh, j.sw, j.ph, j.pw = stride_h, stride_w, pad_h, pad_w
    j.taps_h, j.taps_w = (j.kh - 1) // j.sh + 1, (j.kw - 1) // j.sw + 1
    j.plane_h, j.plane_w = j.oh + j.taps_h - 1, j.ow + j.taps_w - 1
    j.phases_h, j.phases_w = min(j.sh, j.kh), min(j.sw, j.kw)
    j.image_step = round_up(j.c * j.phases_h * j.phases_w * j.plane_h * j.plane_w, SLACK) + SLACK
    j.span = round_up((j.oh - 1) * j.plane_w + j.ow, lanes(&w[0, 0, 0, 0]))
    j.dz_h, j.dz_w = j.oh + 2 * (j.taps_h - 1), j.ow + 2 * (j.taps_w - 1)
    j.depth = j.c * j.kh * j.kw
    return j


def conv2d_forward(
    const real[:, :, :, ::1] x not None,
    const real[:, :, :, ::1] w not None,
    const real[::1] b not None,
    real[:, :, :, ::1] y not None,
    Py_ssize_t stride_h,
    Py_ssize_t stride_w,
    Py_ssize_t pad_h,
    Py_ssize_t pad_w,
    act,
):
    """y = f(b + w * x)."""
    cdef conv_t j = _plan(x, w, y, stride_h, stride_w, pad_h, pad_w, act)
    cdef size_t offsets = aligned((j.depth + NV) * sizeof(Py_ssize_t))
    cdef int workers = max_workers()
    cdef scratch_t s
    if b.shape[0] != j.f:
        raise ValueError("conv2d_forward: b must have one number for each filter.")
    if j.n == 0:
        return
    j.x, j.bias, j.y = &x[0, 0, 0, 0], &b[0], &y[0, 0, 0, 0]
    j.filters = &w[0, 0, 0, 0]
    if winograd_allowed and winograd_pays(&j):
        winograd_forward(&j, <const float*> &w[0, 0, 0, 0])
        return
    set_parts(&j, lanes(&w[0, 0, 0, 0]), workers)
    j.scratch_step = aligned(j.image_step * sizeof(real))
    s = take(offsets + (j.n if j.shared else workers) * j.scratch_step)
    j.offset = <Py_ssize_t*> s.data
    j.scratch = s.data + offsets
    with nogil:
        set_offsets(&j)
        if j.shared:
            run(copy_task, &j, j.n * COPIES, workers)
        run(forward_task, &j, j.n * j.row_parts * j.filter_parts, workers)
    give(s)


def conv2d_backward(
    const real[:, :, :, ::1] x not None,
    const real[:, :, :, ::1] w not None,
    const real[:, :, :, ::1] y not None,
    const real[:, :, :, ::1] dy not None,
    real[:, :, :, ::1] dx,
    real[:, :, :, ::1] dw not None,
    real[::1] db not None,
    Py_ssize_t stride_h,
    Py_ssize_t stride_w,
    Py_ssize_t pad_h,
    Py_ssize_t pad_w,
    act,
):
    """Gradients of `conv2d_forward`."""
    cdef conv_t j = _plan(x, w, y, stride_h, stride_w, pad_h, pad_w, act)
    cdef Py_ssize_t groups, g, k, f, ldw = round_up(j.depth, NV), rows = round_up(j.f, MR)
    cdef Py_ssize_t depth_dx = j.f * j.kh * j.kw
    cdef Py_ssize_t one_image
    cdef size_t offsets, filters, partial_w, partial_b
    cdef int workers = max_workers()
    cdef scratch_t s
    cdef const real* part
    cdef real total
    if not (
        same_shape(dy.shape, y.shape, 4)
        and same_shape(dw.shape, w.shape, 4)
        and (dx is None or same_shape(dx.shape, x.shape, 4))
    ):
        raise ValueError("conv2d_backward: an array and its gradient must have one shape.")
    if db.shape[0] != j.f:
        raise ValueError("conv2d_backward: db must have one number for each filter.")
    if j.n == 0:
        dw[...] = 0
        db[...] = 0
        return
    j.x, j.y, j.dy = &x[0, 0, 0, 0], <void*> &y[0, 0, 0, 0], &dy[0, 0, 0, 0]
    j.dx = NULL if dx is None else <void*> &dx[0, 0, 0, 0]
    if winograd_allowed and winograd_pays(&j):
        if j.dx != NULL:
            winograd_input(&j, <const float*> &w[0, 0, 0, 0])
        winograd_weights(&j, <float*> &dw[0, 0, 0, 0], <float*> &db[0])
        return
    groups = GROUPS
    while groups > 2 and groups * rows * ldw * <Py_ssize_t> sizeof(real) > MOST_BYTES:
        groups //= 2
    j.group = ceil_div(j.n, groups)
    groups = ceil_div(j.n, j.group)
    # as many images to a pass as the level-2 cache holds, so that small ones add up to long sums
    one_image = j.image_step + rows * j.span
    j.together = max(1, min(j.group, PASS_BYTES // (j.image_step * <Py_ssize_t> sizeof(real))))
    offsets = aligned((j.depth + NV + depth_dx) * sizeof(Py_ssize_t))
    filters = aligned(round_up(j.c, MR) * depth_dx * sizeof(real))
    partial_w = aligned(groups * rows * ldw * sizeof(real))
    partial_b = aligned(groups * j.f * sizeof(real))
    j.scratch_step = aligned(
        (j.f * j.oh * j.ow + j.together * one_image + j.f * j.dz_h * j.dz_w + SLACK) * sizeof(real)
    )
    s = take(offsets + filters + partial_w + partial_b + workers * j.scratch_step)
    j.offset = <Py_ssize_t*> s.data
    j.dx_offset = j.offset + j.depth + NV
    j.packed = s.data + offsets
    j.dw = s.data + offsets + filters
    j.db = s.data + offsets + filters + partial_w
    j.scratch = s.data + offsets + filters + partial_w + partial_b
    with nogil:
        set_offsets(&j)
        if j.dx != NULL:
            pack_for_input(&j, &w[0, 0, 0, 0], <real*> j.packed)
        run(backward_task, &j, groups, workers)
        part = <const real*> j.dw
        for f in range(j.f):
            for k in range(j.depth):
                total = 0
                for g in range(groups):
                    total += part[(g * rows + f) * ldw + k]
                (&dw[0, 0, 0, 0])[f * j.depth + k] = total
            total = 0
            for g in range(groups):
                total += (<const real*> j.db)[g * j.f + f]
            db[f] = total
    give(s)
