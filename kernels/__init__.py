"""Arrays in, arrays out: one folder a family, and in it the mathematics (`reference`), the CPU kernels (`cpu`) and the
GPU kernels (`gpu`) side by side. Knows NumPy, CuPy, Numba and Triton; knows no layer."""
