"""Another store (a search index, a cache, another database) that follows PostgreSQL, by an outbox in the application's schema."""
