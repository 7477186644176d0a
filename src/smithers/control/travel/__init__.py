"""Time travel: going back in a run, branching from it, doing a part of it again, comparing moments.

`rewinding`, `forking` and `resetting` change history, each in one transaction of `store/sql/travel.py`; `effects` guards
what tasks have done outside; `audit` says who may and keeps account; `timeline` and `diffing` only read, through
`store/sql/history.py`.
"""
