"""What this machine is. ``detect.py`` asks the probes; facts that cannot be found stay None."""
