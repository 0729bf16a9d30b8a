"""Measurements behind the numbers in the documentation; nothing here is imported by the package."""
