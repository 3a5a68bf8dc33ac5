"""What a run's own files get wrong: rules with an id, read before a GPU is rented."""
