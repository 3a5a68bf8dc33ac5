"""Each kind of bytes, one file; phases say which are alive when."""
