"""The workloads in each framework's own terms. A function of the same name computes the same;
models take their parameters first, by the names that PyTorch's module gives them."""
