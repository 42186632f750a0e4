"""A convolution: its sizes and arrays, shared by the tasks of all algorithms."""

from npdl._ext.activation cimport act_t
from npdl._ext.winograd cimport winograd_t

cdef enum:
    GROUPS = 8  # groups of images, for the gradient of the weights
    FEW = 8  # below this number of images, threads share each image
    MOST_BYTES = 64 * 1024 * 1024  # the most memory for the sums of all groups
    SLACK = 64  # elements that the last vectors of a plane may read beyond it

ctypedef struct conv_t:
    bint single
    bint last  # channels are the last axis of x and y
    bint fast  # Winograd's form is allowed
    act_t act
    Py_ssize_t n, groups, c, h, w, f, oh, ow  # c and f are those of one group
    Py_ssize_t kh, kw, sh, sw, ph, pw, dil_h, dil_w
    Py_ssize_t depth  # C*KH*KW
    # direct sums
    Py_ssize_t taps_h, taps_w  # the most taps of one phase
    Py_ssize_t phases_h, phases_w  # phases that a filter reaches
    Py_ssize_t plane_h, plane_w  # size of a plane
    Py_ssize_t image_step  # elements in the planes of an image, and those a vector may read beyond
    Py_ssize_t row_parts, part_rows  # parts of an image, and rows of a part
    Py_ssize_t* offset  # [C*KH*KW]
    # Winograd's form
    winograd_t winograd
    winograd_t of_input  # the correlation that is the gradient of x
    Py_ssize_t group  # images per task
    Py_ssize_t filter_parts  # parts of the filters
    void* packed  # filters transformed for Winograd's form
    # the arrays
    const void* x
    const void* filters  # w
    const void* bias  # or NULL
    void* y
    const void* dy
    void* dx  # NULL if not needed, as are the next two
    void* dw  # in Winograd's form: [group][F][C*KH*KW]
    void* db  # [group][F]
    char* scratch
    size_t scratch_step  # bytes per worker
