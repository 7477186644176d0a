"""The embedded store: one SQLite file in WAL mode, written by one thread and read by many.

`database.py` opens the file, `writer.py` commits in groups, `notify.py` tells of other processes' commits, `migrate.py`
brings the schema up to date, `tables.py` makes the output tables. What the engine calls lives in `commit.py` and `reads.py`.
"""
