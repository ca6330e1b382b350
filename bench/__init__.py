"""Measurements: accuracy on labelled sets, latency side by side."""
