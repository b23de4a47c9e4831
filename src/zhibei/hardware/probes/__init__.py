"""One file per kind of device; each reads facts and invents none."""
