"""Units of work as rows: leases with fencing numbers, the outbox that nudges workers, the sweeper that forgets nothing."""
