"""Scan: folders, JSONL and Parquet of any size to verdicts, in shards, with Ray Data.

sources → plan (shards) → worker, many of them in the pool → store (one file a shard) → tally →
report. Only the pool knows Ray; all that decides what is judged, kept and counted does without.
"""
