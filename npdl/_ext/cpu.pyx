"""Which of the builds this CPU can run."""

cdef extern from "cpu.h":
    int npdl_cpu_level() nogil


def level():
    """Index into ``npdl._ext.ISAS`` of the best instruction set that this CPU can run."""
    return npdl_cpu_level()
