"""From explicit Q/DQ to kernel calls, the same for all targets that have kernels."""
