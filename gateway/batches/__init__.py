"""Jobs that are asked for together: all are made or none, and each then goes its own way.

A batch has no state of its own.  How it stands is read from its jobs, which queue, run, fail and are retried
like any other; the GPU service draws those in one run whose model, size and steps are the same.
"""
