"""General rooms: files, configuration, ranks, training engine, evaluation."""
