"""Kernels in C++: their sources, how they are built, and what there is of them on this machine (`library.status`)."""
