"""Level 3: small real data sets that come with the package."""

from npdl.datasets.digits import load_digits

__all__ = ["load_digits"]
