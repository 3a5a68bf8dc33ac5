"""vramplan inside other programs: each module imports the library that it is for, and nothing imports them."""
