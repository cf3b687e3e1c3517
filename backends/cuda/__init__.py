"""Generated CUDA: kernels over packed low-bit weights for Jetson and servers."""
