"""Calibration: scores that mean what they say, and later the sets that quantization needs."""
