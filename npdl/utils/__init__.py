"""Labels, random numbers and the default dtype."""

from npdl.utils.data import one_hot, unhot
from npdl.utils.random import get_dtype, get_rng, set_dtype, set_rng, set_seed

__all__ = ["get_dtype", "get_rng", "one_hot", "set_dtype", "set_rng", "set_seed", "unhot"]
