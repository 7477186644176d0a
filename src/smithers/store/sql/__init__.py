"""What SQL both databases share: portable statements, as functions of a `Session` (a connection inside a transaction).

`?` marks a parameter, everywhere. A dialect's own folder (`sqlite/`, `postgres/`) has its connections, its writer, its
migrations and how it tells of commits.
"""
