"""The write-ahead prediction log: a record is on disk before its answer leaves, and in Postgres soon after, exactly once."""
