"""Writers of the corpus that the bundled base model is trained on. Python's standard library only."""
