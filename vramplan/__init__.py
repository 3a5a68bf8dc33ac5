"""How much GPU memory a training run takes: before it starts, on the GPU, and while it runs."""

__version__ = "0.1.0"
