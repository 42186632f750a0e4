"""One convolution: its sizes, and the arrays that the tasks of all its forms share."""

from npdl._ext.activation cimport act_t
from npdl._ext.winograd cimport winograd_t

cdef enum:
    GROUPS = 8  # of images, for the gradient of the weights
    FEW = 8  # images, of which even one is shared by threads
    COPIES = 4  # tasks that make the planes of one of them
    MOST_BYTES = 64 * 1024 * 1024  # for the sums of all groups
    SLACK = 64  # numbers that the last vectors of a plane may read beyond it

ctypedef struct conv_t:
    bint single
    bint last  # the channels of x and y are their last axis
    act_t act
    Py_ssize_t n, groups, c, h, w, f, oh, ow  # c and f of one group
    Py_ssize_t kh, kw, sh, sw, ph, pw, dil_h, dil_w
    Py_ssize_t depth  # C*KH*KW
    # direct sums
    Py_ssize_t taps_h, taps_w  # of one phase, at most
    Py_ssize_t phases_h, phases_w  # that a filter reaches
    Py_ssize_t plane_h, plane_w  # of the planes of one image
    Py_ssize_t image_step  # numbers in them, and as many more as a vector may read beyond
    Py_ssize_t row_parts, filter_parts, part_rows  # of an image, to share it
    bint shared  # one copy of each image for all its parts
    Py_ssize_t* offset  # [C*KH*KW]
    # Winograd's form
    winograd_t winograd
    winograd_t of_input  # the correlation that is the gradient of x
    Py_ssize_t group  # images of a task
    void* packed  # filters as Winograd's form needs them
    # the arrays
    const void* x
    const void* filters  # w
    const void* bias  # or NULL
    void* y
    const void* dy
    void* dx  # NULL where nobody asks for it, as are the next two
    void* dw  # in Winograd's form: [group][F][C*KH*KW]
    void* db  # [group][F]
    char* scratch
    size_t scratch_step  # bytes of it to a worker
