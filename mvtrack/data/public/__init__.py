"""Readers of public datasets, each in its own layout, axes and units, into one type (docs/datasets)."""
