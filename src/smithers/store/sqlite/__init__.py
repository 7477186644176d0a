"""The embedded store: one SQLite file in WAL mode, written by one thread and read by many.

`database.py` opens the file, `writer.py` commits in groups, `notify.py` tells of other processes' commits, `migrate.py`
brings the schema up to date. What is written and read is in `../sql/`.
"""
