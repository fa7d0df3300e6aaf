"""What is kept of the past: records, changes, the store."""
