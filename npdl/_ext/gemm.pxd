"""The register tiles, and the matrix product that is made of them.

A tile computes MR x NR numbers, each a sum over k, and keeps them in registers:

                    b   row k: NR numbers (NV vectors)
                  +-----------+
        a col k   |           |      for k:  load the NV vectors of b[k]
        MR        | acc[i][j] |              for i:  acc[i] += a[i,k] * b[k]
        numbers   |           |
                  +-----------+

Where row i of a, row k of b and vector j of that row start, it reads from three short tables; so
one tile serves a matrix, the states of many sequences and the shifted pixels of an image. `product`
first *packs* K_BLOCK values of k, A by rows and B into panels of NR columns, so that the tile reads
both in the order in which they lie. Every element of C is summed in the order of k, whatever the
number of threads, so that number never changes a bit of the result.

After Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34, 2008.
"""

from libc.string cimport memset, memcpy
from npdl._ext.simd cimport LANES_F32, LANES_F64, MR, NV, f32v, f64v, opaque, real
from npdl._ext.threads cimport max_workers, run

ctypedef fused vec:
    f32v
    f64v

cdef enum:
    K_BLOCK = 256  # a panel of B (24 kB) stays in the level-1 cache
    A_ROWS = 96  # of A to a task: 96 kB, which stay in the level-2 cache
    PANELS = 4  # of B to a task
    MAX_NR = 64  # bound of NR over all builds
    FEW_COLS = 128  # columns to a task of `few_rows`
    FEW_SMALL = 40000  # numbers of b below which it runs by itself
    SMALL = 500000  # multiply-adds below which a second thread doesn't pay


cdef inline Py_ssize_t tile_cols(const real* _) noexcept nogil:
    """NR: columns of the register tile."""
    if real is float:
        return NV * LANES_F32
    else:
        return NV * LANES_F64


cdef inline Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline Py_ssize_t round_up(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return ceil_div(a, b) * b


cdef inline Py_ssize_t lanes(const real* _) noexcept nogil:
    """Numbers in a vector."""
    if real is float:
        return LANES_F32
    else:
        return LANES_F64


cdef inline void _tile(
    Py_ssize_t depth,
    const real* a,
    const Py_ssize_t* a_at,
    const real* b,
    const Py_ssize_t* b_row,
    const Py_ssize_t* b_at,
    real* c,
    Py_ssize_t ldc,
    bint add,
    vec* _,
) noexcept nogil:
    cdef vec acc[MR][NV]
    cdef vec row[NV]
    cdef vec zero
    cdef vec* c_i
    cdef real a_ik
    cdef Py_ssize_t i, j, k
    memset(&zero, 0, sizeof(zero))
    for i in range(MR):
        for j in range(NV):
            acc[i][j] = zero
    for k in range(depth):
        for j in range(NV):
            row[j] = (<const vec*> (b + b_row[k] + b_at[j]))[0]
        for i in range(MR):
            a_ik = a[a_at[i] + k]
            for j in range(NV):
                if (real is float and vec is f32v) or (real is double and vec is f64v):
                    acc[i][j] = acc[i][j] + a_ik * row[j]
    for i in range(MR):
        c_i = <vec*> (c + i * ldc)
        for j in range(NV):
            if add:
                c_i[j] = c_i[j] + acc[i][j]
            else:
                c_i[j] = acc[i][j]


ctypedef void (*tile_f32)(
    Py_ssize_t, const float*, const Py_ssize_t*, const float*, const Py_ssize_t*,
    const Py_ssize_t*, float*, Py_ssize_t, bint, f32v*
) noexcept nogil
ctypedef void (*tile_f64)(
    Py_ssize_t, const double*, const Py_ssize_t*, const double*, const Py_ssize_t*,
    const Py_ssize_t*, double*, Py_ssize_t, bint, f64v*
) noexcept nogil


cdef inline void tile(
    Py_ssize_t depth,
    const real* a,
    const Py_ssize_t* a_at,
    const real* b,
    const Py_ssize_t* b_row,
    const Py_ssize_t* b_at,
    real* c,
    Py_ssize_t ldc,
    bint add,
) noexcept nogil:
    """c[i*ldc + j*LANES + l] (+)= Σ_k a[a_at[i] + k] · b[b_row[k] + b_at[j] + l].

    For all MR x NV vectors of the tile, l being the lane. Reads and writes whole vectors.
    """
    if real is float:
        (<tile_f32> opaque(<void*> &_tile[float, f32v]))(
            depth, a, a_at, b, b_row, b_at, c, ldc, add, NULL
        )
    else:
        (<tile_f64> opaque(<void*> &_tile[double, f64v]))(
            depth, a, a_at, b, b_row, b_at, c, ldc, add, NULL
        )


cdef inline void _dot_tile(
    Py_ssize_t count,
    Py_ssize_t span,
    const real* a,
    Py_ssize_t a_row,
    Py_ssize_t a_step,
    const real* b,
    const Py_ssize_t* b_at,
    Py_ssize_t b_step,
    real* c,
    Py_ssize_t ldc,
    vec* _,
) noexcept nogil:
    cdef vec acc[MR][NV]
    cdef vec row[NV]
    cdef vec a_i
    cdef vec parts[MR * NV]
    cdef real* numbers
    cdef Py_ssize_t i, j, _n, q, half
    memset(&a_i, 0, sizeof(a_i))
    for i in range(MR):
        for j in range(NV):
            acc[i][j] = a_i
    for _n in range(count):
        q = 0
        while q < span:
            for j in range(NV):
                row[j] = (<const vec*> (b + b_at[j] + q))[0]
            for i in range(MR):
                a_i = (<const vec*> (a + i * a_row + q))[0]
                for j in range(NV):
                    if (real is float and vec is f32v) or (real is double and vec is f64v):
                        acc[i][j] = acc[i][j] + a_i * row[j]
            q += lanes(a)
        a += a_step
        b += b_step
    for i in range(MR):
        for j in range(NV):
            parts[i * NV + j] = acc[i][j]
    numbers = <real*> parts
    half = lanes(a)
    while half > 1:  # add the upper half of every vector to its lower half
        half //= 2
        for i in range(MR * NV):
            for q in range(half):
                numbers[i * lanes(a) + q] += numbers[i * lanes(a) + half + q]
    for i in range(MR):
        for j in range(NV):
            c[i * ldc + j] += numbers[(i * NV + j) * lanes(a)]


ctypedef void (*dot_f32)(
    Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, const float*,
    const Py_ssize_t*, Py_ssize_t, float*, Py_ssize_t, f32v*
) noexcept nogil
ctypedef void (*dot_f64)(
    Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, Py_ssize_t, const double*,
    const Py_ssize_t*, Py_ssize_t, double*, Py_ssize_t, f64v*
) noexcept nogil


cdef inline void dot_tile(
    Py_ssize_t count,
    Py_ssize_t span,
    const real* a,
    Py_ssize_t a_row,
    Py_ssize_t a_step,
    const real* b,
    const Py_ssize_t* b_at,
    Py_ssize_t b_step,
    real* c,
    Py_ssize_t ldc,
) noexcept nogil:
    """c[i,j] += Σ_{n,q} a[n*a_step + i*a_row + q] · b[n*b_step + b_at[j] + q]  for MR x NV numbers.

    Here the lanes of a vector are terms of one sum; `span`, the bound of q, is a multiple of them.
    """
    if real is float:
        (<dot_f32> opaque(<void*> &_dot_tile[float, f32v]))(
            count, span, a, a_row, a_step, b, b_at, b_step, c, ldc, NULL
        )
    else:
        (<dot_f64> opaque(<void*> &_dot_tile[double, f64v]))(
            count, span, a, a_row, a_step, b, b_at, b_step, c, ldc, NULL
        )


cdef inline void store(
    const real* tile_out, real* c, Py_ssize_t ldc, Py_ssize_t rows, Py_ssize_t cols, bint add
) noexcept nogil:
    """The part of a tile that lies inside C: c (+)= tile_out[:rows, :cols]."""
    cdef Py_ssize_t i, j, nr = tile_cols(c)
    for i in range(rows):
        for j in range(cols):
            if add:
                c[i * ldc + j] += tile_out[i * nr + j]
            else:
                c[i * ldc + j] = tile_out[i * nr + j]


cdef inline void edge_tile(
    Py_ssize_t depth,
    const real* a,
    Py_ssize_t a_row,
    const real* b,
    const Py_ssize_t* b_row,
    const Py_ssize_t* b_at,
    real* c,
    Py_ssize_t ldc,
    Py_ssize_t rows,
    Py_ssize_t cols,
    bint add,
) noexcept nogil:
    """A tile of which rows x cols lie inside C; row i of a starts at a[i*a_row]."""
    cdef real out[MR * MAX_NR]
    cdef Py_ssize_t a_at[MR]
    cdef Py_ssize_t i
    for i in range(MR):
        a_at[i] = (i if i < rows else rows - 1) * a_row  # a short tile repeats its last row
    if rows == MR and cols == tile_cols(c):
        tile(depth, a, a_at, b, b_row, b_at, c, ldc, add)
    else:
        tile(depth, a, a_at, b, b_row, b_at, out, tile_cols(c), False)
        store(out, c, ldc, rows, cols, add)


cdef inline Py_ssize_t block_depth(Py_ssize_t depth) noexcept nogil:
    """Depth of a block when K is cut into about equal ones of at most K_BLOCK."""
    return ceil_div(depth, ceil_div(depth, K_BLOCK))


cdef inline void panel_tables(Py_ssize_t* b_row, Py_ssize_t* b_at, const real* _) noexcept nogil:
    """Where the rows of a packed panel start, K_BLOCK of them, and their NV vectors."""
    cdef Py_ssize_t k
    for k in range(K_BLOCK):
        b_row[k] = k * tile_cols(_)
    for k in range(NV):
        b_at[k] = k * lanes(_)


cdef inline void pack_panel(
    const real* b,
    Py_ssize_t b_row,
    Py_ssize_t b_col,
    Py_ssize_t depth,
    Py_ssize_t cols,
    real* out,
) noexcept nogil:
    """out[k, j] = b[k*b_row + j*b_col] for j < cols, and 0 up to NR."""
    cdef Py_ssize_t nr = tile_cols(out), j, k
    if cols < nr:
        memset(out, 0, depth * nr * sizeof(real))
    if b_col == 1:
        for k in range(depth):
            if cols == nr:
                for j in range(tile_cols(out)):
                    out[k * nr + j] = b[k * b_row + j]
            else:
                for j in range(cols):
                    out[k * nr + j] = b[k * b_row + j]
    else:
        for j in range(cols):
            for k in range(depth):
                out[k * nr + j] = b[k * b_row + j * b_col]


cdef inline void pack_rows(
    const real* a,
    Py_ssize_t a_row,
    Py_ssize_t a_col,
    Py_ssize_t rows,
    Py_ssize_t depth,
    real* out,
) noexcept nogil:
    """out[i, k] = a[i*a_row + k*a_col]."""
    cdef Py_ssize_t i, k
    if a_col == 1:
        for i in range(rows):
            memcpy(out + i * depth, a + i * a_row, depth * sizeof(real))
    else:
        for k in range(depth):
            for i in range(rows):
                out[i * depth + k] = a[i * a_row + k * a_col]


# ---------------------------------------------------------------------------------------------------
# C (M x N)  (+)=  A (M x K) · B (K x N), each operand with any two strides

ctypedef struct product_t:
    bint single  # float32
    bint add
    Py_ssize_t m, n, k
    const void* a  # a[i*a_row + k*a_col]
    Py_ssize_t a_row, a_col
    const void* b
    Py_ssize_t b_row, b_col
    void* c  # c[i*ldc + j]
    Py_ssize_t ldc
    # of the block that is worked on
    Py_ssize_t k0, depth
    void* packed_a
    void* packed_b
    Py_ssize_t row_table[K_BLOCK]
    Py_ssize_t at_table[NV]


cdef inline size_t product_scratch(
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const real* _
) noexcept nogil:
    """Bytes of scratch that `product` needs."""
    cdef Py_ssize_t depth = k if k < K_BLOCK else K_BLOCK
    return ((m + round_up(n, tile_cols(_))) * depth * sizeof(real) + 127) // 64 * 64


cdef inline void _pack_block(product_t* p, Py_ssize_t task, const real* _) noexcept nogil:
    """Tasks: the panels of B, PANELS at a time, then the rows of A, A_ROWS at a time."""
    cdef Py_ssize_t nr = tile_cols(_), panels = ceil_div(p.n, nr), i, s
    cdef Py_ssize_t b_tasks = ceil_div(panels, PANELS)
    cdef const real* a = <const real*> p.a + p.k0 * p.a_col
    cdef const real* b = <const real*> p.b + p.k0 * p.b_row
    if task < b_tasks:
        for s in range(task * PANELS, min(panels, (task + 1) * PANELS)):
            i = s * nr
            pack_panel(
                b + i * p.b_col, p.b_row, p.b_col, p.depth, min(nr, p.n - i),
                <real*> p.packed_b + i * p.depth,
            )
    else:
        i = (task - b_tasks) * A_ROWS
        pack_rows(
            a + i * p.a_row, p.a_row, p.a_col, min(<Py_ssize_t> A_ROWS, p.m - i), p.depth,
            <real*> p.packed_a + i * p.depth,
        )


cdef inline void _multiply_block(product_t* p, Py_ssize_t task, const real* _) noexcept nogil:
    """Tasks: A_ROWS rows by PANELS panels of C."""
    cdef Py_ssize_t nr = tile_cols(_), panels = ceil_div(p.n, nr), i, j, s
    cdef Py_ssize_t across = ceil_div(panels, PANELS)
    cdef Py_ssize_t i0 = task // across * A_ROWS, s0 = task % across * PANELS
    cdef const real* a = <const real*> p.packed_a
    cdef const real* b = <const real*> p.packed_b
    for s in range(s0, min(panels, s0 + PANELS)):
        j = s * nr
        i = i0
        while i < min(p.m, i0 + A_ROWS):
            edge_tile(
                p.depth, a + i * p.depth, p.depth, b + j * p.depth, p.row_table, p.at_table,
                <real*> p.c + i * p.ldc + j, p.ldc,
                min(<Py_ssize_t> MR, p.m - i), min(nr, p.n - j), p.add or p.k0 > 0,
            )
            i += MR


cdef inline void _pack_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef product_t* p = <product_t*> context
    if p.single:
        _pack_block(p, task, <float*> NULL)
    else:
        _pack_block(p, task, <double*> NULL)


cdef inline void _multiply_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef product_t* p = <product_t*> context
    if p.single:
        _multiply_block(p, task, <float*> NULL)
    else:
        _multiply_block(p, task, <double*> NULL)


cdef inline void few_rows(
    Py_ssize_t m,
    Py_ssize_t n,
    Py_ssize_t k,
    const real* a,
    Py_ssize_t a_row,
    const real* b,
    Py_ssize_t b_row,
    real* c,
    Py_ssize_t ldc,
    bint add,
) noexcept nogil:
    """c[i*ldc + j] (+)= Σ_q a[i*a_row + q] · b[q*b_row + j], by whole rows of b.

    For a few rows of a: to pack b would cost more than the product. The columns are shared.
    """
    cdef product_t p
    p.single = real is float
    p.add = add
    p.m, p.n, p.k = m, n, k
    p.a, p.a_row, p.b, p.b_row, p.c, p.ldc = a, a_row, b, b_row, <void*> c, ldc
    run(_few_task, &p, ceil_div(n, FEW_COLS), 1 if n * k < FEW_SMALL else max_workers())


cdef inline void _few_columns(product_t* p, Py_ssize_t task, const real* _) noexcept nogil:
    cdef Py_ssize_t j0 = task * FEW_COLS, count = min(<Py_ssize_t> FEW_COLS, p.n - j0), i, j, q
    cdef Py_ssize_t step = p.b_row
    cdef const real* a
    cdef const real* b
    cdef real* c
    cdef real a0, a1, a2, a3
    for i in range(p.m):
        a, c = <const real*> p.a + i * p.a_row, <real*> p.c + i * p.ldc + j0
        if not p.add:
            memset(c, 0, count * sizeof(real))
        q = 0
        while q + 4 <= p.k:
            a0, a1, a2, a3 = a[q], a[q + 1], a[q + 2], a[q + 3]
            b = <const real*> p.b + q * step + j0
            for j in range(count):
                c[j] += a0 * b[j] + a1 * b[step + j] + a2 * b[2 * step + j] + a3 * b[3 * step + j]
            q += 4
        while q < p.k:
            a0, b = a[q], <const real*> p.b + q * step + j0
            for j in range(count):
                c[j] += a0 * b[j]
            q += 1


cdef inline void _few_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef product_t* p = <product_t*> context
    if p.single:
        _few_columns(p, task, <float*> NULL)
    else:
        _few_columns(p, task, <double*> NULL)


cdef inline void product(
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
    char* scratch,
) noexcept nogil:
    """c[i*ldc + j] (+)= Σ_k a[i*a_row + k*a_col] · b[k*b_row + j*b_col]; m, n, k >= 1."""
    cdef product_t p
    cdef Py_ssize_t nr = tile_cols(c), depth = block_depth(k)
    cdef Py_ssize_t b_tasks = ceil_div(ceil_div(n, nr), PANELS), a_tasks = ceil_div(m, A_ROWS)
    cdef int workers = 1 if m * n * k < SMALL else max_workers()
    if m < MR and a_col == 1 and b_col == 1:
        few_rows(m, n, k, a, a_row, b, b_row, c, ldc, add)
        return
    p.single = real is float
    p.add = add
    p.m, p.n, p.k = m, n, k
    p.a, p.a_row, p.a_col = a, a_row, a_col
    p.b, p.b_row, p.b_col = b, b_row, b_col
    p.c, p.ldc = <void*> c, ldc
    p.packed_b = <void*> scratch
    p.packed_a = <void*> (<real*> scratch + round_up(n, nr) * depth)
    panel_tables(p.row_table, p.at_table, c)
    p.k0 = 0
    while p.k0 < k:
        p.depth = min(depth, k - p.k0)
        run(_pack_task, &p, a_tasks + b_tasks, workers)
        run(_multiply_task, &p, a_tasks * b_tasks, workers)
        p.k0 += p.depth
