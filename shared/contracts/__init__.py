"""What services agree on: task names and queues, API scopes. No code that acts."""
