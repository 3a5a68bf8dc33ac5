"""Which settings fit a budget, and which of them is best."""
