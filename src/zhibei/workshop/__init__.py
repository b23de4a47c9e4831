"""What makes model files, or other ones of them. Knows files and the engine's formats; never starts an engine."""
