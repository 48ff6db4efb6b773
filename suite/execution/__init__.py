"""Everything that runs on Ray: tuner, workers, session, search."""
