"""Every optimizer of the catalogue once more, in NumPy float64 from its paper's equations: what the real ones must equal.

None of it is our code or the wrapped library's. A function takes one tensor and its gradients, step by step, or where
tensors know of each other the lists of all; the defaults in its signature are the paper's. Where the library deviates from
the paper and an option cannot mend it, the docstring says so, and so does the catalogue's row.
"""
