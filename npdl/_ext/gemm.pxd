"""C (M x N) (+)= A (M x K) · B (K x N), computed in register tiles (see ``tile.pxd``).

B is *packed* into panels as wide as a tile, in the order in which the tile reads them, K_BLOCK
values of k at a time. The form of the tiles is the one that wastes fewer elements outside C. Rows
of A are read in place if they are contiguous along k; otherwise A is packed too, with the rows of a
tile side by side. A task is a block of rows times some panels. If A is not too large, a task has
all rows and packs its panels itself, so that they are in its cache; or its first tile does, where
the rows of a panel lie in B as they are. (If the last panels are fewer than the threads, threads
divide their rows, and each packs the panel again.) Otherwise, packing B is a separate job before
all tasks. Products of one to three rows read B in place.

Every element of C is summed in the order of k, in blocks that depend only on K: neither the number
of threads nor the number of rows changes a bit of the result. For very large K, the sums over LONG
values of k are added in double.

After Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34, 2008.
"""

from libc.string cimport memcpy
from npdl._ext.pack cimport pack_panels, pack_rows
from npdl._ext.panels cimport times_panel
from npdl._ext.rows cimport row_times_columns
from npdl._ext.simd cimport LANES_F32, MR, TALL, opaque, real
from npdl._ext.threads cimport aligned, run
from npdl._ext.tile cimport ceil_div, lanes, least_rows, panel_width, round_up, tile_cols

cdef enum:
    K_BLOCK = 512  # a panel of B (48 kB) stays in the level-2 cache
    LONG = 32768  # values of k (64 blocks) whose sums are added in the dtype of C
    A_ROWS = 96  # rows per task: 192 kB of A, which stay there too
    A_BYTES = 262144  # bytes of A that stay there while a thread goes from panel to panel
    A_ALL = 1310720  # bytes of columns of A that tasks read in whole for each panel,
    MANY = 4  # if each thread has at least so many panels
    GRAIN = 100000  # the fewest multiply-adds per task, of several panels if necessary
    PACKED = 4  # panels of B per packing task
    TOGETHER = 2  # panels of B packed at once by a task that packs its own
    A_COLUMN = 896  # columns of A of at most this length are read in place,
    COLUMNS = 128  # if there are at most this many
    FEW_DEPTH = 256  # for few rows: values of k per block,
    FEW_COLUMNS = 576  # columns per block: whole panels in each build,
    FEW_SMALL = 40000  # and elements of B below which one thread computes them
    SMALL = 300000  # multiply-adds below which a second thread is not worth it,
    SMALL_B = 8192  # elements of B that each thread packs, for rows (cache lines) of its own
    MOVE = 4  # if a number of B or C that is read or written counts as so many

# Called when the elements C[i0:i1, j0:j1] are complete.
ctypedef void (*finish_t)(
    void* context, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t j0, Py_ssize_t j1
) noexcept nogil

# `packing_tile` of panels.pxd
ctypedef void (*packing_t)(
    Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, float*, float*,
    Py_ssize_t, const float*, Py_ssize_t, bint
) noexcept nogil

ctypedef struct product_t:
    bint single  # float32
    bint add
    bint chain  # one sum over all of K, which starts from C; only for few rows
    Py_ssize_t m, n, k
    const void* a  # a[i*a_row + k*a_col]
    Py_ssize_t a_row, a_col
    const void* b
    Py_ssize_t b_row, b_col
    Py_ssize_t b_panel  # if few: from NR columns of b to the next NR; more than NR if b is packed
    void* c  # c[i*ldc + j]
    Py_ssize_t ldc
    const void* bias  # of each column; the sums start from it, unless they add to C; or NULL
    finish_t finish  # or NULL
    Py_ssize_t finish_cost  # of an element, in multiply-adds
    void* context
    bint relu  # for float32: tiles store no number below 0, and only other forms call `finish`
    packing_t begin  # for float32: the first tile packs its panel with it; or NULL
    # the plan
    bint few  # so few rows that packing b would cost more than the product
    bint by_rows  # if alone, and C has many rows or B is small: each thread fills some of the rows
    bint alone  # tasks have all rows, and pack their own panels
    bint in_place  # A is not packed
    bint packed  # by the caller: A over all of K; row k of a tile follows row k-1
    bint tall  # tiles of TALL x 2 vectors
    bint even  # the last panel of B is as wide as the others
    Py_ssize_t mr, nr  # rows and columns of a tile
    Py_ssize_t a_tasks, panels, group  # group: panels per task (columns, if few)
    # if alone: each of `parts` threads has some groups of panels, and a part of what is left
    Py_ssize_t parts, own, part_rows
    Py_ssize_t k0, k1, depth  # the current values of k, and how many a block has
    void* packed_a
    void* packed_b
    const void* ready  # all of B, packed block by block, or NULL
    # for large K
    double* totals
    const void* sums  # over the last of the parts
    bint first, last  # whether this is the first, the last part


cdef inline product_t product_of(
    Py_ssize_t m,
    Py_ssize_t n,
    Py_ssize_t k,
    const real* a,
    Py_ssize_t a_row,
    Py_ssize_t a_col,
    const real* b,
    Py_ssize_t b_row,
    Py_ssize_t b_col,
    real* c,
    Py_ssize_t ldc,
    bint add,
) noexcept nogil:
    """c[i*ldc + j] (+)= Σ_k a[i*a_row + k*a_col] · b[k*b_row + j*b_col]; m, n, k >= 1."""
    cdef product_t p
    cdef Py_ssize_t square
    p.single = real is float
    p.add, p.chain, p.even, p.relu = add, False, False, False
    p.m, p.n, p.k = m, n, k
    p.a, p.a_row, p.a_col = a, a_row, a_col
    p.b, p.b_row, p.b_col, p.b_panel = b, b_row, b_col, tile_cols(b)
    p.c, p.ldc = <void*> c, ldc
    p.bias = p.context = NULL
    p.finish, p.begin, p.finish_cost = NULL, NULL, 0
    p.few = m < MR and a_col == 1 and b_col == 1
    p.in_place = a_col == 1 or (a_row == 1 and m <= A_COLUMN and k <= COLUMNS)
    p.mr, p.nr = MR, tile_cols(c)
    square = round_up(m, least_rows(c)) * (n // p.nr * p.nr + panel_width(n % p.nr, p.nr, c))
    p.tall = m > MR and (
        round_up(m, TALL // 2) * round_up(n, 2 * lanes(c)) < square - square // 32
    )
    if p.tall:
        p.mr, p.nr = TALL, 2 * lanes(c)
    p.a_tasks, p.panels = ceil_div(m, A_ROWS), ceil_div(n, p.nr)
    p.by_rows = p.alone = p.packed = False
    p.depth = block_depth(long_part(k))
    p.group = ceil_div(GRAIN, min(m, <Py_ssize_t> A_ROWS) * p.depth * p.nr)
    p.packed_a = p.packed_b = p.ready = NULL
    return p


cdef inline Py_ssize_t block_depth(Py_ssize_t k) noexcept nogil:
    """Depth of a block, if K is divided into about equal blocks of at most K_BLOCK."""
    return ceil_div(k, ceil_div(k, K_BLOCK))


cdef inline Py_ssize_t long_part(Py_ssize_t k) noexcept nogil:
    """Number of values of k whose sums are added in the dtype of C."""
    return ceil_div(k, ceil_div(k, LONG))


cdef inline bint is_long(product_t* p) noexcept nogil:
    return p.k > LONG and not p.chain


cdef inline void make_chain(product_t* p) noexcept nogil:
    """Sum over all of K in one chain. (Blocks, the default, are more accurate for large K.)"""
    p.chain, p.depth = True, p.k


cdef inline bint one_block(product_t* p) noexcept nogil:
    """Whether A is read in place, and has few rows."""
    return p.in_place and p.m <= A_ROWS


cdef inline bint packs_alone(product_t* p, int threads) noexcept nogil:
    """Whether each task packs its panels, and multiplies all rows of A by them."""
    cdef Py_ssize_t size = sizeof(float) if p.single else sizeof(double)
    cdef Py_ssize_t most = A_ALL // 2 if p.in_place and p.a_col == 1 else A_ALL
    return one_block(p) or (p.panels >= MANY * threads and p.m * p.depth * size <= most)


cdef inline int threads_for(product_t* p, int workers) noexcept nogil:
    cdef Py_ssize_t work = p.m * max(p.n, <Py_ssize_t> LANES_F32) * p.k  # of whole vectors
    if p.few:
        return 1 if p.n * p.k < FEW_SMALL else workers
    work += p.n * (p.m * p.finish_cost + MOVE * (p.m + p.k))
    return 1 if work < SMALL else workers


cdef inline size_t product_scratch(product_t* p, int workers) noexcept nogil:
    """Bytes of scratch memory that `product` needs."""
    cdef size_t size = sizeof(float) if p.single else sizeof(double)
    if not is_long(p):
        return _scratch(p, workers)
    return (
        aligned(p.m * p.n * sizeof(double)) + aligned(p.m * p.n * size) + _scratch(p, workers)
    )


cdef inline size_t _scratch(product_t* p, int workers) noexcept nogil:
    cdef Py_ssize_t size = sizeof(float) if p.single else sizeof(double)
    if p.few or p.ready != NULL:
        return 0
    return panels_size(p, threads_for(p, workers)) + (
        0 if p.in_place or p.packed else round_up(p.m, p.mr) * p.depth * size
    )


cdef inline size_t panels_size(product_t* p, int threads) noexcept nogil:
    """Bytes of the panels of B that are packed at a time."""
    cdef Py_ssize_t size = sizeof(float) if p.single else sizeof(double)
    cdef Py_ssize_t panels = threads * TOGETHER if packs_alone(p, threads) else p.panels
    return aligned(panels * p.nr * p.depth * size)


cdef inline void product(product_t* p, char* scratch, int workers) noexcept nogil:
    """Compute the product on up to `workers` threads."""
    if is_long(p):
        _long_product(p, scratch, workers)
    else:
        _product(p, scratch, workers)


cdef inline void _long_product(product_t* p, char* scratch, int workers) noexcept nogil:
    """C from parts of K, each a separate product, whose sums are added in double."""
    cdef Py_ssize_t size = sizeof(float) if p.single else sizeof(double)
    cdef Py_ssize_t k = 0, most = long_part(p.k), tasks = ceil_div(p.m, long_rows(p))
    cdef product_t part = p[0]
    p.totals = <double*> scratch
    scratch += aligned(p.m * p.n * sizeof(double))
    p.sums = part.c = scratch
    scratch += aligned(p.m * p.n * size)
    part.ldc, part.add, part.bias, part.finish, part.relu = p.n, False, NULL, NULL, False
    while k < p.k:
        part.k = min(most, p.k - k)
        part.a = <const char*> p.a + k * p.a_col * size
        part.b = <const char*> p.b + k * p.b_row * size
        _product(&part, scratch, workers)
        p.first, p.last = k == 0, k + part.k == p.k
        run(_long_task, p, tasks, workers)
        k += part.k


cdef inline Py_ssize_t long_rows(product_t* p) noexcept nogil:
    """Rows per task of `_long_task`."""
    return ceil_div(GRAIN, p.n)


cdef inline void _add_part(product_t* p, Py_ssize_t task, const real* _) noexcept nogil:
    """totals += sums; after the last part C = (start +) totals."""
    cdef Py_ssize_t i0 = task * long_rows(p), i1 = min(p.m, i0 + long_rows(p)), i, j
    cdef double* total
    cdef const real* sums
    cdef const real* start
    cdef real* c
    for i in range(i0, i1):
        total, sums = p.totals + i * p.n, <const real*> p.sums + i * p.n
        for j in range(p.n):
            total[j] = sums[j] if p.first else total[j] + sums[j]
        if not p.last:
            continue
        c = <real*> p.c + i * p.ldc
        start = c if p.add else <const real*> p.bias
        for j in range(p.n):
            c[j] = <real> (total[j] if start == NULL else start[j] + total[j])
    if p.last and p.finish != NULL:
        p.finish(p.context, i0, i1, 0, p.n)


cdef inline void _long_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef product_t* p = <product_t*> context
    if p.single:
        _add_part(p, task, <float*> NULL)
    else:
        _add_part(p, task, <double*> NULL)


cdef inline void _product(product_t* p, char* scratch, int workers) noexcept nogil:
    cdef Py_ssize_t size = sizeof(float) if p.single else sizeof(double), tasks, packing
    workers = threads_for(p, workers)
    if p.few:
        p.group = round_up(ceil_div(p.n, workers), p.nr)
        run(_few_task, p, ceil_div(p.n, p.group), workers)
        return
    p.alone = packs_alone(p, workers)
    if one_block(p) and p.m * p.k * size > A_BYTES:  # to read A as few times as possible
        p.group = ceil_div(p.panels, workers)
    p.parts, tasks = workers, ceil_div(p.panels, p.group)
    if p.alone:  # the last panels, if fewer than the threads, are divided by rows
        p.by_rows = p.by_rows and p.m > A_ROWS or p.n * p.k <= SMALL_B and p.m >= 4 * workers * MR
        p.own = 0 if p.by_rows else tasks // workers
        p.part_rows = round_up(ceil_div(p.m, workers), p.mr)
        tasks = (tasks - p.own * (workers - 1)) * workers
    else:
        tasks *= p.a_tasks
    p.packed_b = scratch
    if one_block(p):
        p.k0, p.k1 = 0, p.k
        run(multiply_task, p, tasks, workers)
        return
    if not p.packed:
        p.packed_a = scratch + panels_size(p, workers)
    packing = pack_tasks(p) + (0 if p.in_place or p.packed else p.a_tasks)
    p.k0 = 0
    while p.k0 < p.k:
        p.k1 = min(p.k, p.k0 + p.depth)
        if p.ready == NULL:
            run(pack_task, p, packing, workers)
        run(multiply_task, p, tasks, workers)
        p.k0 = p.k1


# ----------------------------------------------------------------------------------------- packing

cdef inline Py_ssize_t pack_tasks(product_t* p) noexcept nogil:
    """Number of tasks of `pack_task` that pack B."""
    return 0 if p.alone else ceil_div(p.panels, PACKED)


cdef inline void _pack(product_t* p, Py_ssize_t task, const real* _) noexcept nogil:
    """Pack the panels of B, PACKED per task, then the rows of A, A_ROWS per task."""
    cdef Py_ssize_t wide = PACKED * p.nr, depth = p.k1 - p.k0, at = task * wide
    if task < pack_tasks(p):
        pack_panels(
            <const real*> p.b + p.k0 * p.b_row + at * p.b_col, p.b_row, p.b_col, depth,
            min(wide, p.n - at), p.nr, p.even, <real*> p.packed_b + at * depth,
        )
    else:
        at = (task - pack_tasks(p)) * A_ROWS
        pack_rows(
            <const real*> p.a + p.k0 * p.a_col + at * p.a_row, p.a_row, p.a_col,
            min(<Py_ssize_t> A_ROWS, p.m - at), depth, p.mr, <real*> p.packed_a + at * depth,
        )


cdef inline void pack_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef product_t* p = <product_t*> context
    if p.single:
        _pack(p, task, <float*> NULL)
    else:
        _pack(p, task, <double*> NULL)


# ------------------------------------------------------------------------------------- multiplying

cdef inline void _multiply(
    product_t* p, Py_ssize_t task, int worker, const real* _
) noexcept nogil:
    cdef Py_ssize_t nr = p.nr, across = ceil_div(p.panels, p.group)
    cdef Py_ssize_t i0 = task // across * A_ROWS, i1 = min(p.m, i0 + A_ROWS)
    cdef Py_ssize_t s0 = task % across * p.group, s1, j, k, s, nth, cols, depth, part
    cdef Py_ssize_t rows, a_row, a_step, a_tile, start_row
    cdef const real* start
    cdef real* c
    cdef const real* a
    cdef real* panel
    # Whether the first tile packs a panel: it waits less for B than packing alone.
    cdef bint packing = False, begun = False, relu = False
    if p.alone:
        i0, i1, nth = 0, p.m, across - p.own * (p.parts - 1)  # tasks per thread
        part, nth = task // nth, task % nth
        s0 = (part * p.own + nth) * p.group
        if nth >= p.own:
            s0 = (p.parts * p.own + nth - p.own) * p.group
            i0 = part * p.part_rows
            i1 = min(p.m, i0 + p.part_rows)
    if i0 >= i1:
        return
    if real is float:
        packing = p.begin != NULL and p.in_place and not p.tall and p.b_col == 1 and i1 - i0 >= MR
    s1 = min(p.panels, s0 + p.group)
    k = p.k0
    while k < p.k1:
        depth = min(p.depth, p.k1 - k)
        for s in range(s0, s1):
            j = s * nr
            cols = min(nr, p.n - j)
            if p.ready != NULL:
                panel = <real*> p.ready + k * p.panels * nr + j * depth
            elif p.alone:
                nth = (s - s0) % TOGETHER
                panel = <real*> p.packed_b + (worker * TOGETHER * p.depth + nth * depth) * nr
                begun = packing and cols == nr
                if not begun and (nth == 0 or packing):
                    pack_panels(
                        <const real*> p.b + k * p.b_row + j * p.b_col, p.b_row, p.b_col, depth,
                        cols if packing else min(min(s + TOGETHER, s1) * nr, p.n) - j, nr, False,
                        panel,
                    )
            else:
                panel = <real*> p.packed_b + j * depth
            if p.in_place:
                a = <const real*> p.a + i0 * p.a_row + k * p.a_col
                a_row, a_step, a_tile = p.a_row, p.a_col, p.mr * p.a_row
            elif p.packed:
                a = <const real*> p.packed_a + i0 * p.k + k * p.mr
                a_row, a_step, a_tile = 1, p.mr, p.mr * p.k
            else:
                a = <const real*> p.packed_a + i0 * depth
                a_row, a_step, a_tile = 1, p.mr, p.mr * depth
            c = <real*> p.c + i0 * p.ldc + j
            start, start_row = c, p.ldc
            if k == 0 and not p.add:
                start, start_row = NULL if p.bias == NULL else <const real*> p.bias + j, 0
            rows, relu = i1 - i0, real is float and p.relu and k + depth == p.k
            if real is float and begun:
                p.begin(
                    depth, a, a_row, a_step, <const real*> p.b + k * p.b_row + j, p.b_row, panel,
                    c, p.ldc, start, start_row, relu,
                )
                a, c, rows = a + a_tile, c + MR * p.ldc, rows - MR
                start += MR * start_row
            times_panel(
                p.tall, rows, cols, depth, a, a_row, a_step, a_tile, panel, c, p.ldc, start,
                start_row, relu,
            )
        k += depth
    if p.finish != NULL and k == p.k and not relu:
        p.finish(p.context, i0, i1, s0 * nr, min(p.n, s1 * nr))


cdef inline void multiply_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef product_t* p = <product_t*> context
    if p.single:
        _multiply(p, task, worker, <float*> NULL)
    else:
        _multiply(p, task, worker, <double*> NULL)


cdef inline void _few_sums(
    product_t* p, Py_ssize_t j, Py_ssize_t j1, Py_ssize_t k0, Py_ssize_t depth, real* c,
    Py_ssize_t ldc,
) noexcept nogil:
    """c[:, j:j1] = Σ_k a b[:, j:j1] over one block of k; or +=, if a chain continues from C."""
    cdef Py_ssize_t i, k = 0
    while k < depth:
        for i in range(p.m):
            row_times_columns(
                p.n, j, j1, min(depth - k, <Py_ssize_t> FEW_DEPTH),
                <const real*> p.a + i * p.a_row + k0 + k, <const real*> p.b + (k0 + k) * p.b_row,
                p.b_row, p.b_panel, c + i * ldc, k > 0 or p.add and p.chain,
            )
        k += FEW_DEPTH


ctypedef void (*few_f32)(
    product_t*, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, float*, Py_ssize_t
) noexcept nogil
ctypedef void (*few_f64)(
    product_t*, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, double*, Py_ssize_t
) noexcept nogil


cdef inline void few_sums(
    product_t* p, Py_ssize_t j, Py_ssize_t j1, Py_ssize_t k0, Py_ssize_t depth, real* c,
    Py_ssize_t ldc,
) noexcept nogil:
    """`_few_sums`, compiled once for all callers."""
    if real is float:
        (<few_f32> opaque(<void*> &_few_sums[float]))(p, j, j1, k0, depth, c, ldc)
    else:
        (<few_f64> opaque(<void*> &_few_sums[double]))(p, j, j1, k0, depth, c, ldc)


cdef inline void _add_few(
    product_t* p, Py_ssize_t j0, Py_ssize_t j1, bint begun, const real* sums
) noexcept nogil:
    """The sums of a block, added to C."""
    cdef Py_ssize_t i, j
    cdef real* c
    cdef const real* start
    for i in range(p.m):
        c, start = <real*> p.c + i * p.ldc, <const real*> p.bias
        if begun or p.add:
            start = c
        if start == NULL:
            memcpy(c + j0, sums + j0, (j1 - j0) * sizeof(real))
        else:
            for j in range(j0, j1):
                c[j] = start[j] + sums[j]
        sums += FEW_COLUMNS


cdef inline void _few_columns(product_t* p, Py_ssize_t task, const real* _) noexcept nogil:
    """Some columns of C, row by row."""
    cdef real sums[MR * FEW_COLUMNS]
    cdef Py_ssize_t j = task * p.group, j1, end = min(p.n, j + p.group), k, depth
    cdef real* c
    while j < end:
        j1 = min(end, j + (FEW_COLUMNS if not p.chain else end))
        c = <real*> p.c if p.chain else sums - j
        k = 0
        while k < p.k:
            depth = min(p.depth, p.k - k)
            few_sums(p, j, j1, k, depth, c, p.ldc if p.chain else FEW_COLUMNS)
            if not p.chain:
                _add_few(p, j, j1, k > 0, c)
            k += depth
        j = j1
    if p.finish != NULL:
        p.finish(p.context, 0, p.m, task * p.group, end)


cdef inline void _few_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef product_t* p = <product_t*> context
    if p.single:
        _few_columns(p, task, <float*> NULL)
    else:
        _few_columns(p, task, <double*> NULL)
