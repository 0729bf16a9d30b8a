"""Faster, never other numbers: compiled steps, products, optimizer kernels."""
