"""Text rules that need no engine and no network: which JSON schemas an engine can be held to."""
