"""A storm: several router processes, impatient callers and busy writers, and everything that production does to them.

`python -m tests.storm --minutes 10 --seed 7` runs one on a server of its own, which it also restarts; the suite runs
a short one. Whatever happened, afterwards `tests/invariants.py` must find nothing, no call may have hung, and every
router must be fresh again on its own.
"""
