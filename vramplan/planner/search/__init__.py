"""The formulas over whole grids of settings at once: the only room that uses numpy."""
