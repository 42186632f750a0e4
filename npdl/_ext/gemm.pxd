"""The register tile, and the matrix product that is made of it.

The tile computes MR x NR numbers of C, each a sum over k, and keeps them in registers:

                    b   row k: NR numbers (NV vectors)
                  +-----------+
        a col k   |           |      for k:  load the NV vectors b[k]
        MR        | acc[i][j] |              for i:  acc[i] += a[i,k] * b[k]
        numbers   |           |
                  +-----------+

It reads a and b at the rate it works only if they lie in the order it wants them, so `product` first
*packs* a block of K_BLOCK values of k: A into tiles of MR rows, B into panels of NR columns, each
padded with zeros. Every element of C is then summed in the order of k, whatever the number of
threads, so that number never changes a bit of the result.

After Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34 (2008).
"""

from libc.string cimport memset, memcpy
from npdl._ext.simd cimport LANES_F32, LANES_F64, MR, NV, f32v, f64v, real
from npdl._ext.threads cimport max_workers, run

ctypedef fused vec:
    f32v
    f64v

cdef enum:
    K_BLOCK = 256  # a panel of B (24 kB) stays in the level-1 cache
    A_TILES = 24  # of A to a task: about 96 kB, which stay in the level-2 cache
    PANELS = 4  # of B to a task
    MAX_NR = 64  # bound of NR over all builds
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


cdef inline void _tile(
    Py_ssize_t depth,
    const real* a,
    const Py_ssize_t* a_at,
    const real* b,
    const Py_ssize_t* b_at,
    real* c,
    Py_ssize_t ldc,
    bint add,
    vec* _,
) noexcept nogil:
    cdef vec acc[MR][NV]
    cdef vec row[NV]
    cdef const vec* b_row
    cdef vec* c_row
    cdef real a_ik
    cdef Py_ssize_t i, j, k
    memset(acc, 0, sizeof(acc))
    for k in range(depth):
        b_row = <const vec*> (b + (k * tile_cols(b) if b_at == NULL else b_at[k]))
        for j in range(NV):
            row[j] = b_row[j]
        for i in range(MR):
            a_ik = a[k * MR + i] if a_at == NULL else a[a_at[i] + k]
            for j in range(NV):
                if (real is float and vec is f32v) or (real is double and vec is f64v):
                    acc[i][j] = acc[i][j] + a_ik * row[j]
    for i in range(MR):
        c_row = <vec*> (c + i * ldc)
        for j in range(NV):
            if add:
                c_row[j] = c_row[j] + acc[i][j]
            else:
                c_row[j] = acc[i][j]


cdef inline void tile(
    Py_ssize_t depth,
    const real* a,
    const Py_ssize_t* a_at,
    const real* b,
    const Py_ssize_t* b_at,
    real* c,
    Py_ssize_t ldc,
    bint add,
) noexcept nogil:
    """c[i,j] (+)= Σ_k a[i,k] b[k,j]  for all MR x NR of the tile.

    a[i,k] is ``a[k*MR + i]`` (packed), or ``a[a_at[i] + k]``; row k of b starts at ``b[k*NR]``
    (packed), or at ``b[b_at[k]]``.
    """
    if real is float:
        _tile(depth, a, a_at, b, b_at, c, ldc, add, <f32v*> NULL)
    else:
        _tile(depth, a, a_at, b, b_at, c, ldc, add, <f64v*> NULL)


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
    const real* b,
    real* c,
    Py_ssize_t ldc,
    Py_ssize_t rows,
    Py_ssize_t cols,
    bint add,
) noexcept nogil:
    """`tile` of packed operands where only rows x cols of it lie inside C."""
    cdef real out[MR * MAX_NR]
    cdef Py_ssize_t nr = tile_cols(c)
    if rows == MR and cols == nr:
        tile(depth, a, NULL, b, NULL, c, ldc, add)
    else:
        tile(depth, a, NULL, b, NULL, out, nr, False)
        store(out, c, ldc, rows, cols, add)


cdef inline void pack(
    const real* a,
    Py_ssize_t step,
    Py_ssize_t step_k,
    Py_ssize_t count,
    Py_ssize_t depth,
    Py_ssize_t width,
    real* out,
) noexcept nogil:
    """out[k, i] = a[i*step + k*step_k] for i < count, 0 for count <= i < width."""
    cdef Py_ssize_t i, k
    if count < width:
        memset(out, 0, depth * width * sizeof(real))
    if step == 1:
        for k in range(depth):
            for i in range(count):
                out[k * width + i] = a[k * step_k + i]
    else:
        for i in range(count):
            for k in range(depth):
                out[k * width + i] = a[i * step + k * step_k]


# ---------------------------------------------------------------------------------------------------
# C (M x N)  (+)=  A (M x K) · B (K x N), each operand with any two strides

ctypedef struct product_t:
    bint single  # float32
    bint add
    Py_ssize_t m, n, k
    void* a  # a[i*a_row + k*a_col]
    Py_ssize_t a_row, a_col
    void* b
    Py_ssize_t b_row, b_col
    void* c  # c[i*ldc + j]
    Py_ssize_t ldc
    # of the block that is worked on
    Py_ssize_t k0, depth
    void* packed_a
    void* packed_b


cdef inline size_t product_scratch(Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const real* p) noexcept nogil:
    """Bytes of scratch that `product` needs."""
    cdef Py_ssize_t depth = k if k < K_BLOCK else K_BLOCK
    return (round_up(m, MR) + round_up(n, tile_cols(p))) * depth * sizeof(real) + 64


cdef inline void _pack_block(product_t* p, Py_ssize_t task, real* _) noexcept nogil:
    """Tasks: the panels of B, PANELS at a time, then the tiles of A, A_TILES at a time."""
    cdef Py_ssize_t nr = tile_cols(_), i, t
    cdef Py_ssize_t b_tasks = ceil_div(ceil_div(p.n, nr), PANELS)
    cdef const real* a = <const real*> p.a + p.k0 * p.a_col
    cdef const real* b = <const real*> p.b + p.k0 * p.b_row
    if task < b_tasks:
        for t in range(task * PANELS, min(ceil_div(p.n, nr), (task + 1) * PANELS)):
            i = t * nr
            pack(
                b + i * p.b_col, p.b_col, p.b_row, min(nr, p.n - i), p.depth, nr,
                <real*> p.packed_b + i * p.depth,
            )
    else:
        task -= b_tasks
        for t in range(task * A_TILES, min(ceil_div(p.m, MR), (task + 1) * A_TILES)):
            i = t * MR
            pack(
                a + i * p.a_row, p.a_row, p.a_col, min(<Py_ssize_t> MR, p.m - i), p.depth, MR,
                <real*> p.packed_a + i * p.depth,
            )


cdef inline void _multiply_block(product_t* p, Py_ssize_t task, real* _) noexcept nogil:
    """Tasks: A_TILES tiles by PANELS panels of C."""
    cdef Py_ssize_t nr = tile_cols(_), i, j, s, t
    cdef Py_ssize_t tiles = ceil_div(p.m, MR), panels = ceil_div(p.n, nr)
    cdef Py_ssize_t across = ceil_div(panels, PANELS)
    cdef Py_ssize_t t0 = task // across * A_TILES, s0 = task % across * PANELS
    cdef const real* a = <const real*> p.packed_a
    cdef const real* b = <const real*> p.packed_b
    for s in range(s0, min(panels, s0 + PANELS)):
        j = s * nr
        for t in range(t0, min(tiles, t0 + A_TILES)):
            i = t * MR
            edge_tile(
                p.depth, a + i * p.depth, b + j * p.depth,
                <real*> p.c + i * p.ldc + j, p.ldc,
                min(<Py_ssize_t> MR, p.m - i), min(nr, p.n - j), p.add or p.k0 > 0,
            )


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
    """c[i*ldc + j] (+)= Σ_k a[i*a_row + k*a_col] · b[k*b_row + j*b_col]."""
    cdef product_t p
    cdef Py_ssize_t i, nr = tile_cols(c), blocks = ceil_div(k, K_BLOCK), depth
    cdef Py_ssize_t b_tasks = ceil_div(ceil_div(n, nr), PANELS), a_tasks = ceil_div(ceil_div(m, MR), A_TILES)
    if k == 0 and not add:
        for i in range(m):
            memset(c + i * ldc, 0, n * sizeof(real))
    if m == 0 or n == 0 or k == 0:
        return
    p.single = real is float
    p.add = add
    p.m, p.n, p.k = m, n, k
    p.a, p.a_row, p.a_col = <void*> a, a_row, a_col
    p.b, p.b_row, p.b_col = <void*> b, b_row, b_col
    p.c, p.ldc = <void*> c, ldc
    depth = ceil_div(k, blocks)  # blocks of about equal depth
    p.packed_b = <void*> scratch
    p.packed_a = <void*> (<real*> scratch + round_up(n, nr) * depth)
    p.k0 = 0
    while p.k0 < k:
        p.depth = min(depth, k - p.k0)
        if m * n * k < SMALL:
            for i in range(a_tasks + b_tasks):
                _pack_task(&p, i, 0)
            for i in range(a_tasks * b_tasks):
                _multiply_task(&p, i, 0)
        else:
            run(_pack_task, &p, a_tasks + b_tasks, max_workers())
            run(_multiply_task, &p, a_tasks * b_tasks, max_workers())
        p.k0 += p.depth
