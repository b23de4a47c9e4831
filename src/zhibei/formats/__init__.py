"""Reading model files: what a header says, without loading the model. Every byte of a file is untrusted."""
