"""A sweep's durable record: journal, checkpoints, object store."""
