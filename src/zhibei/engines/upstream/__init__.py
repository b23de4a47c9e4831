"""Another server as engine: what kinds there are, how they are told apart, what they list, and how they are asked."""
