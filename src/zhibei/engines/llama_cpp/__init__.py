"""llama.cpp, through the server inside the ``xllamacpp`` package: ``backend.py`` here, ``worker.py`` in the child."""
