"""The INT4 format on numpy arrays: scales, rounding, packing, unpacking."""
