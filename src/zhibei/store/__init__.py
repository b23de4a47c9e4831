"""Models on this disk: where they come from, how they get here whole, and how they stay so."""
