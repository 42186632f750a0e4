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
from npdl._ext.conv cimport COPIES, SLACK, conv_t
from npdl._ext.conv_dense cimport bias_gradient, dense_backward, dense_forward, is_dense
from npdl._ext.conv_depthwise cimport (
    depthwise_forward,
    depthwise_input,
    depthwise_weights,
    is_depthwise,
)
from npdl._ext.conv_direct cimport copy_task, forward_task, set_offsets, set_parts
from npdl._ext.conv_gradients cimport products_weights
from npdl._ext.conv_line cimport (
    is_line,
    line_input,
    line_job_t,
    line_kept,
    line_multiply,
    line_pack,
    line_sizes,
    line_weights_gradient,
)
from npdl._ext.conv_phases cimport input_of
from npdl._ext.conv_pointwise cimport (
    is_pointwise,
    pointwise_input,
    pointwise_kept,
    pointwise_multiply,
    pointwise_pack,
    pointwise_plan,
    pointwise_t,
    pointwise_weights,
)
from npdl._ext.conv_products cimport products_multiply, products_pack, products_plan, products_t
from npdl._ext.conv_pulled cimport add_up_task, pull_back_all, pulled_t, take_dz
from npdl._ext.conv_winograd cimport (
    winograd_backward,
    winograd_kept,
    winograd_multiply,
    winograd_pack,
    winograd_pays,
    winograd_sizes,
)
from npdl._ext.simd cimport LANES_F32, LANES_F64, real
from npdl._ext.steps cimport make_step, ready_t
from npdl._ext.threads cimport aligned, give, max_workers, run, scratch_t, take
from npdl._ext.tile cimport round_up

cdef enum:
    WIDE = 12  # columns of the output from which direct sums are faster than the product,
    NARROW = 6  # or from which they are with
    FEW = 16  # at most this many filters

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
    j.single, j.last = x.single, last
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


cdef inline bint _winograd(conv_t* j) noexcept nogil:
    return (
        winograd_allowed and j.groups == 1 and j.dil_h == 1 and j.dil_w == 1 and not j.last
        and winograd_pays(j)
    )


cdef inline bint _direct(const conv_t* j) noexcept nogil:
    return (
        not j.last and j.groups == 1 and j.dil_h == 1 and j.dil_w == 1
        and (j.ow >= WIDE or (j.ow >= NARROW and j.f <= FEW))
    )


cdef inline bint _line(const conv_t* j) noexcept nogil:
    return winograd_allowed and is_line(j)


cdef enum:
    WINOGRAD
    LINE
    POINTWISE
    DIRECT
    PRODUCTS

# A forward pass: what is prepared once, and kept with the weights, and what each call needs.
ctypedef struct made_t:
    conv_t j
    products_t p
    line_job_t line
    pointwise_t pointwise
    int form, workers
    size_t kept, scratch  # bytes


cdef void _set_form(made_t* m, conv_t* j) noexcept nogil:
    """Choose the algorithm of a convolution, and set its sizes."""
    cdef Py_ssize_t size = sizeof(float) if j.single else sizeof(double)
    m.j, m.workers = j[0], max_workers()
    j = &m.j
    if _winograd(j):
        m.form = WINOGRAD
        winograd_sizes(j, m.workers)
        m.kept, m.scratch = winograd_kept(j), m.workers * j.scratch_step
    elif _line(j):
        m.form = LINE
        line_sizes(&m.line, j, m.workers)
        m.kept, m.scratch = line_kept(&m.line), m.workers * m.line.scratch_step
    elif is_pointwise(j):
        m.form = POINTWISE
        if j.single:
            pointwise_plan(&m.pointwise, j, j.bias, j.act, False, m.workers, <float*> NULL)
        else:
            pointwise_plan(&m.pointwise, j, j.bias, j.act, False, m.workers, <double*> NULL)
        m.kept, m.scratch = pointwise_kept(&m.pointwise), m.workers * m.pointwise.scratch_step
    elif _direct(j):
        m.form = DIRECT
        j.taps_h, j.taps_w = (j.kh - 1) // j.sh + 1, (j.kw - 1) // j.sw + 1
        j.plane_h, j.plane_w = j.oh + j.taps_h - 1, j.ow + j.taps_w - 1
        j.phases_h, j.phases_w = min(j.sh, j.kh), min(j.sw, j.kw)
        j.image_step = SLACK + round_up(
            j.c * j.phases_h * j.phases_w * j.plane_h * j.plane_w, SLACK
        )
        set_parts(j, LANES_F32 if j.single else LANES_F64, m.workers)
        j.scratch_step = aligned(j.image_step * size)
        m.kept = aligned(j.depth * sizeof(Py_ssize_t))
        m.scratch = (j.n if j.shared else m.workers) * j.scratch_step
    else:
        m.form = PRODUCTS
        if j.single:
            products_plan(&m.p, j, j.bias, j.act, m.workers, <float*> NULL)
        else:
            products_plan(&m.p, j, j.bias, j.act, m.workers, <double*> NULL)
        m.kept = m.p.packed_bytes + m.p.tables_bytes
        m.scratch = m.workers * m.p.scratch_step


cdef void _pack(made_t* m, char* at) noexcept nogil:
    """Fill the memory from `at` on with what is kept: packed filters and tables."""
    m.p.j = m.p.w.j = m.pointwise.j = &m.j
    if m.form == WINOGRAD:
        winograd_pack(&m.j, at, m.workers)
    elif m.form == LINE:
        line_pack(&m.line, at, m.workers)
    elif m.form == POINTWISE:
        pointwise_pack(&m.pointwise, at, m.workers)
    elif m.form == DIRECT:
        m.j.offset = <Py_ssize_t*> at
        set_offsets(&m.j)
    else:
        products_pack(&m.p, at, m.workers)


cdef void _compute(made_t* m, char* scratch) noexcept nogil:
    """y = f(b + w * x)."""
    cdef conv_t* j = &m.j
    m.p.j = m.p.w.j = m.pointwise.j = j
    j.scratch = scratch
    if m.form == WINOGRAD:
        winograd_multiply(j, scratch, m.workers)
    elif m.form == LINE:
        line_multiply(&m.line, j.x, j.y, scratch, m.workers)
    elif m.form == POINTWISE:
        pointwise_multiply(&m.pointwise, j.x, j.y, scratch, m.workers)
    elif m.form == DIRECT:
        if j.shared:
            run(copy_task, j, j.n * COPIES, m.workers)
        run(forward_task, j, j.n * j.row_parts * j.filter_parts, m.workers)
    else:
        products_multiply(&m.p, scratch, m.workers)


cdef void _form_forward(conv_t* j) except *:
    cdef made_t m
    cdef scratch_t s
    _set_form(&m, j)
    s = take(m.kept + m.scratch)
    with nogil:
        _pack(&m, s.data)
        _compute(&m, s.data + m.kept)
    give(s)


cdef inline bint _is_formless(conv_t* j) noexcept nogil:
    """Whether the depthwise kernel serves this convolution."""
    return is_depthwise(j) and not _winograd(j) and not _direct(j)


cdef inline void _forward(conv_t* j, const real* _) except *:
    """y = f(b + w * x); f is linear if the task is part of another kernel."""
    if is_dense(j):
        dense_forward(j, j.bias, j.act, _)
    elif _is_formless(j):
        depthwise_forward(j, j.bias, j.act, _)
    else:
        _form_forward(j)


cdef inline void _backward_of_dz(conv_t* j, const real* _) except *:
    """As `_backward`, where both gradients read dz."""
    cdef scratch_t s
    cdef bint own = take_dz(j, &s, _)
    if _line(j):
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
    linear.code, linear.steepness = LINEAR, 1
    if is_dense(j):
        dense_backward(j, NULL, linear, _)
    elif _winograd(j):
        winograd_backward(j)
    elif _line(j) or is_pointwise(j):
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
            input_of(j, NULL, linear, _)


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
    if j.n == 0:
        return
    if j.single:
        _forward(&j, <float*> NULL)
    else:
        _forward(&j, <double*> NULL)


# ---------------------------------------------------------------------------------- prepared calls

cdef void _run_ready(const void* job, const void* x, void* y, char* scratch) noexcept nogil:
    cdef made_t m = (<const made_t*> job)[0]
    m.j.x, m.j.y = x, y
    _compute(&m, scratch)


def conv2d_ready(
    x, w, b, y, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_h, Py_ssize_t pad_w,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t groups, Py_ssize_t channels_last, act,
):
    """`conv2d_forward`, prepared for arrays like x and y; None if its form can't be prepared."""
    cdef conv_t j = _plan_forward(
        x, w, b, y, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups,
        channels_last, act,
    )
    cdef made_t m
    cdef ready_t ready
    cdef void* job
    cdef char* kept
    if j.n == 0 or is_dense(&j) or _is_formless(&j):
        return None
    _set_form(&m, &j)
    ready = ready_t(_run_ready, &m, sizeof(made_t), m.kept, m.scratch)
    step = make_step(&ready, (w, b), &job, &kept)
    _pack(<made_t*> job, kept)
    return step


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
        input_of(j, j.bias, act, _)


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
        _forward(j, _)
    if dw != NULL:
        j.y, j.dy, j.dw, j.dx = <void*> x, x, dw, NULL
        _backward(j, _)
    if own:
        give(s)


def conv2d_transposed_forward(
    x, w, b, y, Py_ssize_t stride_h, Py_ssize_t stride_w, Py_ssize_t pad_h, Py_ssize_t pad_w,
    Py_ssize_t dilation_h, Py_ssize_t dilation_w, Py_ssize_t groups, Py_ssize_t channels_last, act,
):
    """y = f(b + the gradient of the input of a convolution whose output has the gradient x)."""
    cdef call_t call = call_t("conv2d_transposed_forward", REAL)
    cdef array_t x_ = array(&call, x, "x", 4, REAL), w_ = array(&call, w, "w", 4, REAL)
    cdef array_t b_ = array(&call, b, "b", 1, REAL | OR_NONE)
    cdef array_t y_ = array(&call, y, "y", 4, REAL | OUT)
    cdef conv_t j = _plan(
        &y_, &w_, &x_, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups,
        channels_last,
    )
    cdef act_t f = parse_act(act)
    if b_.given and b_.shape[0] != groups * w_.shape[1]:
        raise ValueError("conv2d_transposed_forward: b must have one number for each channel of y.")
    if j.n == 0:
        return
    j.dy, j.dx, j.bias = x_.data, y_.data, b_.data
    if j.single:
        _transposed_forward(&j, f, <float*> NULL)
    else:
        _transposed_forward(&j, f, <double*> NULL)


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
