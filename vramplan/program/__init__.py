"""The only importer of torch: the phases of a run as real code, on fake tensors or on a device."""
