"""Measures and describes; knows kernels, layers and training, and none of them knows it."""
