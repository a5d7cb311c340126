"""Jobs: every generation is one. The row in ``generation_jobs`` is the state machine."""
