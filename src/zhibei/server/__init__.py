"""The HTTP edge: what stands before every route, and one folder per dialect."""
