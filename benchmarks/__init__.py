"""This code against PyTorch, both on the CPU, in one process."""
