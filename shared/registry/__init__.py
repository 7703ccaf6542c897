"""The registry: tables, states, sessions and migrations. Postgres is the truth; every unit of work is a row here."""
