"""Labels, random numbers and the default dtype."""

from npdl.utils.data import one_hot, unhot
from npdl.utils.random import (
    get_dtype,
    get_rng,
    get_rng_state,
    set_dtype,
    set_rng,
    set_rng_state,
    set_seed,
    use_dtype,
    use_rng,
)

__all__ = [
    "get_dtype",
    "get_rng",
    "get_rng_state",
    "one_hot",
    "set_dtype",
    "set_rng",
    "set_rng_state",
    "set_seed",
    "unhot",
    "use_dtype",
    "use_rng",
]
