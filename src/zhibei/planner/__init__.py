"""How a model will run here, decided by arithmetic alone: values in, values out; no clock, no I/O."""
