"""GPU memory over time, through NVML."""
