"""The scenarios of faults that `tinkex rehearse --faults` plays."""
