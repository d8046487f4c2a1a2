"""Where footprints come from: models, commands, the server's statistics, other revisions."""
