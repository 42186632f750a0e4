"""Two-dimensional convolution. Contract: ``conv_np.py``.

The algorithm depends on the shapes of one image and of the filters. The output is computed in
Winograd's form (``conv_winograd.pxd``; for sequences, ``conv_line.pxd``) where that is faster and
allowed, by direct sums over planes (``conv_direct.pxd``) if it is wide and the channels are few,
else as a product of matrices (``conv_products.pxd``, ``conv_gradients.pxd``); the gradients in
Winograd's form or as products. One window that is the whole image needs only three products
(``conv_dense.pxd``), and windows of one pixel need no copies (``conv_pointwise.pxd``). With as many
groups as channels, there are no matrix products at all (``conv_depthwise.pxd``).
"""

from libc.string cimport memset
from npdl._ext.activation cimport LINEAR, act_t, parse_act
from npdl._ext.arrays cimport OR_NONE, OUT, REAL, array, array_t, call_t, clear, same_shape
from npdl._ext.conv cimport conv_t
from npdl._ext.conv_dense cimport bias_gradient, dense_backward, is_dense
from npdl._ext.conv_depthwise cimport is_depthwise
from npdl._ext.conv_depthwise_gradients cimport depthwise_input, depthwise_weights
from npdl._ext.conv_forms cimport (
    compute,
    is_turned,
    made_t,
    pack,
    set_form,
    set_transposed,
    uses_line,
    uses_winograd,
)
from npdl._ext.conv_gradients cimport products_weights
from npdl._ext.conv_line cimport line_input, line_weights_gradient
from npdl._ext.conv_pointwise cimport is_pointwise, pointwise_input, pointwise_weights
from npdl._ext.conv_pulled cimport add_up_task, pull_back_all, pulled_t, take_dz
from npdl._ext.conv_winograd cimport winograd_backward
from npdl._ext.simd cimport real
from npdl._ext.steps cimport make_step, ready_t
from npdl._ext.threads cimport aligned, give, max_workers, run, scratch_t, take

cdef bint winograd_allowed = True


def set_winograd(bint allowed):
    """Allow or forbid Winograd's form for convolutions of float32."""
    global winograd_allowed
    winograd_allowed = allowed


cdef conv_t _plan(
    array_t* x, array_t* w, array_t* y,
    Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_h, Py_ssize_t pad_w,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t groups, Py_ssize_t last,
) except *:
    """The checked sizes of a convolution of x that gives y."""
    cdef conv_t j
    cdef Py_ssize_t ax = 3 if last else 1, rows = 1 if last else 2
    memset(&j, 0, sizeof(j))
    if min(stride_h, stride_w, dilation_h, dilation_w, groups) < 1 or min(pad_h, pad_w) < 0:
        raise ValueError("conv2d: padding must be at least 0, all other numbers at least 1.")
    if max(stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w) > 0x7FFFFFFF:
        raise ValueError("conv2d: strides, dilation and padding must be below 2^31.")
    if last != 0 and last != 1:
        raise ValueError("conv2d: channels_last must be 0 or 1.")
    if 0 in w.shape[:4] or 0 in x.shape[1:4] or 0 in y.shape[1:4]:
        raise ValueError("conv2d: only the batch may be empty.")
    if (
        y.shape[0] != x.shape[0] or w.shape[0] != y.shape[ax] or w.shape[0] % groups
        or w.shape[1] * groups != x.shape[ax]
    ):
        raise ValueError("conv2d: the shapes of x, w and y do not fit.")
    j.single, j.last, j.fast = x.single, last, winograd_allowed
    j.act.code, j.act.steepness = LINEAR, 1
    j.n, j.groups, j.c, j.f = x.shape[0], groups, w.shape[1], w.shape[0] // groups
    j.h, j.w, j.oh, j.ow = x.shape[rows], x.shape[rows + 1], y.shape[rows], y.shape[rows + 1]
    j.kh, j.kw, j.sh, j.sw, j.ph, j.pw = w.shape[2], w.shape[3], stride_h, stride_w, pad_h, pad_w
    # with a single tap along an axis, its dilation does not matter
    j.dil_h, j.dil_w = 1 if j.kh == 1 else dilation_h, 1 if j.kw == 1 else dilation_w
    if max((j.kh - 1) * j.dil_h, (j.kw - 1) * j.dil_w) > 0x7FFFFFFF:
        raise ValueError("conv2d: filters must reach over less than 2^31 pixels.")
    if j.w == j.ow == j.kw == 1 and j.pw == 0 and j.groups > 1:  # a column is a row
        j.w, j.h, j.ow, j.oh, j.kw, j.kh = j.h, 1, j.oh, 1, j.kh, 1
        j.sw, j.sh, j.pw, j.ph, j.dil_w, j.dil_h = j.sh, 1, j.ph, 0, j.dil_h, 1
    j.depth = j.c * j.kh * j.kw
    j.x, j.filters, j.y = x.data, w.data, y.data
    return j


cdef void _pack(made_t* m, char* at) noexcept nogil:
    pack(m, at)


cdef void _compute(made_t* m, char* scratch) noexcept nogil:
    compute(m, scratch)


cdef void _run(made_t* m) except *:
    cdef scratch_t s = take(m.kept + m.scratch)
    with nogil:
        _pack(m, s.data)
        _compute(m, s.data + m.kept)
    give(s)


cdef void _forward(conv_t* j) except *:
    """y = f(b + w * x)."""
    cdef made_t m
    set_form(&m, j)
    _run(&m)


cdef void _input(conv_t* j, act_t act) except *:
    """dx, or the output of the transposed convolution: f(b + dx)."""
    cdef made_t m
    set_transposed(&m, j, act)
    _run(&m)


cdef inline void _backward_of_dz(conv_t* j, const real* _) except *:
    """As `_backward`, where both gradients read dz."""
    cdef scratch_t s
    cdef bint own = take_dz(j, &s, _)
    if uses_line(j):
        if j.dw != NULL or j.db != NULL:
            line_weights_gradient(j)
        if j.dx != NULL:
            line_input(j)
    else:
        if j.dw != NULL or j.db != NULL:
            pointwise_weights(j, _)
        if j.dx != NULL:
            pointwise_input(j, NULL, j.act, _)
    if own:
        give(s)


cdef inline void _backward(conv_t* j, const real* _) except *:
    """Those of dx, dw and db that are not NULL."""
    cdef act_t linear
    cdef scratch_t s
    cdef bint own
    linear.code, linear.steepness = LINEAR, 1
    if is_dense(j):
        dense_backward(j, NULL, linear, _)
    elif uses_winograd(j):
        winograd_backward(j)
    elif uses_line(j) or is_pointwise(j):
        _backward_of_dz(j, _)
    elif is_depthwise(j):
        if j.dw != NULL or j.db != NULL:
            depthwise_weights(j, _)
        if j.dx != NULL:
            depthwise_input(j, NULL, linear, _)
    else:
        if j.dw != NULL or j.db != NULL:
            products_weights(j, _)
        if j.dx != NULL:
            own = is_turned(j) and take_dz(j, &s, _)
            _input(j, linear)
            if own:
                give(s)


cdef conv_t _plan_forward(
    x, w, b, y, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_h, Py_ssize_t pad_w,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t groups, Py_ssize_t channels_last, act,
) except *:
    cdef call_t call = call_t("conv2d_forward", REAL)
    cdef array_t x_ = array(&call, x, "x", 4, REAL), w_ = array(&call, w, "w", 4, REAL)
    cdef array_t b_ = array(&call, b, "b", 1, REAL | OR_NONE)
    cdef array_t y_ = array(&call, y, "y", 4, REAL | OUT)
    cdef conv_t j = _plan(
        &x_, &w_, &y_, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups,
        channels_last,
    )
    j.act = parse_act(act)
    if b_.given and b_.shape[0] != w_.shape[0]:
        raise ValueError("conv2d_forward: b must have one number for each filter.")
    j.bias = b_.data
    return j


def conv2d_forward(
    x, w, b, y, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_h, Py_ssize_t pad_w,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t groups, Py_ssize_t channels_last, act,
):
    """y = f(b + w * x)."""
    cdef conv_t j = _plan_forward(
        x, w, b, y, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups,
        channels_last, act,
    )
    if j.n:
        _forward(&j)


# ---------------------------------------------------------------------------------- prepared calls

cdef void _play(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef made_t m = (<const made_t*> job)[0]
    m.j.x = m.j.dy = arrays[0]  # a transposed one reads and fills gradients
    m.j.y = m.j.dx = arrays[3]
    _compute(&m, scratch)


cdef object _ready(made_t* m, alive):
    cdef ready_t ready = ready_t(_play, m, sizeof(made_t), m.kept, m.scratch)
    cdef void* job
    cdef char* kept
    step = make_step(&ready, alive, &job, &kept)
    with nogil:
        _pack(<made_t*> job, kept)
    return step


def conv2d_forward_ready(
    x, w, b, y, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_h, Py_ssize_t pad_w,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t groups, Py_ssize_t channels_last, act,
):
    """`conv2d_forward`, prepared."""
    cdef conv_t j = _plan_forward(
        x, w, b, y, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups,
        channels_last, act,
    )
    cdef made_t m
    if j.n == 0:
        return None
    set_form(&m, &j)
    return _ready(&m, (w, b))


def conv2d_backward(
    x, w, y, dy, dx, dw, db,
    Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_h, Py_ssize_t pad_w,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t groups, Py_ssize_t channels_last, act,
):
    """Gradients of `conv2d_forward`."""
    cdef call_t call = call_t("conv2d_backward", REAL)
    cdef array_t x_ = array(&call, x, "x", 4, REAL), w_ = array(&call, w, "w", 4, REAL)
    cdef array_t y_ = array(&call, y, "y", 4, REAL), dy_ = array(&call, dy, "dy", 4, REAL)
    cdef array_t dx_ = array(&call, dx, "dx", 4, REAL | OUT | OR_NONE)
    cdef array_t dw_ = array(&call, dw, "dw", 4, REAL | OUT | OR_NONE)
    cdef array_t db_ = array(&call, db, "db", 1, REAL | OUT | OR_NONE)
    cdef conv_t j = _plan(
        &x_, &w_, &y_, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups,
        channels_last,
    )
    j.act = parse_act(act)
    if not (
        same_shape(&dy_, &y_)
        and (not dw_.given or same_shape(&dw_, &w_))
        and (not dx_.given or same_shape(&dx_, &x_))
    ):
        raise ValueError("conv2d_backward: an array and its gradient must have one shape.")
    if db_.given and db_.shape[0] != w_.shape[0]:
        raise ValueError("conv2d_backward: db must have one number for each filter.")
    if j.n == 0:
        clear(&dw_)
        clear(&db_)
        return
    j.dy, j.dx, j.dw, j.db = dy_.data, dx_.data, dw_.data, db_.data
    if j.single:
        _backward(&j, <float*> NULL)
    else:
        _backward(&j, <double*> NULL)


# -------------------------------------------------------------------------- transposed convolution

cdef inline void _transposed_forward(conv_t* j, act_t act, const real* _) except *:
    if is_dense(j):
        dense_backward(j, j.bias, act, _)
    elif is_depthwise(j):
        depthwise_input(j, j.bias, act, _)
    elif is_pointwise(j):
        pointwise_input(j, j.bias, act, _)
    else:
        _input(j, act)


cdef inline void _transposed_backward(
    conv_t* j, pulled_t* r, const void* x, void* dx, void* dw, const real* _
) except *:
    """The gradients are those of a convolution of dz whose output is x."""
    cdef int workers = max_workers()
    cdef scratch_t s
    cdef bint own = r.act.code != LINEAR
    r.j, r.plane, r.channels = j, j.h * j.w, j.groups * j.c
    r.size = j.n * r.channels * r.plane
    j.x = r.dy
    if own:
        s = take(aligned(r.size * sizeof(real)))
        j.x = r.dz = s.data
        with nogil:
            pull_back_all(r, workers)
    if r.db != NULL and j.last:
        bias_gradient(<const real*> j.x, j.n * r.plane, r.channels, <real*> r.db)
    elif r.db != NULL:
        with nogil:
            run(add_up_task, r, r.channels, workers)
    if dx != NULL:
        j.y = dx
        _forward(j)
    if dw != NULL:
        j.y, j.dy, j.dw, j.dx = <void*> x, x, dw, NULL
        _backward(j, _)
    if own:
        give(s)


cdef conv_t _plan_transposed(
    x, w, b, y, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_h, Py_ssize_t pad_w,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t groups, Py_ssize_t channels_last, act,
) except *:
    """The convolution whose gradient of the input is y; `act` is that of y."""
    cdef call_t call = call_t("conv2d_transposed_forward", REAL)
    cdef array_t x_ = array(&call, x, "x", 4, REAL), w_ = array(&call, w, "w", 4, REAL)
    cdef array_t b_ = array(&call, b, "b", 1, REAL | OR_NONE)
    cdef array_t y_ = array(&call, y, "y", 4, REAL | OUT)
    cdef conv_t j = _plan(
        &y_, &w_, &x_, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups,
        channels_last,
    )
    if b_.given and b_.shape[0] != groups * w_.shape[1]:
        raise ValueError("conv2d_transposed_forward: b must have one number for each channel of y.")
    j.dy, j.dx, j.bias = x_.data, y_.data, b_.data
    return j


def conv2d_transposed_forward(
    x, w, b, y, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_h, Py_ssize_t pad_w,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t groups, Py_ssize_t channels_last, act,
):
    """y = f(b + the gradient of the input of a convolution whose output has the gradient x)."""
    cdef conv_t j = _plan_transposed(
        x, w, b, y, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups,
        channels_last, act,
    )
    if j.n == 0:
        return
    if j.single:
        _transposed_forward(&j, parse_act(act), <float*> NULL)
    else:
        _transposed_forward(&j, parse_act(act), <double*> NULL)


def conv2d_transposed_forward_ready(
    x, w, b, y, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_h, Py_ssize_t pad_w,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t groups, Py_ssize_t channels_last, act,
):
    """`conv2d_transposed_forward`, prepared; None if its form can't be."""
    cdef conv_t j = _plan_transposed(
        x, w, b, y, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups,
        channels_last, act,
    )
    cdef made_t m
    if j.n == 0 or is_dense(&j) or is_depthwise(&j) or is_pointwise(&j):
        return None
    set_transposed(&m, &j, parse_act(act))
    return _ready(&m, (w, b))


def conv2d_transposed_backward(
    x, w, y, dy, dx, dw, db,
    Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_h, Py_ssize_t pad_w,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t groups, Py_ssize_t channels_last, act,
):
    """Gradients of `conv2d_transposed_forward`."""
    cdef call_t call = call_t("conv2d_transposed_backward", REAL)
    cdef array_t x_ = array(&call, x, "x", 4, REAL), w_ = array(&call, w, "w", 4, REAL)
    cdef array_t y_ = array(&call, y, "y", 4, REAL), dy_ = array(&call, dy, "dy", 4, REAL)
    cdef array_t dx_ = array(&call, dx, "dx", 4, REAL | OUT | OR_NONE)
    cdef array_t dw_ = array(&call, dw, "dw", 4, REAL | OUT | OR_NONE)
    cdef array_t db_ = array(&call, db, "db", 1, REAL | OUT | OR_NONE)
    cdef conv_t j = _plan(
        &y_, &w_, &x_, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups,
        channels_last,
    )
    cdef pulled_t r
    r.act, r.y, r.dy, r.db = parse_act(act), y_.data, dy_.data, db_.data
    if not (
        same_shape(&dy_, &y_)
        and (not dw_.given or same_shape(&dw_, &w_))
        and (not dx_.given or same_shape(&dx_, &x_))
    ):
        raise ValueError("conv2d_transposed_backward: an array and its gradient have two shapes.")
    if db_.given and db_.shape[0] != groups * w_.shape[1]:
        raise ValueError("conv2d_transposed_backward: db must have one number for a channel of y.")
    if j.n == 0:
        clear(&dw_)
        clear(&db_)
        return
    if j.single:
        _transposed_backward(&j, &r, x_.data, dx_.data, dw_.data, <float*> NULL)
    else:
        _transposed_backward(&j, &r, x_.data, dx_.data, dw_.data, <double*> NULL)
