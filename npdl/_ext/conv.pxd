"""One convolution: its sizes, and the arrays that the tasks of all its forms share."""

from npdl._ext.activation cimport act_t
from npdl._ext.winograd cimport winograd_t

cdef enum:
    GROUPS = 8  # of images, for the gradient of the weights
    FEW = 8  # images, of which even one is shared by threads
    COPIES = 4  # tasks that make the planes of one of them
    MOST_BYTES = 64 * 1024 * 1024  # for the sums of all groups
    PASS_BYTES = 256 * 1024
    SLACK = 64  # numbers that the last vectors of a plane may read beyond it

ctypedef struct conv_t:
    bint single
    act_t act
    Py_ssize_t n, c, h, w, f, kh, kw, oh, ow, sh, sw, ph, pw
    Py_ssize_t taps_h, taps_w  # of one phase, at most
    Py_ssize_t phases_h, phases_w  # that a filter reaches
    Py_ssize_t plane_h, plane_w  # of the planes of one image
    Py_ssize_t image_step  # numbers in them, and as many more as a vector may read beyond
    Py_ssize_t span  # positions, rounded up to whole vectors
    Py_ssize_t dz_h, dz_w  # a plane of dz, padded by taps - 1 all round
    Py_ssize_t depth  # C*KH*KW
    Py_ssize_t row_parts, filter_parts, part_rows  # forward: of an image, to share it
    bint shared  # one copy of each image for all its parts
    Py_ssize_t group, together  # backward: images of a task, and of one pass of it
    const void* x
    const void* bias
    const void* dy
    void* y
    void* dx
    Py_ssize_t* offset  # [C*KH*KW], and NV more
    Py_ssize_t* dx_offset  # [F*taps], of the phase that is worked on
    const void* filters  # w
    void* packed  # filters as the gradient of the input, or Winograd's form, needs them
    void* dw  # [group][F][C*KH*KW], both rounded up
    void* db  # [group][F]
    char* scratch
    size_t scratch_step  # bytes of it to a worker
    winograd_t winograd
    winograd_t of_input  # the correlation that is the gradient of x
