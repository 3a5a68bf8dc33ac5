"""Run settings of other tools, read and written."""
