"""Generated C: a folder of C11 that runs a whole model with no runtime below it."""
