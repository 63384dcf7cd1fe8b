"""Where numbers, pictures and words go: one file per kind of logger, known by what it can do."""
