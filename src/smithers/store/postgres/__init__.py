"""The shared store: a PostgreSQL database that any number of processes and hosts work on.

`database.py` opens and shares it, `session.py` runs the shared SQL on a pipelined connection, `writer.py` commits in
groups, `notify.py` tells of everybody's commits, `migrate.py` brings the schema up to date from SQLite's files, which
`dialect.py` translates. What is written and read is in `../sql/`. Needs the extra `postgres`.
"""
