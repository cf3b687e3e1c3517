"""Speed of single kernels of generated C beside kernels that do the same work: a file per family."""
