"""Which model versions are loaded, which one answers, and how a replica follows the deployment pointer."""
