"""The algorithms of a convolution: their choice by the shapes, and what is packed."""

from npdl._ext.activation cimport act_t
from npdl._ext.conv cimport SLACK, conv_t
from npdl._ext.conv_dense cimport dense_multiply, dense_scratch, is_dense
from npdl._ext.conv_depthwise cimport (
    depthwise_kept,
    depthwise_multiply,
    depthwise_pack,
    depthwise_plan,
    depthwise_scratch,
    depthwise_t,
    is_depthwise,
)
from npdl._ext.conv_direct cimport forward_task, set_offsets, set_parts
from npdl._ext.conv_gradients cimport input_multiply, input_pack, input_plan
from npdl._ext.conv_line cimport (
    is_line,
    line_job_t,
    line_kept,
    line_multiply,
    line_pack,
    line_sizes,
)
from npdl._ext.conv_phases cimport (
    has_phases,
    has_turned_phases,
    phases_multiply,
    phases_pack,
    phases_plan,
    phases_t,
    turned_conv,
)
from npdl._ext.conv_pointwise cimport (
    is_pointwise,
    pointwise_kept,
    pointwise_multiply,
    pointwise_pack,
    pointwise_plan,
    pointwise_t,
)
from npdl._ext.conv_products cimport products_multiply, products_pack, products_plan, products_t
from npdl._ext.conv_winograd cimport (
    winograd_kept,
    winograd_multiply,
    winograd_pack,
    winograd_pays,
    winograd_sizes,
)
from npdl._ext.threads cimport aligned, max_workers, of_worker, run
from npdl._ext.tile cimport round_up

cdef enum:
    WIDE = 12  # columns of the output from which direct sums are faster than the product,
    NARROW = 6  # or from which they are with
    FEW = 16  # at most this many filters


cdef inline bint uses_winograd(conv_t* j) noexcept nogil:
    return j.fast and j.groups == 1 and not j.last and winograd_pays(j)


cdef inline bint _direct(const conv_t* j) noexcept nogil:
    return (
        not j.last and j.groups == 1 and j.dil_h == 1 and j.dil_w == 1
        and (j.ow >= WIDE or (j.ow >= NARROW and j.f <= FEW))
    )


cdef inline bint uses_line(const conv_t* j) noexcept nogil:
    return j.fast and is_line(j)


cdef enum:
    DENSE
    DEPTHWISE
    WINOGRAD
    LINE
    POINTWISE
    DIRECT
    PRODUCTS
    PHASES
    TRANSPOSED

# A forward pass: what is prepared once, and kept with the weights, and what each call needs.
ctypedef struct made_t:
    conv_t j
    products_t p
    line_job_t line
    pointwise_t pointwise
    depthwise_t depthwise
    phases_t phases
    int form, workers
    size_t kept, scratch  # bytes


cdef inline void _set_products(made_t* m, act_t act) noexcept nogil:
    """Products of matrices, of m.j."""
    cdef conv_t* j = &m.j
    m.form = PRODUCTS
    if j.single:
        products_plan(&m.p, j, j.bias, act, m.workers, <float*> NULL)
    else:
        products_plan(&m.p, j, j.bias, act, m.workers, <double*> NULL)
    m.kept = m.p.packed_bytes + m.p.tables_bytes
    m.scratch = m.workers * m.p.scratch_step


cdef inline void set_form(made_t* m, conv_t* j) noexcept nogil:
    """Choose the algorithm of a convolution, and set its sizes."""
    cdef Py_ssize_t size = sizeof(float) if j.single else sizeof(double)
    cdef act_t act = j.act
    m.j, m.workers = j[0], max_workers()
    j = &m.j
    m.kept = 0
    if is_dense(j):
        m.form = DENSE
        if j.single:
            m.scratch = dense_scratch(j, m.workers, <float*> NULL)
        else:
            m.scratch = dense_scratch(j, m.workers, <double*> NULL)
    elif is_depthwise(j):
        m.form = DEPTHWISE
        if j.single:
            depthwise_plan(&m.depthwise, j, m.workers, <float*> NULL)
        else:
            depthwise_plan(&m.depthwise, j, m.workers, <double*> NULL)
        m.kept = depthwise_kept(&m.depthwise)
        m.scratch = depthwise_scratch(&m.depthwise, m.workers)
    elif uses_winograd(j):
        m.form = WINOGRAD
        winograd_sizes(j, m.workers)
        m.kept, m.scratch = winograd_kept(j), m.workers * j.scratch_step
    elif uses_line(j):
        m.form = LINE
        line_sizes(&m.line, j, m.workers)
        m.kept, m.scratch = line_kept(&m.line), m.workers * m.line.scratch_step
    elif has_turned_phases(j):
        m.form, m.j = PHASES, turned_conv(j)
        m.kept = phases_plan(&m.phases, j, j.bias, act, True, m.workers)
        m.scratch = m.workers * m.phases.scratch_step
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
        set_parts(j, m.workers)
        j.scratch_step = of_worker(j.image_step * size, m.workers)
        m.kept = aligned(j.depth * sizeof(Py_ssize_t))
        m.scratch = m.workers * j.scratch_step
    else:
        _set_products(m, act)


cdef inline bint is_turned(const conv_t* j) noexcept nogil:
    """Whether dx is computed like the output of a convolution: for groups, without a stride."""
    return (
        j.single and j.groups > 1 and j.sh == 1 and j.sw == 1
        and (j.kh - 1) * j.dil_h >= j.ph and (j.kw - 1) * j.dil_w >= j.pw
    )


cdef inline void set_transposed(made_t* m, conv_t* j, act_t act) noexcept nogil:
    """Choose the algorithm of a transposed convolution, and set its sizes."""
    m.form, m.j, m.workers = TRANSPOSED, j[0], max_workers()
    if is_turned(j):
        m.j = turned_conv(j)
        _set_products(m, act)
        m.p.turned = True
        return
    if has_phases(j):
        m.form, m.kept = PHASES, phases_plan(&m.phases, &m.j, j.bias, act, False, m.workers)
        m.scratch = m.workers * m.phases.scratch_step
        return
    if j.single:
        input_plan(&m.p, &m.j, j.bias, act, m.workers, <float*> NULL)
    else:
        input_plan(&m.p, &m.j, j.bias, act, m.workers, <double*> NULL)
    m.kept = m.p.packed_bytes + m.p.tables_bytes
    m.scratch = m.workers * m.p.scratch_step


cdef inline void pack(made_t* m, char* at) noexcept nogil:
    """Fill the memory from `at` on with what is kept: packed filters and tables."""
    m.p.j = m.p.w.j = m.pointwise.j = m.depthwise.j = m.phases.j = &m.j
    if m.form == DEPTHWISE:
        depthwise_pack(&m.depthwise, at)
    elif m.form == PHASES:
        phases_pack(&m.phases, at, m.workers)
    elif m.form == TRANSPOSED:
        input_pack(&m.p, at, m.workers)
    elif m.form == WINOGRAD:
        winograd_pack(&m.j, at, m.workers)
    elif m.form == LINE:
        line_pack(&m.line, at, m.workers)
    elif m.form == POINTWISE:
        pointwise_pack(&m.pointwise, at, m.workers)
    elif m.form == DIRECT:
        m.j.offset = <Py_ssize_t*> at
        set_offsets(&m.j)
    elif m.form == PRODUCTS:
        products_pack(&m.p, at, m.workers)


cdef inline void compute(made_t* m, char* scratch) noexcept nogil:
    """y = f(b + w * x)."""
    cdef conv_t* j = &m.j
    m.p.j = m.p.w.j = m.pointwise.j = m.depthwise.j = m.phases.j = j
    j.scratch = scratch
    if m.form == DENSE:
        if j.single:
            dense_multiply(j, scratch, m.workers, <float*> NULL)
        else:
            dense_multiply(j, scratch, m.workers, <double*> NULL)
    elif m.form == DEPTHWISE:
        depthwise_multiply(&m.depthwise, scratch, m.workers)
    elif m.form == PHASES:
        phases_multiply(&m.phases, scratch, m.workers)
    elif m.form == TRANSPOSED:
        input_multiply(&m.p, scratch, m.workers)
    elif m.form == WINOGRAD:
        winograd_multiply(j, scratch, m.workers)
    elif m.form == LINE:
        line_multiply(&m.line, j.x, j.y, scratch, m.workers)
    elif m.form == POINTWISE:
        pointwise_multiply(&m.pointwise, j.x, j.y, scratch, m.workers)
    elif m.form == DIRECT:
        run(forward_task, j, j.n * j.row_parts, m.workers)
    else:
        products_multiply(&m.p, scratch, m.workers)
