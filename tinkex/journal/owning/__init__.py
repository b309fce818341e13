"""Who owns lineages: which owners live, and which lineages are ours or followed."""
