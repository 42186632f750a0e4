"""Optimizer steps, each in one pass over its arrays. Contract: ``optimizer_np.py``."""

from libc.math cimport sqrt, sqrtf
from npdl._ext.arrays cimport OUT, REAL, array, array_t, call_t
from npdl._ext.simd cimport fma, real
from npdl._ext.steps cimport recorded
from npdl._ext.threads cimport max_workers, run

cdef enum:
    CHUNK = 16384  # elements per task

cdef enum:
    SGD
    MOMENTUM
    NESTEROV
    ADAGRAD
    RMSPROP
    ADADELTA
    ADAM
    ADAMAX


ctypedef struct step_t:
    call_t call
    bint single
    int kind
    Py_ssize_t n
    void* p
    const void* g
    void* r  # the optimizer's state: first and second array
    void* s
    double lr, keep1, keep2, epsilon, unbias1, unbias2


cdef inline real _root(real x) noexcept nogil:
    if real is float:
        return sqrtf(x)
    else:
        return sqrt(x)


cdef inline void _step(step_t* j, Py_ssize_t at, Py_ssize_t n, const real* _) noexcept nogil:
    cdef real* p = <real*> j.p + at
    cdef const real* g = <const real*> j.g + at
    cdef real* r = <real*> j.r + at
    cdef real* s = <real*> j.s + at
    cdef real keep1 = <real> j.keep1, new1 = <real> (1 - j.keep1)
    cdef real keep2 = <real> j.keep2, new2 = <real> (1 - j.keep2)
    cdef real lr = <real> j.lr, minus_lr = -lr, epsilon = <real> j.epsilon, zero = 0
    cdef real rate = <real> (j.lr / j.unbias1), unbias2 = <real> (1 / j.unbias2), u, most
    cdef Py_ssize_t i
    if j.kind == SGD:
        for i in range(n):
            p[i] -= lr * g[i]
    elif j.kind == MOMENTUM:
        for i in range(n):
            r[i] = fma(minus_lr, g[i], keep1 * r[i])
            p[i] += r[i]
    elif j.kind == NESTEROV:
        for i in range(n):
            r[i] = fma(minus_lr, g[i], keep1 * r[i])
            p[i] += fma(minus_lr, g[i], keep1 * r[i])
    elif j.kind == ADAGRAD:
        for i in range(n):
            r[i] = fma(g[i], g[i], r[i])
            p[i] -= lr * g[i] / _root(r[i] + epsilon)
    elif j.kind == RMSPROP:
        for i in range(n):
            r[i] = fma(new1, g[i] * g[i], keep1 * r[i])
            p[i] -= lr * g[i] / _root(r[i] + epsilon)
    elif j.kind == ADADELTA:
        for i in range(n):
            r[i] = fma(new1, g[i] * g[i], keep1 * r[i])
            u = g[i] * _root((s[i] + epsilon) / (r[i] + epsilon))
            p[i] -= lr * u
            s[i] = fma(new1, u * u, keep1 * s[i])
    elif j.kind == ADAM:
        for i in range(n):
            r[i] = fma(new1, g[i], keep1 * r[i])
            s[i] = fma(new2, g[i] * g[i], keep2 * s[i])
            p[i] -= rate * r[i] / (_root(s[i] * unbias2) + epsilon)
    else:
        for i in range(n):
            r[i] = fma(new1, g[i], keep1 * r[i])
            u = -g[i] if g[i] < zero else g[i]
            most = keep2 * s[i]
            most = u if u > most else most  # two selections, which can be vectorised
            s[i] = u if u != u else most
            p[i] -= rate * r[i] / (s[i] + epsilon)


cdef void _task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef step_t* j = <step_t*> context
    cdef Py_ssize_t at = task * CHUNK, n = min(<Py_ssize_t> CHUNK, j.n - at)
    if j.single:
        _step(j, at, n, <float*> NULL)
    else:
        _step(j, at, n, <double*> NULL)


cdef step_t _plan(const char* kernel, int kind, p, g, double lr) except *:
    """The fields of all steps. Unused state arrays point to p."""
    cdef step_t j
    cdef array_t p_, g_
    j.call = call_t(kernel, REAL)
    p_, g_ = array(&j.call, p, "p", 1, REAL | OUT), array(&j.call, g, "g", 1, REAL)
    if g_.shape[0] != p_.shape[0]:
        raise ValueError("optimizer: all arrays must be of one length.")
    j.single, j.kind, j.n = p_.single, kind, p_.shape[0]
    j.p, j.g, j.r, j.s = p_.data, g_.data, p_.data, p_.data
    j.lr, j.unbias1, j.unbias2 = lr, 1, 1
    j.keep1 = j.keep2 = j.epsilon = 0
    return j


cdef void* _slot(step_t* j, x, const char* name) except *:
    """A state array of the optimizer for p."""
    cdef array_t x_ = array(&j.call, x, name, 1, REAL | OUT)
    if x_.shape[0] != j.n:
        raise ValueError("optimizer: all arrays must be of one length.")
    return x_.data


cdef void _run(step_t* j) noexcept:
    with nogil:
        run(_task, j, (j.n + CHUNK - 1) // CHUNK, max_workers())


cdef step_t _plan_with(const char* kernel, int kind, p, g, slots, numbers) except *:
    """A step with the state arrays of the optimizer and the scalars of the kernel."""
    cdef step_t j = _plan(kernel, kind, p, g, numbers[0])
    cdef double values[6]
    cdef int i
    for i, number in enumerate(numbers):
        values[i] = number
    if len(slots) > 0:
        j.r = _slot(&j, slots[0], "the first slot")
    if len(slots) > 1:
        j.s = _slot(&j, slots[1], "the second slot")
    _set_numbers(&j, values)
    return j


cdef void _set_numbers(step_t* j, const double* values) noexcept nogil:
    """The scalars that the kernel of this kind takes after its arrays."""
    j.lr = values[0]
    if j.kind in (MOMENTUM, NESTEROV):
        j.keep1 = values[1]
    elif j.kind == ADAGRAD:
        j.epsilon = values[1]
    elif j.kind in (RMSPROP, ADADELTA):
        j.keep1, j.epsilon = values[1], values[2]
    elif j.kind in (ADAM, ADAMAX):
        j.keep1, j.keep2, j.epsilon, j.unbias1 = values[1], values[2], values[3], values[4]
        if j.kind == ADAM:
            j.unbias2 = values[5]


cdef void _play(const void* job, void** arrays, char* scratch) noexcept nogil:
    """Arrays: the parameters, their gradient, two slots or p in their place; the numbers."""
    cdef step_t j = (<const step_t*> job)[0]
    j.p, j.g, j.r, j.s = arrays[0], arrays[1], arrays[2], arrays[3]
    _set_numbers(&j, <const double*> arrays[4])
    run(_task, &j, (j.n + CHUNK - 1) // CHUNK, max_workers())


def step_recorded(kernel, p, g, slots, numbers):
    """A step as a call of a tape: with the arrays p, g, two slots (or p), numbers in float64.

    The numbers are those that the kernel takes after its arrays. They may be others each time.
    """
    cdef int kind = KINDS[kernel]
    cdef step_t j
    if kind == MOMENTUM and numbers[2]:
        kind = NESTEROV
    j = _plan_with("optimizer", kind, p, g, slots, numbers)
    return recorded(_play, &j, sizeof(step_t), 0)


KINDS = {
    "sgd_step": SGD,
    "momentum_step": MOMENTUM,
    "adagrad_step": ADAGRAD,
    "rmsprop_step": RMSPROP,
    "adadelta_step": ADADELTA,
    "adam_step": ADAM,
    "adamax_step": ADAMAX,
}


def sgd_step(p, g, double lr):
    """p -= lr g."""
    cdef step_t j = _plan("sgd_step", SGD, p, g, lr)
    _run(&j)


def momentum_step(p, g, v, double lr, double momentum, bint nesterov):
    """v = m v - lr g; p += v, or with Nesterov's look ahead p += m v - lr g."""
    cdef step_t j = _plan("momentum_step", NESTEROV if nesterov else MOMENTUM, p, g, lr)
    j.r, j.keep1 = _slot(&j, v, "v"), momentum
    _run(&j)


def adagrad_step(p, g, r, double lr, double epsilon):
    """r += g²; p -= lr g / √(r + ε)."""
    cdef step_t j = _plan("adagrad_step", ADAGRAD, p, g, lr)
    j.r, j.epsilon = _slot(&j, r, "r"), epsilon
    _run(&j)


def rmsprop_step(p, g, r, double lr, double rho, double epsilon):
    """r = ρ r + (1-ρ) g²; p -= lr g / √(r + ε)."""
    cdef step_t j = _plan("rmsprop_step", RMSPROP, p, g, lr)
    j.r = _slot(&j, r, "r")
    j.keep1, j.epsilon = rho, epsilon
    _run(&j)


def adadelta_step(p, g, r, s, double lr, double rho, double epsilon):
    """r = ρ r + (1-ρ) g²; u = g √(s+ε)/√(r+ε); p -= lr u; s = ρ s + (1-ρ) u²."""
    cdef step_t j = _plan("adadelta_step", ADADELTA, p, g, lr)
    j.r, j.s = _slot(&j, r, "r"), _slot(&j, s, "s")
    j.keep1, j.epsilon = rho, epsilon
    _run(&j)


def adam_step(
    p, g, m, v, double lr, double beta1, double beta2, double epsilon, double unbias1,
    double unbias2,
):
    """m, v = moving means of g, g²; p -= lr (m / unbias1) / (√(v / unbias2) + ε)."""
    cdef step_t j = _plan("adam_step", ADAM, p, g, lr)
    j.r, j.s = _slot(&j, m, "m"), _slot(&j, v, "v")
    j.keep1, j.keep2, j.epsilon, j.unbias1, j.unbias2 = beta1, beta2, epsilon, unbias1, unbias2
    _run(&j)


def adamax_step(
    p, g, m, u, double lr, double beta1, double beta2, double epsilon, double unbias1
):
    """m = moving mean of g; u = max(β₂ u, |g|); p -= lr (m / unbias1) / (u + ε)."""
    cdef step_t j = _plan("adamax_step", ADAMAX, p, g, lr)
    j.r, j.s = _slot(&j, m, "m"), _slot(&j, u, "u")
    j.keep1, j.keep2, j.epsilon, j.unbias1 = beta1, beta2, epsilon, unbias1
    _run(&j)
