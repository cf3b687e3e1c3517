"""Sources in C that are copied into the folders of models: kernels in portable C, and what carries them."""
