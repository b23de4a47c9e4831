"""A hub on this machine that speaks Hugging Face's, ModelScope's and the Ollama registry's protocols, honest or faulty."""
