"""Who runs, who waits, who is evicted. ``scheduler.py`` and ``eviction.py`` decide; ``pool.py`` acts."""
