"""Bundles: one signed file that carries everything across an air gap.

`archive` (the file's bytes), `verify` and `install` need nothing but Python's standard library, and
so does `proguard_edge.signature`: they travel beside the bundle as one script, for a machine that
has nothing else yet.
"""
