"""Run settings of other tools, read and written.

Nothing is imported here: `vramplan estimate` needs `flat` alone, and must not pay for the readers.
"""
