"""Things that turn a prompt or a chat into tokens. One file or folder per engine; ``registry.py`` is the table."""
