"""The runs of one lineage: what they carry, which the server lists, who trains them now."""
