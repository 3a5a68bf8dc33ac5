"""The types that every answer is made of: a Run goes in, a MemoryReport comes out. Standard library only."""
