"""Calibration: scores that mean what they say, and the sets that quantization needs."""
